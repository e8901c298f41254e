// The store's use on a page of metrics: the same names on nodes and on the registry proxy.
#pragma once

#include "common/metrics.h"
#include "store/node_store.h"

namespace banyan::store {

void AddMetrics(const StoreUsage& usage, MetricsPage& page);

}  // namespace banyan::store
