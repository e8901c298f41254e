// Quantities that travel between folders. A block is EROFS's block and the unit of every data device; a chunk is the
// unit of fetching, checking and sharing.
#pragma once

#include <cstdint>

namespace banyan {

inline constexpr uint64_t kKiB = 1024;
inline constexpr uint64_t kMiB = 1024 * kKiB;
inline constexpr uint64_t kGiB = 1024 * kMiB;

inline constexpr uint32_t kBlockBytes = 4096;

constexpr uint64_t BlocksFor(uint64_t bytes) { return bytes / kBlockBytes + (bytes % kBlockBytes != 0 ? 1 : 0); }

// Bytes [begin, end).
struct ByteRange {
  uint64_t begin = 0;
  uint64_t end = 0;

  constexpr uint64_t size() const { return end - begin; }
  constexpr bool empty() const { return begin >= end; }
  friend constexpr bool operator==(const ByteRange&, const ByteRange&) = default;
};

// The position of a chunk in its layer's chunk table.
using ChunkIndex = uint32_t;

// Chunks [begin, end) of one layer.
struct ChunkRange {
  ChunkIndex begin = 0;
  ChunkIndex end = 0;

  constexpr uint32_t size() const { return end - begin; }
  constexpr bool empty() const { return begin >= end; }
  friend constexpr bool operator==(const ChunkRange&, const ChunkRange&) = default;
};

}  // namespace banyan
