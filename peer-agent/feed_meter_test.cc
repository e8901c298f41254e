#include "peer-agent/feed_meter.h"

#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "peer-agent/start_report.h"

namespace banyan::peer_agent {
namespace {

using namespace std::chrono_literals;
using fetch::Priority;
using proto::tree::Feed;

TEST(FeedMeterTest, RatesAreMeansSinceTheLastBeat) {
  const auto now = FeedMeter::Clock::now();
  FeedMeter meter(now);
  meter.Count("f", 1, "parent", Priority::kDemand, 600);
  meter.Count("f", 1, "parent", Priority::kDemand, 400);
  meter.Count("f", 1, "parent", Priority::kFill, 100);
  meter.Count("f", 0, "registry", Priority::kPrefetch, 50);
  meter.Count("", 0, "parent", Priority::kDemand, 50);
  const auto feeds = meter.Take(now + 2s);
  ASSERT_EQ(feeds.size(), 2U);
  EXPECT_EQ(feeds[0].from(), Feed::ORIGIN);
  EXPECT_EQ(feeds[0].prefetch(), 25U);
  EXPECT_EQ(feeds[1].stripe(), 1U);
  EXPECT_EQ(feeds[1].from(), Feed::PARENT);
  EXPECT_EQ(feeds[1].demand(), 500U);
  EXPECT_EQ(feeds[1].fill(), 50U);
  EXPECT_TRUE(meter.Take(now + 3s).empty());
}

TEST(FeedMeterTest, WhatIsKeptHasABound) {
  const auto now = FeedMeter::Clock::now();
  FeedMeter meter(now);
  for (uint32_t i = 0; i < 2 * FeedMeter::kMaxFeeds; ++i) meter.Count("f", i, "spare", Priority::kDemand, 1);
  EXPECT_EQ(meter.Take(now + 1s).size(), FeedMeter::kMaxFeeds);
}

// Answers at once: the first chunk from the parent, the second not at all.
class TwoChunks final : public fetch::ChunkSource {
 public:
  void Fetch(fetch::ChunkRequest request, fetch::OnChunk on_chunk) override {
    fetch::ChunkBytes bytes(std::vector<std::byte>(100));
    bytes.from = "parent";
    on_chunk(request.chunks.begin, std::move(bytes));
    on_chunk(request.chunks.begin + 1, Fail(Code::kUnavailable, "no"));
  }
  std::string_view name() const override { return "two"; }
};

TEST(FeedMeterTest, OnlyGoodChunksCount) {
  const auto now = FeedMeter::Clock::now();
  const auto meter = std::make_shared<FeedMeter>(now);
  MeteredSource source(std::make_shared<TwoChunks>(), meter, [](const Digest& /*blob*/) { return std::string("f"); });
  fetch::ChunkRequest request;
  request.device = std::make_shared<image_format::Device>();
  request.priority = Priority::kPrefetch;
  request.lane = 1;
  int answers = 0;
  source.Fetch(std::move(request), [&](ChunkIndex, const Result<fetch::ChunkBytes>&) { ++answers; });
  EXPECT_EQ(answers, 2);
  const auto feeds = meter->Take(now + 1s);
  ASSERT_EQ(feeds.size(), 1U);
  EXPECT_EQ(feeds[0].prefetch(), 100U);
  EXPECT_EQ(feeds[0].stripe(), 1U);
}

proto::agent::Start Started() {
  proto::agent::Start start;
  start.set_manifest_digest("sha256:1");
  start.set_began_unix_micros(5);
  start.set_resolved(10);
  start.set_mounted(30);
  start.set_prepared(20);
  return start;
}

TEST(StartReportTest, StagesBeginWhereTheLatestEnded) {
  const auto report = ReportOf(Started());
  ASSERT_EQ(report.stages_size(), 3);
  EXPECT_EQ(report.stages(1).name(), "mount");
  EXPECT_EQ(report.stages(1).begin(), 10U);
  EXPECT_EQ(report.stages(2).name(), "container");
  EXPECT_EQ(report.stages(2).begin(), 20U);
  EXPECT_EQ(report.stages(2).end(), 20U);
}

TEST(StartReportTest, AStartIsToldAgainOnlyWhenItHasGoneOn) {
  StartReports reports;
  const auto now = StartReports::Clock::now();
  EXPECT_FALSE(reports.Following(now));
  reports.Begun(now);
  EXPECT_TRUE(reports.Following(now + 60s));
  EXPECT_FALSE(reports.Following(now + 121s));
  proto::agent::Start start = Started();
  EXPECT_EQ(reports.Take({start}).size(), 1U);
  EXPECT_EQ(reports.Take({start}).size(), 0U);
  start.set_first_read(40);
  const auto again = reports.Take({start});
  ASSERT_EQ(again.size(), 1U);
  EXPECT_EQ(again[0].stages_size(), 4);
}

}  // namespace
}  // namespace banyan::peer_agent
