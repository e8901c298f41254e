#include "store/node_store.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include <gtest/gtest.h>

#include "common/file_io.h"
#include "store/store_testing.h"

namespace banyan::store {
namespace {

using testing::MakeLayer;
using testing::RandomBytes;
using testing::RandomLayer;
using ::testing::Test;
using testing::TestLayer;

class NodeStoreTest : public Test {
 protected:
  std::unique_ptr<NodeStore> Open(uint64_t budget = 1 * kGiB) {
    NodeStore::Options options;
    options.root = root();
    options.budget_bytes = budget;
    options.clock = [this] { return std::chrono::system_clock::time_point(std::chrono::seconds(now_.load())); };
    return NodeStore::Open(std::move(options)).value();
  }
  std::string root() const { return dir_.path() + "/store"; }
  std::string DevicePath(const TestLayer& layer) const { return root() + "/devices/" + layer.device.blob_digest.Hex(); }
  std::string BlobPath(const Digest& digest) const { return root() + "/blobs/sha256/" + digest.Hex(); }

  TempDir dir_ = TempDir::Make("banyan-store").value();
  std::atomic<int64_t> now_{1'700'000'000};
};

std::vector<std::byte> ReadDevice(StoredLayer& layer, ChunkIndex chunk) {
  const ByteRange range = layer.device().chunks[chunk].device_range();
  std::vector<std::byte> bytes(range.size());
  EXPECT_TRUE(PreadFull(layer.device_fd(), bytes, range.begin, "device"));
  return bytes;
}

void PutAll(StoredLayer& layer, const TestLayer& source) {
  for (ChunkIndex i = 0; i < source.blocks.size(); ++i) {
    const Status put = layer.PutBlocks(i, source.blocks[i]);
    ASSERT_TRUE(put) << put.error().message;
  }
}

uint64_t AllocatedBytes(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? static_cast<uint64_t>(info.st_blocks) * 512 : 0;
}

TEST_F(NodeStoreTest, KeepsWhatWasPutAndSaysWhatIsMissing) {
  const auto store = Open();
  const TestLayer source = RandomLayer(1, 10);
  const auto layer = store->OpenLayer(source.device).value();
  EXPECT_FALSE(layer->Has(3));
  EXPECT_FALSE(layer->Lease({3, 4}));
  ASSERT_TRUE(layer->PutBlocks(3, source.blocks[3]));
  ASSERT_TRUE(layer->PutBlocks(3, source.blocks[3]));
  EXPECT_TRUE(layer->Has(3));
  EXPECT_EQ(layer->present_bytes(), source.blocks[3].size());
  EXPECT_TRUE(layer->Lease({3, 4}));
  EXPECT_FALSE(layer->Lease({3, 5}));
  EXPECT_FALSE(layer->Lease({3, 11}));
  EXPECT_EQ(ReadDevice(*layer, 3), source.blocks[3]);
  EXPECT_FALSE(layer->complete());
  PutAll(*layer, source);
  EXPECT_TRUE(layer->complete());
  EXPECT_TRUE(layer->Lease({0, 10}));
  EXPECT_EQ(store->usage().device_bytes, source.device.device_bytes());
  struct stat info {};
  ASSERT_EQ(::fstat(layer->device_fd(), &info), 0);
  EXPECT_EQ(static_cast<uint64_t>(info.st_size), source.device.device_bytes());
}

TEST_F(NodeStoreTest, RefusesBytesThatDoNotFit) {
  const auto store = Open();
  const TestLayer source = RandomLayer(1, 3);
  const auto layer = store->OpenLayer(source.device).value();
  EXPECT_EQ(layer->PutBlocks(3, source.blocks[0]).error().code, Code::kInvalidArgument);
  EXPECT_EQ(layer->PutBlocks(0, std::span(source.blocks[0]).first(100)).error().code, Code::kInvalidArgument);
  EXPECT_FALSE(layer->Has(0));
  EXPECT_FALSE(layer->Has(99));
}

TEST_F(NodeStoreTest, KeepsCompressedChunks) {
  const auto store = Open();
  const TestLayer source = RandomLayer(1, 5);
  const auto layer = store->OpenLayer(source.device).value();
  EXPECT_EQ(layer->GetCompressed(2).error().code, Code::kNotFound);
  for (const ChunkIndex i : {4U, 2U, 3U}) ASSERT_TRUE(layer->PutCompressed(i, source.compressed[i]));
  for (const ChunkIndex i : {2U, 3U, 4U}) EXPECT_EQ(layer->GetCompressed(i).value(), source.compressed[i]);
  EXPECT_FALSE(layer->Has(2));
  EXPECT_EQ(store->usage().device_bytes, 0U);
}

TEST_F(NodeStoreTest, LeasesCompressedChunksInPlace) {
  const auto store = Open();
  const TestLayer source = RandomLayer(1, 5);
  const auto layer = store->OpenLayer(source.device).value();
  EXPECT_EQ(layer->LeaseCompressed(2).error().code, Code::kNotFound);
  EXPECT_EQ(layer->LeaseCompressed(5).error().code, Code::kNotFound);
  EXPECT_FALSE(layer->HasCompressed(2));
  EXPECT_FALSE(layer->HasCompressed(5));
  uint64_t bytes = 0;
  for (const ChunkIndex i : {1U, 2U, 3U}) {
    ASSERT_TRUE(layer->PutCompressed(i, source.compressed[i]));
    bytes += source.compressed[i].size();
  }
  EXPECT_TRUE(layer->HasCompressed(2));
  EXPECT_EQ(layer->compressed_bytes_present(), bytes);
  auto first = layer->LeaseCompressed(2);
  const auto second = layer->LeaseCompressed(3);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->fd, second->fd) << "one descriptor a layer";
  const auto read = [&](const CompressedChunk& chunk) {
    std::vector<std::byte> data(chunk.length);
    EXPECT_EQ(::pread(chunk.fd, data.data(), data.size(), static_cast<off_t>(chunk.offset)),
              static_cast<ssize_t>(data.size()));
    return data;
  };
  EXPECT_EQ(read(*first), source.compressed[2]);
  EXPECT_EQ(read(*second), source.compressed[3]);
  // Gone at once for others, in place for who has it.
  layer->Drop(3);
  EXPECT_FALSE(layer->HasCompressed(3));
  EXPECT_EQ(layer->LeaseCompressed(3).error().code, Code::kNotFound);
  EXPECT_EQ(read(*second), source.compressed[3]);
  const int fd = second->fd;
  *first = CompressedChunk();
  EXPECT_NE(::fcntl(fd, F_GETFD), -1) << "still leased";
}

TEST_F(NodeStoreTest, RemembersAcrossRestarts) {
  const TestLayer source = RandomLayer(1, 10);
  const std::string blob = "a map";
  {
    const auto store = Open();
    const auto layer = store->OpenLayer(source.device).value();
    ASSERT_TRUE(layer->PutBlocks(7, source.blocks[7]));
    ASSERT_TRUE(layer->PutCompressed(1, source.compressed[1]));
    ASSERT_TRUE(store->PutBlob(Digest::Of(blob), std::as_bytes(std::span(blob.data(), blob.size()))));
  }
  const auto store = Open();
  EXPECT_EQ(store->usage().device_bytes, source.blocks[7].size());
  EXPECT_EQ(store->usage().blob_bytes, source.compressed[1].size() + blob.size());
  const auto layer = store->OpenLayer(source.device).value();
  for (ChunkIndex i = 0; i < 10; ++i) EXPECT_EQ(layer->Has(i), i == 7);
  EXPECT_EQ(ReadDevice(*layer, 7), source.blocks[7]);
  EXPECT_EQ(layer->GetCompressed(1).value(), source.compressed[1]);
  EXPECT_EQ(store->GetBlob(Digest::Of(blob)).value(), blob);
}

TEST_F(NodeStoreTest, OneHandleALayerAndOneTableADigest) {
  const auto store = Open();
  const TestLayer source = RandomLayer(1, 3);
  const auto layer = store->OpenLayer(source.device).value();
  EXPECT_EQ(store->OpenLayer(source.device).value(), layer);
  image_format::Device elsewhere = source.device;
  elsewhere.first_block = 77;
  EXPECT_EQ(store->OpenLayer(elsewhere).value(), layer);
  EXPECT_EQ(layer->device().first_block, 0U);
  image_format::Device other = RandomLayer(2, 3).device;
  other.blob_digest = source.device.blob_digest;
  EXPECT_EQ(store->OpenLayer(other).error().code, Code::kDataLoss);
  image_format::Device crooked = source.device;
  crooked.blocks += 1;
  EXPECT_EQ(store->OpenLayer(crooked).error().code, Code::kInvalidArgument);
}

TEST_F(NodeStoreTest, OneProcessARoot) {
  const auto store = Open();
  NodeStore::Options options;
  options.root = root();
  EXPECT_EQ(NodeStore::Open(options).error().code, Code::kFailedPrecondition);
}

TEST_F(NodeStoreTest, CopiesFromOtherLayersAndFromItself) {
  const auto store = Open();
  const TestLayer a = RandomLayer(1, 4);
  const TestLayer b = MakeLayer({a.blocks[2], RandomLayer(9, 1).blocks[0], a.blocks[2]}, 5);
  {
    const auto first = store->OpenLayer(a.device).value();
    const auto second = store->OpenLayer(b.device).value();
    EXPECT_FALSE(second->CopyFromOther(0).value());
    ASSERT_TRUE(first->PutBlocks(2, a.blocks[2]));
  }
  ASSERT_TRUE(store->Flush());
  const auto second = store->OpenLayer(b.device).value();
  EXPECT_TRUE(second->CopyFromOther(0).value());  // from a layer that is not open
  EXPECT_EQ(ReadDevice(*second, 0), a.blocks[2]);
  EXPECT_FALSE(second->CopyFromOther(1).value());
  store->OpenLayer(a.device).value()->Drop(2);
  EXPECT_TRUE(second->CopyFromOther(2).value());  // from itself
  EXPECT_EQ(ReadDevice(*second, 2), a.blocks[2]);
}

TEST_F(NodeStoreTest, CopiesWhatAnotherLayerHasCompressedToTheSameBytes) {
  const auto store = Open();
  const TestLayer a = MakeLayer({RandomLayer(1, 1).blocks[0], RandomLayer(2, 1).blocks[0]}, 7);
  TestLayer b = MakeLayer({a.blocks[0], RandomLayer(3, 1).blocks[0], a.blocks[1]}, 7);
  b.device.blob_digest = Digest::Of("another layer");
  ASSERT_EQ(b.device.chunks[0].compressed_digest, a.device.chunks[0].compressed_digest);
  ASSERT_NE(b.device.chunks[2].compressed_digest, a.device.chunks[1].compressed_digest);
  const auto first = store->OpenLayer(a.device).value();
  const auto second = store->OpenLayer(b.device).value();
  ASSERT_TRUE(first->PutBlocks(0, a.blocks[0]));
  EXPECT_FALSE(second->CopyCompressedFromOther(0).value()) << "there are only blocks";
  ASSERT_TRUE(first->PutCompressed(0, a.compressed[0]));
  ASSERT_TRUE(first->PutCompressed(1, a.compressed[1]));
  EXPECT_TRUE(second->CopyCompressedFromOther(0).value());
  EXPECT_EQ(second->GetCompressed(0).value(), a.compressed[0]);
  EXPECT_FALSE(second->Has(0));
  EXPECT_FALSE(second->CopyCompressedFromOther(1).value());
  EXPECT_FALSE(second->CopyCompressedFromOther(2).value());
}

TEST_F(NodeStoreTest, CopyingChecksAndDropsWhatRotted) {
  const auto store = Open();
  const TestLayer a = RandomLayer(1, 2);
  const TestLayer b = MakeLayer({a.blocks[1]}, 5);
  const auto first = store->OpenLayer(a.device).value();
  PutAll(*first, a);
  const std::byte wrong{0};
  ASSERT_EQ(::pwrite(first->device_fd(), &wrong, 1, static_cast<off_t>(a.device.chunks[1].device_range().begin)), 1);
  const auto second = store->OpenLayer(b.device).value();
  EXPECT_FALSE(second->CopyFromOther(0).value());
  EXPECT_FALSE(second->Has(0));
  EXPECT_FALSE(first->Has(1));
  EXPECT_TRUE(first->Has(0));
}

TEST_F(NodeStoreTest, DropGivesTheRoomBackAndAllowsAnew) {
  const auto store = Open();
  const TestLayer source = RandomLayer(1, 6);
  const auto layer = store->OpenLayer(source.device).value();
  PutAll(*layer, source);
  ASSERT_TRUE(layer->PutCompressed(3, source.compressed[3]));
  ASSERT_TRUE(store->Flush());
  layer->Drop(3);
  EXPECT_FALSE(layer->Has(3));
  EXPECT_EQ(layer->GetCompressed(3).error().code, Code::kNotFound);
  EXPECT_EQ(store->usage().device_bytes, source.device.device_bytes() - source.blocks[3].size());
  EXPECT_EQ(store->usage().blob_bytes, 0U);
  EXPECT_LE(AllocatedBytes(layer->device_path()), source.device.device_bytes() - source.blocks[3].size());
  EXPECT_EQ(ReadDevice(*layer, 2), source.blocks[2]);
  EXPECT_EQ(ReadDevice(*layer, 4), source.blocks[4]);
  ASSERT_TRUE(layer->PutBlocks(3, source.blocks[3]));
  EXPECT_EQ(ReadDevice(*layer, 3), source.blocks[3]);
}

TEST_F(NodeStoreTest, DropUnusedSparesWhatIsMountedOrKept) {
  const auto store = Open();
  const TestLayer mounted = RandomLayer(1, 4);
  const TestLayer kept = RandomLayer(2, 4);
  const TestLayer idle = RandomLayer(3, 4);
  const auto mounted_layer = store->OpenLayer(mounted.device).value();
  const auto hold = mounted_layer->HoldMounted();
  const auto kept_layer = store->OpenLayer(kept.device).value();
  PutAll(*mounted_layer, mounted);
  PutAll(*kept_layer, kept);
  uint64_t idle_bytes = 0;
  {
    const auto idle_layer = store->OpenLayer(idle.device).value();
    PutAll(*idle_layer, idle);
    idle_bytes = idle_layer->present_bytes();
  }
  EXPECT_EQ(store->DropUnused({kept.device.blob_digest}), idle_bytes);
  EXPECT_TRUE(mounted_layer->complete());
  EXPECT_TRUE(kept_layer->complete());
  EXPECT_EQ(store->OpenLayer(idle.device).value()->present_bytes(), 0U);
  EXPECT_LT(AllocatedBytes(DevicePath(idle)), idle_bytes);
  EXPECT_EQ(store->DropUnused({kept.device.blob_digest}), 0U);
}

TEST_F(NodeStoreTest, ALeasedChunkIsDroppedAtOnceButPunchedByItsLastLease) {
  const auto store = Open();
  const TestLayer source = RandomLayer(1, 3);
  const auto layer = store->OpenLayer(source.device).value();
  PutAll(*layer, source);
  ASSERT_TRUE(store->Flush());
  std::optional<ChunkLease> one = layer->Lease({0, 2});
  std::optional<ChunkLease> two = layer->Lease({1, 2});
  layer->Drop(1);
  EXPECT_FALSE(layer->Has(1));
  EXPECT_FALSE(layer->Lease({1, 2}));
  EXPECT_EQ(ReadDevice(*layer, 1), source.blocks[1]);
  EXPECT_EQ(layer->PutBlocks(1, source.blocks[1]).error().code, Code::kResourceExhausted);
  one.reset();
  EXPECT_EQ(ReadDevice(*layer, 1), source.blocks[1]);
  two.reset();
  EXPECT_EQ(ReadDevice(*layer, 1), std::vector<std::byte>(source.blocks[1].size()));
  EXPECT_EQ(store->usage().device_bytes, source.device.device_bytes() - source.blocks[1].size());
  EXPECT_TRUE(layer->PutBlocks(1, source.blocks[1]));
}

TEST_F(NodeStoreTest, LeasesOutliveTheStore) {
  auto store = Open();
  const TestLayer source = RandomLayer(1, 3);
  auto layer = store->OpenLayer(source.device).value();
  PutAll(*layer, source);
  std::optional<ChunkLease> lease = layer->Lease({0, 3});
  layer->Drop(2);
  store.reset();
  EXPECT_EQ(ReadDevice(*layer, 1), source.blocks[1]);
  EXPECT_EQ(layer->PutBlocks(0, source.blocks[0]).error().code, Code::kFailedPrecondition);
  layer.reset();
  lease.reset();
  store = Open();
  layer = store->OpenLayer(source.device).value();
  EXPECT_TRUE(layer->Has(1));
  EXPECT_FALSE(layer->Has(2));
}

TEST_F(NodeStoreTest, PinsOnlyWhatIsComplete) {
  const auto store = Open();
  const TestLayer source = RandomLayer(1, 3);
  const auto layer = store->OpenLayer(source.device).value();
  EXPECT_EQ(layer->PinWhole().error().code, Code::kFailedPrecondition);
  PutAll(*layer, source);
  auto pin = layer->PinWhole();
  ASSERT_TRUE(pin);
  layer->Drop(0);
  EXPECT_EQ(ReadDevice(*layer, 0), source.blocks[0]);
  EXPECT_FALSE(layer->complete());
  pin->reset();
  EXPECT_EQ(ReadDevice(*layer, 0), std::vector<std::byte>(source.blocks[0].size()));
}

TEST_F(NodeStoreTest, SmallBlobsAreCheckedBothWays) {
  const auto store = Open();
  const std::string text = "manifest";
  const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
  const Digest digest = Digest::Of(text);
  EXPECT_EQ(store->GetBlob(digest).error().code, Code::kNotFound);
  EXPECT_EQ(store->PutBlob(Digest::Of("other"), bytes).error().code, Code::kInvalidArgument);
  ASSERT_TRUE(store->PutBlob(digest, bytes));
  ASSERT_TRUE(store->PutBlob(digest, bytes));
  EXPECT_EQ(store->usage().blob_bytes, text.size());
  EXPECT_EQ(store->GetBlob(digest).value(), text);
  std::ofstream(BlobPath(digest)) << "manifesT";
  EXPECT_EQ(store->GetBlob(digest).error().code, Code::kNotFound);
  EXPECT_FALSE(std::filesystem::exists(BlobPath(digest)));
  EXPECT_EQ(store->usage().blob_bytes, 0U);
  ASSERT_TRUE(store->PutBlob(digest, bytes));
  EXPECT_EQ(store->GetBlob(digest).value(), text);
}

TEST_F(NodeStoreTest, ABlobIsSmallOrALayersDataNotBoth) {
  const auto store = Open();
  const std::string text = "both";
  TestLayer source = RandomLayer(1, 2);
  source.device.blob_digest = Digest::Of(text);
  const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
  {
    const auto layer = store->OpenLayer(source.device).value();
    ASSERT_TRUE(layer->PutCompressed(0, source.compressed[0]));
    EXPECT_EQ(store->PutBlob(Digest::Of(text), bytes).error().code, Code::kFailedPrecondition);
    EXPECT_EQ(layer->GetCompressed(0).value(), source.compressed[0]);
  }
  const std::string other = "small";
  ASSERT_TRUE(store->PutBlob(Digest::Of(other), std::as_bytes(std::span(other.data(), other.size()))));
  source.device.blob_digest = Digest::Of(other);
  EXPECT_EQ(store->OpenLayer(source.device).error().code, Code::kFailedPrecondition);
}

TEST_F(NodeStoreTest, ScrubNamesAndDropsTheBad) {
  const auto store = Open();
  const TestLayer source = RandomLayer(1, 20);
  const auto layer = store->OpenLayer(source.device).value();
  PutAll(*layer, source);
  ASSERT_TRUE(layer->PutCompressed(4, source.compressed[4]));
  ASSERT_TRUE(store->Flush());
  EXPECT_TRUE(store->Scrub({}, 0).value().bad_chunks.empty());
  const std::byte wrong{0};
  ASSERT_EQ(
      ::pwrite(layer->device_fd(), &wrong, 1, static_cast<off_t>(source.device.chunks[17].device_range().end - 1)), 1);
  const ScrubReport report = store->Scrub({}, 0).value();
  EXPECT_EQ(report.chunks_checked, 20U);
  ASSERT_EQ(report.bad_chunks.size(), 1U);
  EXPECT_EQ(report.bad_chunks[0], "chunk 17 of layer " + source.device.blob_digest.ToString());
  EXPECT_FALSE(layer->Has(17));
  EXPECT_TRUE(layer->Has(16));
  EXPECT_TRUE(layer->GetCompressed(4));
}

TEST_F(NodeStoreTest, ScrubKeepsItsPaceAndStops) {
  const auto store = Open();
  const TestLayer source = RandomLayer(1, 20);
  const auto layer = store->OpenLayer(source.device).value();
  PutAll(*layer, source);
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_TRUE(store->Scrub({}, source.device.device_bytes() * 5));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(190));
  std::stop_source stop;
  std::jthread stopper([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    stop.request_stop();
  });
  const ScrubReport report = store->Scrub(stop.get_token(), 1000).value();
  EXPECT_LT(report.chunks_checked, 20U);
}

}  // namespace
}  // namespace banyan::store
