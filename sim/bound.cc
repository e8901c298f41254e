#include "sim/bound.h"

#include <algorithm>
#include <cmath>

#include "sim/image.h"
#include "sim/random.h"

namespace banyan::sim {

namespace {

struct Wanted {
  double by_node = 0;  // bytes, of the node that wants most
  double by_all = 0;
  double distinct = 0;
  double reads = 0;
};

Wanted WantedBytes(const Scenario& scenario, double starts) {
  const double functions = std::min<double>(scenario.functions, starts);
  const double each = std::ceil(starts / scenario.nodes);
  const auto whole = static_cast<double>(scenario.image_bytes + scenario.metadata_bytes);
  if (scenario.workload == Workload::kPreheat) return {each * whole, starts * whole, functions * whole, 0};
  const Image image = MakeImage(scenario);
  double start = 0;
  for (ChunkIndex chunk : image.start) start += image.table[chunk].compressed_bytes;
  const double own = start * scenario.private_reads;
  const auto metadata = static_cast<double>(scenario.metadata_bytes);
  // With a profile the shared chunks are prefetched, whoever reads them.
  const double shared = metadata + (scenario.profile ? start : start - own);
  return {each * (shared + own), starts * (shared + own), functions * shared + starts * own,
          static_cast<double>(image.start.size())};
}

}  // namespace

std::vector<double> UplinksOf(const Scenario& scenario) {
  std::vector<double> uplinks(scenario.nodes, scenario.up);
  if (scenario.up_most > scenario.up) {
    Random random(Mix(scenario.seed + 2));
    for (double& uplink : uplinks) uplink *= std::pow(scenario.up_most / scenario.up, random.Uniform());
  }
  for (const auto& [node, uplink] : scenario.uplink_of) uplinks[node] = uplink;
  return uplinks;
}

double LowerBoundSeconds(const Scenario& scenario) {
  if (scenario.workload == Workload::kRequests) return static_cast<double>(scenario.service) / 1e9;
  const double all = static_cast<double>(scenario.nodes) * scenario.functions;
  const Wanted wanted = WantedBytes(scenario, scenario.starts == 0 ? all : scenario.starts);
  double uplinks = scenario.proxy_up;
  for (double uplink : UplinksOf(scenario)) uplinks += uplink;
  double bound =
      std::max({wanted.by_node / scenario.down, wanted.distinct / scenario.proxy_up, wanted.by_all / uplinks});
  if (!scenario.proxy_warm) bound = std::max(bound, wanted.distinct / scenario.registry_up);
  if (scenario.workload == Workload::kStart) {
    bound = std::max(bound, static_cast<double>(scenario.think) / 1e9 * wanted.reads);
  }
  return bound;
}

}  // namespace banyan::sim
