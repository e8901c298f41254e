#include "swarm/blob_stage.h"

#include <algorithm>
#include <random>

#include <gtest/gtest.h>

#include "common/file_io.h"
#include "fetch/testing/test_layer.h"
#include "image-format/chunk_table.h"
#include "image-format/torrent.h"
#include "store/node_store.h"

namespace banyan::swarm {
namespace {

using image_format::InfoHash;
using image_format::kPieceBytes;

constexpr size_t kWriteBytes = 16 * 1024;

class BlobStageTest : public ::testing::Test {
 protected:
  BlobStageTest() : dir_(TempDir::Make("blob-stage").value()) {
    std::mt19937 random(5);
    std::vector<uint32_t> blocks(60);
    for (uint32_t& count : blocks) count = 1 + random() % 40;
    source_ = fetch::testing::MakeTestLayer(blocks, 5);
    image_format::TorrentWriter writer;
    EXPECT_TRUE(writer.Write(source_.blob));
    torrent_ = *writer.Finish(source_.device->blob_digest);
    store_ = store::NodeStore::Open({.root = dir_.path() + "/store"}).value();
    layer_ = store_->OpenLayer(*source_.device).value();
    stage_ = BlobStage::Open(layer_, torrent_, dir_.path()).value();
  }

  // The piece as a peer sends it, `flip` being a byte that is wrong.
  void WritePiece(uint32_t piece, int64_t flip = -1) {
    const ByteRange range = stage_->RangeOf(piece);
    std::vector<std::byte> bytes(source_.blob.begin() + static_cast<ptrdiff_t>(range.begin),
                                 source_.blob.begin() + static_cast<ptrdiff_t>(range.end));
    if (flip >= 0) bytes[static_cast<size_t>(flip)] ^= std::byte{1};
    for (size_t at = 0; at < bytes.size(); at += kWriteBytes) {
      const auto block = std::span(bytes).subspan(at, std::min(kWriteBytes, bytes.size() - at));
      ASSERT_TRUE(stage_->Write(range.begin + at, block));
    }
  }
  bool Passes(uint32_t piece) {
    const auto hash = stage_->HashPiece(piece);
    const auto expected = image_format::PieceHashes(torrent_, source_.blob.size()).substr(piece * InfoHash::kBytes, 20);
    return hash && hash->raw() == expected;
  }
  void PutChunk(ChunkIndex chunk) { ASSERT_TRUE(layer_->PutCompressed(chunk, source_.Compressed(chunk))); }
  uint32_t chunks() const { return source_.device->chunks.size(); }
  uint32_t present() const {
    uint32_t count = 0;
    for (ChunkIndex chunk = 0; chunk < chunks(); ++chunk) count += layer_->HasCompressed(chunk) ? 1 : 0;
    return count;
  }
  void ExpectRight() const {
    for (ChunkIndex chunk = 0; chunk < chunks(); ++chunk) {
      const auto bytes = layer_->GetCompressed(chunk);
      EXPECT_TRUE(!bytes || *bytes == source_.Compressed(chunk)) << chunk;
    }
  }

