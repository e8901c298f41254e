#include "fetch/testing/test_layer.h"

#include <zstd.h>

#include <cstdlib>
#include <random>
#include <span>

namespace banyan::fetch::testing {
namespace {

std::vector<std::byte> Slice(const std::vector<std::byte>& from, ByteRange range) {
  return {from.begin() + static_cast<ptrdiff_t>(range.begin), from.begin() + static_cast<ptrdiff_t>(range.end)};
}

// Words of three bytes in four, so that zstd finds something to do.
void FillBlocks(std::vector<std::byte>& blocks, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (size_t at = 0; at < blocks.size(); at += 8) {
    uint64_t word = random();
    for (size_t i = 0; i < 8; ++i) blocks[at + i] = std::byte(i % 3 == 2 ? 0 : word >> (8 * i));
  }
}

}  // namespace

std::vector<std::byte> TestLayer::Compressed(ChunkIndex chunk) const {
  return Slice(blob, device->chunks[chunk].blob_range());
}

std::vector<std::byte> TestLayer::Blocks(ByteRange range) const { return Slice(blocks, range); }

TestLayer MakeTestLayer(const std::vector<uint32_t>& chunk_blocks, uint64_t seed) {
  TestLayer layer;
  size_t blocks = 0;
  for (uint32_t count : chunk_blocks) blocks += count;
  layer.blocks.resize(blocks * kBlockBytes);
  FillBlocks(layer.blocks, seed);

  auto device = std::make_shared<image_format::Device>();
  size_t at = 0;
  for (uint32_t count : chunk_blocks) {
    const std::span<const std::byte> chunk(layer.blocks.data() + at, size_t{count} * kBlockBytes);
    std::vector<std::byte> frame(ZSTD_compressBound(chunk.size()));
    const size_t length = ZSTD_compress(frame.data(), frame.size(), chunk.data(), chunk.size(), 1);
    if (ZSTD_isError(length)) std::abort();
    frame.resize(length);
    if (!device->chunks.Append(static_cast<uint32_t>(length), count, Digest::Of(std::span<const std::byte>(frame)),
                               Digest::Of(chunk))) {
      std::abort();
    }
    layer.blob.insert(layer.blob.end(), frame.begin(), frame.end());
    at += chunk.size();
  }
  device->blob_digest = Digest::Of(std::span<const std::byte>(layer.blob));
  device->blob_bytes = layer.blob.size();
  device->blocks = static_cast<uint32_t>(blocks);
  layer.device = std::move(device);
  return layer;
}

}  // namespace banyan::fetch::testing
