#include "swarm/bringers.h"

#include <algorithm>
#include <random>
#include <utility>

namespace banyan::swarm {
namespace {

constexpr std::string_view kAgents = "-BY0100-";
constexpr size_t kPeerIdBytes = 20;
constexpr double kSeveral = 3;

// The same on all nodes: FNV-1a, and the finish of SplitMix64, without which the last bytes hardly count.
uint64_t WeightOf(std::string_view peer_id, uint32_t run) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char byte : peer_id) hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001b3;
  hash += (run + uint64_t{1}) * 0x9e3779b97f4a7c15;
  hash = (hash ^ hash >> 30) * 0xbf58476d1ce4e5b9;
  hash = (hash ^ hash >> 27) * 0x94d049bb133111eb;
  return hash ^ hash >> 31;
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
