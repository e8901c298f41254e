// A FunctionTree beside a model of what its caller knows: every event's TreeChanges are applied to the model and held
// against it, and the invariants of docs/trees.md can be checked at any time. Test support; fails through GoogleTest.
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <span>
#include <unordered_map>
#include <vector>

#include "tree-manager/function_tree.h"

namespace banyan::tree_manager {

class CheckedTree {
 public:
  explicit CheckedTree(FunctionTree::Options options) : options_(options), tree_(options) {}

  // Each returns how many edges of existing nodes it changed, and notes the spares in `max_spare_changes`.
  size_t Join(NodeId node, const NodeTraits& traits);
  size_t Leave(std::span<const NodeId> nodes);
  size_t Leave(NodeId node) { return Leave(std::span<const NodeId>(&node, 1)); }
  size_t Update(NodeId node, const NodeTraits& traits);
  // 0: nothing to improve.
  size_t Improve();
  // Goes on with a tree restored from this one's placements; all must stand as before.
  void RestoreFromPlacements();
  std::vector<FunctionTree::Member> Placements() const;

  // The invariants that hold always. O(n log n).
  void CheckAll() const;
  // The same of one node.
  void CheckNode(NodeId node) const;
  // Those that hold when all nodes are equal and none is leaf_only.
  void CheckEqual() const;
  // What gives way when they are not; the weights have not been updated since the nodes joined.
  void CheckOrderOfConcessions() const;

  const FunctionTree& tree() const { return tree_; }
  const std::vector<NodeId>& members() const { return members_; }
  const NodeTraits& traits(NodeId node) const { return model_.at(node).traits; }
  NodeId Random(std::mt19937& random) const { return members_[random() % members_.size()]; }

  size_t max_spare_changes = 0;

 private:
  struct Known {
    NodeTraits traits;
    size_t index = 0;  // in members_
    NodeId parent[kMaxStripes] = {};
    std::vector<NodeId> spares[kMaxStripes];
    Placement placement;
  };

  size_t Apply(const TreeChanges& changes, const NodeId* joiner);
  Known Look(NodeId node) const;
  void CheckSpares(NodeId node, Stripe stripe) const;
  bool IsBelow(NodeId node, NodeId ancestor, Stripe stripe) const;
  std::map<uint32_t, std::vector<NodeId>> Zones() const;

  const FunctionTree::Options options_;
  FunctionTree tree_;
  std::unordered_map<NodeId, Known> model_;
  std::vector<NodeId> members_;
};

}  // namespace banyan::tree_manager
