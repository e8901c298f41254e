// The decorators, each over sources out of memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "fetch/forked_source.h"
#include "fetch/ladder_source.h"
#include "fetch/limited_source.h"
#include "fetch/metered_source.h"
#include "fetch/testing/fake_source.h"
#include "fetch/testing/fake_timer.h"
#include "fetch/testing/test_layer.h"
#include "fetch/verifying_source.h"

namespace banyan::fetch {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using testing::FakeSource;
using testing::FakeTimer;
using ::testing::HasSubstr;
using ::testing::Pair;
using testing::TestLayer;
using Answers = std::map<ChunkIndex, Result<ChunkBytes>>;

class SourcesTest : public ::testing::Test {
 protected:
  std::shared_ptr<Answers> Ask(ChunkSource& source, ChunkRange chunks,
                               Clock::time_point deadline = Clock::time_point::max()) {
    auto answers = std::make_shared<Answers>();
    source.Fetch({.device = layer_.device, .chunks = chunks, .priority = Priority::kDemand, .deadline = deadline},
                 [answers](ChunkIndex chunk, Result<ChunkBytes> answer) {
                   EXPECT_TRUE(answers->emplace(chunk, std::move(answer)).second) << "answered twice";
                 });
    return answers;
  }
  void ExpectGood(const Answers& answers, ChunkRange chunks) {
    ASSERT_EQ(answers.size(), chunks.size());
    for (const auto& [chunk, answer] : answers) {
      ASSERT_TRUE(answer) << answer.error().message;
      EXPECT_EQ(*answer, layer_.Compressed(chunk));
    }
  }
  // Right bytes but for `chunk`, which has one bit wrong.
  FakeSource::Answerer FlipBitIn(ChunkIndex bad) {
    return [this, bad](const ChunkRequest&, ChunkIndex chunk) -> Result<ChunkBytes> {
      auto bytes = layer_.Compressed(chunk);
      if (chunk == bad) bytes.back() ^= std::byte{4};
      return bytes;
    };
  }
  static Result<ChunkBytes> Down(const ChunkRequest&, ChunkIndex) { return Fail(Code::kUnavailable, "down"); }

