#include "fetch/flight_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <random>

#include "fetch/backoff.h"

namespace banyan::fetch {
namespace {

using namespace std::chrono_literals;
using ::testing::UnorderedElementsAre;

class FlightTableTest : public ::testing::Test {
 protected:
  FlightTableTest() {
    for (uint32_t i = 0; i < 50; ++i) EXPECT_TRUE(chunks_.Append(1000, 16, Digest(), Digest()));
    table_.AddLayer(1, chunks_);
  }

  image_format::ChunkTable chunks_;
  FlightTable table_{{.limits = {{{100'000, 4'000, 64}, {8'000, 4'000, 4}, {2'000, 1'000, 2}}},
                      .attempt_timeout = 10s,
                      .stalled_after = 2s,
                      .salt = 3}};
  Clock::time_point now_{1h};
};

TEST_F(FlightTableTest, ReadersJoinAndAreGivenBackOnce) {
  table_.Want({1, 5}, Priority::kDemand, 11);
  table_.Want({1, 5}, Priority::kDemand, 12);
  const auto request = table_.Next(now_);
  ASSERT_TRUE(request);
  EXPECT_FALSE(table_.Next(now_));
  table_.Want({1, 5}, Priority::kDemand, 13);
  EXPECT_TRUE(table_.Arrived(request->id, {1, 5}, now_));
  EXPECT_FALSE(table_.Arrived(request->id, {1, 5}, now_)) << "it is being decoded";
  table_.Want({1, 5}, Priority::kDemand, 14);
  EXPECT_THAT(table_.Finish({1, 5}), UnorderedElementsAre(11, 12, 13, 14));
  EXPECT_TRUE(table_.Finish({1, 5}).empty());
  EXPECT_EQ(table_.flights(Priority::kDemand), 0U);
  EXPECT_EQ(table_.next_event(), Clock::time_point::max());
}

TEST_F(FlightTableTest, WhatFailsTogetherIsRetriedTogether) {
  for (ChunkIndex chunk : {3U, 4U, 5U}) table_.Want({1, chunk}, Priority::kDemand, 11);
  const auto request = table_.Next(now_);
  for (ChunkIndex chunk : {3U, 4U, 5U}) {
    table_.Failed(request->id, {1, chunk}, {Code::kUnavailable, "down"}, now_ + std::chrono::microseconds(chunk));
  }
  EXPECT_FALSE(table_.Next(now_));
  const auto retry = table_.next_event();
  EXPECT_GT(retry, now_);
  EXPECT_LE(retry, now_ + 70ms);
  table_.Tick(retry);
  EXPECT_EQ(table_.Next(retry)->chunks, (ChunkRange{3, 6}));
  EXPECT_EQ(table_.retries(), 3U);
  EXPECT_EQ(table_.LastError({1, 4})->message, "down");
}

TEST_F(FlightTableTest, AFailureOfAGivenUpRequestDoesNotTouchItsSuccessor) {
  table_.Want({1, 3}, Priority::kDemand, 11);
  const auto first = table_.Next(now_);
  now_ += 12s;
  table_.Tick(now_);
  now_ += 1s;
  table_.Tick(now_);
  const auto second = table_.Next(now_);
  ASSERT_TRUE(second);
  table_.Failed(first->id, {1, 3}, {Code::kUnavailable, "late"}, now_);
  EXPECT_FALSE(table_.Next(now_ + 1h));
  // The first one's bytes after all, and they are bad; then the second's come.
  EXPECT_TRUE(table_.Arrived(first->id, {1, 3}, now_));
  table_.Failed(second->id, {1, 3}, {Code::kUnavailable, "while decoding"}, now_);
  table_.Rejected({1, 3}, {Code::kDataLoss, "bad"}, now_);
  EXPECT_EQ(table_.LastError({1, 3})->message, "bad");
  table_.Tick(now_ + 1s);
  const auto third = table_.Next(now_ + 1s);
  ASSERT_TRUE(third);
  EXPECT_TRUE(table_.Arrived(third->id, {1, 3}, now_));
  EXPECT_THAT(table_.Finish({1, 3}), UnorderedElementsAre(11));
}

TEST_F(FlightTableTest, AReaderRaisesWhatWaitsAndNotWhatIsSent) {
  table_.Want({1, 3}, Priority::kFill, 0);
  table_.Want({1, 9}, Priority::kFill, 0);
  EXPECT_EQ(table_.Next(now_)->chunks, (ChunkRange{3, 4}));
  EXPECT_EQ(table_.Next(now_)->chunks, (ChunkRange{9, 10}));
  table_.Want({1, 20}, Priority::kFill, 0);
  table_.Want({1, 3}, Priority::kDemand, 11);
  EXPECT_FALSE(table_.Next(now_));
  table_.Want({1, 20}, Priority::kDemand, 12);
  const auto raised = table_.Next(now_);
  ASSERT_TRUE(raised);
  EXPECT_EQ(raised->priority, Priority::kDemand);
  EXPECT_EQ(raised->chunks, (ChunkRange{20, 21}));
}

TEST_F(FlightTableTest, AFlightWithoutReadersIsDroppedUnlessFillWantsIt) {
  table_.Want({1, 3}, Priority::kDemand, 11);
  table_.Want({1, 20}, Priority::kDemand, 11);
  table_.Want({1, 20}, Priority::kFill, 0);
  while (const auto request = table_.Next(now_)) {
    table_.Failed(request->id, {1, request->chunks.begin}, {Code::kUnavailable, "down"}, now_);
  }
  table_.Leave({1, 3}, 11);
  table_.Leave({1, 20}, 11);
  EXPECT_EQ(table_.flights(Priority::kDemand), 1U);
  table_.Tick(now_ + 1s);
  const auto again = table_.Next(now_ + 1s);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->chunks, (ChunkRange{20, 21}));
  table_.Failed(again->id, {1, 20}, {Code::kUnavailable, "down"}, now_);
  EXPECT_EQ(table_.flights(Priority::kDemand), 0U);
  EXPECT_EQ(table_.flights(Priority::kFill), 1U);
}

TEST_F(FlightTableTest, RemovingALayerForgetsEverything) {
  for (ChunkIndex chunk = 0; chunk < 30; ++chunk) table_.Want({1, chunk}, Priority(chunk % 3), chunk % 3 == 0 ? 11 : 0);
  const auto request = table_.Next(now_);
  table_.Failed(table_.Next(now_)->id, {1, 3}, {Code::kUnavailable, "down"}, now_);
  table_.RemoveLayer(1);
  EXPECT_EQ(table_.next_event(), Clock::time_point::max());
  EXPECT_FALSE(table_.Arrived(request->id, {1, 0}, now_));
  table_.Failed(request->id, {1, 0}, {Code::kUnavailable, "late"}, now_);
  table_.Want({1, 4}, Priority::kDemand, 12);
  EXPECT_FALSE(table_.Next(now_));
  for (Priority priority : {Priority::kDemand, Priority::kPrefetch, Priority::kFill}) {
    EXPECT_EQ(table_.flights(priority), 0U);
  }
}

// Whatever the order of answers, failures, deadlines and wishes: every wanted chunk ends, every reader is answered
// once, and nothing is left behind.
TEST_F(FlightTableTest, RandomLivesEndWell) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    std::mt19937_64 random(seed);
    FlightTable table({.limits = {{{6'000, 3'000, 4}, {4'000, 2'000, 3}, {2'000, 1'000, 2}}},
                       .attempt_timeout = 1s,
                       .stalled_after = 200ms,
                       .salt = seed});
    table.AddLayer(1, chunks_);
    std::deque<std::pair<RequestId, ChunkIndex>> answers;
    std::vector<ChunkIndex> decoding;
    std::map<ReadId, int> given_back;
    ReadId readers = 0;
    auto now = now_;
    for (int step = 0; step < 4000; ++step) {
      const bool busy = step < 2000;
      if (busy && random() % 3 == 0) {
        const auto priority = static_cast<Priority>(random() % 3);
        table.Want({1, static_cast<ChunkIndex>(random() % 50)}, priority,
                   priority == Priority::kDemand ? ++readers : 0);
      }
      while (const auto request = table.Next(now)) {
        for (ChunkIndex chunk = request->chunks.begin; chunk < request->chunks.end; ++chunk) {
          if (!busy || random() % 10 != 0)
            answers.emplace_back(request->id, chunk);  // else lost: its deadline will tell
        }
      }
      if (!answers.empty()) {
        std::swap(answers.front(), answers[random() % answers.size()]);
        const auto [request, chunk] = answers.front();
        answers.pop_front();
        if (busy && random() % 3 == 0) {
          table.Failed(request, {1, chunk}, {Code::kUnavailable, "down"}, now);
        } else if (table.Arrived(request, {1, chunk}, now)) {
          decoding.push_back(chunk);
        }
      }
      if (!decoding.empty() && random() % 2 == 0) {
        const ChunkIndex chunk = decoding.back();
        decoding.pop_back();
        if (busy && random() % 8 == 0) {
          table.Rejected({1, chunk}, {Code::kDataLoss, "bad"}, now);
        } else {
          for (ReadId reader : table.Finish({1, chunk})) ++given_back[reader];
        }
      }
      now += std::chrono::milliseconds(random() % 40);
      table.Tick(now);
    }
    EXPECT_EQ(given_back.size(), readers) << "seed " << seed;
    for (const auto& [reader, times] : given_back) EXPECT_EQ(times, 1);
    EXPECT_EQ(table.flights(Priority::kDemand) + table.flights(Priority::kPrefetch) + table.flights(Priority::kFill),
              0U)
        << "seed " << seed;
    EXPECT_EQ(table.requests(), 0U);
    EXPECT_EQ(table.next_event(), Clock::time_point::max());
  }
}

