#include "store/metrics.h"

namespace banyan::store {

void AddMetrics(const StoreUsage& usage, MetricsPage& page) {
  const auto bytes = [&](const char* kind, uint64_t value) {
    page.Gauge("banyan_store_bytes", "Disk space used by the store.", {{"kind", kind}}, static_cast<double>(value));
  };
  bytes("blobs", usage.blob_bytes);
  bytes("devices", usage.device_bytes);
  page.Gauge("banyan_store_budget_bytes", "Disk space that the store may use.",
             static_cast<double>(usage.budget_bytes));
  page.Counter("banyan_store_evicted_bytes_total", "Disk space given back to make room for other content.",
               static_cast<double>(usage.evicted_bytes));
}

}  // namespace banyan::store
