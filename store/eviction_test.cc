#include "store/eviction.h"

#include <gtest/gtest.h>

namespace banyan::store {
namespace {

std::vector<size_t> Ids(const std::vector<Victim>& victims) {
  std::vector<size_t> ids;
  for (const Victim& victim : victims) ids.push_back(victim.id);
  return ids;
}

TEST(EvictionTest, GoesByTierThenByPriority) {
  const Candidate candidates[] = {
      {0, Tier::kMountedChunks, 100, 0}, {1, Tier::kUnmounted, 100, 5},  {2, Tier::kUnmounted, 100, 3},
      {3, Tier::kRelayCopies, 100, 9},   {4, Tier::kSmallBlobs, 100, 1},
  };
  EXPECT_EQ(Ids(PlanEviction(candidates, 500, 500)), (std::vector<size_t>{3, 2, 1, 4, 0}));
  EXPECT_EQ(Ids(PlanEviction(candidates, 50, 50)), std::vector<size_t>{3});
  EXPECT_EQ(Ids(PlanEviction(candidates, 250, 250)), (std::vector<size_t>{3, 2, 1}));
}

TEST(EvictionTest, TakesDevicesWholeAndCopiesAsNeeded) {
  const Candidate candidates[] = {
      {0, Tier::kRelayCopies, 100, 0}, {1, Tier::kUnmounted, 100, 0}, {2, Tier::kMountedChunks, 100, 0}};
  EXPECT_EQ(PlanEviction(candidates, 30, 30).at(0).bytes, 30U);
  EXPECT_EQ(PlanEviction(candidates, 130, 130).at(1).bytes, 100U);
  EXPECT_EQ(PlanEviction(candidates, 230, 230).at(2).bytes, 30U);
}

TEST(EvictionTest, SparesMountedDevicesTheSlack) {
  const Candidate candidates[] = {
      {0, Tier::kUnmounted, 100, 0}, {1, Tier::kUnmounted, 100, 1}, {2, Tier::kMountedChunks, 100, 0}};
  EXPECT_EQ(Ids(PlanEviction(candidates, 100, 300)), (std::vector<size_t>{0, 1}));
  EXPECT_EQ(PlanEviction(candidates, 210, 300).at(2).bytes, 10U);
}

TEST(EvictionTest, TakesNothingWhenAllWouldNotDo) {
  const Candidate candidates[] = {{0, Tier::kUnmounted, 100, 0}, {1, Tier::kRelayCopies, 0, 0}};
  EXPECT_TRUE(PlanEviction(candidates, 101, 101).empty());
  EXPECT_TRUE(PlanEviction({}, 1, 1).empty());
}

TEST(EvictionTest, UseAgeAndSizeCount) {
  constexpr uint64_t kSize = 10 << 20;
  EXPECT_GT(EvictionPriority(0, 3, kSize), EvictionPriority(0, 2, kSize));
  EXPECT_GT(EvictionPriority(7, 2, kSize), EvictionPriority(0, 2, kSize));
  EXPECT_GT(EvictionPriority(0, 2, kSize), EvictionPriority(0, 2, 10 * kSize));
  // What was used often, but long ago, falls behind what is used now.
  EXPECT_GT(EvictionPriority(50, 1, kSize), EvictionPriority(0, 20, kSize));
}

}  // namespace
}  // namespace banyan::store