TEST(Backoff, DoublesToItsLimitAndIsLongerForARefusal) {
  for (uint64_t salt = 0; salt < 100; ++salt) {
    EXPECT_GE(BackoffDelay(1, Code::kUnavailable, salt), 25ms);
    EXPECT_LT(BackoffDelay(1, Code::kUnavailable, salt), 50ms);
    EXPECT_GE(BackoffDelay(3, Code::kUnavailable, salt), 100ms);
    EXPECT_LT(BackoffDelay(1000, Code::kUnavailable, salt), 5s);
    EXPECT_GE(BackoffDelay(1000, Code::kNotFound, salt), 15s);
    EXPECT_GE(BackoffDelay(1, Code::kUnauthenticated, salt), 500ms);
  }
  EXPECT_NE(BackoffDelay(9, Code::kUnavailable, 1), BackoffDelay(9, Code::kUnavailable, 2));
}

TEST_F(FlightTableTest, AFlightEndsWhenEveryFormThatIsWantedIsHere) {
  table_.Want({1, 5}, Priority::kPrefetch, 11, kCompressedForm);
  const auto request = table_.Next(now_);
  ASSERT_TRUE(request);
  table_.Want({1, 5}, Priority::kDemand, 12);
  EXPECT_EQ(table_.FormsOf({1, 5}), kBlockForm | kCompressedForm);
  ASSERT_TRUE(table_.Arrived(request->id, {1, 5}, now_));
  EXPECT_THAT(table_.TakeReaders({1, 5}, kCompressedForm), UnorderedElementsAre(11));
  EXPECT_TRUE(table_.Wanted({1, 5}));
  EXPECT_THAT(table_.Finish({1, 5}, kBlockForm), UnorderedElementsAre(12));
  EXPECT_FALSE(table_.Wanted({1, 5}));
}

