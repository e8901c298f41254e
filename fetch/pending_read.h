// A read that waits for chunks, and the making of its answer.
#pragma once

#include <vector>

#include "fetch/chunk_intake.h"
#include "fetch/deadline_queue.h"
#include "fetch/lazy_layer.h"
#include "fetch/relay_layer.h"
#include "store/node_store.h"

namespace banyan::fetch {

struct PendingRead {
  ByteRange range;
  ChunkRange chunks;
  OnRead done;
  Clock::time_point begun;
  std::vector<HeldChunk> held;  // by position in `chunks`; empty ones are missing
  uint32_t missing = 0;
};

// The answer to a read whose chunks are all held: a view of the device file if they all are in it, else memory
// (blocking: local disk I/O).
Result<ReadView> MakeView(const store::StoredLayer& layer, PendingRead& read);

// The answer to a peer's.
CompressedView MakeView(store::CompressedChunk chunk);

}  // namespace banyan::fetch
