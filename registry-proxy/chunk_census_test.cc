#include "registry-proxy/chunk_census.h"

#include <initializer_list>
#include <string>

#include <gtest/gtest.h>

namespace banyan::registry_proxy {
namespace {

// A chunk a letter, of 100 compressed bytes and up.
image_format::ChunkTable Layer(const std::string& letters) {
  image_format::ChunkTable table;
  for (const char letter : letters) {
    const Digest digest = Digest::Of(std::string(1, letter));
    EXPECT_TRUE(table.Append(100 + static_cast<uint32_t>(letter - 'a'), 16, digest, digest));
  }
  return table;
}

TEST(ChunkCensusTest, WhatWasThereBeforeIsShared) {
  ChunkCensus census;
  const ChunkCount first = census.Add(Layer("abcb"));
  EXPECT_EQ(first.all, 4U);
  EXPECT_EQ(first.bytes, 100U + 101 + 102 + 101);
  EXPECT_EQ(first.shared, 1U);
  EXPECT_EQ(first.shared_bytes, 101U);
  ChunkCount sum = census.Add(Layer("dca"));
  EXPECT_EQ(sum.shared, 2U);
  EXPECT_EQ(sum.shared_bytes, 102U + 100);
  sum += first;
  EXPECT_EQ(sum.all, 7U);
  EXPECT_EQ(sum.shared, 3U);
}

TEST(ChunkCensusTest, MemoryIsBounded) {
  ChunkCensus census(2);
  EXPECT_EQ(census.Add(Layer("abcd")).shared, 0U);
  EXPECT_EQ(census.Add(Layer("abcd")).shared, 2U);
}

}  // namespace
}  // namespace banyan::registry_proxy
