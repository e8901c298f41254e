// When a node tells the tree-manager of its swarms, and of which: of those that are new, complete now or left, soon; of
// all of them, after a while, and when a session begins. Nothing is confirmed: what a session loses, the next round
// brings.
#pragma once

#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "proto/tree.pb.h"

namespace banyan::peer_agent {

// Internally synchronised.
class SwarmAnnouncer {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::seconds kLeastInterval{10};
  static constexpr std::chrono::seconds kMostInterval{1800};
  static constexpr int kMostSwarms = 1024;  // in one message; more wait for the next

  // `swarms`: the info-hashes of those that the node is in, and whether it has all. Only the swarms are set in what is
  // to be sent; nullopt: nothing.
  std::optional<proto::tree::SwarmAnnounce> Due(const std::map<std::string, bool>& swarms, Clock::time_point now);
  // Nothing has been told.
  void Reset();
  // When all is to be told again; within the bounds above.
  void SetInterval(std::chrono::seconds interval);

 private:
  std::mutex mutex_;
  std::map<std::string, bool> told_;  // guarded by mutex_, as is all that follows
  std::chrono::seconds interval_{30};
  Clock::time_point next_{};
};

}  // namespace banyan::peer_agent
