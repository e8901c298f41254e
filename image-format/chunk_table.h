// The chunk table of a layer: where each chunk lies in the compressed data blob and in the data device, and its
// digests. docs/format.md §"Chunks".
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/digest.h"
#include "common/result.h"
#include "common/units.h"

namespace banyan::image_format {

// Limits that every reader enforces, so that a hostile table cannot make a node allocate without bound.
inline constexpr uint32_t kMaxChunkBlocks = 4096;                       // 16 MiB
inline constexpr uint32_t kMaxChunkCompressedBytes = 17 * 1024 * 1024;  // a 16 MiB chunk that zstd could not shrink
inline constexpr uint32_t kMaxChunks = 1U << 24;

struct Chunk {
  uint64_t compressed_offset = 0;  // in the data blob
  uint32_t compressed_bytes = 0;
  uint32_t blocks = 0;
  uint64_t first_block = 0;  // in the layer's device
  Digest compressed_digest;
  Digest block_digest;

  ByteRange blob_range() const { return {compressed_offset, compressed_offset + compressed_bytes}; }
  ByteRange device_range() const { return {first_block * kBlockBytes, (first_block + blocks) * kBlockBytes}; }
  uint64_t device_bytes() const { return uint64_t{blocks} * kBlockBytes; }
};

// Immutable once filled. Chunks lie back to back in both the blob and the device.
class ChunkTable {
 public:
  // Appends a chunk behind the last. kInvalidArgument if it is empty or beyond the limits above.
  Status Append(uint32_t compressed_bytes, uint32_t blocks, const Digest& compressed_digest,
                const Digest& block_digest);
  void Reserve(size_t chunks) { chunks_.reserve(chunks); }

  uint32_t size() const { return static_cast<uint32_t>(chunks_.size()); }
  bool empty() const { return chunks_.empty(); }
  const Chunk& operator[](ChunkIndex index) const { return chunks_[index]; }
  std::span<const Chunk> chunks() const { return chunks_; }

  uint64_t blob_bytes() const { return chunks_.empty() ? 0 : chunks_.back().blob_range().end; }
  uint64_t device_blocks() const { return chunks_.empty() ? 0 : chunks_.back().first_block + chunks_.back().blocks; }
  uint64_t device_bytes() const { return device_blocks() * kBlockBytes; }

  // The chunk that holds device block `block`, which must be below device_blocks(). O(log n).
  ChunkIndex ChunkOfBlock(uint64_t block) const;
  // The chunks that hold device bytes `range`, which must be non-empty and end at or below device_bytes().
  ChunkRange ChunksOf(ByteRange range) const;

  friend bool operator==(const ChunkTable& a, const ChunkTable& b);

 private:
  std::vector<Chunk> chunks_;
};

// Checks `compressed` against the chunk's compressed digest, decompresses it into `blocks` (resized to the chunk's
// device bytes) and checks the block digest. kDataLoss says which of the checks failed. Pure; thread-safe.
Status DecodeChunk(const Chunk& chunk, std::span<const std::byte> compressed, std::vector<std::byte>& blocks);

}  // namespace banyan::image_format
