// Whose uplink is too small for its children, by what the nodes' heartbeats say.
//
// Problem: nobody tells the manager what a link carries, and a node with half an uplink above others makes all of them
// slow. Idea: in a tree that streams, a node sends about as much as it receives (two halves for one whole). One whose
// uplink is full, that sends clearly less than that, and whose children, all of them, receive less than others do, is
// slow itself. A single slow child shows another picture: its siblings receive as usual. One child alone proves
// nothing. What was seen twice in a row is taken for true; a stream that has just begun looks like anything.
//
// Pure, like the trees; the simulator runs this very code. O(members) a look.
#pragma once

#include <cstdint>
#include <functional>
#include <unordered_set>
#include <vector>

#include "tree-manager/function_tree.h"

namespace banyan::tree_manager {

// By a node's last heartbeat; bytes per second.
struct NodeLoad {
  uint64_t up = 0;
  uint64_t down = 0;
  bool up_full = false;
};

struct SlowUplink {
  NodeId node = 0;
  uint32_t weight = 100;  // what its traits should say, below 75: 100 would feed two children at the usual rate
};

// Of one tree. Externally synchronised.
class SlowUplinks {
 public:
  // To be called once an interval of heartbeats. `load_of` is asked for members only.
  std::vector<SlowUplink> Look(const FunctionTree& tree, const std::function<NodeLoad(NodeId)>& load_of);

 private:
  std::unordered_set<NodeId> seen_;  // by the last look
};

}  // namespace banyan::tree_manager
