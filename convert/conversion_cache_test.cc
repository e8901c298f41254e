#include "convert/conversion_cache.h"

#include <gtest/gtest.h>

#include "common/file_io.h"

namespace banyan::convert {
namespace {

class ConversionCacheTest : public ::testing::Test {
 protected:
  ConversionCacheTest() : dir_(TempDir::Make("conversion-cache").value()), cache_(dir_.path() + "/data") {
    layer_.diff_id = Digest::Of("tar");
    layer_.blob_digest = Digest::Of("blob");
    layer_.blob_bytes = 4;
    layer_.index_blob = "index bytes";
    key_.source_digest = Digest::Of("layer");
    key_.converter_version = "banyan 0.1.0";
  }
  std::string record_file() const { return dir_.path() + "/data/conversions/" + key_.Hex(); }

  TempDir dir_;
  ConversionCache cache_;
  ConvertedLayer layer_;
  ConversionKey key_;
};

TEST_F(ConversionCacheTest, FindsWhatWasPut) {
  EXPECT_FALSE(cache_.Find(key_));
  ASSERT_TRUE(cache_.Put(key_, layer_));
  const auto found = cache_.Find(key_);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->blob_digest, layer_.blob_digest);
  EXPECT_EQ(found->blob_bytes, 4u);
  EXPECT_EQ(found->diff_id, layer_.diff_id);
  EXPECT_EQ(found->index_blob, "index bytes");
}

TEST_F(ConversionCacheTest, KeepsTheTorrentAndChecksIt) {
  image_format::TorrentWriter writer;
  ASSERT_TRUE(writer.Write(std::as_bytes(std::span("blob", 4))));
  layer_.torrent = *writer.Finish(layer_.blob_digest);
  ASSERT_TRUE(cache_.Put(key_, layer_));
  const auto found = cache_.Find(key_);
  ASSERT_TRUE(found);
  ASSERT_TRUE(found->torrent);
  EXPECT_EQ(found->torrent->info_hash, layer_.torrent->info_hash);
  ASSERT_TRUE(WriteFileDurably(record_file() + ".torrent", "d4:infodee"));
  EXPECT_FALSE(cache_.Find(key_));
}

TEST_F(ConversionCacheTest, AnotherKeyIsAnotherConversion) {
  ASSERT_TRUE(cache_.Put(key_, layer_));
  for (auto change :
       {+[](ConversionKey& key) { key.level = 9; }, +[](ConversionKey& key) { key.converter_version = "banyan 0.2.0"; },
        +[](ConversionKey& key) { key.chunking.max_blocks = 512; },
        +[](ConversionKey& key) { key.source_digest = Digest::Of("other"); }}) {
    ConversionKey other = key_;
    change(other);
    EXPECT_FALSE(cache_.Find(other));
  }
}

TEST_F(ConversionCacheTest, DamageCountsAsAbsent) {
  ASSERT_TRUE(cache_.Put(key_, layer_));
  ASSERT_TRUE(WriteFileDurably(record_file() + ".index", "index bytez"));
  EXPECT_FALSE(cache_.Find(key_));

  ASSERT_TRUE(cache_.Put(key_, layer_));
  const std::string record = ReadFile(record_file()).value();
  for (const std::string& damaged : {std::string(), std::string("[]"), record.substr(0, record.size() / 2),
                                     std::string(R"({"version":1,"blob":7})")}) {
    ASSERT_TRUE(WriteFileDurably(record_file(), damaged));
    EXPECT_FALSE(cache_.Find(key_)) << damaged;
  }
}

}  // namespace
}  // namespace banyan::convert
