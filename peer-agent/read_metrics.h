// What the node's reads waited for, and who would hold them if this process died, on a page of metrics.
#pragma once

#include <cstdint>

#include "common/metrics.h"
#include "fetch/scheduler.h"
#include "lazyfs/keeper.h"

namespace banyan::peer_agent {

// `reads`, `bytes`: of the file system, whether they had to wait or not.
void AddReadMetrics(uint64_t reads, uint64_t bytes, const fetch::Scheduler::Stats& stats, MetricsPage& page);
// Every known source has its rows from the beginning, so that rates are right from the first byte on.
void AddFetchMetrics(const fetch::Scheduler::Stats& stats, MetricsPage& page);
// The keeper has no page of its own. Null: there is none.
void AddKeeperMetrics(const lazyfs::SessionKeeper* keeper, MetricsPage& page);

}  // namespace banyan::peer_agent
