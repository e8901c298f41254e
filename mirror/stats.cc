#include "mirror/stats.h"

namespace banyan::mirror {

Stats Counters::Snapshot() const {
  Stats stats;
  for (size_t kind = 0; kind < requests.size(); ++kind) {
    for (size_t result = 0; result < requests[kind].size(); ++result)
      stats.requests[kind][result] = requests[kind][result].load();
  }
  stats.hit_bytes = hit_bytes.load();
  stats.miss_bytes = miss_bytes.load();
  stats.upstream_bytes = upstream_bytes.load();
  stats.flights_started = flights_started.load();
  stats.flights_joined = flights_joined.load();
  stats.flights_failed = flights_failed.load();
  stats.fills_resumed = fills_resumed.load();
  stats.fills_uncached = fills_uncached.load();
  stats.tags_revalidated = tags_revalidated.load();
  stats.flights_active = flights_active.load();
  stats.readers_active = readers_active.load();
  return stats;
}

}  // namespace banyan::mirror
