// Re-reads what the store says it has, at a bounded rate, and forgets what rotted.
#pragma once

#include <cstdint>
#include <stop_token>

#include "common/result.h"
#include "store/node_store.h"

namespace banyan::store {

class StoreCore;

// Both forms of every chunk, each against its own digest, read from the disk rather than from the page cache. A chunk
// is leased while it is read. Returns early, with what was found, when stopped.
ScrubReport ScrubStore(StoreCore& core, std::stop_token stop, uint64_t bytes_per_second);

}  // namespace banyan::store
