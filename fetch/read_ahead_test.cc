#include "fetch/read_ahead.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace banyan::fetch {
namespace {

image_format::ChunkTable Table(uint32_t chunks, uint32_t blocks) {
  image_format::ChunkTable table;
  for (uint32_t i = 0; i < chunks; ++i) EXPECT_TRUE(table.Append(1000, blocks, Digest(), Digest()));
  return table;
}

TEST(ReadAhead, BeginsWithTheThirdChunkOfARun) {
  const auto table = Table(100, 64);
  ReadAhead ahead(4 * kMiB);
  EXPECT_TRUE(ahead.OnRead(table, {10, 11}).empty());
  EXPECT_TRUE(ahead.OnRead(table, {11, 12}).empty());
  EXPECT_TRUE(ahead.OnRead(table, {11, 12}).empty()) << "read twice";
  EXPECT_EQ(ahead.OnRead(table, {12, 13}), (ChunkRange{13, 14}));
  EXPECT_EQ(ahead.OnRead(table, {13, 14}), (ChunkRange{14, 16}));
  EXPECT_EQ(ahead.OnRead(table, {14, 15}), (ChunkRange{16, 17})) << "two ahead, half of five";
}

TEST(ReadAhead, GrowsToItsLimitAndEndsWithTheTable) {
  const auto table = Table(200, 64);
  ReadAhead ahead(4 * kMiB);
  ChunkIndex most = 0;
  for (ChunkIndex chunk = 0; chunk < 200; ++chunk) {
    const ChunkRange range = ahead.OnRead(table, {chunk, chunk + 1});
    if (range.empty()) continue;
    most = std::max(most, range.end - (chunk + 1));
    EXPECT_LE(range.end, 200U);
  }
  EXPECT_EQ(most, 16U);
}

TEST(ReadAhead, AJumpEndsTheRunAndInterleavedRunsAreFollowed) {
  const auto table = Table(1000, 64);
  ReadAhead ahead(4 * kMiB);
  for (ChunkIndex chunk = 0; chunk < 10; ++chunk) ahead.OnRead(table, {chunk, chunk + 1});
  EXPECT_TRUE(ahead.OnRead(table, {500, 501}).empty());
  EXPECT_TRUE(ahead.OnRead(table, {300, 301}).empty());
  EXPECT_TRUE(ahead.OnRead(table, {501, 502}).empty());
  EXPECT_FALSE(ahead.OnRead(table, {502, 503}).empty());
  EXPECT_TRUE(ahead.OnRead(table, {301, 302}).empty());
  EXPECT_FALSE(ahead.OnRead(table, {302, 303}).empty());
}

TEST(ReadAhead, NothingIsGuessedFromReadsOfWhatIsExpected) {
  const auto table = Table(100, 64);
  ReadAhead ahead(4 * kMiB);
  for (ChunkIndex chunk = 10; chunk < 20; ++chunk) ahead.Expect(chunk);
  for (ChunkIndex chunk = 10; chunk < 20; ++chunk) EXPECT_TRUE(ahead.OnRead(table, {chunk, chunk + 1}).empty());
  EXPECT_TRUE(ahead.OnRead(table, {20, 21}).empty());
  EXPECT_TRUE(ahead.OnRead(table, {21, 22}).empty());
  EXPECT_FALSE(ahead.OnRead(table, {22, 23}).empty()) << "a run behind what is expected";
  EXPECT_TRUE(ahead.OnRead(table, {98, 100}).empty());
}

TEST(ReadAhead, RequestsThatOvertakeEachOtherDoNotEndARun) {
  const auto table = Table(1000, 64);
  ReadAhead ahead(4 * kMiB);
  for (ChunkIndex chunk = 0; chunk < 8; ++chunk) ahead.OnRead(table, {chunk, chunk + 1});
  EXPECT_FALSE(ahead.OnRead(table, {10, 12}).empty());
  EXPECT_TRUE(ahead.OnRead(table, {8, 10}).empty());
  EXPECT_FALSE(ahead.OnRead(table, {12, 14}).empty());
}

TEST(ReadAhead, NothingWhenOff) {
  const auto table = Table(100, 64);
  ReadAhead ahead(0);
  for (ChunkIndex chunk = 0; chunk < 50; ++chunk) EXPECT_TRUE(ahead.OnRead(table, {chunk, chunk + 1}).empty());
}

// The promise of the header, over runs of all lengths at random places.
TEST(ReadAhead, NeverFetchesMoreThanHalfAsMuchAgain) {
  const auto table = Table(5000, 64);
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    std::mt19937_64 random(seed);
    ReadAhead ahead(4 * kMiB);
    std::set<ChunkIndex> read;
    std::set<ChunkIndex> fetched;
    for (int run = 0; run < 60; ++run) {
      const auto begin = static_cast<ChunkIndex>(random() % 4900);
      const auto length = static_cast<ChunkIndex>(1 + random() % (1U << (random() % 7)));
      for (ChunkIndex chunk = begin; chunk < begin + length; ++chunk) {
        read.insert(chunk);
        fetched.insert(chunk);
        const ChunkRange range = ahead.OnRead(table, {chunk, chunk + 1});
        for (ChunkIndex more = range.begin; more < range.end; ++more) fetched.insert(more);
      }
    }
    EXPECT_LE(fetched.size(), read.size() * 3 / 2 + 1) << "seed " << seed;
  }
}

}  // namespace
}  // namespace banyan::fetch
