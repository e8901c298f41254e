#include "registry-proxy/chunk_census.h"

#include <functional>

namespace banyan::registry_proxy {

ChunkCount& ChunkCount::operator+=(const ChunkCount& other) {
  all += other.all;
  bytes += other.bytes;
  shared += other.shared;
  shared_bytes += other.shared_bytes;
  return *this;
}

ChunkCount ChunkCensus::Add(const image_format::ChunkTable& chunks) {
  ChunkCount count;
  for (const image_format::Chunk& chunk : chunks.chunks()) {
    const uint64_t identity = std::hash<Digest>()(chunk.block_digest);
    const bool known = known_.contains(identity);
    if (!known && known_.size() < most_) known_.insert(identity);
    ++count.all;
    count.bytes += chunk.compressed_bytes;
    if (!known) continue;
    ++count.shared;
    count.shared_bytes += chunk.compressed_bytes;
  }
  return count;
}

}  // namespace banyan::registry_proxy
