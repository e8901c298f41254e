#include "swarm/bringers.h"

#include <algorithm>
#include <random>

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

Bringers::Bringers(const std::string& self, std::vector<std::string> agents, uint32_t swarm_nodes, uint32_t pieces)
    : run_(std::clamp<uint32_t>(pieces / 16, 1, 8)), ours_((pieces + run_ - 1) / run_) {
  const bool sees_all = swarm_nodes <= agents.size() + 1;
  // Of the weights' range: an agent that is not seen has probably more than that.
  const double least = sees_all ? 0 : 1 - kSeveral / std::max<double>(swarm_nodes, kSeveral);
  agents.push_back(self);
  std::sort(agents.begin(), agents.end());
  agents.erase(std::unique(agents.begin(), agents.end()), agents.end());
  const size_t share = sees_all ? (ours_.size() + agents.size() - 1) / agents.size() : ours_.size();
  std::vector<size_t> runs(agents.size());  // of each agent
  for (uint32_t run = 0; run < ours_.size(); ++run) {
    size_t first = agents.size();
    uint64_t most = 0;
    for (size_t i = 0; i < agents.size(); ++i) {
      const uint64_t weight = WeightOf(agents[i], run);
      if (runs[i] == share || (first < agents.size() && weight <= most)) continue;
      first = i;
      most = weight;
    }
    ++runs[first];
    ours_[run] = agents[first] == self && static_cast<double>(most) >= least * static_cast<double>(UINT64_MAX);
  }
}

}  // namespace banyan::swarm
