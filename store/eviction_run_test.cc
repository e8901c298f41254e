// Eviction as it happens on a store: whom it takes, whom it spares, and what a full disk does.
#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>

#include <gtest/gtest.h>

#include "store/store_testing.h"
#include "store/whole_blobs.h"

namespace banyan::store {
namespace {

using testing::ExpectOnlyTruth;
using testing::RandomBytes;
using testing::RandomLayer;
using testing::ReadRange;
using testing::TestLayer;

constexpr uint64_t kChunk = 16 * kBlockBytes;

TestLayer EvenLayer(uint64_t seed, uint32_t chunks) {
  std::mt19937_64 random(seed);
  std::vector<std::vector<std::byte>> blocks;
  for (uint32_t i = 0; i < chunks; ++i) blocks.push_back(RandomBytes(random, kChunk));
  return testing::MakeLayer(std::move(blocks), seed);
}

class EvictionRunTest : public ::testing::Test {
 protected:
  std::unique_ptr<NodeStore> Open(uint64_t budget, bool defer = false) {
    NodeStore::Options options;
    options.root = dir_.path() + "/store";
    options.budget_bytes = budget;
    options.defer_eviction = defer;
    options.clock = [this] { return std::chrono::system_clock::time_point(std::chrono::seconds(now_.load())); };
    return NodeStore::Open(std::move(options)).value();
  }
  static std::shared_ptr<StoredLayer> Fill(NodeStore& store, const TestLayer& source) {
    const auto opened = store.OpenLayer(source.device);
    EXPECT_TRUE(opened) << opened.error().message;
    auto layer = opened.value();
    for (ChunkIndex i = 0; i < source.blocks.size(); ++i) {
      const Status put = layer->PutBlocks(i, source.blocks[i]);
      EXPECT_TRUE(put) << put.error().message;
    }
    return layer;
  }
  static uint32_t CountOf(NodeStore& store, const TestLayer& source) {
    const auto layer = store.OpenLayer(source.device).value();
    uint32_t count = 0;
    for (ChunkIndex i = 0; i < source.blocks.size(); ++i) count += layer->Has(i) ? 1 : 0;
    return count;
  }

