// The members of one function's trees, wherever they stand, and which of them the event at hand may have moved.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "tree-manager/function_tree.h"
#include "tree-manager/spare_slots.h"

namespace banyan::tree_manager {

// A member's place in its pool; reused after it has left.
using NodeIndex = uint32_t;
inline constexpr NodeIndex kNoNode = UINT32_MAX;

struct Node {
  NodeId id = 0;
  NodeTraits traits;
  bool member = false;
  bool joining = false;  // since before the event at hand: it was not there
  uint8_t roles = 0;     // bit s: an interior of stripe s
  uint8_t bucket = 0;    // of ZoneForest's
  uint8_t touched = 0;   // bit s: parent or spares in stripe s may have changed; see NodePool::Touch
  uint32_t bucket_position = 0;
  std::array<uint32_t, kMaxStripes> slot = {};

  // What the caller of FunctionTree knows of it.
  struct Known {
    std::array<NodeId, kMaxStripes> parent = {};
    std::array<std::array<NodeId, kMaxSpares>, kMaxStripes> spares = {};
    std::array<uint8_t, kMaxStripes> spare_count = {};
    Placement placement;
  } known;
};

// Externally synchronised.
class NodePool {
 public:
  NodeIndex Add(NodeId id, const NodeTraits& traits) {
    NodeIndex index = 0;
    if (free_.empty()) {
      index = static_cast<NodeIndex>(nodes_.size());
      nodes_.emplace_back();
    } else {
      index = free_.back();
      free_.pop_back();
    }
    // A node that was touched and left within one event is still on the list; its entry serves the new one.
    const uint8_t touched = nodes_[index].touched;
    nodes_[index] = Node{.id = id, .traits = traits, .member = true, .joining = true, .touched = touched};
    return index;
  }
  void Remove(NodeIndex index) {
    nodes_[index].member = false;
    free_.push_back(index);
  }

  Node& operator[](NodeIndex index) { return nodes_[index]; }
  const Node& operator[](NodeIndex index) const { return nodes_[index]; }

  // Its parent, placement or spares may have changed.
  void Touch(NodeIndex index, Stripe stripe) {
    Node& node = nodes_[index];
    if (node.touched == 0) touched_.push_back(index);
    node.touched |= static_cast<uint8_t>(1U << stripe);
  }
  // The touched since the last Drain(); those that have left may be among them. Calls `visit(index, stripes)`.
  template <typename Visit>
  void Drain(Visit visit) {
    for (const NodeIndex index : touched_) {
      const uint8_t stripes = nodes_[index].touched;
      nodes_[index].touched = 0;
      if (nodes_[index].member) visit(index, stripes);
    }
    touched_.clear();
  }

 private:
  std::vector<Node> nodes_;
  std::vector<NodeIndex> free_;
  std::vector<NodeIndex> touched_;
};

}  // namespace banyan::tree_manager
