#include "peer-agent/peer_faults.h"

namespace banyan::peer_agent {

namespace {

constexpr std::array<const char*, PeerFaults::kKinds> kNames = {"unreachable", "bad_bytes", "slow", "lied"};

}  // namespace

const char* PeerFaults::NameOf(fetch::PeerFault fault) { return kNames.at(static_cast<size_t>(fault)); }

void PeerFaults::Count(const std::string& node, fetch::PeerFault fault) {
  const std::lock_guard lock(mutex_);
  const bool known = by_node_.contains(node) || by_node_.size() < kMaxNodes;
  ++by_node_[known ? node : std::string()].at(static_cast<size_t>(fault));
}

void PeerFaults::AddMetrics(MetricsPage& page) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [node, counts] : by_node_) {
    for (size_t kind = 0; kind < kKinds; ++kind) {
      if (counts[kind] == 0) continue;
      page.Counter("banyan_peer_faults_total", "Faults of peers that this node has met.",
                   {{"node", node.empty() ? "(others)" : node}, {"kind", kNames[kind]}},
                   static_cast<double>(counts[kind]));
    }
  }
}

}  // namespace banyan::peer_agent
