#include "store/index.h"

#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>

#include <gtest/gtest.h>

#include "common/file_io.h"
#include "store/node_store.h"
#include "store/store_testing.h"

namespace banyan::store {
namespace {

using testing::ExpectOnlyTruth;
using testing::RandomLayer;
using testing::TestLayer;

TEST(IndexTest, RecordsRoundTrip) {
  const TestLayer layer = RandomLayer(1, 20);
  const image_format::Device back = DecodeLayer(layer.device.blob_digest, EncodeLayer(layer.device)).value();
  EXPECT_TRUE(back.chunks == layer.device.chunks);
  EXPECT_EQ(back.blob_bytes, layer.device.blob_bytes);
  EXPECT_EQ(back.blocks, layer.device.blocks);
  const PresenceRecord record{
      .uses = 7, .age = 1.5, .block_bytes = 9, .compressed_bytes = 3, .blocks = "ab", .compressed = "c"};
  EXPECT_EQ(DecodePresence(EncodePresence(record)).value(), record);
}

TEST(IndexTest, DamagedRecordsAreErrors) {
  const TestLayer layer = RandomLayer(1, 5);
  const std::string good = EncodeLayer(layer.device);
  std::mt19937_64 random(1);
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(DecodeLayer(layer.device.blob_digest, good.substr(0, size)));
  }
  const std::string presence = EncodePresence({.blocks = "abc", .compressed = "d"});
  for (size_t size = 0; size < presence.size(); ++size) EXPECT_FALSE(DecodePresence(presence.substr(0, size)));
  for (int i = 0; i < 2000; ++i) {
    std::string bytes = i % 2 == 0 ? good : presence;
    bytes[random() % bytes.size()] = static_cast<char>(random());
    static_cast<void>(DecodeLayer(layer.device.blob_digest, bytes));
    static_cast<void>(DecodePresence(bytes));
  }
}

TEST(IndexTest, FindsPlacesUntilTheLayerGoes) {
  const TempDir dir = TempDir::Make("banyan-index").value();
  bool begun_anew = true;
  const auto index = Index::Open(dir.path() + "/index", begun_anew).value();
  EXPECT_FALSE(begun_anew);
  const TestLayer layer = RandomLayer(1, 300);
  Index::Batch put;
  put.PutLayer(layer.device);
  put.PutPresence(layer.device.blob_digest, {});
  ASSERT_TRUE(index->Write(std::move(put), true));
  const Digest& wanted = layer.device.chunks[299].block_digest;
  EXPECT_EQ(index->Places(wanted, 9), (std::vector<ChunkPlace>{{layer.device.blob_digest, 299}}));
  EXPECT_TRUE(index->Places(Digest::Of("none"), 9).empty());
  Index::Batch remove;
  remove.DeleteLayer(layer.device);
  ASSERT_TRUE(index->Write(std::move(remove), true));
  EXPECT_TRUE(index->Places(wanted, 9).empty());
  EXPECT_EQ(index->GetLayer(layer.device.blob_digest).error().code, Code::kNotFound);
}

TEST(IndexTest, IsReadOnADiskWithoutRoomAndWrittenWhenThereIsSome) {
  if (::geteuid() != 0) GTEST_SKIP() << "mounting a small file system needs root";
  const TempDir dir = TempDir::Make("banyan-index").value();
  ASSERT_EQ(::mount("tmpfs", dir.path().c_str(), "tmpfs", 0, "size=16m"), 0);
  const auto unmount = [](const std::string* path) { ::umount2(path->c_str(), MNT_DETACH); };
  const std::unique_ptr<const std::string, decltype(unmount)> mounted(&dir.path(), unmount);
  const std::string path = dir.path() + "/index";
  const std::string hog = dir.path() + "/hog";
  const TestLayer layer = RandomLayer(1, 300);
  const auto put = [](Index& index, const TestLayer& source) {
    Index::Batch batch;
    batch.PutLayer(source.device);
    return index.Write(std::move(batch), true);
  };
  bool begun_anew = true;
  ASSERT_TRUE(put(*Index::Open(path, begun_anew).value(), layer));
  std::ofstream(hog) << std::string(16 * kMiB, 'x');
  {
    const auto index = Index::Open(path, begun_anew).value();
    EXPECT_FALSE(begun_anew);
    EXPECT_EQ(index->GetLayer(layer.device.blob_digest)->blocks, layer.device.blocks);
    const TestLayer more = RandomLayer(2, 20);
    EXPECT_EQ(put(*index, more).error().code, Code::kResourceExhausted);
    std::filesystem::remove(hog);
    index->EndQuiet();
    const Status written = put(*index, more);
    EXPECT_TRUE(written) << written.error().message;
    EXPECT_EQ(index->GetLayer(layer.device.blob_digest)->blocks, layer.device.blocks);
  }
  const auto index = Index::Open(path, begun_anew).value();
  EXPECT_EQ(index->GetLayer(RandomLayer(2, 20).device.blob_digest)->blocks, RandomLayer(2, 20).device.blocks);
}

TEST(IndexTest, ANewOneOnADiskWithoutRoomIsAnErrorThatSaysSo) {
  if (::geteuid() != 0) GTEST_SKIP() << "mounting a small file system needs root";
  const TempDir dir = TempDir::Make("banyan-index").value();
  ASSERT_EQ(::mount("tmpfs", dir.path().c_str(), "tmpfs", 0, "size=64k"), 0);
  std::ofstream(dir.path() + "/hog") << std::string(kMiB, 'x');
  bool begun_anew = true;
  const auto index = Index::Open(dir.path() + "/index", begun_anew);
  ::umount2(dir.path().c_str(), MNT_DETACH);
  ASSERT_FALSE(index);
  EXPECT_EQ(index.error().code, Code::kResourceExhausted) << index.error().message;
  EXPECT_FALSE(begun_anew);
}

using Damage = std::function<void(const std::filesystem::path& index)>;

std::filesystem::path FileLike(const std::filesystem::path& index, const std::string& part) {
  std::filesystem::path found;
  for (const auto& entry : std::filesystem::directory_iterator(index)) {
    if (entry.path().filename().string().find(part) != std::string::npos) found = std::max(found, entry.path());
  }
  EXPECT_FALSE(found.empty()) << part;
  return found;
}

void Garble(const std::filesystem::path& file) {
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  const auto size = std::filesystem::file_size(file);
  for (uint64_t offset = 20; offset < size; offset += 50) {
    stream.seekp(static_cast<std::streamoff>(offset));
    stream.put('\x5a');
  }
}

class DamagedIndexTest : public ::testing::Test {
 protected:
  // Fills a store, damages its index, opens it again and checks every claim; returns whether the index was set aside.
  bool SetAsideAfter(const Damage& damage) {
    {
      const auto store = NodeStore::Open(Options()).value();
      for (const TestLayer& source : layers_) {
        const auto layer = store->OpenLayer(source.device).value();
        for (ChunkIndex i = 0; i < 20; ++i) EXPECT_TRUE(layer->PutBlocks(i, source.blocks[i]));
        EXPECT_TRUE(store->Flush());
      }
    }
    {
      // What an index that lost its newest records would still claim.
      const auto store = NodeStore::Open(Options()).value();
      for (const TestLayer& source : layers_) {
        const auto layer = store->OpenLayer(source.device).value();
        for (ChunkIndex i = 0; i < 20; i += 3) layer->Drop(i);
      }
    }
    damage(Options().root + "/index");
    const bool aside = [&] {
      const auto store = NodeStore::Open(Options()).value();
      const bool was = std::filesystem::exists(Options().root + "/index.damaged-1");
      if (was) {
        EXPECT_EQ(store->usage().device_bytes, 0U);
        EXPECT_TRUE(std::filesystem::is_empty(Options().root + "/devices"));
      }
      ExpectOnlyTruth(*store, layers_);
      // And it works.
      const auto layer = store->OpenLayer(layers_[0].device).value();
      for (ChunkIndex i = 0; i < 20; ++i) EXPECT_TRUE(layer->PutBlocks(i, layers_[0].blocks[i]));
      return was;
    }();
    const auto store = NodeStore::Open(Options()).value();
    EXPECT_TRUE(store->OpenLayer(layers_[0].device).value()->complete());
    return aside;
  }
  NodeStore::Options Options() const {
    NodeStore::Options options;
    options.root = dir_.path() + "/store";
    return options;
  }

