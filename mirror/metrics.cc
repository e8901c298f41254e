#include "mirror/metrics.h"

#include <string>

namespace banyan::mirror {

void AddMetrics(const Stats& stats, MetricsPage& page) {
  for (size_t kind = 0; kind < kRequestKindNames.size(); ++kind) {
    for (size_t result = 0; result < kRequestResultNames.size(); ++result) {
      page.Counter(
          "banyan_mirror_requests_total", "Requests to the registry mirror.",
          {{"kind", std::string(kRequestKindNames[kind])}, {"result", std::string(kRequestResultNames[result])}},
          static_cast<double>(stats.requests[kind][result]));
    }
  }
  const auto served = [&](const char* from, uint64_t bytes) {
    page.Counter("banyan_mirror_served_bytes_total", "Bytes of blobs served: from the store, or while they came.",
                 {{"from", from}}, static_cast<double>(bytes));
  };
  served("store", stats.hit_bytes);
  served("upstream", stats.miss_bytes);
  const auto counter = [&](const char* name, const char* help, uint64_t value) {
    page.Counter(name, help, static_cast<double>(value));
  };
  counter("banyan_mirror_upstream_bytes_total", "Bytes of blobs received from upstreams.", stats.upstream_bytes);
  counter("banyan_mirror_flights_joined_total", "Requests that joined a fetch under way.", stats.flights_joined);
  counter("banyan_mirror_flights_failed_total", "Blobs that no upstream could bring whole.", stats.flights_failed);
  counter("banyan_mirror_fills_uncached_total", "Blobs that the store had no room for.", stats.fills_uncached);
  page.Gauge("banyan_mirror_flights", "Blobs on their way now.", static_cast<double>(stats.flights_active));
}

}  // namespace banyan::mirror