  TempDir dir_;
  fetch::testing::TestLayer source_;
  image_format::Torrent torrent_;
  std::unique_ptr<store::NodeStore> store_;
  std::shared_ptr<store::StoredLayer> layer_;
  std::shared_ptr<BlobStage> stage_;
};

TEST_F(BlobStageTest, TheTestHasWhatItNeeds) {
  ASSERT_GE(stage_->pieces(), 3U);
  const ChunkRange first = stage_->ChunksOf(0);
  const ChunkRange second = stage_->ChunksOf(1);
  EXPECT_EQ(first.begin, 0U);
  EXPECT_EQ(first.end, second.begin + 1) << "a chunk lies across the first two pieces";
  EXPECT_EQ(stage_->ChunksOf(stage_->pieces() - 1).end, chunks());
}

TEST_F(BlobStageTest, AChunkAcrossPiecesWaitsForBoth) {
  WritePiece(0);
  EXPECT_EQ(present(), 0U) << "nothing counts before its piece is checked";
  ASSERT_TRUE(Passes(0));
  const ChunkIndex across = stage_->ChunksOf(1).begin;
  EXPECT_EQ(present(), across);
  EXPECT_FALSE(layer_->HasCompressed(across));
  EXPECT_TRUE(stage_->Has(0));
  EXPECT_FALSE(stage_->InStore(0));
  // What waits can be given to peers already.
  std::vector<std::byte> piece(kPieceBytes);
  ASSERT_TRUE(stage_->Read(0, piece));
  EXPECT_TRUE(std::equal(piece.begin(), piece.end(), source_.blob.begin()));

  WritePiece(1);
  ASSERT_TRUE(Passes(1));
  EXPECT_TRUE(layer_->HasCompressed(across));
  ExpectRight();
}

TEST_F(BlobStageTest, AllPiecesInAnyOrderMakeTheBlob) {
  std::vector<uint32_t> order(stage_->pieces());
  for (uint32_t piece = 0; piece < order.size(); ++piece) order[piece] = piece;
  std::shuffle(order.begin(), order.end(), std::mt19937(3));
  for (const uint32_t piece : order) {
    WritePiece(piece);
    ASSERT_TRUE(Passes(piece));
  }
  EXPECT_EQ(present(), chunks());
  EXPECT_EQ(stage_->committed_bytes(), source_.blob.size());
  ExpectRight();
  std::vector<std::byte> all(source_.blob.size());
  ASSERT_TRUE(stage_->Read(0, all));
  EXPECT_EQ(all, source_.blob);
}

TEST_F(BlobStageTest, GarbageIsNeitherKeptNorGiven) {
  WritePiece(0, 77);
  EXPECT_FALSE(Passes(0));
  EXPECT_EQ(present(), 0U);
  std::vector<std::byte> some(100);
  EXPECT_FALSE(stage_->Read(0, some));
  WritePiece(0);
  EXPECT_TRUE(Passes(0));
  ExpectRight();
}

TEST_F(BlobStageTest, WhatIsInTheStoreIsNotWrittenAgain) {
  const ChunkRange range = stage_->ChunksOf(0);
  for (ChunkIndex chunk = range.begin; chunk < range.end; ++chunk) PutChunk(chunk);
  EXPECT_TRUE(stage_->InStore(0));
  WritePiece(0, 5);  // garbage, for a piece that is here
  EXPECT_TRUE(Passes(0));
  EXPECT_EQ(stage_->committed_bytes(), 0U);
  ExpectRight();
  std::vector<std::byte> piece(kPieceBytes);
  ASSERT_TRUE(stage_->Read(0, piece));
  EXPECT_TRUE(std::equal(piece.begin(), piece.end(), source_.blob.begin()));
}

TEST_F(BlobStageTest, ChunksThatCameMeanwhileAreLeftAlone) {
  PutChunk(0);
  WritePiece(0);
  ASSERT_TRUE(Passes(0));
  EXPECT_EQ(stage_->committed_bytes(),
            source_.device->chunks[stage_->ChunksOf(1).begin].compressed_offset - source_.Compressed(0).size());
  ExpectRight();
}

TEST_F(BlobStageTest, ATorrentOfOtherBytesNeverReachesTheStore) {
  std::vector<std::byte> other = source_.blob;
  other[1000] ^= std::byte{1};
  image_format::TorrentWriter writer;
  ASSERT_TRUE(writer.Write(other));
  torrent_ = *writer.Finish(source_.device->blob_digest);
  stage_ = BlobStage::Open(layer_, torrent_, dir_.path()).value();
  WritePiece(0, 1000);
  const auto hash = stage_->HashPiece(0);
  ASSERT_FALSE(hash);
  EXPECT_EQ(hash.error().code, Code::kDataLoss);
  EXPECT_FALSE(stage_->Has(0));
  ExpectRight();
}

TEST_F(BlobStageTest, EvictedChunksAreNotInventedFromTheStage) {
  for (uint32_t piece = 0; piece < stage_->pieces(); ++piece) {
    WritePiece(piece);
    ASSERT_TRUE(Passes(piece));
  }
  layer_->Drop(2);
  std::vector<std::byte> bytes(source_.Compressed(2).size());
  const Status read = stage_->Read(source_.device->chunks[2].compressed_offset, bytes);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, Code::kNotFound);
  EXPECT_TRUE(stage_->lost());
}

TEST_F(BlobStageTest, BeyondTheBlobIsNothing) {
  std::vector<std::byte> block(16);
  EXPECT_FALSE(stage_->Write(source_.blob.size() - 15, block));
  EXPECT_FALSE(stage_->Write(UINT64_MAX, block));
  EXPECT_FALSE(stage_->Read(source_.blob.size(), block));
}

}  // namespace
}  // namespace banyan::swarm
