#include "peer-agent/swarm_announcer.h"

#include <algorithm>

namespace banyan::peer_agent {

std::optional<proto::tree::SwarmAnnounce> SwarmAnnouncer::Due(const std::map<std::string, bool>& swarms,
                                                              Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  proto::tree::SwarmAnnounce announce;
  for (auto told = told_.begin(); told != told_.end() && announce.swarms_size() < kMostSwarms;) {
    if (swarms.contains(told->first)) {
      ++told;
      continue;
    }
    auto* swarm = announce.add_swarms();
    swarm->set_info_hash(told->first);
    swarm->set_gone(true);
    told = told_.erase(told);
  }
  if (now >= next_) {
    told_.clear();
    next_ = now + interval_;
  }
  for (const auto& [info_hash, complete] : swarms) {
    if (announce.swarms_size() == kMostSwarms) break;
    const auto told = told_.find(info_hash);
    if (told != told_.end() && told->second == complete) continue;
    told_[info_hash] = complete;
    auto* swarm = announce.add_swarms();
    swarm->set_info_hash(info_hash);
    swarm->set_seed(complete);
  }
  if (announce.swarms_size() == 0) return std::nullopt;
  return announce;
}

void SwarmAnnouncer::Reset() {
  const std::lock_guard lock(mutex_);
  next_ = {};
}

void SwarmAnnouncer::SetInterval(std::chrono::seconds interval) {
  const std::lock_guard lock(mutex_);
  interval_ = std::clamp(interval, kLeastInterval, kMostInterval);
}

}  // namespace banyan::peer_agent
