#include "fetch/request_planner.h"

#include <gtest/gtest.h>

namespace banyan::fetch {
namespace {

constexpr std::array<ClassLimits, kClasses> kLimits{{{10'000, 4'000, 8}, {6'000, 4'000, 4}, {2'000, 1'000, 2}}};

class RequestPlannerTest : public ::testing::Test {
 protected:
  RequestPlannerTest() {
    for (uint32_t i = 0; i < 100; ++i) EXPECT_TRUE(table_.Append(1000, 16, Digest(), Digest()));
    planner_.AddLayer(1, table_);
    planner_.AddLayer(2, table_);
  }
  void Queue(LayerId layer, ChunkRange chunks, Priority priority) {
    for (ChunkIndex chunk = chunks.begin; chunk < chunks.end; ++chunk) planner_.Enqueue(layer, chunk, priority);
  }
  void Answer(const PlannedRequest& request) {
    for (uint32_t i = 0; i < request.chunks.size(); ++i) planner_.ChunkDone(request.id, 1000);
  }

  image_format::ChunkTable table_;
  RequestPlanner planner_{kLimits};
};

TEST_F(RequestPlannerTest, JoinsAdjacentChunksOfOneClassOnBothSides) {
  planner_.Enqueue(1, 5, Priority::kDemand);
  planner_.Enqueue(1, 4, Priority::kDemand);
  planner_.Enqueue(1, 6, Priority::kDemand);
  planner_.Enqueue(1, 7, Priority::kPrefetch);
  const auto request = planner_.Next();
  ASSERT_TRUE(request);
  EXPECT_EQ(request->chunks, (ChunkRange{4, 7}));
  EXPECT_EQ(request->bytes, 3000U);
  EXPECT_EQ(planner_.Next()->chunks, (ChunkRange{7, 8}));
  EXPECT_FALSE(planner_.Next());
}

TEST_F(RequestPlannerTest, ARequestHasAtMostItsBytes) {
  Queue(1, {0, 20}, Priority::kDemand);
  EXPECT_EQ(planner_.Next()->chunks, (ChunkRange{0, 4}));
  EXPECT_EQ(planner_.Next()->chunks, (ChunkRange{4, 8}));
  EXPECT_EQ(planner_.Next()->chunks, (ChunkRange{8, 10})) << "what the window leaves";
  EXPECT_FALSE(planner_.Next());
}

TEST_F(RequestPlannerTest, ALayersDemandWindowIsItsOwn) {
  Queue(1, {0, 50}, Priority::kDemand);
  while (planner_.Next()) {
  }
  Queue(2, {0, 1}, Priority::kDemand);
  const auto request = planner_.Next();
  ASSERT_TRUE(request);
  EXPECT_EQ(request->layer, 2U);
}

TEST_F(RequestPlannerTest, DemandBeforePrefetchBeforeFill) {
  Queue(1, {80, 82}, Priority::kFill);
  Queue(1, {40, 42}, Priority::kPrefetch);
  Queue(2, {0, 2}, Priority::kDemand);
  const auto demand = planner_.Next();
  EXPECT_EQ(demand->priority, Priority::kDemand);
  const auto prefetch = planner_.Next();
  EXPECT_EQ(prefetch->priority, Priority::kPrefetch);
  EXPECT_FALSE(planner_.Next()) << "fill only when nothing else is in flight";
  Answer(*demand);
  EXPECT_FALSE(planner_.Next());
  Answer(*prefetch);
  EXPECT_EQ(planner_.Next()->priority, Priority::kFill);
}

TEST_F(RequestPlannerTest, PrefetchWaitsWhileDemandIsQueuedUnlessThatHasStalled) {
  Queue(1, {0, 20}, Priority::kDemand);
  Queue(2, {40, 42}, Priority::kPrefetch);
  std::vector<PlannedRequest> demand;
  while (auto request = planner_.Next()) demand.push_back(*request);
  ASSERT_EQ(demand.size(), 3U);
  for (const auto& request : demand) {
    EXPECT_EQ(request.priority, Priority::kDemand);
    planner_.SetStalled(request.id, true);
  }
  EXPECT_EQ(planner_.Next()->priority, Priority::kPrefetch);
  planner_.SetStalled(demand[0].id, false);
  Queue(2, {50, 51}, Priority::kPrefetch);
  EXPECT_FALSE(planner_.Next());
}

TEST_F(RequestPlannerTest, AStalledLayerSendsNoMorePrefetchAndFreesTheWindow) {
  Queue(1, {0, 10}, Priority::kPrefetch);
  const auto first = planner_.Next();
  const auto second = planner_.Next();
  Queue(2, {0, 1}, Priority::kPrefetch);
  EXPECT_FALSE(planner_.Next()) << "6,000 bytes are in flight";
  planner_.SetStalled(first->id, true);
  planner_.SetStalled(second->id, true);
  const auto other = planner_.Next();
  ASSERT_TRUE(other);
  EXPECT_EQ(other->layer, 2U);
  EXPECT_FALSE(planner_.Next());
}

TEST_F(RequestPlannerTest, TwoSingleChunksMayAlwaysFly) {
  RequestPlanner planner({{{1, 1, 1}, {1, 1, 1}, {1, 1, 1}}});
  planner.AddLayer(1, table_);
  for (ChunkIndex chunk : {3U, 4U, 5U}) planner.Enqueue(1, chunk, Priority::kPrefetch);
  EXPECT_EQ(planner.Next()->chunks, (ChunkRange{3, 4}));
  const auto second = planner.Next();
  EXPECT_EQ(second->chunks, (ChunkRange{4, 5}));
  EXPECT_FALSE(planner.Next());
  planner.ChunkDone(second->id, 1000);
  EXPECT_EQ(planner.Next()->chunks, (ChunkRange{5, 6}));
}

TEST_F(RequestPlannerTest, PausedFillStaysQueued) {
  planner_.set_fill_paused(true);
  Queue(1, {0, 1}, Priority::kFill);
  EXPECT_FALSE(planner_.Next());
  planner_.set_fill_paused(false);
  EXPECT_TRUE(planner_.Next());
}

TEST_F(RequestPlannerTest, ForgettingALayerGivesItsWindowsBack) {
  Queue(1, {0, 10}, Priority::kPrefetch);
  while (planner_.Next()) {
  }
  planner_.RemoveLayer(1);
  EXPECT_EQ(planner_.requests_in_flight(), 0U);
  Queue(2, {0, 10}, Priority::kPrefetch);
  EXPECT_EQ(planner_.Next()->chunks, (ChunkRange{0, 4}));
}

}  // namespace
}  // namespace banyan::fetch
