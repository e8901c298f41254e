// The mirror's counters on a page of metrics: the same names on the node's mirror and on the registry proxy.
#pragma once

#include "common/metrics.h"
#include "mirror/stats.h"

namespace banyan::mirror {

void AddMetrics(const Stats& stats, MetricsPage& page);

}  // namespace banyan::mirror