  TempDir dir_ = TempDir::Make("banyan-store").value();
  std::atomic<int64_t> now_{1'700'000'000};
};

TEST_F(EvictionRunTest, RelayCopiesGoFirstThenTheLeastUsedUnmountedDevice) {
  const TestLayer relay = EvenLayer(1, 4);
  const TestLayer used = EvenLayer(2, 4);
  const TestLayer unused = EvenLayer(3, 4);
  const TestLayer next = EvenLayer(4, 4);
  uint64_t copies = 0;
  for (const auto& copy : relay.compressed) copies += copy.size();
  const auto store = Open(8 * kChunk + copies);
  {
    const auto layer = store->OpenLayer(relay.device).value();
    for (ChunkIndex i = 0; i < 4; ++i) ASSERT_TRUE(layer->PutCompressed(i, relay.compressed[i]));
  }
  Fill(*store, used)->Touch();
  Fill(*store, unused);
  EXPECT_EQ(store->usage().blob_bytes, copies);
  const auto layer = store->OpenLayer(next.device).value();
  ASSERT_TRUE(layer->PutBlocks(0, next.blocks[0]));
  EXPECT_LT(store->usage().blob_bytes, copies);
  EXPECT_EQ(store->usage().evicted_bytes, copies - store->usage().blob_bytes);
  EXPECT_EQ(CountOf(*store, used), 4U);
  EXPECT_EQ(CountOf(*store, unused), 4U);
  for (ChunkIndex i = 1; i < 4; ++i) ASSERT_TRUE(layer->PutBlocks(i, next.blocks[i]));
  EXPECT_EQ(store->usage().blob_bytes, 0U);
  EXPECT_EQ(CountOf(*store, used), 4U);
  EXPECT_EQ(CountOf(*store, unused), 0U);
  EXPECT_LE(store->usage().device_bytes, store->usage().budget_bytes);
}

TEST_F(EvictionRunTest, EmptyLayersLeaveNothingBehind) {
  const TestLayer old = EvenLayer(1, 4);
  const auto store = Open(4 * kChunk);
  Fill(*store, old);
  ASSERT_TRUE(store->Flush());
  Fill(*store, EvenLayer(2, 4));
  EXPECT_FALSE(std::filesystem::exists(dir_.path() + "/store/devices/" + old.device.blob_digest.Hex()));
}

TEST_F(EvictionRunTest, MountedLayersLoseSingleChunksAndLeasedOnesNone) {
  const TestLayer mounted = EvenLayer(1, 8);
  const TestLayer next = EvenLayer(2, 8);
  const auto store = Open(8 * kChunk);
  const auto layer = Fill(*store, mounted);
  const auto mount = layer->HoldMounted();
  ASSERT_TRUE(store->Flush());
  const auto lease = layer->Lease({0, 6});
  const auto other = store->OpenLayer(next.device).value();
  ASSERT_TRUE(other->PutBlocks(0, next.blocks[0]));
  EXPECT_EQ(CountOf(*store, mounted), 7U);
  ASSERT_TRUE(other->PutBlocks(1, next.blocks[1]));
  const Status third = other->PutBlocks(2, next.blocks[2]);
  EXPECT_EQ(third.error().code, Code::kResourceExhausted);
  EXPECT_FALSE(other->Has(2));
  EXPECT_TRUE(other->Has(0));
  for (ChunkIndex i = 0; i < 6; ++i) {
    EXPECT_EQ(ReadRange(layer->device_path(), layer->device().chunks[i].device_range()), mounted.blocks[i]);
  }
  EXPECT_EQ(store->usage().device_bytes, 8 * kChunk);
}

TEST_F(EvictionRunTest, PinnedDevicesAreNotTouched) {
  const TestLayer pinned = EvenLayer(1, 8);
  const TestLayer next = EvenLayer(2, 1);
  const auto store = Open(8 * kChunk);
  const auto layer = Fill(*store, pinned);
  auto pin = layer->PinWhole().value();
  const auto other = store->OpenLayer(next.device).value();
  EXPECT_EQ(other->PutBlocks(0, next.blocks[0]).error().code, Code::kResourceExhausted);
  EXPECT_TRUE(layer->complete());
  pin.reset();
  EXPECT_TRUE(other->PutBlocks(0, next.blocks[0]));
}

TEST_F(EvictionRunTest, WaitsForItsStart) {
  const TestLayer next = EvenLayer(2, 1);
  const auto store = Open(4 * kChunk, /*defer=*/true);
  Fill(*store, EvenLayer(1, 4));
  const auto layer = store->OpenLayer(next.device).value();
  EXPECT_EQ(layer->PutBlocks(0, next.blocks[0]).error().code, Code::kResourceExhausted);
  store->StartEviction();
  EXPECT_TRUE(layer->PutBlocks(0, next.blocks[0]));
}

TEST_F(EvictionRunTest, ALayerLargerThanTheBudgetIsKeptInPart) {
  const TestLayer large = EvenLayer(1, 8);
  const auto store = Open(5 * kChunk);
  const auto layer = store->OpenLayer(large.device).value();
  for (ChunkIndex i = 0; i < 8; ++i) EXPECT_EQ(layer->PutBlocks(i, large.blocks[i]).has_value(), i < 5);
}

TEST_F(EvictionRunTest, ASmallerBudgetAfterARestartIsMet) {
  Fill(*Open(8 * kChunk), EvenLayer(1, 8));
  const auto store = Open(2 * kChunk);
  Fill(*store, EvenLayer(2, 2));
  EXPECT_LE(store->usage().device_bytes, 2 * kChunk);
}

TEST_F(EvictionRunTest, OldSmallBlobsGoAndYoungOnesStay) {
  const auto store = Open(1000);
  std::mt19937_64 random(1);
  const auto old = RandomBytes(random, 400);
  const auto young = RandomBytes(random, 400);
  const auto next = RandomBytes(random, 400);
  ASSERT_TRUE(store->PutBlob(Digest::Of(old), old));
  ASSERT_TRUE(store->PutBlob(Digest::Of(young), young));
  EXPECT_EQ(store->PutBlob(Digest::Of(next), next).error().code, Code::kResourceExhausted);
  now_ += std::chrono::seconds(WholeBlobs::kYoung).count() + 1;
  EXPECT_TRUE(store->GetBlob(Digest::Of(young)));
  ASSERT_TRUE(store->PutBlob(Digest::Of(next), next));
  EXPECT_FALSE(store->GetBlob(Digest::Of(old)));
  EXPECT_TRUE(store->GetBlob(Digest::Of(young)));
}

// A small file system of its own, for disks that are really full. Root only.
class FullDiskTest : public EvictionRunTest {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "mounting a small file system needs root";
    mounted_ = ::mount("tmpfs", dir_.path().c_str(), "tmpfs", 0, "size=48m") == 0;
    ASSERT_TRUE(mounted_);
  }
  void TearDown() override {
    if (mounted_) ::umount2(dir_.path().c_str(), MNT_DETACH);
  }
  bool mounted_ = false;
};

TEST_F(FullDiskTest, EvictsWhenTheDiskIsFullThoughTheBudgetIsNot) {
  std::vector<TestLayer> layers;
  for (uint64_t i = 0; i < 8; ++i) layers.push_back(EvenLayer(i + 1, 128));  // 8 MiB each
  {
    const auto store = Open(1 * kGiB);
    for (const TestLayer& source : layers) EXPECT_TRUE(Fill(*store, source)->complete());
    EXPECT_EQ(CountOf(*store, layers.back()), 128U);
    EXPECT_GT(ExpectOnlyTruth(*store, layers), 200U);
  }
  const auto store = Open(1 * kGiB);
  EXPECT_GT(ExpectOnlyTruth(*store, layers), 200U);
}

TEST_F(FullDiskTest, StoresNothingWhenNothingMayGo) {
  const auto store = Open(1 * kGiB);
  std::vector<TestLayer> layers;
  std::vector<std::shared_ptr<void>> pins;
  bool full = false;
  for (uint64_t i = 0; i < 8 && !full; ++i) {
    layers.push_back(EvenLayer(i + 1, 128));
    const auto layer = store->OpenLayer(layers.back().device).value();
    for (ChunkIndex c = 0; c < 128; ++c) {
      const Status put = layer->PutBlocks(c, layers.back().blocks[c]);
      EXPECT_EQ(layer->Has(c), put.has_value());
      if (put) {
        auto lease = layer->Lease({c, c + 1});
        ASSERT_TRUE(lease);
        pins.push_back(std::make_shared<ChunkLease>(std::move(*lease)));
      } else {
        EXPECT_EQ(put.error().code, Code::kResourceExhausted) << put.error().message;
        full = true;
      }
    }
  }
  EXPECT_TRUE(full);
  EXPECT_EQ(ExpectOnlyTruth(*store, layers), pins.size());
}

TEST_F(FullDiskTest, CanStillEvictWhenOthersFilledTheDisk) {
  const auto store = Open(1 * kGiB);
  const TestLayer old = EvenLayer(1, 256);
  Fill(*store, old);
  ASSERT_TRUE(store->Flush());
  {
    const UniqueFd ballast = OpenFile(dir_.path() + "/ballast", O_WRONLY | O_CREAT).value();
    const std::vector<char> zeros(4096);
    while (::write(ballast.get(), zeros.data(), zeros.size()) > 0) {
    }
  }
  const TestLayer next = EvenLayer(2, 64);
  EXPECT_TRUE(Fill(*store, next)->complete());
  EXPECT_EQ(CountOf(*store, old), 0U);
  ASSERT_TRUE(store->Flush());
}

// Also when the store begins on such a disk.
TEST_F(FullDiskTest, GivesRoomBackThoughTheIndexCannotBeWritten) {
  const std::vector<TestLayer> layers = {EvenLayer(1, 256), EvenLayer(2, 256)};
  const auto fill_up = [&](const char* name) {
    const UniqueFd ballast = OpenFile(dir_.path() + "/" + name, O_WRONLY | O_CREAT).value();
    const std::vector<char> zeros(4096);
    while (::write(ballast.get(), zeros.data(), zeros.size()) > 0) {
    }
  };
  {
    const auto store = Open(44 * kMiB);
    for (const TestLayer& source : layers) Fill(*store, source);
    ASSERT_TRUE(store->Flush());
  }
  fill_up("first");
  const auto store = Open(44 * kMiB);
  EXPECT_EQ(ExpectOnlyTruth(*store, layers), 512U);
  EXPECT_FALSE(store->PutNote("key", "value"));
  ASSERT_TRUE(store->FreeDisk(1 * kMiB));
  EXPECT_LT(ExpectOnlyTruth(*store, layers), 512U);
  EXPECT_TRUE(store->PutNote("key", "value"));
  fill_up("second");
  EXPECT_TRUE(Fill(*store, EvenLayer(3, 64))->complete());
  ASSERT_TRUE(store->Flush());
  // Nothing is left that could not be written again.
  std::filesystem::remove(dir_.path() + "/first");
  std::filesystem::remove(dir_.path() + "/second");
  for (const TestLayer& source : layers) EXPECT_TRUE(Fill(*store, source)->complete());
}

}  // namespace
}  // namespace banyan::store
