// How one chunk gets into the store, from near or far. Blocking: local disk I/O, digests, decompression.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "common/units.h"
#include "fetch/chunk_source.h"
#include "store/node_store.h"

namespace banyan::fetch {

// A chunk as a waiting reader gets it: kept in place in the device file, or, when the store had no room, in memory.
struct HeldChunk {
  std::shared_ptr<store::ChunkLease> lease;              // null: see blocks
  std::shared_ptr<const std::vector<std::byte>> blocks;  // null: see lease
  explicit operator bool() const { return lease != nullptr || blocks != nullptr; }
};

// The chunk if it is in the device file.
HeldChunk LeaseChunk(store::StoredLayer& layer, ChunkIndex chunk);

struct LocalChunk {
  HeldChunk held;
  std::string_view from;  // "store" or "reuse"; empty: it was there already
};

// Gets the chunk without the network: it is there, or another layer has its blocks, or this one or another its
// compressed form (a bad one is dropped).
std::optional<LocalChunk> FindLocally(store::StoredLayer& layer, ChunkIndex chunk);

// Copies its compressed form from another layer, if it is not here. Whether it did.
bool CopyCompressed(store::StoredLayer& layer, ChunkIndex chunk);

// Checks, decodes and stores what a source gave. kDataLoss: wrong bytes, nothing was stored. A store that takes nothing
// is no error: the chunk is held in memory.
Result<HeldChunk> TakeIn(store::StoredLayer& layer, ChunkIndex chunk, std::span<const std::byte> compressed,
                         bool keep_compressed);

// Checks what a source gave and, if `keep`, stores it as it is. Whether it is in the store. kDataLoss: wrong bytes.
Result<bool> TakeInCompressed(store::StoredLayer& layer, ChunkIndex chunk, const ChunkBytes& compressed, bool keep);

// "chunk 17 of layer 9c1d…"
std::string ChunkName(const store::StoredLayer& layer, ChunkIndex chunk);

}  // namespace banyan::fetch
