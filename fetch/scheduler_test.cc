#include "fetch/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "common/file_io.h"
#include "fetch/testing/fake_source.h"
#include "fetch/testing/fake_store.h"
#include "fetch/testing/fake_timer.h"
#include "fetch/testing/test_layer.h"

namespace banyan::fetch {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using testing::FakeSource;
using testing::FakeStoredLayer;
using testing::FakeTimer;
using ::testing::HasSubstr;
using testing::MakeTestLayer;
using testing::TestLayer;

// One read's outcome.
struct Outcome {
  std::optional<Result<ReadView>> answer;
  bool done() const { return answer.has_value(); }
};

std::shared_ptr<Outcome> StartRead(LazyLayer& layer, ByteRange range) {
  auto outcome = std::make_shared<Outcome>();
  layer.Read(range, [outcome](Result<ReadView> answer) {
    EXPECT_FALSE(outcome->done()) << "answered twice";
    outcome->answer = std::move(answer);
  });
  return outcome;
}

std::vector<std::byte> BytesOf(const ReadView& view) {
  if (view.fd < 0) return view.memory;
  std::vector<std::byte> bytes(view.length);
  EXPECT_TRUE(PreadFull(view.fd, bytes, view.offset, "device"));
  return bytes;
}

void ExpectBytes(const Outcome& outcome, const TestLayer& layer, ByteRange range) {
  ASSERT_TRUE(outcome.done());
  ASSERT_TRUE(*outcome.answer) << outcome.answer->error().message;
  EXPECT_TRUE(BytesOf(**outcome.answer) == layer.Blocks(range));
}

class SchedulerTest : public ::testing::Test {
 protected:
  SchedulerTest() : test_layer_(MakeTestLayer(std::vector<uint32_t>(16, 4))) {}

  // Tests that need other options or another layer call this again.
  void Start() { Start(Scheduler::Options{.executor = executor_, .read_ahead_bytes = 0, .jitter_seed = 7}); }
  void Start(Scheduler::Options options) {
    layer_.reset();
    scheduler_.reset();
    options.timer = &timer_;
    scheduler_ = std::make_unique<Scheduler>(options);
    stored_ = std::make_shared<FakeStoredLayer>(test_layer_, budget_);
    source_ = std::make_shared<FakeSource>(test_layer_);
    layer_ = scheduler_->AddLayer(stored_, source_);
  }
  ByteRange Chunks(ChunkIndex begin, ChunkIndex end) const {
    const auto& chunks = test_layer_.device->chunks;
    return {chunks[begin].device_range().begin, chunks[end - 1].device_range().end};
  }
  std::vector<ChunkRange> Requested() const {
    std::vector<ChunkRange> ranges;
    for (const auto& request : source_->requests()) ranges.push_back(request.chunks);
    return ranges;
  }
  void AnswerHeld() {
    for (const auto& asked : source_->TakeHeld()) source_->Answer(asked);
  }

