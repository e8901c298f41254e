// How the trees are kept; docs/trees.md has the pictures.
//
// Problem: N nodes, one or two trees over all of them, each binary, flat, with the proxy above its root; with two, no
// node may have children in both. Nodes come, go and fail at any time, and each must move few others.
//
// Idea: an array heap a stripe (stripe_heap.h). Slots 1…⌊N/2⌋ of a heap without holes have children, the others have
// none; so disjoint interiors are a matter of who stands in the first slots of which heap, and with ⌊N/2⌋ nodes for
// each, one is over at most (zone_forest.h). To come and to go is to swap a few nodes between slots:
//   join, N even    the joiner takes the last slot in both heaps, and is idle: a leaf in both.
//   join, N odd     the idle node and the joiner become the next interior of one heap each.
//   leave, N odd    the idle node takes the leaver's interior slot, last leaves the leaf slots.
//   leave, N even   the last interior takes the slot, a last leaf that one's; the other heap's last interior is idle.
// Where there are too few nodes that can have children, the last slots are handed to interiors as further children.
//
// Why the invariants hold. Every parent stands in an interior slot, and interior slot x > 1 is fed by slot ⌊x/2⌋ < x,
// so each way up ends at the proxy. Depth ⌊log2 N⌋ + 1 is the heap's; nodes handed to an interior are one below it, and
// interiors are fewer in this case. A swap changes the edges of two nodes and of their children; an event makes a
// bounded number of swaps. Which ones in detail does not matter for what is reported: whatever the swaps touched is
// compared, at the end of the event or of the batch, with what the caller was told before.
#include "tree-manager/function_tree.h"

#include <algorithm>
#include <map>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "tree-manager/node_pool.h"
#include "tree-manager/zone_forest.h"

namespace banyan::tree_manager {
namespace {

template <typename T>
void Concatenate(std::vector<T>& to, std::vector<T>&& from) {
  if (to.empty()) {
    to = std::move(from);
    return;
  }
  to.insert(to.end(), from.begin(), from.end());
}

FunctionTree::Options Sane(FunctionTree::Options options) {
  options.stripes = std::clamp<Stripe>(options.stripes, 1, kMaxStripes);
  options.spares = std::min(options.spares, kMaxSpares);
  options.max_degree = std::clamp(options.max_degree, 2U, kMaxDegree);
  return options;
}

}  // namespace

void TreeChanges::Append(TreeChanges other) {
  Concatenate(moved, std::move(other.moved));
  Concatenate(placed, std::move(other.placed));
  Concatenate(spares_changed, std::move(other.spares_changed));
}

struct FunctionTree::Impl {
  explicit Impl(Options wanted) : options(Sane(wanted)) {}

  const Options options;
  NodePool pool;
  std::unordered_map<NodeId, NodeIndex> nodes;
  std::map<uint32_t, ZoneForest> zones;
  uint32_t zone_to_improve = 0;

  ZoneForest& ZoneOf(uint32_t zone) { return zones.try_emplace(zone, pool, options).first->second; }
  const ZoneForest& ForestOf(const Node& node) const { return zones.at(node.traits.zone); }

