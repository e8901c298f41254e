#include "tree-manager/burst_profile.h"

#include <gtest/gtest.h>

namespace banyan::tree_manager {
namespace {

using namespace std::chrono_literals;

constexpr size_t kRoom = 1'000'000;
const std::string kBlob = "sha256:" + std::string(64, 'c');

proto::tree::ChunkList ListOf(const std::vector<uint32_t>& chunks) {
  proto::tree::ChunkList list;
  list.add_blobs(kBlob);
  for (const uint32_t chunk : chunks) {
    list.add_blob(0);
    list.add_chunk(chunk);
  }
  return list;
}

std::vector<uint32_t> Chunks(const BurstProfile& profile) {
  const auto list = profile.List();
  return {list.chunk().begin(), list.chunk().end()};
}

TEST(BurstProfileTest, WithFewReportersAnyChunkCountsInOrder) {
  BurstProfile profile;
  const BurstProfile::Time now{};
  EXPECT_TRUE(profile.Add("a", ListOf({5, 1}), kRoom, now));
  EXPECT_TRUE(profile.Add("b", ListOf({1, 9}), kRoom, now));
  EXPECT_TRUE(profile.Add("c", ListOf({7}), kRoom, now));
  EXPECT_FALSE(profile.Add("c", ListOf({7}), kRoom, now));
  EXPECT_EQ(Chunks(profile), (std::vector<uint32_t>{5, 1, 9, 7}));
}

TEST(BurstProfileTest, PrivateReadsFallOutOnceThereAreEnoughReporters) {
  BurstProfile profile;
  const BurstProfile::Time now{};
  for (uint32_t node = 0; node < 8; ++node) {
    profile.Add(std::to_string(node), ListOf({1, 100 + node, 2}), kRoom, now);
  }
  EXPECT_EQ(Chunks(profile), (std::vector<uint32_t>{1, 2}));  // 1 of 8 is not more than a quarter
  profile.Add("x", ListOf({100, 101}), kRoom, now);
  profile.Add("y", ListOf({100}), kRoom, now);
  EXPECT_EQ(Chunks(profile), (std::vector<uint32_t>{1, 100, 2}));  // 3 of 10
}

TEST(BurstProfileTest, OneReporterVotesOnce) {
  BurstProfile profile;
  const BurstProfile::Time now{};
  for (int i = 0; i < 10; ++i) profile.Add("loud", ListOf({66}), kRoom, now);
  for (int i = 0; i < 7; ++i) profile.Add(std::to_string(i), ListOf({1}), kRoom, now);
  EXPECT_EQ(Chunks(profile), (std::vector<uint32_t>{1}));
}

TEST(BurstProfileTest, SettlesAndHasOneVoteInTheNextBurst) {
  BurstProfile profile;
  BurstProfile::Time now{};
  profile.Add("a", ListOf({1, 2}), kRoom, now);
  EXPECT_FALSE(profile.Settle(now + 59s));
  EXPECT_TRUE(profile.provisional());
  EXPECT_TRUE(profile.Settle(now + 60s));
  EXPECT_FALSE(profile.provisional());
  EXPECT_EQ(Chunks(profile), (std::vector<uint32_t>{1, 2}));
  for (const char* node : {"b", "c", "d"}) profile.Add(node, ListOf({2, 3}), kRoom, now + 100s);
  EXPECT_EQ(Chunks(profile), (std::vector<uint32_t>{2, 3}));  // 1: one of four voters
}

TEST(BurstProfileTest, LimitsHold) {
  BurstProfile profile;
  const BurstProfile::Time now{};
  EXPECT_TRUE(profile.Add("a", ListOf({1, 2, 3}), 2, now));
  EXPECT_EQ(profile.size(), 2U);
  auto many = ListOf({});
  for (uint32_t i = 0; i < 2 * BurstProfile::kMaxChunks; ++i) {
    many.add_blob(0);
    many.add_chunk(i);
  }
  profile.Add("b", many, kRoom, now);
  profile.Add("c", many, kRoom, now);
  EXPECT_LE(profile.size(), BurstProfile::kMaxChunks);
  for (size_t i = 0; i < 100; ++i) profile.Add(std::to_string(i), ListOf({7}), kRoom, now);
  auto senseless = ListOf({1});
  senseless.set_blob(0, 77);
  senseless.add_chunk(5);
  senseless.add_blobs("no digest");
  senseless.add_blob(1);
  BurstProfile other;
  other.Add("a", senseless, kRoom, now);
  EXPECT_EQ(other.size(), 0U);
  other.Restore(senseless);
  EXPECT_LE(other.size(), 1U);
}

}  // namespace
}  // namespace banyan::tree_manager
