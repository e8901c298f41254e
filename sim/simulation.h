// One run of a scenario, from the first event to the last.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "sim/links.h"
#include "sim/scenario.h"

namespace banyan::sim {

struct Outcome {
  struct Edge {
    PeerId server = 0;
    PeerId client = 0;
    uint64_t bytes = 0;
  };

  // Seconds, bytes and counts by name; docs/simulator.md says what each is.
  std::map<std::string, double> metrics;
  std::vector<double> seconds;  // of each start that ended, to its end, ascending
  std::vector<uint64_t> sent;   // by each node, the proxy, the registry
  std::vector<uint64_t> received;
  std::vector<Edge> edges;  // for up to 256 nodes
  uint64_t events = 0;
};

// Deterministic: the same scenario gives the same outcome.
Outcome Simulate(const Scenario& scenario);

}  // namespace banyan::sim
