#include "tree-manager/tracker/session_announces.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace banyan::tree_manager {

proto::tree::SwarmPeers AnnounceBySession(Tracker& tracker, const proto::tree::SwarmAnnounce& announce,
                                          const std::string& zone, const std::string& node_address) {
  proto::tree::SwarmPeers answer;
  if (announce.peer_id().size() != kPeerIdBytes || announce.port() > UINT16_MAX) return answer;
  const std::string& address = announce.address().empty() ? node_address : announce.address();
  size_t given = 0;
  const int count = std::min(announce.swarms_size(), kMaxSwarmsAnnounced);
  for (int i = 0; i < count; ++i) {
    const auto& entry = announce.swarms(i);
    if (entry.info_hash().size() != kInfoHashBytes) continue;
    AnnounceQuery query;
    query.info_hash = entry.info_hash();
    query.peer_id = announce.peer_id();
    query.port = static_cast<uint16_t>(announce.port());
    query.left = entry.seed() ? 0 : 1;
    query.event = entry.gone() ? AnnounceEvent::kStopped : AnnounceEvent::kNone;
    query.zone = zone;
    const auto peers = tracker.Announce(query, address);
    if (!peers || peers->empty() || given + peers->size() > kMaxPeersAnswered) continue;
    given += peers->size();
    auto* swarm = answer.add_swarms();
    swarm->set_info_hash(entry.info_hash());
    for (const Tracker::PeerAt& peer : *peers) {
      auto* endpoint = swarm->add_peers();
      endpoint->set_address(peer.address);
      endpoint->set_port(peer.port);
    }
  }
  answer.set_interval_seconds(static_cast<uint32_t>(tracker.interval().count()));
  return answer;
}

}  // namespace banyan::tree_manager
