// Function trees as text: what `banyan tree` shows.
#pragma once

#include <cstdint>
#include <string>

#include "proto/tree.pb.h"

namespace banyan::cli {

struct TreeDrawing {
  uint32_t stripe = 0;                    // 1 or 2; 0: all
  bool all = false;                       // every node; otherwise large trees are cut below kShownDepth
  bool plain = false;                     // ASCII lines
  static constexpr int kLargeTree = 200;  // nodes
  static constexpr uint32_t kShownDepth = 4;
};

// Any reply is drawn, also one that is no tree. Each line ends with a line feed.
std::string DrawTrees(const proto::tree::TreeReply& reply, const TreeDrawing& drawing);
// "live", "suspect" …
std::string NodeStateName(proto::tree::NodeState state);

}  // namespace banyan::cli
