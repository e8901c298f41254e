// What each cold start waited for: the stages of the latest mounts, for `banyan starts`.
//
// The stages before a container's first read are noted as they happen; reads are taken from the scheduler's record of
// first touches when somebody asks, or when the mount goes. Reads of a layer that another image had touched before are
// not cold and do not count.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "fetch/scheduler.h"
#include "peer-agent/layer_table.h"
#include "proto/agent.pb.h"

namespace banyan::peer_agent {

// Internally synchronised.
class StartLog {
 public:
  using SteadyTime = std::chrono::steady_clock::time_point;
  static constexpr size_t kKept = 256;
  static constexpr std::chrono::seconds kQuietAfter{2};

  // Borrowed.
  explicit StartLog(const fetch::Scheduler& scheduler) : scheduler_(scheduler) {}

  // A mount at start.directory() was made; its stages so far are in `start`, whose times count from `began`.
  void Mounted(proto::agent::Start start, SteadyTime began, std::vector<std::shared_ptr<LiveLayer>> layers);
  // containerd was given the mounts of a container that stands on `directory`; the first time counts.
  void Prepared(const std::string& directory);
  // The mount goes: what is known of it now is kept.
  void Unmounted(const std::string& directory);

  // The latest first.
  std::vector<proto::agent::Start> Latest(size_t limit);

 private:
  struct Entry {
    proto::agent::Start start;
    SteadyTime began;
    std::vector<std::weak_ptr<LiveLayer>> layers;  // none once it is final
  };
  void Refresh(Entry& entry);

  const fetch::Scheduler& scheduler_;
  std::mutex mutex_;
  std::deque<Entry> entries_;  // the latest first; guarded by mutex_
};

}  // namespace banyan::peer_agent
