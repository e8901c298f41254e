// What peers have done wrong, by peer and kind, for the metrics page: an operator is to see who it is. Node names come
// from the manager; so many are kept apart, the rest is counted together.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "common/metrics.h"
#include "fetch/routes.h"

namespace banyan::peer_agent {

// Internally synchronised.
class PeerFaults {
 public:
  static constexpr size_t kKinds = 4;
  static constexpr size_t kMaxNodes = 256;
  static const char* NameOf(fetch::PeerFault fault);

  void Count(const std::string& node, fetch::PeerFault fault);
  // banyan_peer_faults_total{node,kind}; peers without faults are not on it.
  void AddMetrics(MetricsPage& page) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::array<uint64_t, kKinds>> by_node_;  // guarded by mutex_; "" are the rest
};

}  // namespace banyan::peer_agent
