#include "tree-manager/testing/checked_tree.h"

#include <algorithm>
#include <bit>
#include <set>

#include <gtest/gtest.h>

namespace banyan::tree_manager {
namespace {

uint32_t Log2(size_t n) { return static_cast<uint32_t>(std::bit_width(n)) - 1; }

}  // namespace

// ---- Events ----

size_t CheckedTree::Join(NodeId node, const NodeTraits& traits) {
  const Result<TreeChanges> changes = tree_.Join(node, traits);
  EXPECT_TRUE(changes.has_value());
  if (!changes) return 0;
  model_[node].traits = traits;
  model_[node].index = members_.size();
  members_.push_back(node);
  return Apply(*changes, &node);
}

size_t CheckedTree::Leave(std::span<const NodeId> nodes) {
  const Result<TreeChanges> changes = tree_.Leave(nodes);
  EXPECT_TRUE(changes.has_value());
  for (const NodeId node : nodes) {
    const size_t index = model_.at(node).index;
    members_[index] = members_.back();
    model_[members_[index]].index = index;
    members_.pop_back();
    model_.erase(node);
    EXPECT_FALSE(tree_.Contains(node));
  }
  return changes ? Apply(*changes, nullptr) : 0;
}

size_t CheckedTree::Update(NodeId node, const NodeTraits& traits) {
  const Result<TreeChanges> changes = tree_.Update(node, traits);
  EXPECT_TRUE(changes.has_value());
  model_[node].traits = traits;
  return changes ? Apply(*changes, nullptr) : 0;
}

size_t CheckedTree::Improve() { return Apply(tree_.Improve(), nullptr); }

// Each list says what is different, once, and nothing else.
size_t CheckedTree::Apply(const TreeChanges& changes, const NodeId* joiner) {
  std::set<std::pair<NodeId, Stripe>> moved;
  for (const EdgeChange& change : changes.moved) {
    EXPECT_TRUE(moved.insert({change.node, change.stripe}).second) << "node " << change.node << " is there twice";
    EXPECT_TRUE(model_.contains(change.node));
    EXPECT_TRUE(joiner == nullptr || change.node != *joiner);
    NodeId& parent = model_[change.node].parent[change.stripe];
    EXPECT_NE(parent, change.parent) << "node " << change.node << " did not move";
    parent = change.parent;
  }
  for (const NodeId node : changes.placed) {
    EXPECT_TRUE(model_.contains(node));
    const Placement now = tree_.PlacementOf(node);
    EXPECT_NE(model_[node].placement, now);
    model_[node].placement = now;
  }
  for (const NodeId node : changes.spares_changed) {
    EXPECT_TRUE(model_.contains(node));
    const Known now = Look(node);
    Known& known = model_[node];
    EXPECT_FALSE(std::equal(now.spares, now.spares + kMaxStripes, known.spares));
    for (Stripe stripe = 0; stripe < kMaxStripes; ++stripe) known.spares[stripe] = now.spares[stripe];
  }
  if (joiner != nullptr) {
    for (Stripe stripe = 0; stripe < options_.stripes; ++stripe) {
      model_[*joiner].parent[stripe] = tree_.ParentOf(*joiner, stripe);
    }
  }
  max_spare_changes = std::max(max_spare_changes, changes.spares_changed.size());
  return changes.moved.size();
}

std::vector<FunctionTree::Member> CheckedTree::Placements() const {
  std::vector<FunctionTree::Member> members;
  for (const auto& [node, known] : model_) {
    members.push_back({.node = node, .traits = known.traits, .placement = known.placement});
  }
  return members;
}

void CheckedTree::RestoreFromPlacements() {
  FunctionTree restored(options_);
  const Status status = restored.Restore(Placements());
  ASSERT_TRUE(status) << status.error().message;
  tree_ = std::move(restored);
  CheckAll();
}

// ---- What holds ----

CheckedTree::Known CheckedTree::Look(NodeId node) const {
  Known known;
  known.traits = tree_.TraitsOf(node);
  known.placement = tree_.PlacementOf(node);
  for (Stripe stripe = 0; stripe < options_.stripes; ++stripe) {
    known.parent[stripe] = tree_.ParentOf(node, stripe);
    known.spares[stripe] = tree_.SparesOf(node, stripe);
  }
  return known;
}

void CheckedTree::CheckAll() const {
  ASSERT_EQ(tree_.size(), members_.size());
  std::vector<NodeId> told = tree_.Members();
  std::vector<NodeId> known = members_;
  std::sort(told.begin(), told.end());
  std::sort(known.begin(), known.end());
  ASSERT_EQ(told, known);

  size_t edges = 0;
  uint32_t height = 0;
  for (const NodeId node : members_) {
    CheckNode(node);
    for (Stripe stripe = 0; stripe < options_.stripes; ++stripe) {
      edges += tree_.ChildCountOf(node, stripe) + (tree_.ParentOf(node, stripe) == kProxy ? 1 : 0);
      height = std::max(height, tree_.DepthOf(node, stripe));
    }
  }
  // Every node is the child of one: those that say so, and no others.
  EXPECT_EQ(edges, members_.size() * options_.stripes);
  EXPECT_EQ(height, tree_.height());
  uint32_t bound = 0;
  for (const auto& [zone, nodes] : Zones()) bound = std::max(bound, Log2(nodes.size()) + 1);
  EXPECT_LE(height, bound);
}

void CheckedTree::CheckNode(NodeId node) const {
  const Known& known = model_.at(node);
  const Known now = Look(node);
  EXPECT_EQ(known.traits, now.traits);
  EXPECT_EQ(known.placement, now.placement) << "node " << node << " was placed elsewhere, unsaid";
  for (Stripe stripe = 0; stripe < options_.stripes; ++stripe) {
    EXPECT_EQ(known.parent[stripe], now.parent[stripe]) << "node " << node << " moved, unsaid";
    EXPECT_EQ(known.spares[stripe], now.spares[stripe]) << "the spares of " << node << " changed, unsaid";
    // One step nearer to the proxy with each parent: so it is reached, and there is no cycle.
    const NodeId parent = now.parent[stripe];
    const uint32_t depth = tree_.DepthOf(node, stripe);
    if (parent == kProxy) {
      EXPECT_EQ(depth, 1U);
    } else {
      ASSERT_TRUE(model_.contains(parent));
      EXPECT_EQ(depth, tree_.DepthOf(parent, stripe) + 1);
      EXPECT_EQ(traits(parent).zone, known.traits.zone);
    }
    const std::vector<NodeId> children = tree_.ChildrenOf(node, stripe);
    EXPECT_EQ(children.size(), tree_.ChildCountOf(node, stripe));
    EXPECT_LE(children.size(), options_.max_degree);
    EXPECT_EQ(std::set<NodeId>(children.begin(), children.end()).size(), children.size());
    if (known.traits.leaf_only) {
      EXPECT_TRUE(children.empty());
    }
    for (const NodeId child : children) EXPECT_EQ(tree_.ParentOf(child, stripe), node);
    CheckSpares(node, stripe);
  }
}

// By depth d of the parent. d = 0, the proxy, and d = 1: there are none. d = 2: at least one, the root if there is
// nobody else outside the parent's subtree. d ≥ 3: outside the grandparent's subtree. d ≥ 4: two, and the first ones of
// a node's first two children are different.
void CheckedTree::CheckSpares(NodeId node, Stripe stripe) const {
  const std::vector<NodeId> spares = tree_.SparesOf(node, stripe);
  const NodeId parent = tree_.ParentOf(node, stripe);
  const uint32_t depth = parent == kProxy ? 0 : tree_.DepthOf(parent, stripe);
  ASSERT_LE(spares.size(), options_.spares);
  if (depth <= 1) {
    EXPECT_TRUE(spares.empty());
    return;
  }
  EXPECT_GE(spares.size(), std::min(options_.spares, depth >= 4 ? 2U : 1U));
  const NodeId grandparent = tree_.ParentOf(parent, stripe);
  for (const NodeId spare : spares) {
    ASSERT_TRUE(model_.contains(spare));
    EXPECT_EQ(traits(spare).zone, traits(node).zone);
    EXPECT_FALSE(traits(spare).leaf_only);
    EXPECT_FALSE(IsBelow(spare, parent, stripe));
    EXPECT_FALSE(depth >= 3 && IsBelow(spare, grandparent, stripe));
    EXPECT_LE(tree_.DepthOf(spare, stripe), depth + 1);
  }
  if (spares.size() == 2) {
    EXPECT_NE(spares[0], spares[1]);
  }
  const std::vector<NodeId> siblings = tree_.ChildrenOf(parent, stripe);
  if (depth >= 4 && siblings.size() >= 2 && options_.spares > 0) {
    EXPECT_NE(tree_.SparesOf(siblings[0], stripe)[0], tree_.SparesOf(siblings[1], stripe)[0]);
  }
}

// Itself included.
bool CheckedTree::IsBelow(NodeId node, NodeId ancestor, Stripe stripe) const {
  while (node != kProxy && node != ancestor) node = tree_.ParentOf(node, stripe);
  return node == ancestor;
}

std::map<uint32_t, std::vector<NodeId>> CheckedTree::Zones() const {
  std::map<uint32_t, std::vector<NodeId>> zones;
  for (const NodeId node : members_) zones[traits(node).zone].push_back(node);
  return zones;
}

void CheckedTree::CheckEqual() const {
  for (const auto& [zone, nodes] : Zones()) {
    size_t interiors = 0;
    size_t roots = 0;
    for (const NodeId node : nodes) {
      uint32_t stripes_with_children = 0;
      for (Stripe stripe = 0; stripe < options_.stripes; ++stripe) {
        const uint32_t children = tree_.ChildCountOf(node, stripe);
        EXPECT_LE(children, 2U);
        if (children > 0) ++stripes_with_children;
        if (tree_.ParentOf(node, stripe) == kProxy) ++roots;
      }
      EXPECT_LE(stripes_with_children, 1U) << "node " << node << " is an interior of both";
      interiors += stripes_with_children;
    }
    EXPECT_EQ(interiors, nodes.size() / 2 * options_.stripes);
    EXPECT_EQ(roots, options_.stripes);
  }
}

void CheckedTree::CheckOrderOfConcessions() const {
  for (const auto& [zone, nodes] : Zones()) {
    const auto size = static_cast<uint32_t>(nodes.size());
    uint32_t capable = 0;
    for (const NodeId node : nodes) capable += traits(node).leaf_only ? 0 : 1;
    const uint32_t least = (size - 1 + options_.max_degree - 1) / options_.max_degree;
    for (Stripe stripe = 0; stripe < options_.stripes; ++stripe) {
      size_t roots = 0;
      for (const NodeId node : nodes) roots += tree_.ParentOf(node, stripe) == kProxy ? 1 : 0;
      for (const NodeId node : nodes) {
        if (traits(node).leaf_only) continue;
        // The proxy feeds a second one only when nobody can take another child.
        if (roots > 1) {
          EXPECT_EQ(tree_.ChildCountOf(node, stripe), options_.max_degree);
        }
        // Interior of both only when single ones do not suffice, at max_degree.
        if (stripe == 1 && tree_.ChildCountOf(node, 0) > 0 && tree_.ChildCountOf(node, 1) > 0) {
          EXPECT_LT(capable / 2, least);
        }
      }
    }
  }
}

}  // namespace banyan::tree_manager
