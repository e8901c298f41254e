// What one chunk costs on the read path: digest of the frame, decompression, digest of the blocks.
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <zstd.h>

#include "common/digest.h"
#include "common/units.h"
#include "image-format/chunk_table.h"

namespace banyan::bench {
namespace {

// Text-like bytes that zstd-3 shrinks to about a third.
std::string Compressible(size_t bytes) {
  std::mt19937 random(1);
  std::string words[256];
  for (std::string& word : words) {
    for (unsigned n = 2 + random() % 9; n > 0; --n) word.push_back(static_cast<char>('a' + random() % 26));
    word.push_back(' ');
  }
  std::string text;
  while (text.size() < bytes) text += words[random() % 256];
  text.resize(bytes);
  return text;
}

void DecodeChunk(benchmark::State& state) {
  const std::string device = Compressible(static_cast<size_t>(state.range(0)));
  std::string frame(ZSTD_compressBound(device.size()), '\0');
  frame.resize(ZSTD_compress(frame.data(), frame.size(), device.data(), device.size(), 3));
  image_format::ChunkTable table;
  if (!table.Append(static_cast<uint32_t>(frame.size()), static_cast<uint32_t>(device.size() / kBlockBytes),
                    Digest::Of(frame), Digest::Of(device))) {
    state.SkipWithError("no such chunk");
  }
  std::vector<std::byte> blocks;
  for (auto _ : state) {
    benchmark::DoNotOptimize(image_format::DecodeChunk(table[0], std::as_bytes(std::span(frame)), blocks));
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * state.range(0));
}
BENCHMARK(DecodeChunk)->Arg(64 << 10)->Arg(256 << 10)->Arg(1 << 20);

void HashBlocks(benchmark::State& state) {
  const std::string device = Compressible(256 << 10);
  for (auto _ : state) benchmark::DoNotOptimize(Digest::Of(device));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * (256 << 10));
}
BENCHMARK(HashBlocks);

}  // namespace
}  // namespace banyan::bench

BENCHMARK_MAIN();
