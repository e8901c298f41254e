// Lays files out on a layer's data device and cuts it into chunks by content.
//
// Each file starts at a block and its last block is zero-padded. A chunk ends behind a block whose XXH3 matches a mask
// once the chunk has min_blocks, at max_blocks, and before a file of at least average_blocks (so that a large file's
// chunks do not depend on what lies before it). Cuts follow content: after an insertion the old cuts come back. The
// zero block never matches: zeros come in long runs, which would shatter into minimal chunks. docs/format.md §"Chunks".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/result.h"
#include "common/units.h"
#include "image-format/layer_index.h"

namespace banyan::image_format {

// Takes chunks in device order.
class ChunkSink {
 public:
  virtual ~ChunkSink() = default;
  // Takes `blocks`, a whole number of them, and leaves an empty vector in their place, perhaps with capacity.
  virtual Status TakeChunk(std::vector<std::byte>& blocks) = 0;
  // A chunk of so many zero blocks, never materialised.
  virtual Status TakeZeros(uint32_t blocks) = 0;
};

// Externally synchronised.
class Chunker {
 public:
  // `sink` must outlive the chunker. 0 < min <= average <= max.
  Chunker(const Chunking& chunking, ChunkSink& sink);

  // Where the next file starts.
  uint64_t device_blocks() const { return device_blocks_; }

  Status BeginFile(uint64_t size_bytes);
  Status Append(std::span<const std::byte> data);
  Status AppendZeros(uint64_t bytes);
  Status EndFile();
  // Ends the last chunk.
  Status Finish() { return Cut(); }

 private:
  Status AddBlock(std::span<const std::byte> block);
  Status AddZeroBlocks(uint64_t count);
  Status Cut();

  const Chunking chunking_;
  const uint64_t mask_;
  ChunkSink& sink_;
  std::vector<std::byte> partial_;  // the current block, while incomplete
  // The current chunk: zero_blocks_ of zeros, or buffer_.
  std::vector<std::byte> buffer_;
  uint32_t zero_blocks_ = 0;
  uint32_t blocks_ = 0;
  uint64_t device_blocks_ = 0;
};

}  // namespace banyan::image_format
