// Layers with known bytes, for the tests of this folder.
#pragma once

#include <fcntl.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "common/digest.h"
#include "common/file_io.h"
#include "image-format/image_map.h"
#include "store/node_store.h"

namespace banyan::store::testing {

struct TestLayer {
  image_format::Device device;
  std::vector<std::vector<std::byte>> blocks;
  std::vector<std::vector<std::byte>> compressed;  // not really: other bytes, of odd sizes
};

inline std::vector<std::byte> RandomBytes(std::mt19937_64& random, size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() | 1);  // no zeros: a hole shows
  return bytes;
}

// A layer whose chunks have these blocks; the seed makes the rest.
inline TestLayer MakeLayer(std::vector<std::vector<std::byte>> blocks, uint64_t seed) {
  std::mt19937_64 random(seed);
  TestLayer layer;
  layer.blocks = std::move(blocks);
  for (const auto& chunk : layer.blocks) {
    layer.compressed.push_back(RandomBytes(random, chunk.size() / 3 + 17));
    const auto& compressed = layer.compressed.back();
    const Status appended = layer.device.chunks.Append(static_cast<uint32_t>(compressed.size()),
                                                       static_cast<uint32_t>(chunk.size() / kBlockBytes),
                                                       Digest::Of(compressed), Digest::Of(chunk));
    if (!appended) std::abort();
  }
  layer.device.blob_digest = Digest::Of("layer " + std::to_string(seed));
  layer.device.blob_bytes = layer.device.chunks.blob_bytes();
  layer.device.blocks = static_cast<uint32_t>(layer.device.chunks.device_blocks());
  layer.device.first_block = 1000;
  return layer;
}

// `chunks` chunks of 1 to `max_blocks` blocks.
inline TestLayer RandomLayer(uint64_t seed, uint32_t chunks, uint32_t max_blocks = 4) {
  std::mt19937_64 random(seed);
  std::vector<std::vector<std::byte>> blocks;
  for (uint32_t i = 0; i < chunks; ++i)
    blocks.push_back(RandomBytes(random, (1 + random() % max_blocks) * kBlockBytes));
  return MakeLayer(std::move(blocks), seed * 1000003);
}

// The bytes of a chunk's file range, read past the store; empty when there is no such file or it ends before.
inline std::vector<std::byte> ReadRange(const std::string& path, ByteRange range) {
  std::vector<std::byte> bytes(range.size());
  const Result<UniqueFd> fd = OpenFile(path, O_RDONLY);
  if (!fd || !PreadFull(fd->get(), bytes, range.begin, path)) return {};
  return bytes;
}

// Every chunk that the store claims has the right bytes. Returns how many it claims.
inline size_t ExpectOnlyTruth(NodeStore& store, const std::vector<TestLayer>& layers) {
  size_t claims = 0;
  for (const TestLayer& source : layers) {
    const auto layer = store.OpenLayer(source.device).value();
    for (ChunkIndex i = 0; i < source.blocks.size(); ++i) {
      if (layer->Has(i)) {
        ++claims;
        const auto bytes = ReadRange(layer->device_path(), source.device.chunks[i].device_range());
        EXPECT_TRUE(bytes == source.blocks[i]) << "chunk " << i;
      }
      if (const auto compressed = layer->GetCompressed(i)) {
        ++claims;
        EXPECT_TRUE(*compressed == source.compressed[i]) << "compressed chunk " << i;
      }
    }
  }
  return claims;
}

}  // namespace banyan::store::testing
