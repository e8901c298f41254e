// A layer made up of pseudo-random bytes: its device, its data blob and their chunk table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "image-format/image_map.h"

namespace banyan::fetch::testing {

struct TestLayer {
  std::shared_ptr<const image_format::Device> device;
  std::vector<std::byte> blocks;  // the data device
  std::vector<std::byte> blob;    // its compressed form

  // Slices of the two that a chunk covers.
  std::vector<std::byte> Compressed(ChunkIndex chunk) const;
  std::vector<std::byte> Blocks(ByteRange range) const;
};

// A layer of chunks of the given lengths in blocks. The same seed gives the same bytes; about a third is compressible.
TestLayer MakeTestLayer(const std::vector<uint32_t>& chunk_blocks, uint64_t seed = 1);

}  // namespace banyan::fetch::testing
