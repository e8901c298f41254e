// Cold starts, told to the manager's dashboard as they go on.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "proto/agent.pb.h"
#include "proto/tree.pb.h"

namespace banyan::peer_agent {

// The stages that were reached, in the order of a start. Each begins where the latest earlier one ended, but never
// after its own end: stages may overlap, as when the mount is made before containerd asks for it.
proto::tree::StartReport ReportOf(const proto::agent::Start& start);

// What is still to be told of which start. Begun() and Following() on any thread, Take() on one.
class StartReports {
 public:
  using Clock = std::chrono::steady_clock;
  // A start is followed for so long.
  static constexpr std::chrono::seconds kFollowed{120};

  // A start begins.
  void Begun(Clock::time_point now) { follow_until_ = now + kFollowed; }
  // Whether the latest starts are worth a look; they are not on a node where nothing starts.
  bool Following(Clock::time_point now) const { return now < follow_until_.load(); }
  // Those of `latest` that are new or have gone on.
  std::vector<proto::tree::StartReport> Take(const std::vector<proto::agent::Start>& latest);

 private:
  std::atomic<Clock::time_point> follow_until_{Clock::time_point()};
  std::map<std::string, std::string> told_;  // start → what of it, serialised
};

}  // namespace banyan::peer_agent
