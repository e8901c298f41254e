// One zone's trees: who is an interior of which stripe. The heaps (stripe_heap.h) keep the shape; here it is decided
// which nodes stand in their first slots, and how many.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "tree-manager/node_pool.h"
#include "tree-manager/stripe_heap.h"

namespace banyan::tree_manager {

// Externally synchronised. The pool outlives it. Events touch what they may have moved (NodePool::Touch).
class ZoneForest {
 public:
  ZoneForest(NodePool& pool, const FunctionTree::Options& options);

  // The node's traits are set.
  void Add(NodeIndex node);
  void Remove(NodeIndex node);
  void SetTraits(NodeIndex node, const NodeTraits& traits);
  // At most one swap. False: found nothing to do.
  bool Improve();
  // Members whose known placements say where they stood. An error says what is wrong with them, and the forest is to be
  // thrown away.
  Status Load(const std::vector<NodeIndex>& nodes);

  uint32_t size() const { return heaps_[0].size(); }
  const StripeHeap& heap(Stripe stripe) const { return heaps_[stripe]; }

 private:
  static constexpr uint32_t kRoles = 4;    // none, stripe 0, stripe 1, both
  static constexpr uint32_t kBuckets = 8;  // the roles of the willing, then of the reluctant
  static constexpr uint8_t kBoth = 3;
  using Wanted = std::array<uint32_t, kMaxStripes>;
  using Interiors = std::array<uint32_t, kMaxStripes>;

  void EnterBucket(NodeIndex node);
  void LeaveBucket(NodeIndex node);
  void SetRoles(NodeIndex node, uint32_t roles);
  bool IsIdle(NodeIndex node) const { return pool_[node].roles == 0 && !pool_[node].traits.leaf_only; }
  bool IsInterior(NodeIndex node, Stripe stripe) const { return (pool_[node].roles >> stripe & 1) != 0; }

  Wanted WantedInteriors(uint32_t size, const Interiors& now) const;
  Interiors InteriorsNow() const;
  void Rebalance();
  void TouchSpareUsers();
  bool RebalanceStep();
  // The node is out of its bucket; the forest will have `future_size` nodes.
  void GiveUpRoles(NodeIndex node, uint32_t future_size);
  void Demote(NodeIndex node, Stripe stripe);
  void DemoteOne(Stripe stripe);
  bool PromoteOne(Stripe stripe);
  bool ReplaceOneOfBoth();
  bool RelieveOneReluctant();
  // `idle` takes the slot and the role of `interior`, which is out of its bucket, or, for the second, in it.
  void Substitute(NodeIndex interior, NodeIndex idle, Stripe stripe);
  void SubstituteMember(NodeIndex interior, NodeIndex idle, Stripe stripe);
  // The best of a few idle nodes, `favourite` if none is better (or it is not idle itself). kNoNode: none is idle.
  NodeIndex PickIdle(NodeIndex favourite) const;
  NodeIndex PickForSecondRole(Stripe stripe) const;
  bool ImproveOnce();
  bool ImproveAt(Stripe stripe, uint32_t slot);

  NodePool& pool_;
  const FunctionTree::Options options_;
  std::vector<StripeHeap> heaps_;
  std::array<std::vector<NodeIndex>, kBuckets> buckets_;  // of the nodes that are not leaf_only
  uint32_t capable_ = 0;                                  // those
  uint32_t willing_ = 0;                                  // of them, not reluctant
  uint64_t willing_quota_ = 0;
  uint32_t improve_cursor_ = 0;
};

}  // namespace banyan::tree_manager