TEST_F(FlightTableTest, AChunkThatCameInAnotherFormIsAskedForAgain) {
  table_.Want({1, 5}, Priority::kPrefetch, 11, kCompressedForm);
  table_.Want({1, 5}, Priority::kPrefetch, 0, kBlockForm);
  const auto request = table_.Next(now_);
  ASSERT_TRUE(table_.Arrived(request->id, {1, 5}, now_));
  EXPECT_TRUE(table_.Finish({1, 5}, kBlockForm).empty());
  EXPECT_EQ(table_.FormsOf({1, 5}), kCompressedForm);
  const auto again = table_.Next(now_);
  ASSERT_TRUE(again);
  ASSERT_TRUE(table_.Arrived(again->id, {1, 5}, now_));
  EXPECT_THAT(table_.Finish({1, 5}, kCompressedForm), UnorderedElementsAre(11));
  EXPECT_EQ(table_.flights(Priority::kPrefetch), 0U);
}

TEST_F(FlightTableTest, APeersAskThatIsForgottenIsDroppedWhateverItsClass) {
  for (Priority priority : {Priority::kDemand, Priority::kPrefetch, Priority::kFill}) {
    table_.Want({1, 3}, priority, 11, kCompressedForm);
    table_.Leave({1, 3}, 11);
    EXPECT_FALSE(table_.Wanted({1, 3}));
    // Sent already: it fails, and nobody tries again.
    table_.Want({1, 20}, priority, 11, kCompressedForm);
    const auto request = table_.Next(now_);
    ASSERT_TRUE(request);
    table_.Leave({1, 20}, 11);
    table_.Failed(request->id, {1, 20}, {Code::kUnavailable, "down"}, now_);
    EXPECT_EQ(table_.Wanted({1, 20}), priority == Priority::kPrefetch) << "that is tried thrice";
    table_.RemoveLayer(1);
    table_.AddLayer(1, chunks_);
  }
}

}  // namespace
}  // namespace banyan::fetch
