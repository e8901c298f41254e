#include "image-format/chunk_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "image-format/chunk_table_proto.h"
#include "image-format/testing/convert_for_test.h"
#include "image-format/testing/tar_builder.h"

namespace banyan::image_format {
namespace {

using ::testing::HasSubstr;

ChunkTable Sample() {
  ChunkTable table;
  EXPECT_TRUE(table.Append(100, 16, Digest::Of("a"), Digest::Of("A")));
  EXPECT_TRUE(table.Append(50, 1, Digest::Of("b"), Digest::Of("B")));
  EXPECT_TRUE(table.Append(7, 256, Digest::Of("c"), Digest::Of("C")));
  return table;
}

TEST(ChunkTable, LaysChunksBackToBack) {
  const ChunkTable table = Sample();
  EXPECT_EQ(table[2].compressed_offset, 150U);
  EXPECT_EQ(table[2].first_block, 17U);
  EXPECT_EQ(table.blob_bytes(), 157U);
  EXPECT_EQ(table.device_blocks(), 273U);
}

TEST(ChunkTable, FindsChunks) {
  const ChunkTable table = Sample();
  EXPECT_EQ(table.ChunkOfBlock(0), 0U);
  EXPECT_EQ(table.ChunkOfBlock(15), 0U);
  EXPECT_EQ(table.ChunkOfBlock(16), 1U);
  EXPECT_EQ(table.ChunkOfBlock(17), 2U);
  EXPECT_EQ(table.ChunkOfBlock(272), 2U);
  EXPECT_EQ(table.ChunksOf({0, 1}), (ChunkRange{0, 1}));
  EXPECT_EQ(table.ChunksOf({16 * kBlockBytes - 1, 16 * kBlockBytes + 1}), (ChunkRange{0, 2}));
  EXPECT_EQ(table.ChunksOf({0, table.device_bytes()}), (ChunkRange{0, 3}));
}

TEST(ChunkTable, RefusesWhatIsBeyondTheLimits) {
  ChunkTable table;
  EXPECT_FALSE(table.Append(0, 1, {}, {}));
  EXPECT_FALSE(table.Append(1, 0, {}, {}));
  EXPECT_FALSE(table.Append(1, kMaxChunkBlocks + 1, {}, {}));
  EXPECT_FALSE(table.Append(kMaxChunkCompressedBytes + 1, 1, {}, {}));
  EXPECT_TRUE(table.empty());
}

TEST(ChunkTable, ProtoRoundTripAndLies) {
  const ChunkTable table = Sample();
  proto::image::ChunkTable message;
  ChunkTableToProto(table, &message);
  EXPECT_EQ(ChunkTableFromProto(message), table);
  proto::image::ChunkTable short_digests = message;
  short_digests.mutable_block_digests()->pop_back();
  EXPECT_FALSE(ChunkTableFromProto(short_digests));
  proto::image::ChunkTable more_lengths = message;
  more_lengths.add_compressed_bytes(1);
  EXPECT_FALSE(ChunkTableFromProto(more_lengths));
  message.set_blocks(1, 0);
  EXPECT_FALSE(ChunkTableFromProto(message));
}

TEST(DecodeChunk, SaysWhichCheckFailed) {
  const auto layer = testing::ConvertForTest(testing::TarBuilder().File("f", std::string(9000, 'x')).Finish());
  ASSERT_TRUE(layer);
  const Chunk chunk = layer->index.chunks[0];
  std::vector<std::byte> blocks;
  const auto failure = [&](const Chunk& wanted, const std::string& bytes) {
    const Status status = DecodeChunk(wanted, testing::AsBytes(bytes), blocks);
    EXPECT_FALSE(status);
    return status ? "" : status.error().message;
  };
  ASSERT_TRUE(DecodeChunk(chunk, testing::AsBytes(layer->blob), blocks));
  EXPECT_EQ(blocks.size(), 3 * kBlockBytes);
  EXPECT_EQ(blocks[8999], std::byte{'x'});
  EXPECT_EQ(blocks[9000], std::byte{0});

  std::string flipped = layer->blob;
  flipped.back() = static_cast<char>(flipped.back() ^ 1);
  EXPECT_THAT(failure(chunk, flipped), HasSubstr("compressed bytes have digest"));
  EXPECT_THAT(failure(chunk, layer->blob + "x"), HasSubstr("want"));
  Chunk other = chunk;
  other.block_digest = Digest::Of("other");
  EXPECT_THAT(failure(other, layer->blob), HasSubstr("blocks have digest"));
  other = chunk;
  other.blocks = 2;
  EXPECT_THAT(failure(other, layer->blob), HasSubstr("does not decompress"));
  other.blocks = 4;
  EXPECT_THAT(failure(other, layer->blob), HasSubstr("decompresses to"));
}

}  // namespace
}  // namespace banyan::image_format