  void Remove(NodeIndex node);
  void DropIfEmpty(uint32_t zone);
  TreeChanges Finish();
  void Report(NodeIndex index, Stripe stripe, TreeChanges& changes, bool& placed, bool& spares_changed);
};

// Its node is out of the map already.
void FunctionTree::Impl::Remove(NodeIndex index) {
  zones.at(pool[index].traits.zone).Remove(index);
  pool.Remove(index);
}

void FunctionTree::Impl::DropIfEmpty(uint32_t zone) {
  const auto found = zones.find(zone);
  if (found != zones.end() && found->second.size() == 0) zones.erase(found);
}

// Compares what the event has touched with what the caller knows. So an event may move a node to and fro, and many
// events may be finished as one: only what is different in the end is a change.
TreeChanges FunctionTree::Impl::Finish() {
  TreeChanges changes;
  pool.Drain([&](NodeIndex index, uint8_t touched) {
    Node& node = pool[index];
    bool placed = node.joining;
    bool spares_changed = false;
    for (Stripe stripe = 0; stripe < options.stripes; ++stripe) {
      if ((touched >> stripe & 1) != 0) Report(index, stripe, changes, placed, spares_changed);
    }
    if (node.known.placement.relays != node.roles) {
      node.known.placement.relays = node.roles;
      placed = true;
    }
    if (placed) changes.placed.push_back(node.id);
    if (spares_changed) changes.spares_changed.push_back(node.id);
    node.joining = false;
  });
  return changes;
}

void FunctionTree::Impl::Report(NodeIndex index, Stripe stripe, TreeChanges& changes, bool& placed,
                                bool& spares_changed) {
  Node& node = pool[index];
  const StripeHeap& heap = ForestOf(node).heap(stripe);
  const uint32_t slot = node.slot[stripe];
  const uint32_t feeder = heap.FeederOf(slot);
  if (std::exchange(node.known.placement.slot[stripe], slot) != slot) placed = true;
  if (std::exchange(node.known.placement.feeder[stripe], feeder) != feeder) placed = true;

  const NodeId parent = feeder == 0 ? kProxy : pool[heap.At(feeder)].id;
  if (std::exchange(node.known.parent[stripe], parent) != parent && !node.joining) {
    changes.moved.push_back({.node = node.id, .stripe = stripe, .parent = parent});
  }

  const SpareSlots slots = heap.SparesOf(slot);
  const auto count = static_cast<uint8_t>(std::min(slots.count, options.spares));
  if (std::exchange(node.known.spare_count[stripe], count) != count) spares_changed = true;
  for (uint32_t i = 0; i < count; ++i) {
    const NodeId spare = pool[heap.At(slots.slots[i])].id;
    if (std::exchange(node.known.spares[stripe][i], spare) != spare) spares_changed = true;
  }
}

FunctionTree::FunctionTree(Options options) : impl_(std::make_unique<Impl>(options)) {}
FunctionTree::~FunctionTree() = default;
FunctionTree::FunctionTree(FunctionTree&&) noexcept = default;
FunctionTree& FunctionTree::operator=(FunctionTree&&) noexcept = default;

// ---- Events ----

Result<TreeChanges> FunctionTree::Join(NodeId node, const NodeTraits& traits) {
  if (node == kProxy) return Fail(Code::kInvalidArgument, fmt::format("node {} is the proxy's number", node));
  const auto [entry, is_new] = impl_->nodes.try_emplace(node, kNoNode);
  if (!is_new) return Fail(Code::kAlreadyExists, fmt::format("node {} is a member of the tree already", node));
  entry->second = impl_->pool.Add(node, traits);
  impl_->ZoneOf(traits.zone).Add(entry->second);
  return impl_->Finish();
}

Result<TreeChanges> FunctionTree::Leave(NodeId node) { return Leave(std::span<const NodeId>(&node, 1)); }

Result<TreeChanges> FunctionTree::Leave(std::span<const NodeId> nodes) {
  for (const NodeId node : nodes) {
    if (!Contains(node)) return Fail(Code::kNotFound, fmt::format("node {} is no member of the tree", node));
  }
  for (const NodeId node : nodes) {
    const auto found = impl_->nodes.find(node);
    if (found == impl_->nodes.end()) continue;  // named twice
    const NodeIndex index = found->second;
    impl_->nodes.erase(found);
    const uint32_t zone = impl_->pool[index].traits.zone;
    impl_->Remove(index);
    impl_->DropIfEmpty(zone);
  }
  return impl_->Finish();
}

Result<TreeChanges> FunctionTree::Update(NodeId node, const NodeTraits& traits) {
  const auto found = impl_->nodes.find(node);
  if (found == impl_->nodes.end()) return Fail(Code::kNotFound, fmt::format("node {} is no member of the tree", node));
  const NodeIndex index = found->second;
  Node& entry = impl_->pool[index];
  const uint32_t old_zone = entry.traits.zone;
  if (old_zone == traits.zone) {
    impl_->zones.at(old_zone).SetTraits(index, traits);
    return impl_->Finish();
  }
  impl_->zones.at(old_zone).Remove(index);
  impl_->DropIfEmpty(old_zone);
  entry.traits = traits;
  impl_->ZoneOf(traits.zone).Add(index);
  return impl_->Finish();
}

TreeChanges FunctionTree::Improve() {
  // From the zone after the one where the last call found something.
  auto zone = impl_->zones.upper_bound(impl_->zone_to_improve);
  for (size_t i = 0; i < impl_->zones.size(); ++i, ++zone) {
    if (zone == impl_->zones.end()) zone = impl_->zones.begin();
    if (!zone->second.Improve()) continue;
    impl_->zone_to_improve = zone->first;
    return impl_->Finish();
  }
  return {};
}

Status FunctionTree::Restore(std::span<const Member> members) {
  impl_ = std::make_unique<Impl>(impl_->options);
  std::map<uint32_t, std::vector<NodeIndex>> by_zone;
  Status status;
  for (const Member& member : members) {
    const auto [entry, is_new] = impl_->nodes.try_emplace(member.node, kNoNode);
    if (!is_new || member.node == kProxy) {
      status = Fail(Code::kDataLoss, fmt::format("node {} is there twice, or the proxy's number", member.node));
      break;
    }
    entry->second = impl_->pool.Add(member.node, member.traits);
    impl_->pool[entry->second].known.placement = member.placement;
    by_zone[member.traits.zone].push_back(entry->second);
  }
  for (auto zone = by_zone.begin(); status && zone != by_zone.end(); ++zone) {
    status = impl_->ZoneOf(zone->first).Load(zone->second);
    if (!status) status = Fail(status.error().WithContext(fmt::format("zone {}", zone->first)));
  }
  if (!status) {
    impl_ = std::make_unique<Impl>(impl_->options);
    return status;
  }
  impl_->Finish();
  return {};
}

// ---- Questions ----

bool FunctionTree::Contains(NodeId node) const { return impl_->nodes.contains(node); }
NodeTraits FunctionTree::TraitsOf(NodeId node) const { return impl_->pool[impl_->nodes.at(node)].traits; }
Placement FunctionTree::PlacementOf(NodeId node) const { return impl_->pool[impl_->nodes.at(node)].known.placement; }

NodeId FunctionTree::ParentOf(NodeId node, Stripe stripe) const {
  return impl_->pool[impl_->nodes.at(node)].known.parent[stripe];
}

std::vector<NodeId> FunctionTree::ChildrenOf(NodeId node, Stripe stripe) const {
  const Node& entry = impl_->pool[impl_->nodes.at(node)];
  const StripeHeap& heap = impl_->ForestOf(entry).heap(stripe);
  std::vector<NodeId> children;
  heap.ForEachChild(entry.slot[stripe], [&](uint32_t slot) { children.push_back(impl_->pool[heap.At(slot)].id); });
  return children;
}

uint32_t FunctionTree::ChildCountOf(NodeId node, Stripe stripe) const {
  const Node& entry = impl_->pool[impl_->nodes.at(node)];
  return impl_->ForestOf(entry).heap(stripe).ChildCountOf(entry.slot[stripe]);
}

uint32_t FunctionTree::DepthOf(NodeId node, Stripe stripe) const {
  const Node& entry = impl_->pool[impl_->nodes.at(node)];
  return impl_->ForestOf(entry).heap(stripe).DepthOf(entry.slot[stripe]);
}

std::vector<NodeId> FunctionTree::SparesOf(NodeId node, Stripe stripe) const {
  const Node::Known& known = impl_->pool[impl_->nodes.at(node)].known;
  const auto& spares = known.spares[stripe];
  return {spares.begin(), spares.begin() + known.spare_count[stripe]};
}

uint32_t FunctionTree::size() const { return static_cast<uint32_t>(impl_->nodes.size()); }
Stripe FunctionTree::stripes() const { return impl_->options.stripes; }

uint32_t FunctionTree::height() const {
  uint32_t height = 0;
  for (const auto& [zone, forest] : impl_->zones) {
    for (Stripe stripe = 0; stripe < impl_->options.stripes; ++stripe) {
      height = std::max(height, forest.heap(stripe).height());
    }
  }
  return height;
}

std::vector<NodeId> FunctionTree::Members() const {
  std::vector<NodeId> members;
  members.reserve(impl_->nodes.size());
  for (const auto& [node, index] : impl_->nodes) members.push_back(node);
  return members;
}

}  // namespace banyan::tree_manager