  TestLayer layer_ = testing::MakeTestLayer(std::vector<uint32_t>(8, 4));
  FakeTimer timer_;
  std::shared_ptr<FakeSource> first_ = std::make_shared<FakeSource>(layer_, "first");
  std::shared_ptr<FakeSource> second_ = std::make_shared<FakeSource>(layer_, "second");
};

TEST_F(SourcesTest, VerifyingPassesGoodBytesAndNamesWhoSentBadOnes) {
  VerifyingSource source(first_);
  ExpectGood(*Ask(source, {0, 8}), {0, 8});
  first_->SetAnswerer(FlipBitIn(3));
  const auto answers = Ask(source, {2, 5});
  EXPECT_TRUE(answers->at(2));
  EXPECT_TRUE(answers->at(4));
  ASSERT_FALSE(answers->at(3));
  EXPECT_EQ(answers->at(3).error().code, Code::kDataLoss);
  EXPECT_THAT(answers->at(3).error().message, HasSubstr("chunk 3 of layer sha256:"));
  EXPECT_THAT(answers->at(3).error().message, HasSubstr("first"));
}

TEST_F(SourcesTest, ForkedAsksTheOtherSourceForItsChunksUnlessSomebodyWaits) {
  ForkedSource source(first_, second_, [](ChunkIndex chunk) { return chunk == 2 || chunk == 3 || chunk == 7; });
  const auto answers = std::make_shared<Answers>();
  const auto ask = [&](Priority priority) {
    source.Fetch({.device = layer_.device, .chunks = {1, 8}, .priority = priority},
                 [answers](ChunkIndex chunk, Result<ChunkBytes> answer) {
                   EXPECT_TRUE(answers->emplace(chunk, std::move(answer)).second) << "answered twice";
                 });
    ExpectGood(*answers, {1, 8});
    answers->clear();
  };
  const auto asked = [](const FakeSource& of) {
    std::vector<std::pair<ChunkIndex, ChunkIndex>> ranges;
    for (const ChunkRequest& request : of.requests()) ranges.emplace_back(request.chunks.begin, request.chunks.end);
    return ranges;
  };
  ask(Priority::kPrefetch);
  EXPECT_THAT(asked(*first_), ElementsAre(Pair(1, 2), Pair(4, 7)));
  EXPECT_THAT(asked(*second_), ElementsAre(Pair(2, 4), Pair(7, 8)));
  ask(Priority::kDemand);
  EXPECT_THAT(asked(*first_), ElementsAre(Pair(1, 2), Pair(4, 7), Pair(1, 8)));
}

TEST_F(SourcesTest, MeteredCounts) {
  const auto counters = std::make_shared<CounterTable>();
  MeteredSource source(std::make_shared<VerifyingSource>(first_), counters);
  Ask(source, {0, 2});
  first_->SetAnswerer(FlipBitIn(3));
  Ask(source, {3, 4});
  const SourceCounters row = counters->snapshot().at("first");
  EXPECT_EQ(row.requests, 2U);
  EXPECT_EQ(row.chunks, 2U);
  EXPECT_EQ(row.compressed_bytes, layer_.device->chunks[2].compressed_offset);
  EXPECT_EQ(row.compressed_bytes_by_class[0], row.compressed_bytes);
  EXPECT_EQ(row.failed_chunks, 1U);
  EXPECT_EQ(row.bad_chunks, 1U);
}

TEST_F(SourcesTest, LadderAsksTheNextRungForWhatIsMissingOnly) {
  LadderSource ladder({first_, second_}, timer_);
  first_->SetAnswerer([this](const ChunkRequest& request, ChunkIndex chunk) -> Result<ChunkBytes> {
    return chunk == 1 || chunk == 2 || chunk == 6 ? Down(request, chunk) : layer_.Compressed(chunk);
  });
  ExpectGood(*Ask(ladder, {0, 8}), {0, 8});
  ASSERT_EQ(second_->requests().size(), 2U);
  EXPECT_EQ(second_->requests()[0].chunks, (ChunkRange{1, 3}));
  EXPECT_EQ(second_->requests()[1].chunks, (ChunkRange{6, 7}));
}

TEST_F(SourcesTest, LadderGivesTheLastRungsError) {
  LadderSource ladder({first_, second_}, timer_);
  first_->SetAnswerer(Down);
  second_->SetAnswerer(
      [](const ChunkRequest&, ChunkIndex) -> Result<ChunkBytes> { return Fail(Code::kNotFound, "none"); });
  const auto answers = Ask(ladder, {0, 2});
  ASSERT_EQ(answers->size(), 2U);
  EXPECT_EQ(answers->at(1).error().code, Code::kNotFound);
}

TEST_F(SourcesTest, LadderAvoidsALiarForAWhile) {
  LadderSource ladder({std::make_shared<VerifyingSource>(first_), second_}, timer_);
  first_->SetAnswerer(FlipBitIn(0));
  ExpectGood(*Ask(ladder, {0, 1}), {0, 1});
  ExpectGood(*Ask(ladder, {1, 2}), {1, 2});
  EXPECT_EQ(first_->requests().size(), 1U);
  second_->SetAnswerer(Down);
  ExpectGood(*Ask(ladder, {1, 2}), {1, 2});
  EXPECT_EQ(first_->requests().size(), 2U) << "last, but asked";
  timer_.Advance(61s);
  second_->SetAnswerer(nullptr);
  ExpectGood(*Ask(ladder, {1, 2}), {1, 2});
  EXPECT_EQ(first_->requests().size(), 3U);
}

TEST_F(SourcesTest, LadderSharesTheTimeAmongItsRungs) {
  LadderSource ladder({first_, second_}, timer_);
  first_->SetAnswerer(Down);
  Ask(ladder, {0, 1}, timer_.Now() + 10s);
  EXPECT_EQ(first_->requests()[0].deadline, timer_.Now() + 5s);
  EXPECT_EQ(second_->requests()[0].deadline, timer_.Now() + 10s);
}

TEST_F(SourcesTest, ALadderThatGoesAnswersWhatIsOutstanding) {
  auto ladder = std::make_unique<LadderSource>(std::vector<std::shared_ptr<ChunkSource>>{first_, second_}, timer_);
  first_->Hold(true);
  const auto answers = Ask(*ladder, {0, 3});
  ladder.reset();
  for (const auto& asked : first_->TakeHeld()) FakeSource::AnswerAll(asked, Fail(Code::kUnavailable, "down"));
  EXPECT_EQ(answers->size(), 3U);
  EXPECT_TRUE(second_->requests().empty());
}

TEST_F(SourcesTest, ALimitHoldsBackBulkAndNotDemand) {
  FakeTimer timer;
  const auto& chunks = layer_.device->chunks;
  const uint64_t chunk_bytes = chunks[0].compressed_bytes;
  const auto limit = std::make_shared<RateLimit>(chunk_bytes * 4);  // a quarter of a second's worth is one chunk
  auto source = std::make_unique<LimitedSource>(first_, limit, timer);
  std::vector<ChunkIndex> came;
  const auto ask = [&](ChunkIndex chunk, Priority priority) {
    source->Fetch({.device = layer_.device, .chunks = {chunk, chunk + 1}, .priority = priority},
                  [&](ChunkIndex index, const Result<ChunkBytes>& answer) {
                    EXPECT_TRUE(answer || answer.error().code == Code::kCancelled);
                    if (answer) came.push_back(index);
                  });
  };
  for (ChunkIndex chunk = 0; chunk < 6; ++chunk) ask(chunk, Priority::kFill);
  EXPECT_EQ(came, (std::vector<ChunkIndex>{0, 1})) << "the bucket, and what may begin when it is empty";
  ask(7, Priority::kDemand);
  EXPECT_EQ(came.back(), 7U);
  timer.Advance(500ms + 1ms);
  EXPECT_EQ(came.size(), 5U);
  source.reset();
  EXPECT_EQ(came.size(), 5U);
  EXPECT_EQ(timer.waiting(), 0U);
}

}  // namespace
}  // namespace banyan::fetch
