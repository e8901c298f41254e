#include "swarm/bringers.h"

#include <algorithm>
#include <random>
#include <utility>

#include <xxhash.h>

namespace banyan::swarm {
namespace {

constexpr std::string_view kAgents = "-BY0100-";
constexpr size_t kPeerIdBytes = 20;
constexpr double kSeveral = 3;

// The same on all nodes.
uint64_t WeightOf(std::string_view peer_id, uint32_t run) {
  return XXH3_64bits_withSeed(peer_id.data(), peer_id.size(), run);
}

}  // namespace

std::string MakeAgentId() {
  constexpr std::string_view kDigits = "0123456789abcdefghijklmnopqrstuvwxyz";
  std::random_device random;
  std::string id(kAgents);
  while (id.size() < kPeerIdBytes) id += kDigits[random() % kDigits.size()];
  return id;
}

bool IsAgentId(std::string_view peer_id) { return peer_id.starts_with(kAgents); }

Bringers::Bringers(std::string self, std::vector<std::string> agents, uint32_t swarm_nodes, uint32_t pieces)
    : self_(std::move(self)),
      agents_(std::move(agents)),
      least_(swarm_nodes > agents_.size() + 1 ? 1 - kSeveral / std::max<double>(swarm_nodes, kSeveral) : 0),
      run_(std::clamp<uint32_t>(pieces / 16, 1, 8)) {}

bool Bringers::IsOurs(uint32_t piece) const {
  const uint64_t weight = WeightOf(self_, piece / run_);
  if (static_cast<double>(weight) < least_ * static_cast<double>(UINT64_MAX)) return false;
  return std::none_of(agents_.begin(), agents_.end(),
                      [&](const std::string& agent) { return WeightOf(agent, piece / run_) > weight; });
}

}  // namespace banyan::swarm
