// One stripe of one zone: an array heap whose first slots hold interiors, and whose other slots hold leaves.
//
// Slots 1…N, one a node. Slots 1…m are the interiors; slot x ≤ 2m+1 is fed by slot ⌊x/2⌋, and slot 1 by the proxy. When
// there are fewer interiors than ⌊N/2⌋, the slots from 2m+2 on have no interior above them: they are guests, and each
// names its host, an interior that takes it as a further child, or the proxy when all are full.
//
// Every operation keeps this shape, and so what follows from it: whoever feeds a node stands in a slot ≤ m, and slots
// ≤ m are fed by slots before them, so the way up always ends at the proxy; and no node is deeper than
// ⌊log2 min(N, 2m+1)⌋ + 1 when the children of the proxy count as 1. Every operation is O(1) times the degree.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "tree-manager/node_pool.h"

namespace banyan::tree_manager {

inline constexpr uint32_t kMaxDegree = 6;

// How many children a node's uplink feeds at the rate at which it receives: 2 for weight 100, at most max_degree.
uint32_t QuotaOf(const NodeTraits& traits, uint32_t max_degree);

// Externally synchronised. The pool outlives it. It never decides who is an interior: ZoneForest does.
class StripeHeap {
 public:
  StripeHeap(NodePool& pool, Stripe stripe, uint32_t max_degree);

  uint32_t size() const { return static_cast<uint32_t>(slots_.size()) - 1; }
  uint32_t interiors() const { return interiors_; }
  NodeIndex At(uint32_t slot) const { return slots_[slot].node; }

  // In the last slot.
  void Append(NodeIndex node);
  // The leaf in `slot`; the last slot's node takes its place.
  void RemoveLeaf(uint32_t slot);
  void Swap(uint32_t a, uint32_t b);
  // The first leaf slot becomes the last interior one, and the reverse.
  void Grow();
  void Shrink();
  // Guests of the proxy move to interiors that have room by now.
  void SeatGuests();
  // The quota of the interior in `slot` is another now.
  void QuotaChanged(uint32_t slot);
  // Moves one guest of the interior in `slot` to another that has more uplink to spare, or fewer guests. False: there
  // is none.
  bool RelieveHost(uint32_t slot);

  bool IsGuest(uint32_t slot) const { return slot > 2 * interiors_ + 1; }
  // 0: the proxy.
  uint32_t FeederOf(uint32_t slot) const { return IsGuest(slot) ? slots_[slot].host : slot / 2; }
  uint32_t DepthOf(uint32_t slot) const;
  uint32_t height() const;
  SpareSlots SparesOf(uint32_t slot) const;
  uint32_t ChildCountOf(uint32_t slot) const;
  template <typename Visit>
  void ForEachChild(uint32_t slot, Visit visit) const {
    if (slot > interiors_) return;
    for (uint32_t child = 2 * slot; child <= 2 * slot + 1 && child <= size(); ++child) visit(child);
    const Slot& host = slots_[slot];
    for (uint32_t i = 0; i < host.guest_count; ++i) visit(host.guests[i]);
  }

  // Touches the nodes whose spares changed with the interiors since the last call.
  void TouchSpareUsers();

  // For a restore: `nodes` by slot from 1 on (nodes[0] unused), of which the first `interiors` are such; a guest's host
  // is its known placement's feeder. False, and the heap is to be thrown away: a host is none, or has too many.
  bool Load(std::vector<NodeIndex> nodes, uint32_t interiors);

 private:
  static constexpr uint32_t kMaxGuests = kMaxDegree - 2;
  static constexpr uint8_t kNoTier = 0xff;
  struct Slot {
    NodeIndex node = kNoNode;
    uint32_t host = 0;            // of a guest
    uint32_t guest_of_proxy = 0;  // of a guest with host 0: its place in guests_of_proxy_
    std::array<uint32_t, kMaxGuests> guests = {};
    uint8_t guest_count = 0;
    uint8_t tier = kNoTier;
    uint32_t tier_position = 0;
  };

  ChildKind KindOf(uint32_t slot) const { return (IsGuest(slot) ? 2 : 0) + slot % 2; }
  void TouchChildren(uint32_t slot);
  void Seat(uint32_t guest);
  void SeatAt(uint32_t guest, uint32_t host);
  void Unseat(uint32_t guest);
  uint32_t BestHost() const;
  uint8_t TierOf(uint32_t slot, uint32_t guest_count) const;
  void EnterTier(uint32_t slot);
  void LeaveTier(uint32_t slot);

  NodePool& pool_;
  const Stripe stripe_;
  const uint32_t max_guests_;
  const uint32_t max_degree_;
  uint32_t interiors_ = 0;
  std::vector<Slot> slots_;  // [0] unused
  // Interiors that can take another guest. First those with uplink to spare for it, then the others; among each, first
  // those with fewer guests.
  std::array<std::vector<uint32_t>, 2 * kMaxGuests> tiers_;
  std::vector<uint32_t> guests_of_proxy_;
  std::vector<uint32_t> changed_interiors_;
  std::vector<SpareUser> users_;  // scratch
};

}  // namespace banyan::tree_manager
