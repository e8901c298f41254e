#include "tree-manager/slow_uplinks.h"

#include <algorithm>

namespace banyan::tree_manager {
namespace {

constexpr uint64_t kLeastStream = 256 * 1024;  // bytes per second; below it there is no stream to judge by
constexpr uint64_t kSlowPercent = 75;          // of the usual rate, sent: weight 75 is the least that feeds two
constexpr uint64_t kBehindPercent = 90;        // of the usual rate, received

// Whether it has two children at least, and all of them are behind.
bool ChildrenAreBehind(const FunctionTree& tree, NodeId node, uint64_t usual,
                       const std::function<NodeLoad(NodeId)>& load_of) {
  uint32_t children = 0;
  for (Stripe stripe = 0; stripe < tree.stripes(); ++stripe) {
    if (tree.ChildCountOf(node, stripe) == 0) continue;
    for (const NodeId child : tree.ChildrenOf(node, stripe)) {
      ++children;
      if (load_of(child).down * 100 >= usual * kBehindPercent) return false;
    }
  }
  return children >= 2;
}

}  // namespace

std::vector<SlowUplink> SlowUplinks::Look(const FunctionTree& tree, const std::function<NodeLoad(NodeId)>& load_of) {
  std::vector<NodeId> full;
  std::vector<uint64_t> rates;
  for (const NodeId node : tree.Members()) {
    const NodeLoad load = load_of(node);
    if (load.up_full) full.push_back(node);
    if (load.down >= kLeastStream) rates.push_back(load.down);
  }
  uint64_t median = 0;
  if (!rates.empty()) {
    const auto middle = rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 2);
    std::nth_element(rates.begin(), middle, rates.end());
    median = *middle;
  }
  std::vector<SlowUplink> slow;
  std::unordered_set<NodeId> seen;
  std::sort(full.begin(), full.end());
  for (const NodeId node : full) {
    const NodeLoad load = load_of(node);
    // Below a slow root all receive as little as its children do, but not the root itself.
    const uint64_t usual = std::max(median, load.down);
    if (usual < kLeastStream || load.up * 100 >= usual * kSlowPercent) continue;
    if (!ChildrenAreBehind(tree, node, usual, load_of)) continue;
    seen.insert(node);
    if (!seen_.contains(node)) continue;
    slow.push_back({node, std::max<uint32_t>(1, static_cast<uint32_t>(load.up * 100 / usual))});
  }
  seen_ = std::move(seen);
  return slow;
}

}  // namespace banyan::tree_manager
