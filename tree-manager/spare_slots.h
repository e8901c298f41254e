// Spare parents by arithmetic. A node whose parent stands in slot p of a stripe's binary heap takes as spares the
// occupants of slots that lie at p's level, but in another part of the tree: p with some of its bits flipped. Flipping
// a bit other than the lowest leaves the subtree of p's parent (the node's grandparent); flipping the highest lands in
// the other half of the tree. Each child of p has flips of its own, so that p's children scatter when p dies; flips are
// their own inverse, so a slot is the spare of a bounded number of nodes, and those can be named when its occupant
// changes. Where the last level of interiors is not full, the slot above stands in.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace banyan::tree_manager {

inline constexpr uint32_t kMaxSpares = 2;

// Which flips a child uses. The two children that the heap gives a slot have kinds 0 and 1; further ones 2 and 3.
using ChildKind = uint32_t;
inline constexpr ChildKind kChildKinds = 4;

struct SpareSlots {
  std::array<uint32_t, kMaxSpares> slots = {};  // the best first
  uint32_t count = 0;
};

// Of a child, of kind `kind`, of slot `parent` ≥ 1, where slots 1…`interiors` hold interiors. All are ≤ interiors, and
// outside the parent's subtree; outside the grandparent's too when the parent is at the third level or below. Below the
// root itself there are none: everything is in its subtree.
SpareSlots SparesUnder(uint32_t parent, ChildKind kind, uint32_t interiors);

// The (parent, kind) whose spares may include `slot`; a superset, bounded by a constant. Appends.
struct SpareUser {
  uint32_t parent = 0;
  ChildKind kind = 0;
};
void UsersOfSpare(uint32_t slot, uint32_t interiors, std::vector<SpareUser>& users);

}  // namespace banyan::tree_manager
