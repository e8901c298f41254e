#include "tree-manager/spare_slots.h"

#include <bit>

namespace banyan::tree_manager {
namespace {

constexpr uint32_t kFlips = 2;

uint32_t LevelOf(uint32_t slot) { return static_cast<uint32_t>(std::bit_width(slot)) - 1; }

// What a child of a slot at `level` ≥ 2 flips in its parent's number. The highest bit of the slot marks its level and
// stays; `half` is the next one, then `quarter`, then `eighth`.
uint32_t Flip(uint32_t level, ChildKind kind, uint32_t nth) {
  const uint32_t half = 1U << (level - 1);
  const uint32_t quarter = 1U << (level - 2);
  if (level == 2) return (kind + nth) % 2 == 0 ? half : half | quarter;
  const uint32_t eighth = 1U << (level - 3);
  const uint32_t flips[kChildKinds][kFlips] = {{half, quarter},
                                               {half | quarter, quarter | 1},
                                               {half | eighth, quarter | eighth},
                                               {half | quarter | eighth, half | 1}};
  return flips[kind][nth];
}

void Add(SpareSlots& spares, uint32_t slot) {
  for (uint32_t i = 0; i < spares.count; ++i) {
    if (spares.slots[i] == slot) return;
  }
  spares.slots[spares.count++] = slot;
}

// Under slots 2 and 3 only the other one's subtree is left; without it, the root.
SpareSlots UnderSecondLevel(uint32_t parent, ChildKind kind, uint32_t interiors) {
  const uint32_t other = parent ^ 1;
  SpareSlots spares;
  if (other > interiors) {
    Add(spares, 1);
    return spares;
  }
  const uint32_t below = 2 * other + kind % 2;
  const bool has_below = below <= interiors;
  if (kind % 2 == 1 && has_below) Add(spares, below);
  Add(spares, other);
  if (kind % 2 == 0 && has_below) Add(spares, below);
  return spares;
}

}  // namespace

SpareSlots SparesUnder(uint32_t parent, ChildKind kind, uint32_t interiors) {
  const uint32_t level = LevelOf(parent);
  if (level == 0) return {};
  if (level == 1) return UnderSecondLevel(parent, kind, interiors);
  SpareSlots spares;
  for (uint32_t nth = 0; nth < kFlips; ++nth) {
    uint32_t slot = parent ^ Flip(level, kind, nth);
    if (slot > interiors) slot /= 2;
    Add(spares, slot);
  }
  return spares;
}

void UsersOfSpare(uint32_t slot, uint32_t interiors, std::vector<SpareUser>& users) {
  const uint32_t level = LevelOf(slot);
  const auto add_flips = [&users](uint32_t from, uint32_t at_level) {
    for (ChildKind kind = 0; kind < kChildKinds; ++kind) {
      for (uint32_t nth = 0; nth < kFlips; ++nth) users.push_back({from ^ Flip(at_level, kind, nth), kind});
    }
  };
  if (level >= 2) add_flips(slot, level);
  for (uint32_t below = 2 * slot; below <= 2 * slot + 1; ++below) {
    // Slots that are not there are stood in for by the one above. The last interior counts as not there: this may be
    // asked just before or just after it comes.
    if (level >= 1 && below >= interiors) add_flips(below, level + 1);
  }
  if (level > 2) return;
  for (uint32_t parent = 2; parent <= 3; ++parent) {
    for (ChildKind kind = 0; kind < kChildKinds; ++kind) users.push_back({parent, kind});
  }
}

}  // namespace banyan::tree_manager
