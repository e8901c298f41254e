// Many threads on a store that is too small: whoever holds a lease sees the right bytes, whatever goes on beside.
#include <atomic>
#include <chrono>
#include <thread>

#include <gtest/gtest.h>

#include "store/store_testing.h"

namespace banyan::store {
namespace {

using testing::ExpectOnlyTruth;
using testing::RandomLayer;
using testing::TestLayer;

TEST(StressTest, ReadersWithLeasesSeeTheRightBytes) {
  const TempDir dir = TempDir::Make("banyan-stress").value();
  std::vector<TestLayer> layers;
  for (uint64_t seed = 1; seed <= 5; ++seed) layers.push_back(RandomLayer(seed, 40));
  NodeStore::Options options;
  options.root = dir.path() + "/store";
  options.budget_bytes = 700 * kKiB;  // of 2 MiB and more
  options.flush_interval = std::chrono::milliseconds(3);
  std::atomic<uint64_t> reads{0};
  std::atomic<uint64_t> puts{0};
  std::atomic<uint64_t> copies{0};
  {
    const auto store = NodeStore::Open(options).value();
    std::vector<std::jthread> threads;
    const auto run = [&](uint64_t seed, auto deed) {
      threads.emplace_back([&layers, &store, seed, deed](const std::stop_token& stop) {
        std::mt19937_64 random(seed);
        while (!stop.stop_requested()) {
          const TestLayer& source = layers[random() % layers.size()];
          const auto layer = store->OpenLayer(source.device).value();
          for (int i = 0; i < 20; ++i) deed(*layer, source, static_cast<ChunkIndex>(random() % 40), random);
        }
      });
    };
    const auto read = [&](StoredLayer& layer, const TestLayer& source, ChunkIndex chunk, std::mt19937_64& random) {
      const ChunkRange range{chunk, std::min<ChunkIndex>(40, chunk + 1 + static_cast<ChunkIndex>(random() % 3))};
      const auto lease = layer.Lease(range);
      if (!lease) return;
      for (ChunkIndex i = range.begin; i < range.end; ++i) {
        std::vector<std::byte> bytes(source.blocks[i].size());
        EXPECT_TRUE(PreadFull(layer.device_fd(), bytes, source.device.chunks[i].device_range().begin, "device"));
        EXPECT_TRUE(bytes == source.blocks[i]) << "chunk " << i;
        ++reads;
      }
    };
    const auto put = [&](StoredLayer& layer, const TestLayer& source, ChunkIndex chunk, std::mt19937_64& random) {
      const Status status = random() % 3 == 0 ? layer.PutCompressed(chunk, source.compressed[chunk])
                                              : layer.PutBlocks(chunk, source.blocks[chunk]);
      if (!status) {
        EXPECT_EQ(status.error().code, Code::kResourceExhausted) << status.error().message;
      }
      puts += status ? 1 : 0;
    };
    const auto disturb = [&](StoredLayer& layer, const TestLayer& source, ChunkIndex chunk, std::mt19937_64& random) {
      if (random() % 8 == 0) layer.Drop(chunk);
      if (random() % 8 == 0) layer.Touch();
      const auto mount = layer.HoldMounted();
      const auto pin = layer.PinWhole();
      if (const auto compressed = layer.GetCompressed(chunk)) {
        EXPECT_TRUE(*compressed == source.compressed[chunk]);
      }
      if (const auto copied = layer.CopyFromOther(chunk); copied && *copied) ++copies;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    };
    for (uint64_t seed = 1; seed <= 3; ++seed) run(seed, read);
    for (uint64_t seed = 4; seed <= 6; ++seed) run(seed, put);
    run(7, disturb);
    threads.emplace_back([&store](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        const ScrubReport report = store->Scrub(stop, 0).value();
        EXPECT_TRUE(report.bad_chunks.empty()) << report.bad_chunks.front();
        EXPECT_TRUE(store->Flush());
      }
    });
    std::this_thread::sleep_for(std::chrono::seconds(4));
    threads.clear();
    EXPECT_LE(store->usage().blob_bytes + store->usage().device_bytes, options.budget_bytes);
  }
  EXPECT_GT(reads.load(), 100U);
  EXPECT_GT(puts.load(), 200U);
  const auto store = NodeStore::Open(options).value();
  uint64_t device_bytes = 0;
  EXPECT_GT(ExpectOnlyTruth(*store, layers), 10U);
  for (const TestLayer& source : layers) device_bytes += store->OpenLayer(source.device).value()->present_bytes();
  EXPECT_EQ(store->usage().device_bytes, device_bytes);
}

}  // namespace
}  // namespace banyan::store
