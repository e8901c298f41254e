// The least that any way of spreading could take.
#pragma once

#include <vector>

#include "sim/scenario.h"

namespace banyan::sim {

// Of each node, bytes per second on the wire.
std::vector<double> UplinksOf(const Scenario& scenario);

// By the links' rates alone, without headers and latency: every node takes all it wants through its downlink, the proxy
// (when it is cold, the registry too) sends each byte that somebody wants once, and all uplinks together send what all
// nodes want. A start also waits for its think times.
double LowerBoundSeconds(const Scenario& scenario);

}  // namespace banyan::sim
