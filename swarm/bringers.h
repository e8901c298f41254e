// Which agent of a swarm brings a piece that nobody has, from outside of the swarm: by rendezvous hashing over peer
// ids, so that all who see the same peers agree without a word. Pieces go in runs, since at a run's ends there are
// chunks that two agents fetch. Pure.
//
// Who brings a piece is at first the only one to give it, so the fleet waits for whoever brings most: nobody brings
// more than an even share of the runs, what is beyond it goes to the next by weight. Measured with 8 nodes and 16 runs
// before that rule: one node had seven of them, and all took twice as long.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace banyan::swarm {

// A peer id of BitTorrent (20 bytes) that says that this is an agent: other clients bring nothing.
std::string MakeAgentId();
bool IsAgentId(std::string_view peer_id);

// `agents`: ids of the others that this one sees; `swarm_nodes`: how many there are, as far as known. Of a swarm that
// is larger than what this agent sees, a run may be for several to bring, three on average.
class Bringers {
 public:
  Bringers(const std::string& self, std::vector<std::string> agents, uint32_t swarm_nodes, uint32_t pieces);
  // Whether it is for this agent.
  bool IsOurs(uint32_t piece) const { return ours_[piece / run_]; }

 private:
  const uint32_t run_;
  std::vector<bool> ours_;  // by run
};

}  // namespace banyan::swarm