  TempDir dir_ = TempDir::Make("banyan-store").value();
  std::vector<TestLayer> layers_ = {RandomLayer(1, 20), RandomLayer(2, 20)};
};

TEST_F(DamagedIndexTest, NoDamage) {
  EXPECT_FALSE(SetAsideAfter([](const auto&) {}));
}
TEST_F(DamagedIndexTest, MissingCurrent) {
  EXPECT_TRUE(SetAsideAfter([](const auto& index) { std::filesystem::remove(index / "CURRENT"); }));
}
TEST_F(DamagedIndexTest, GarbageInCurrent) {
  EXPECT_TRUE(SetAsideAfter([](const auto& index) { std::ofstream(index / "CURRENT") << "nonsense\n"; }));
}
TEST_F(DamagedIndexTest, EmptyManifest) {
  EXPECT_TRUE(SetAsideAfter([](const auto& index) { std::filesystem::resize_file(FileLike(index, "MANIFEST"), 0); }));
}
TEST_F(DamagedIndexTest, TruncatedManifest) {
  // RocksDB may open an older state from it; that state must not be believed where it is wrong.
  SetAsideAfter([](const auto& index) {
    const auto manifest = FileLike(index, "MANIFEST");
    std::filesystem::resize_file(manifest, std::filesystem::file_size(manifest) / 2);
  });
}
TEST_F(DamagedIndexTest, GarbageInManifest) {
  EXPECT_TRUE(SetAsideAfter([](const auto& index) { Garble(FileLike(index, "MANIFEST")); }));
}
TEST_F(DamagedIndexTest, MissingTable) {
  EXPECT_TRUE(SetAsideAfter([](const auto& index) { std::filesystem::remove(FileLike(index, ".sst")); }));
}
TEST_F(DamagedIndexTest, TruncatedTable) {
  EXPECT_TRUE(SetAsideAfter([](const auto& index) {
    const auto table = FileLike(index, ".sst");
    std::filesystem::resize_file(table, std::filesystem::file_size(table) / 2);
  }));
}
TEST_F(DamagedIndexTest, GarbageInTable) {
  EXPECT_TRUE(SetAsideAfter([](const auto& index) { Garble(FileLike(index, ".sst")); }));
}
TEST_F(DamagedIndexTest, EmptyDirectoryOfIndex) {
  SetAsideAfter([](const auto& index) {
    std::filesystem::remove_all(index);
    std::filesystem::create_directory(index);
  });
}

}  // namespace
}  // namespace banyan::store
