// What a read pays for its lease, and how fast chunks go in.
#include <chrono>

#include <benchmark/benchmark.h>

#include "common/log.h"
#include "store/store_testing.h"

namespace banyan::store {
namespace {

struct BenchStore {
  BenchStore() {
    NodeStore::Options options;
    options.root = dir.path() + "/store";
    store = NodeStore::Open(options).value();
  }
  TempDir dir = TempDir::Make("banyan-store-bench").value();
  std::unique_ptr<NodeStore> store;
};

testing::TestLayer LayerOf(uint32_t chunks) {
  std::mt19937_64 random(1);
  std::vector<std::vector<std::byte>> blocks;
  for (uint32_t i = 0; i < chunks; ++i) blocks.push_back(testing::RandomBytes(random, 64 * kBlockBytes));
  return testing::MakeLayer(std::move(blocks), 1);
}

// All threads lease from one layer of 256 KiB chunks, each at random.
void BM_Lease(benchmark::State& state) {
  static const testing::TestLayer source = LayerOf(256);
  static BenchStore bench;
  static const std::shared_ptr<StoredLayer> layer = [] {
    auto opened = bench.store->OpenLayer(source.device).value();
    for (ChunkIndex i = 0; i < 256; ++i) {
      if (!opened->PutBlocks(i, source.blocks[i])) std::abort();
    }
    return opened;
  }();
  uint32_t position = static_cast<uint32_t>(state.thread_index()) * 97;
  for (auto _ : state) {
    position = (position * 29 + 7) % 255;
    benchmark::DoNotOptimize(layer->Lease({position, position + 1}));
  }
}
BENCHMARK(BM_Lease)->ThreadRange(1, 4)->UseRealTime();

// 64 MiB in chunks of 256 KiB; with the flush (fdatasync and index) that makes them last, or before it.
void BM_PutBlocks(benchmark::State& state) {
  const testing::TestLayer source = LayerOf(256);
  for (auto _ : state) {
    state.PauseTiming();
    auto bench = std::make_unique<BenchStore>();
    const auto layer = bench->store->OpenLayer(source.device).value();
    state.ResumeTiming();
    for (ChunkIndex i = 0; i < 256; ++i) {
      if (!layer->PutBlocks(i, source.blocks[i])) std::abort();
    }
    if (state.range(0) != 0 && !bench->store->Flush()) std::abort();
    state.PauseTiming();
    bench.reset();
    state.ResumeTiming();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(source.device.device_bytes()));
}
BENCHMARK(BM_PutBlocks)->Arg(0)->Arg(1)->ArgName("flush")->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace banyan::store

BENCHMARK_MAIN();
