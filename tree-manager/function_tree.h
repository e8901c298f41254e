// A function's trees: who gets the function's bytes from whom. Pure: no clock, no threads, no I/O, no randomness; the
// tree-manager and the simulator run this very code.
//
// FaaSNet's function tree (ATC'21 §3) with one stripe; with two, SplitStream's idea (SOSP'03): two binary trees over
// the same nodes with disjoint interiors, so that every node's uplink is used. DESIGN.md §7; docs/trees.md has the
// algorithm, its pictures and what holds under which conditions.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/result.h"

namespace banyan::tree_manager {

// A node of the cluster, numbered by the caller; small numbers reused are fine.
using NodeId = uint32_t;
// The proxy, which feeds the roots of every zone's trees.
inline constexpr NodeId kProxy = UINT32_MAX;
using Stripe = uint8_t;
inline constexpr Stripe kMaxStripes = 2;

struct NodeTraits {
  uint32_t zone = 0;
  uint32_t weight = 100;          // relative uplink, ≥ 1; 100: as most
  bool leaf_only = false;         // capped, draining, suspect, unreachable or avoided: gets bytes, gives none
  uint32_t present_permille = 0;  // how much of the function it holds: warm nodes stand above empty ones
  friend bool operator==(const NodeTraits&, const NodeTraits&) = default;
};

// Where a node stands; enough, for all nodes together, to build the same trees again. Keep all three fields.
struct Placement {
  uint32_t slot[kMaxStripes] = {};    // 1-based, in the zone's array of each stripe
  uint32_t feeder[kMaxStripes] = {};  // the slot of its parent in that array; 0: the proxy
  uint8_t relays = 0;                 // bit s: it stands among stripe s's interiors
  friend bool operator==(const Placement&, const Placement&) = default;
};

struct EdgeChange {
  NodeId node = 0;
  Stripe stripe = 0;
  NodeId parent = kProxy;  // from now on
};

// What one event changed.
struct TreeChanges {
  // Of nodes that were members before and still are: re-parentings. A joiner's own edges are not among them.
  std::vector<EdgeChange> moved;
  // Members whose placement is not what it was, the joiner included: for whoever keeps placements.
  std::vector<NodeId> placed;
  // Members whose list of spare parents changed, the joiner included, whether their parents changed or not.
  std::vector<NodeId> spares_changed;

  // For batches of events: the lists one after the other. A node may then stand in one more than once, or may have left
  // since; what holds is what the tree says at the end of the batch.
  void Append(TreeChanges other);
};

// Externally synchronised. Join, Leave and Update are O(log n) amortised.
class FunctionTree {
 public:
  struct Options {
    Stripe stripes = 2;       // 1 or 2
    uint32_t spares = 2;      // 0 to 2 spare parents of a node in each stripe, as far as there are any
    uint32_t max_degree = 4;  // 2 to 6, in one stripe, when there are not enough interiors
  };

  explicit FunctionTree(Options options);
  ~FunctionTree();
  FunctionTree(FunctionTree&&) noexcept;
  FunctionTree& operator=(FunctionTree&&) noexcept;

  // kAlreadyExists; kInvalidArgument: the number is kProxy.
  Result<TreeChanges> Join(NodeId node, const NodeTraits& traits);
  // kNotFound. Also for a node that has failed; the same for many at once costs no more than one after the other, and
  // moves no survivor twice.
  Result<TreeChanges> Leave(NodeId node);
  Result<TreeChanges> Leave(std::span<const NodeId> nodes);
  // Its traits are others now. Moves only what the order of DESIGN.md §7 makes move: a node that becomes leaf_only
  // gives up its children, and one whose uplink no longer feeds two gives its place to one that has none, or changes it
  // with the last interior; apart from that a weight or a warmth only counts when an opening is filled, or in
  // Improve(). kNotFound.
  Result<TreeChanges> Update(NodeId node, const NodeTraits& traits);
  // At most one swap that brings a weightier or warmer node above a lesser one; nothing to do: no changes. The caller
  // paces it (once a second a tree). With traits that stay, it comes to an end. In a large tree a call looks at a part,
  // and the next one goes on from there.
  TreeChanges Improve();

  // Every node as it stood, instead of what this tree held; moves nobody, and later events go on from there. Give the
  // traits that were true of the placements (a leaf_only node that feeds others is refused), then Update(). kDataLoss
  // when the placements are no trees: then the tree is empty, and the caller joins the nodes anew.
  struct Member {
    NodeId node = 0;
    NodeTraits traits;
    Placement placement;
  };
  Status Restore(std::span<const Member> members);

  // All of these: of a member.
  bool Contains(NodeId node) const;
  NodeTraits TraitsOf(NodeId node) const;
  Placement PlacementOf(NodeId node) const;
  NodeId ParentOf(NodeId node, Stripe stripe) const;
  std::vector<NodeId> ChildrenOf(NodeId node, Stripe stripe) const;
  uint32_t ChildCountOf(NodeId node, Stripe stripe) const;
  // 1: fed by the proxy. At most ⌊log2 N⌋ + 1 with N nodes in its zone.
  uint32_t DepthOf(NodeId node, Stripe stripe) const;
  // The best first. Outside the node's parent's subtree, and the grandparent's where that leaves any; so not among the
  // node's own descendants; the children of one node get different ones, as far as there are. None for whom the proxy
  // or a root feeds: nobody is outside.
  std::vector<NodeId> SparesOf(NodeId node, Stripe stripe) const;

  uint32_t size() const;
  Stripe stripes() const;
  // The depth of the deepest node in any stripe and zone; 0 when empty.
  uint32_t height() const;
  std::vector<NodeId> Members() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace banyan::tree_manager
