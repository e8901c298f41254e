#include "fetch/request_planner.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

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

// Chunks in runs of ten, on two lanes by turns.
class LanesTest : public RequestPlannerTest {
 protected:
  LanesTest() {
    for (uint32_t i = 0; i < 100; ++i) plan_.of.push_back(i / 10 % 2);
    plan_.lanes = 2;
    planner_.AddLayer(3, table_, plan_);
  }
  std::vector<PlannedRequest> All() {
    std::vector<PlannedRequest> requests;
    while (auto request = planner_.Next()) requests.push_back(*request);
    return requests;
  }
  static uint64_t BytesOf(const std::vector<PlannedRequest>& requests, uint8_t lane) {
    uint64_t bytes = 0;
    for (const auto& request : requests) bytes += request.lane == lane ? request.bytes : 0;
    return bytes;
  }

  LanePlan plan_;
};

TEST_F(LanesTest, EachLaneHasItsWindowAndNoRequestCrossesLanes) {
  Queue(3, {0, 100}, Priority::kPrefetch);
  const auto requests = All();
  EXPECT_EQ(BytesOf(requests, 0), 6000U);
  EXPECT_EQ(BytesOf(requests, 1), 6000U);
  for (const auto& request : requests) {
    for (ChunkIndex chunk = request.chunks.begin; chunk < request.chunks.end; ++chunk) {
      EXPECT_EQ(plan_.of[chunk], request.lane);
    }
  }
}

TEST_F(LanesTest, ASlowLaneDoesNotBlockTheOtherWhichTakesItsTail) {
  Queue(3, {0, 40}, Priority::kPrefetch);  // lane 1's are 10 to 19 and 30 to 39
  auto requests = All();
  std::vector<ChunkRange> stolen;
  for (size_t i = 0; i < requests.size(); ++i) {
    if (requests[i].lane != 0) continue;  // lane 1 never answers
    Answer(requests[i]);
    for (const auto& next : All()) {
      ASSERT_EQ(next.lane, 0);
      if (plan_.of[next.chunks.begin] == 1) stolen.push_back(next.chunks);
      requests.push_back(next);
    }
  }
  ASSERT_FALSE(stolen.empty());
  EXPECT_EQ(stolen.front().end, 40U) << "the tail first";
  EXPECT_EQ(BytesOf(requests, 1), 6000U);
  EXPECT_EQ(planner_.queued(Priority::kPrefetch), 6U) << "the owner's next window is left to it";
  for (const auto& request : requests) {
    if (request.lane == 1) planner_.SetStalled(request.id, true);
  }
  for (const auto& request : All()) {
    Answer(request);
    requests.push_back(request);
  }
  EXPECT_EQ(planner_.queued(Priority::kPrefetch), 0U) << "unless it has stalled";
  EXPECT_EQ(BytesOf(requests, 0), 34000U);
}

TEST_F(LanesTest, NothingIsStolenWhileTheOwnerHasRoom) {
  Queue(3, {10, 14}, Priority::kPrefetch);
  const auto requests = All();
  ASSERT_EQ(requests.size(), 1U);
  EXPECT_EQ(requests[0].lane, 1);
}

TEST_F(LanesTest, DemandOfOneLaneHoldsBackBulkOfBothAndOfEveryLayer) {
  Queue(3, {0, 10}, Priority::kDemand);
  Queue(3, {20, 30}, Priority::kDemand);  // more than lane 0's window
  const auto demand = All();
  EXPECT_EQ(BytesOf(demand, 0), 10000U);
  EXPECT_EQ(BytesOf(demand, 1), 10000U) << "demand takes the idle lane";
  Queue(3, {40, 42}, Priority::kDemand);
  Queue(3, {12, 14}, Priority::kPrefetch);
  Queue(2, {0, 2}, Priority::kPrefetch);
  Queue(2, {5, 6}, Priority::kFill);
  EXPECT_TRUE(All().empty());
  for (const auto& request : demand) Answer(request);
  const auto rest = All();
  ASSERT_EQ(rest.size(), 3U);
  EXPECT_EQ(rest[0].priority, Priority::kDemand);
  for (const auto& request : rest) EXPECT_NE(request.priority, Priority::kFill);
}

TEST_F(LanesTest, AStalledLaneLeavesTheOtherGoing) {
  Queue(3, {10, 14}, Priority::kFill);
  const auto stuck = All();
  ASSERT_EQ(stuck.size(), 2U) << "of a chunk each, on lane 1";
  for (const auto& request : stuck) planner_.SetStalled(request.id, true);
  const auto taken = All();
  ASSERT_EQ(taken.size(), 2U) << "what lane 1 had queued";
  for (const auto& request : taken) Answer(request);
  Queue(3, {0, 2}, Priority::kFill);
  const auto more = All();
  ASSERT_FALSE(more.empty());
  for (const auto& request : more) EXPECT_EQ(request.lane, 0);
}

TEST_F(LanesTest, GroupsHaveWindowsOfTheirOwn) {
  LanePlan other = plan_;
  other.group = 7;
  planner_.AddLayer(4, table_, other);
  Queue(3, {0, 10}, Priority::kPrefetch);
  Queue(4, {0, 10}, Priority::kPrefetch);
  std::map<LayerId, uint64_t> bytes;
  for (const auto& request : All()) bytes[request.layer] += request.lane == 0 ? request.bytes : 0;
  EXPECT_EQ(bytes.at(3), 6000U);
  EXPECT_EQ(bytes.at(4), 6000U);
  planner_.RemoveLayer(4);
  planner_.RemoveLayer(3);
  EXPECT_EQ(planner_.requests_in_flight(), 0U);
}

}  // namespace
}  // namespace banyan::fetch