  InlineExecutor executor_;
  FakeTimer timer_;
  TestLayer test_layer_;
  uint64_t budget_ = UINT64_MAX;
  std::shared_ptr<FakeStoredLayer> stored_;
  std::shared_ptr<FakeSource> source_;
  std::unique_ptr<Scheduler> scheduler_;
  std::shared_ptr<LazyLayer> layer_;
};

TEST_F(SchedulerTest, ReadsWhatIsMissingInOneRequestAndThenFromTheStore) {
  Start();
  const ByteRange range{5000, 5000 + 40000};  // chunks 0 to 2
  ExpectBytes(*StartRead(*layer_, range), test_layer_, range);
  EXPECT_THAT(Requested(), ElementsAre(ChunkRange{0, 3}));

  const auto again = StartRead(*layer_, range);
  ExpectBytes(*again, test_layer_, range);
  EXPECT_GE((**again->answer).fd, 0);
  EXPECT_EQ(source_->requests().size(), 1U);
  const auto stats = scheduler_->stats();
  EXPECT_EQ(stats.reads, 2U);
  EXPECT_EQ(stats.reads_at_once, 1U);
  EXPECT_EQ(stats.sources.at("fake").chunks, 3U);
  EXPECT_EQ(stats.sources.at("fake").requests, 1U);
  EXPECT_EQ(stats.sources.at("fake").compressed_bytes, test_layer_.device->chunks[3].compressed_offset);
}

TEST_F(SchedulerTest, RefusesRangesOutsideTheDevice) {
  Start();
  for (ByteRange range : {ByteRange{0, 0}, ByteRange{0, layer_->size_bytes() + 1}}) {
    const auto outcome = StartRead(*layer_, range);
    ASSERT_TRUE(outcome->done());
    EXPECT_EQ(outcome->answer->error().code, Code::kInvalidArgument);
  }
}

TEST_F(SchedulerTest, ReadersOfOneChunkShareOneFlight) {
  Start();
  source_->Hold(true);
  const auto first = StartRead(*layer_, {0, 100});
  const auto second = StartRead(*layer_, {50, 5000});
  const auto third = StartRead(*layer_, Chunks(0, 2));
  EXPECT_THAT(Requested(), ElementsAre(ChunkRange{0, 1}, ChunkRange{1, 2}));
  EXPECT_EQ(scheduler_->stats().waiting_reads, 3U);
  AnswerHeld();
  ExpectBytes(*first, test_layer_, {0, 100});
  ExpectBytes(*second, test_layer_, {50, 5000});
  ExpectBytes(*third, test_layer_, Chunks(0, 2));
  EXPECT_EQ(stored_->puts(), 2U);
}

TEST_F(SchedulerTest, CopiesFromAnotherLayerOrDecodesWhatTheStoreKeepsBeforeAskingTheSource) {
  Start();
  stored_->OfferCopy(0);
  stored_->SetCompressed(1, test_layer_.Compressed(1));
  ExpectBytes(*StartRead(*layer_, Chunks(0, 4)), test_layer_, Chunks(0, 4));
  EXPECT_THAT(Requested(), ElementsAre(ChunkRange{2, 4}));
  const auto stats = scheduler_->stats();
  EXPECT_EQ(stats.sources.at("reuse").chunks, 1U);
  EXPECT_EQ(stats.sources.at("store").chunks, 1U);
}

TEST_F(SchedulerTest, DropsABadCompressedCopyAndFetchesTheChunk) {
  Start();
  auto bad = test_layer_.Compressed(3);
  bad[bad.size() / 2] ^= std::byte{1};
  stored_->SetCompressed(3, bad);
  ExpectBytes(*StartRead(*layer_, Chunks(3, 4)), test_layer_, Chunks(3, 4));
  EXPECT_THAT(stored_->dropped(), ElementsAre(3U));
  EXPECT_THAT(Requested(), ElementsAre(ChunkRange{3, 4}));
}

TEST_F(SchedulerTest, ABadChunkIsNeverStoredAndIsFetchedAgain) {
  Start();
  int bad_answers = 2;
  source_->SetAnswerer([&](const ChunkRequest&, ChunkIndex chunk) -> Result<ChunkBytes> {
    auto bytes = test_layer_.Compressed(chunk);
    if (chunk == 1 && bad_answers-- > 0) bytes[7] ^= std::byte{0x10};
    return bytes;
  });
  const auto outcome = StartRead(*layer_, Chunks(0, 3));
  EXPECT_FALSE(outcome->done());
  EXPECT_FALSE(stored_->Has(1));
  timer_.Advance(10s);
  ExpectBytes(*outcome, test_layer_, Chunks(0, 3));
  EXPECT_EQ(scheduler_->stats().sources.at("fake").bad_chunks, 2U);
  EXPECT_EQ(scheduler_->stats().retries, 2U);
}

TEST_F(SchedulerTest, RetriesUntilTheSourceComesBack) {
  for (Code code : {Code::kUnavailable, Code::kNotFound, Code::kUnauthenticated, Code::kPermissionDenied}) {
    Start();
    source_->SetAnswerer([&](const ChunkRequest&, ChunkIndex) -> Result<ChunkBytes> { return Fail(code, "not now"); });
    const auto outcome = StartRead(*layer_, Chunks(2, 3));
    timer_.Advance(4min);
    EXPECT_FALSE(outcome->done());
    EXPECT_LT(source_->requests().size(), 120U);
    source_->SetAnswerer(nullptr);
    timer_.Advance(30s);
    ExpectBytes(*outcome, test_layer_, Chunks(2, 3));
  }
}

TEST_F(SchedulerTest, FailsWithTheLastErrorAfterTheReadTimeout) {
  Start();
  source_->SetAnswerer([](const ChunkRequest&, ChunkIndex) -> Result<ChunkBytes> {
    return Fail(Code::kUnavailable, "the registry answers 503");
  });
  const auto outcome = StartRead(*layer_, Chunks(2, 3));
  timer_.Advance(5min - 1ms);
  EXPECT_FALSE(outcome->done());
  EXPECT_EQ(scheduler_->stats().hung_reads, 1U);
  timer_.Advance(2ms);
  ASSERT_TRUE(outcome->done());
  EXPECT_EQ(outcome->answer->error().code, Code::kUnavailable);
  EXPECT_THAT(outcome->answer->error().message, HasSubstr("503"));
  EXPECT_THAT(outcome->answer->error().message, HasSubstr(test_layer_.device->blob_digest.Hex()));
  const auto stats = scheduler_->stats();
  EXPECT_EQ(stats.reads_failed, 1U);
  EXPECT_EQ(stats.waiting_reads, 0U);
  EXPECT_EQ(stats.chunks_in_flight, 0U);
  EXPECT_EQ(stats.longest_read, 5min);
  const size_t asked = source_->requests().size();
  timer_.Advance(10min);
  EXPECT_EQ(source_->requests().size(), asked) << "nobody wants the chunk any more";
}

TEST_F(SchedulerTest, GivesUpAStalledRequestAndTriesAgain) {
  Start();
  source_->Hold(true);
  const auto outcome = StartRead(*layer_, Chunks(0, 2));
  timer_.Advance(9s);
  EXPECT_EQ(source_->requests().size(), 1U);
  timer_.Advance(5s);
  EXPECT_EQ(source_->requests().size(), 2U);
  EXPECT_EQ(Requested()[1], (ChunkRange{0, 2}));
  source_->TakeHeld();
  source_->Hold(false);
  timer_.Advance(60s);
  ExpectBytes(*outcome, test_layer_, Chunks(0, 2));
}

TEST_F(SchedulerTest, TakesTheLateAnswerOfARequestThatWasGivenUp) {
  Start();
  source_->Hold(true);
  const auto outcome = StartRead(*layer_, Chunks(0, 1));
  const auto late = source_->TakeHeld();
  timer_.Advance(14s);
  source_->Answer(late.at(0));
  ExpectBytes(*outcome, test_layer_, Chunks(0, 1));
  for (const auto& asked : source_->TakeHeld()) {
    FakeSource::AnswerAll(asked, Fail(Code::kUnavailable, "too late"));
  }
  timer_.Advance(10min);
  EXPECT_EQ(scheduler_->stats().chunks_in_flight, 0U);
  EXPECT_EQ(stored_->puts(), 1U);
}

TEST_F(SchedulerTest, AFullStoreAnswersFromMemory) {
  budget_ = 0;
  Start();
  const ByteRange range{100, 50000};
  const auto outcome = StartRead(*layer_, range);
  ExpectBytes(*outcome, test_layer_, range);
  EXPECT_EQ((**outcome->answer).fd, -1);
  EXPECT_EQ(scheduler_->stats().reads_from_memory, 1U);
}

TEST_F(SchedulerTest, AReadLargerThanTheStoreMixesLeasesAndMemory) {
  budget_ = 4 * 4 * kBlockBytes;
  Start();
  const auto outcome = StartRead(*layer_, Chunks(0, 16));
  ExpectBytes(*outcome, test_layer_, Chunks(0, 16));
  EXPECT_EQ((**outcome->answer).fd, -1);
  ExpectBytes(*StartRead(*layer_, Chunks(8, 12)), test_layer_, Chunks(8, 12));
}

TEST_F(SchedulerTest, CancelAllAnswersAtOnceAndOthersGoOn) {
  Start();
  source_->Hold(true);
  auto other_source = std::make_shared<FakeSource>(test_layer_);
  auto other = scheduler_->AddLayer(std::make_shared<FakeStoredLayer>(test_layer_), other_source);
  std::vector<std::shared_ptr<Outcome>> stuck;
  for (int i = 0; i < 500; ++i) stuck.push_back(StartRead(*layer_, Chunks(i % 16, i % 16 + 1)));
  ExpectBytes(*StartRead(*other, Chunks(0, 16)), test_layer_, Chunks(0, 16));
  EXPECT_EQ(scheduler_->StatsOf(*layer_).waiting_reads, 500U);
  EXPECT_EQ(scheduler_->StatsOf(*other).waiting_reads, 0U);
  EXPECT_EQ(scheduler_->StatsOf(*other).sources.at("fake").chunks, 16U);
  EXPECT_EQ(scheduler_->StatsOf(*layer_).sources.at("fake").chunks, 0U);
  layer_->CancelAll();
  for (const auto& outcome : stuck) {
    ASSERT_TRUE(outcome->done());
    EXPECT_EQ(outcome->answer->error().code, Code::kCancelled);
  }
  AnswerHeld();
  const auto later = StartRead(*layer_, Chunks(0, 1));
  EXPECT_EQ(later->answer->error().code, Code::kCancelled);
  ExpectBytes(*StartRead(*other, Chunks(3, 9)), test_layer_, Chunks(3, 9));
  EXPECT_EQ(scheduler_->stats().waiting_reads, 0U);
}

TEST_F(SchedulerTest, ALayerOutlivesItsScheduler) {
  Start();
  source_->Hold(true);
  const auto waiting = StartRead(*layer_, Chunks(0, 1));
  const auto held = source_->TakeHeld();
  scheduler_.reset();
  EXPECT_EQ(waiting->answer->error().code, Code::kCancelled);
  source_->Answer(held.at(0));
  EXPECT_EQ(StartRead(*layer_, Chunks(0, 1))->answer->error().code, Code::kCancelled);
  EXPECT_EQ(source_.use_count(), 1);
}

TEST_F(SchedulerTest, PrefetchKeepsItsOrderAndADemandReaderOvertakesIt) {
  Scheduler::Options options{.executor = executor_, .read_ahead_bytes = 0, .jitter_seed = 7};
  options.prefetch_limits = {1, 1, 1};  // two requests of one chunk
  Start(options);
  source_->Hold(true);
  std::vector<Scheduler::PrefetchItem> items;
  for (ChunkIndex chunk : {9U, 4U, 6U, 2U}) items.push_back({layer_, chunk});
  items.push_back({layer_, 99});  // no such chunk
  scheduler_->Prefetch(items);
  EXPECT_THAT(Requested(), ElementsAre(ChunkRange{9, 10}, ChunkRange{4, 5}));
  const auto outcome = StartRead(*layer_, Chunks(2, 3));
  EXPECT_THAT(Requested(), ElementsAre(ChunkRange{9, 10}, ChunkRange{4, 5}, ChunkRange{2, 3}));
  EXPECT_EQ(source_->requests()[2].priority, Priority::kDemand);
  source_->Hold(false);
  AnswerHeld();
  ExpectBytes(*outcome, test_layer_, Chunks(2, 3));
  EXPECT_EQ(source_->requests().size(), 4U);
  EXPECT_TRUE(stored_->Has(6));
  EXPECT_TRUE(scheduler_->WaitIdle(0ms));
}

TEST_F(SchedulerTest, PrefetchThatFailsThriceIsLeftToItsReader) {
  Start();
  source_->SetAnswerer(
      [](const ChunkRequest&, ChunkIndex) -> Result<ChunkBytes> { return Fail(Code::kUnavailable, "no"); });
  scheduler_->Prefetch(std::vector<Scheduler::PrefetchItem>{{layer_, 5}});
  timer_.Advance(1min);
  EXPECT_EQ(source_->requests().size(), 3U);
  EXPECT_TRUE(scheduler_->WaitIdle(0ms));
}

TEST_F(SchedulerTest, FillBringsTheWholeLayerWhenNothingElseWantsTheLink) {
  Start();
  source_->Hold(true);
  const auto demand = StartRead(*layer_, Chunks(3, 4));
  auto other_source = std::make_shared<FakeSource>(test_layer_);
  auto other_stored = std::make_shared<FakeStoredLayer>(test_layer_);
  auto other = scheduler_->AddLayer(other_stored, other_source, {.fill = true});
  EXPECT_TRUE(other_source->requests().empty()) << "demand is in flight";
  bool idle = false;
  scheduler_->WhenIdle([&] { idle = true; });
  AnswerHeld();
  EXPECT_TRUE(other_stored->complete());
  EXPECT_TRUE(idle);
  for (const auto& request : other_source->requests()) EXPECT_EQ(request.priority, Priority::kFill);
  EXPECT_FALSE(stored_->complete());
}

TEST_F(SchedulerTest, AStalledReadDoesNotHoldBackFillForEver) {
  Start();
  source_->Hold(true);
  const auto stuck = StartRead(*layer_, Chunks(3, 4));
  auto other_stored = std::make_shared<FakeStoredLayer>(test_layer_);
  auto other = scheduler_->AddLayer(other_stored, std::make_shared<FakeSource>(test_layer_), {.fill = true});
  timer_.Advance(1900ms);
  EXPECT_EQ(other_stored->present_bytes(), 0U);
  timer_.Advance(200ms);
  EXPECT_TRUE(other_stored->complete());
  EXPECT_FALSE(stuck->done());
}

TEST_F(SchedulerTest, FillPausesAndResumes) {
  Start();
  scheduler_->PauseFill();
  auto stored = std::make_shared<FakeStoredLayer>(test_layer_);
  auto layer = scheduler_->AddLayer(stored, std::make_shared<FakeSource>(test_layer_), {.fill = true});
  EXPECT_EQ(stored->present_bytes(), 0U);
  EXPECT_TRUE(scheduler_->WaitIdle(0ms));
  scheduler_->ResumeFill();
  EXPECT_TRUE(stored->complete());
}

TEST_F(SchedulerTest, FillOutlivesAnOutageAndStopsWhenThereIsNoRoom) {
  Start();
  auto source = std::make_shared<FakeSource>(test_layer_);
  source->SetAnswerer(
      [](const ChunkRequest&, ChunkIndex) -> Result<ChunkBytes> { return Fail(Code::kUnavailable, "no"); });
  auto stored = std::make_shared<FakeStoredLayer>(test_layer_);
  auto layer = scheduler_->AddLayer(stored, source, {.fill = true});
  timer_.Advance(1h);
  EXPECT_FALSE(scheduler_->WaitIdle(0ms));
  source->SetAnswerer(nullptr);
  timer_.Advance(10s);
  EXPECT_TRUE(stored->complete());
  EXPECT_TRUE(scheduler_->WaitIdle(0ms));

  auto full = std::make_shared<FakeStoredLayer>(test_layer_, 0);
  auto unfilled = scheduler_->AddLayer(full, std::make_shared<FakeSource>(test_layer_), {.fill = true});
  EXPECT_TRUE(scheduler_->WaitIdle(0ms));
  EXPECT_EQ(full->present_bytes(), 0U);
}

TEST_F(SchedulerTest, KeepsCompressedBytesWhenAsked) {
  Start(Scheduler::Options{.executor = executor_, .read_ahead_bytes = 0, .keep_compressed = true});
  ExpectBytes(*StartRead(*layer_, Chunks(1, 2)), test_layer_, Chunks(1, 2));
  EXPECT_TRUE(stored_->HasCompressed(1));
}

TEST_F(SchedulerTest, RecordsFirstTouchesInOrder) {
  Start();
  StartRead(*layer_, Chunks(5, 6));
  timer_.Advance(1s);
  StartRead(*layer_, Chunks(4, 6));
  StartRead(*layer_, Chunks(0, 1));
  std::vector<ChunkIndex> order;
  for (const FirstTouch& touch : scheduler_->FirstTouches(*layer_)) order.push_back(touch.chunk);
  EXPECT_THAT(order, ElementsAre(5, 4, 0));
}

TEST_F(SchedulerTest, ASequentialReaderIsReadAheadOf) {
  test_layer_ = MakeTestLayer(std::vector<uint32_t>(64, 4));
  Start(Scheduler::Options{.executor = executor_, .jitter_seed = 7});
  for (ChunkIndex chunk = 0; chunk < 32; ++chunk) StartRead(*layer_, Chunks(chunk, chunk + 1));
  const auto ahead = StartRead(*layer_, Chunks(32, 40));
  ExpectBytes(*ahead, test_layer_, Chunks(32, 40));
  const auto fetched = scheduler_->stats().sources.at("fake");
  EXPECT_GT(fetched.compressed_bytes_by_class[1], 0U);
  EXPECT_LE(fetched.chunks, 60U) << "half as much again as was read";
}

TEST_F(SchedulerTest, WhatAProfileNamesIsFetchedAndNothingBesideIt) {
  test_layer_ = MakeTestLayer(std::vector<uint32_t>(64, 4));
  Start(Scheduler::Options{.executor = executor_, .jitter_seed = 7});
  std::vector<Scheduler::PrefetchItem> profile;
  for (ChunkIndex chunk = 8; chunk < 24; ++chunk) profile.push_back({layer_, chunk});
  scheduler_->Prefetch(profile);
  for (ChunkIndex chunk = 8; chunk < 23; ++chunk) StartRead(*layer_, Chunks(chunk, chunk + 1));
  const auto last = StartRead(*layer_, Chunks(23, 24));
  ExpectBytes(*last, test_layer_, Chunks(23, 24));
  ASSERT_TRUE(scheduler_->WaitIdle(10s));
  EXPECT_EQ(scheduler_->stats().sources.at("fake").chunks, 16U);
}

TEST_F(SchedulerTest, WhatIsBroughtInCompressedFormIsStillDecodedAhead) {
  test_layer_ = MakeTestLayer(std::vector<uint32_t>(64, 4));
  Start(Scheduler::Options{.executor = executor_, .keep_compressed = true, .jitter_seed = 7});
  std::vector<Scheduler::PrefetchItem> all;
  for (ChunkIndex chunk = 0; chunk < 64; ++chunk) all.push_back({layer_, chunk, true});
  scheduler_->Prefetch(all);
  ASSERT_TRUE(scheduler_->WaitIdle(10s));
  for (ChunkIndex chunk = 0; chunk < 8; ++chunk) {
    const auto read = StartRead(*layer_, Chunks(chunk, chunk + 1));
    ExpectBytes(*read, test_layer_, Chunks(chunk, chunk + 1));
  }
  ASSERT_TRUE(scheduler_->WaitIdle(10s));
  EXPECT_TRUE(stored_->Has(8));
  EXPECT_EQ(scheduler_->stats().sources.at("fake").chunks, 64U);
}

}  // namespace
}  // namespace banyan::fetch
