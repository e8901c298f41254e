// How much images share: which chunks of a layer were in layers before.
//
// A chunk is known by 64 bits of its block digest; that two differ in spite of it is one in 2^44 at the bound below,
// and would only make a figure wrong. Memory is bounded: beyond `most` chunks nothing new is remembered, and later
// layers count fewer shared ones than there are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_set>

#include "image-format/chunk_table.h"

namespace banyan::registry_proxy {

struct ChunkCount {
  uint64_t all = 0;
  uint64_t bytes = 0;   // compressed
  uint64_t shared = 0;  // of all
  uint64_t shared_bytes = 0;
  ChunkCount& operator+=(const ChunkCount& other);
};

// Externally synchronised.
class ChunkCensus {
 public:
  explicit ChunkCensus(size_t most = size_t{1} << 20) : most_(most) {}  // 256 GiB of average chunks, about 40 MiB
  // Counts a layer's chunks, and remembers them. A chunk that the layer has twice is shared once.
  ChunkCount Add(const image_format::ChunkTable& chunks);

 private:
  const size_t most_;
  std::unordered_set<uint64_t> known_;
};

}  // namespace banyan::registry_proxy
