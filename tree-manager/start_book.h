// The latest cold starts of the cluster, as nodes report them: for people. Bounded, and gone with the manager.
//
// A start is told several times, as it goes on; (node, function, when it began) names it.
#pragma once

#include <cstddef>
#include <deque>
#include <string>

#include "proto/tree.pb.h"

namespace banyan::tree_manager {

// Externally synchronised.
class StartBook {
 public:
  static constexpr size_t kKept = 1'000;
  // A report that has more than this is refused.
  static constexpr int kMaxParts = 16;            // stages, sources
  static constexpr size_t kMaxTextBytes = 1'024;  // of each name

  // What is kept of it now, until the next call; null: refused. The oldest go.
  const proto::tree::StartReport* Add(const std::string& node, const proto::tree::StartReport& report);

  const std::deque<proto::tree::StartReport>& starts() const { return starts_; }

 private:
  std::deque<proto::tree::StartReport> starts_;  // in the order of their first reports
};

}  // namespace banyan::tree_manager
