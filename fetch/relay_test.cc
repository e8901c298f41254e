// Chunks for peers: the compressed form first, one flight with this node's own reads, decoding only for those.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "common/file_io.h"
#include "fetch/scheduler.h"
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
using testing::MakeTestLayer;
using testing::TestLayer;

template <typename View>
struct Outcome {
  std::optional<Result<View>> answer;
  ReadId id = 0;
};
using RelayOutcome = std::shared_ptr<Outcome<CompressedView>>;
using ReadOutcome = std::shared_ptr<Outcome<ReadView>>;

class RelayTest : public ::testing::Test {
 protected:
  RelayTest() { Start({}); }

  void Start(Scheduler::AddOptions add, bool keep_compressed = true) {
    relay_.reset();
    layer_.reset();
    scheduler_ = std::make_unique<Scheduler>(Scheduler::Options{.executor = executor_,
                                                                .timer = &timer_,
                                                                .read_ahead_bytes = 0,
                                                                .keep_compressed = keep_compressed,
                                                                .jitter_seed = 7});
    stored_ = std::make_shared<FakeStoredLayer>(test_layer_);
    source_ = std::make_shared<FakeSource>(test_layer_);
    layer_ = scheduler_->AddLayer(stored_, source_, std::move(add));
    relay_ = Scheduler::RelayOf(layer_);
  }

  RelayOutcome Relay(ChunkIndex chunk, Priority priority = Priority::kPrefetch) {
    auto outcome = std::make_shared<Outcome<CompressedView>>();
    outcome->id = relay_->ReadCompressed(chunk, priority, [outcome](Result<CompressedView> answer) {
      EXPECT_FALSE(outcome->answer) << "answered twice";
      outcome->answer = std::move(answer);
    });
    return outcome;
  }
  ReadOutcome Read(ChunkIndex chunk) {
    auto outcome = std::make_shared<Outcome<ReadView>>();
    outcome->id = layer_->Read(test_layer_.device->chunks[chunk].device_range(), [outcome](Result<ReadView> answer) {
      EXPECT_FALSE(outcome->answer) << "answered twice";
      outcome->answer = std::move(answer);
    });
    return outcome;
  }
  void ExpectRelayed(const Outcome<CompressedView>& outcome, ChunkIndex chunk) {
    ASSERT_TRUE(outcome.answer);
    ASSERT_TRUE(*outcome.answer) << outcome.answer->error().message;
    const CompressedView& view = **outcome.answer;
    std::vector<std::byte> bytes(view.length);
    if (view.fd < 0) {
      bytes = *view.memory;
    } else {
      ASSERT_TRUE(PreadFull(view.fd, bytes, view.offset, "blob"));
      EXPECT_EQ(view.offset, test_layer_.device->chunks[chunk].compressed_offset);
    }
    EXPECT_TRUE(bytes == test_layer_.Compressed(chunk));
  }
  void ExpectRead(const Outcome<ReadView>& outcome, ChunkIndex chunk) {
    ASSERT_TRUE(outcome.answer);
    ASSERT_TRUE(*outcome.answer) << outcome.answer->error().message;
    const ReadView& view = **outcome.answer;
    std::vector<std::byte> bytes = view.memory;
    if (view.fd >= 0) {
      bytes.resize(view.length);
      ASSERT_TRUE(PreadFull(view.fd, bytes, view.offset, "device"));
    }
    EXPECT_TRUE(bytes == test_layer_.Blocks(test_layer_.device->chunks[chunk].device_range()));
  }
  void AnswerHeld() {
    for (const auto& asked : source_->TakeHeld()) source_->Answer(asked);
  }

  InlineExecutor executor_;
  FakeTimer timer_;
  TestLayer test_layer_ = MakeTestLayer(std::vector<uint32_t>(16, 4));
  std::shared_ptr<FakeStoredLayer> stored_;
  std::shared_ptr<FakeSource> source_;
  std::unique_ptr<Scheduler> scheduler_;
  std::shared_ptr<LazyLayer> layer_;
  std::shared_ptr<RelayLayer> relay_;
};

TEST_F(RelayTest, AChunkIsRelayedFromTheStoreAndNotDecoded) {
  EXPECT_EQ(relay_->StateOf(3), ChunkState::kAbsent);
  source_->Hold(true);
  const auto first = Relay(3);
  EXPECT_EQ(relay_->StateOf(3), ChunkState::kComing);
  AnswerHeld();
  ExpectRelayed(*first, 3);
  EXPECT_GE((**first->answer).fd, 0);
  EXPECT_EQ(relay_->StateOf(3), ChunkState::kHere);
  EXPECT_FALSE(stored_->Has(3));
  const auto again = Relay(3);
  ExpectRelayed(*again, 3);
  EXPECT_EQ(source_->requests().size(), 1U);
  EXPECT_TRUE(scheduler_->FirstTouches(*layer_).empty());
  ExpectRead(*Read(3), 3);
  EXPECT_EQ(source_->requests().size(), 1U) << "decoded from the store";
  EXPECT_TRUE(stored_->Has(3));
  EXPECT_EQ(&relay_->device(), &stored_->device());
}

TEST_F(RelayTest, PeersAndReadersShareOneFlightAndItIsAsUrgentAsTheMostUrgent) {
  source_->Hold(true);
  const auto fill = Relay(3, Priority::kFill);
  const auto reader = Read(3);
  const auto demand = Relay(3, Priority::kDemand);
  const auto other = Relay(4, Priority::kDemand);
  EXPECT_EQ(source_->requests().size(), 2U);
  EXPECT_EQ(scheduler_->stats().waiting_relays, 3U);
  EXPECT_EQ(scheduler_->stats().waiting_reads, 1U);
  EXPECT_EQ(scheduler_->StatsOf(*layer_).waiting_reads, 1U);
  AnswerHeld();
  ExpectRelayed(*fill, 3);
  ExpectRelayed(*demand, 3);
  ExpectRead(*reader, 3);
  ExpectRelayed(*other, 4);
  EXPECT_FALSE(stored_->Has(4));
  EXPECT_EQ(stored_->puts(), 1U);
  EXPECT_EQ(scheduler_->stats().chunks_in_flight, 0U);
}

TEST_F(RelayTest, APeersDemandOvertakesPrefetch) {
  source_->Hold(true);
  std::vector<Scheduler::PrefetchItem> items;
  for (ChunkIndex chunk = 0; chunk < 4; ++chunk) items.push_back({layer_, chunk});
  const auto demand = Relay(9, Priority::kDemand);
  scheduler_->Prefetch(items);
  const auto fill = Relay(12, Priority::kFill);
  const auto requests = source_->requests();
  ASSERT_EQ(requests.size(), 2U) << "fill waits";
  EXPECT_EQ(requests[0].priority, Priority::kDemand);
  EXPECT_EQ(requests[1].priority, Priority::kPrefetch);
  AnswerHeld();
  EXPECT_EQ(source_->requests().back().priority, Priority::kFill);
  AnswerHeld();
  ExpectRelayed(*fill, 12);
  EXPECT_TRUE(stored_->Has(3)) << "the profile's chunks are decoded";
}

TEST_F(RelayTest, WhereOnlyBlocksAreTheChunkIsFetchedAgain) {
  stored_->OfferCopy(5);
  ExpectRead(*Read(5), 5);
  EXPECT_TRUE(source_->requests().empty());
  EXPECT_EQ(relay_->StateOf(5), ChunkState::kAbsent);
  ExpectRelayed(*Relay(5), 5);
  EXPECT_EQ(source_->requests().size(), 1U);
}

TEST_F(RelayTest, WhatAnotherLayerHasCompressedIsNotFetched) {
  stored_->OfferCompressedCopy(5);
  stored_->OfferCompressedCopy(6);
  ExpectRelayed(*Relay(5), 5);
  EXPECT_EQ(relay_->StateOf(5), ChunkState::kHere);
  ExpectRead(*Read(6), 6);
  EXPECT_TRUE(source_->requests().empty());
}

TEST_F(RelayTest, AReaderThatIsServedFromAnotherLayerDoesNotKeepAPeerFromItsChunk) {
  stored_->OfferCopy(5);
  scheduler_->Prefetch(std::vector<Scheduler::PrefetchItem>{{layer_, 5}});
  EXPECT_TRUE(source_->requests().empty());
  stored_->OfferCopy(6);
  source_->Hold(true);
  Read(9);
  const auto relayed = Relay(6);
  const auto reader = Read(6);
  AnswerHeld();
  ExpectRelayed(*relayed, 6);
  ExpectRead(*reader, 6);
}

TEST_F(RelayTest, WithoutRoomOrWithoutKeepingItComesFromMemory) {
  stored_->SetRoomForCompressed(false);
  const auto outcome = Relay(3);
  ExpectRelayed(*outcome, 3);
  EXPECT_EQ((**outcome->answer).fd, -1);
  Start({}, false);
  source_->Hold(true);
  const auto reader = Read(3);
  const auto relayed = Relay(3);
  AnswerHeld();
  ExpectRelayed(*relayed, 3);
  ExpectRead(*reader, 3);
  EXPECT_FALSE(stored_->HasCompressed(3));
}

TEST_F(RelayTest, WrongBytesAreNeitherStoredNorRelayed) {
  int bad = 2;
  source_->SetAnswerer([&](const ChunkRequest&, ChunkIndex chunk) -> Result<ChunkBytes> {
    auto bytes = test_layer_.Compressed(chunk);
    if (bad-- > 0) bytes[4] ^= std::byte{2};
    return bytes;
  });
  const auto outcome = Relay(3);
  EXPECT_FALSE(outcome->answer);
  EXPECT_FALSE(stored_->HasCompressed(3));
  timer_.Advance(10s);
  ExpectRelayed(*outcome, 3);
  EXPECT_EQ(scheduler_->stats().sources.at("fake").bad_chunks, 2U);
}

TEST_F(RelayTest, WhoIsForgottenIsNotAnswered) {
  source_->Hold(true);
  Read(0);
  const auto stays = Relay(3);
  const auto goes = Relay(3);
  const auto queued = Relay(7, Priority::kFill);
  relay_->Forget(goes->id);
  relay_->Forget(queued->id);
  relay_->Forget(12345);
  EXPECT_EQ(scheduler_->stats().waiting_relays, 1U);
  source_->Hold(false);
  AnswerHeld();
  ExpectRelayed(*stays, 3);
  EXPECT_FALSE(goes->answer);
  EXPECT_FALSE(queued->answer);
  EXPECT_FALSE(stored_->HasCompressed(7)) << "it was queued for nobody else";
  EXPECT_TRUE(scheduler_->WaitIdle(0ms));
}

TEST_F(RelayTest, FailsAfterTheTimeoutAndWhenTheLayerGoes) {
  const auto none = Relay(99);
  EXPECT_EQ(none->answer->error().code, Code::kInvalidArgument);
  source_->SetAnswerer(
      [](const ChunkRequest&, ChunkIndex) -> Result<ChunkBytes> { return Fail(Code::kUnavailable, "down"); });
  const auto late = Relay(3);
  timer_.Advance(5min + 1s);
  ASSERT_TRUE(late->answer);
  EXPECT_EQ(late->answer->error().code, Code::kUnavailable);
  EXPECT_EQ(scheduler_->stats().hung_reads, 0U);
  EXPECT_EQ(scheduler_->stats().reads_failed, 0U);
  const auto cancelled = Relay(4);
  layer_->CancelAll();
  EXPECT_EQ(cancelled->answer->error().code, Code::kCancelled);
  EXPECT_EQ(Relay(4)->answer->error().code, Code::kCancelled);
}

TEST_F(RelayTest, TheRelayKeepsItsLayer) {
  source_->Hold(true);
  layer_.reset();
  const auto outcome = Relay(2);
  AnswerHeld();
  ExpectRelayed(*outcome, 2);
  EXPECT_EQ(Scheduler::RelayOf(nullptr), nullptr);
}

TEST_F(RelayTest, FillBringsCompressedChunksAndDecodesThemWhenNothingElseIsWanted) {
  source_->Hold(true);
  const auto blocking = Read(3);
  Scheduler::AddOptions add;
  add.fill = true;
  auto stored = std::make_shared<FakeStoredLayer>(test_layer_);
  auto source = std::make_shared<FakeSource>(test_layer_);
  source->Hold(true);
  auto filled = scheduler_->AddLayer(stored, source, add);
  AnswerHeld();
  for (int i = 0; i < 20; ++i) {
    const auto held = source->TakeHeld();
    if (held.empty()) break;
    const auto more = Read(static_cast<ChunkIndex>(4 + i));  // demand on the other layer: no decoding meanwhile
    for (const auto& asked : held) source->Answer(asked);
    EXPECT_EQ(stored->present_bytes(), 0U);
    AnswerHeld();
  }
  EXPECT_EQ(stored->compressed_bytes_present(), test_layer_.blob.size());
  EXPECT_TRUE(stored->complete());
  EXPECT_TRUE(scheduler_->WaitIdle(0ms));
  const auto progress = Scheduler::ProgressOf(*filled);
  EXPECT_EQ(progress.bytes, test_layer_.blob.size());
  EXPECT_EQ(progress.missing_bytes + progress.undecoded_bytes, 0U);
}

TEST_F(RelayTest, PausedFillDoesNotDecode) {
  scheduler_->PauseFill();
  for (ChunkIndex chunk = 0; chunk < 16; ++chunk) Relay(chunk);
  Scheduler::AddOptions add;
  add.fill = true;
  auto again = scheduler_->AddLayer(stored_, source_, add);
  EXPECT_EQ(stored_->present_bytes(), 0U);
  EXPECT_TRUE(scheduler_->WaitIdle(0ms));
  scheduler_->ResumeFill();
  EXPECT_TRUE(stored_->complete());
  for (const auto& request : source_->requests()) EXPECT_NE(request.priority, Priority::kFill);
}

TEST_F(RelayTest, WithoutRoomForBlocksDecodingEnds) {
  auto full = std::make_shared<FakeStoredLayer>(test_layer_, 0);
  Scheduler::AddOptions add;
  add.fill = true;
  auto layer = scheduler_->AddLayer(full, source_, add);
  EXPECT_TRUE(scheduler_->WaitIdle(0ms));
  EXPECT_EQ(full->compressed_bytes_present(), test_layer_.blob.size());
}

TEST_F(RelayTest, APreheatFetchesAndDoesNotDecode) {
  std::vector<Scheduler::PrefetchItem> items;
  for (ChunkIndex chunk = 0; chunk < 16; ++chunk) items.push_back({layer_, chunk, true});
  scheduler_->Prefetch(items);
  EXPECT_TRUE(scheduler_->WaitIdle(0ms));
  EXPECT_EQ(stored_->present_bytes(), 0U);
  const auto progress = Scheduler::ProgressOf(*layer_);
  EXPECT_EQ(progress.missing_bytes, 0U);
  EXPECT_EQ(progress.undecoded_bytes, test_layer_.blob.size());
  const size_t asked = source_->requests().size();
  scheduler_->Prefetch(items);
  EXPECT_EQ(source_->requests().size(), asked);
  scheduler_->Prefetch(std::vector<Scheduler::PrefetchItem>{{layer_, 2}});
  EXPECT_TRUE(stored_->Has(2));
  EXPECT_EQ(source_->requests().size(), asked);
}

TEST_F(RelayTest, RequestsCarryTheirLane) {
  Scheduler::AddOptions add;
  add.lanes.lanes = 2;
  for (ChunkIndex chunk = 0; chunk < 16; ++chunk) add.lanes.of.push_back(chunk / 8);
  Start(std::move(add));
  source_->Hold(true);
  for (ChunkIndex chunk = 0; chunk < 16; ++chunk) Relay(chunk, Priority::kDemand);
  for (const auto& request : source_->requests()) EXPECT_EQ(request.lane, request.chunks.begin / 8);
  EXPECT_EQ(source_->requests().back().lane, 1);
}

TEST_F(RelayTest, WhoGaveAChunkIsCounted) {
  source_->SetAnswerer([&](const ChunkRequest& request, ChunkIndex chunk) -> Result<ChunkBytes> {
    request.on_way_failed("parent", true);
    ChunkBytes bytes = test_layer_.Compressed(chunk);
    bytes.from = "spare";
    return bytes;
  });
  ExpectRelayed(*Relay(1), 1);
  ExpectRead(*Read(2), 2);
  const auto sources = scheduler_->stats().sources;
  EXPECT_EQ(sources.at("spare").chunks, 2U);
  EXPECT_EQ(sources.at("parent").bad_chunks, 2U);
  EXPECT_EQ(sources.at("fake").chunks, 0U);
  EXPECT_EQ(scheduler_->StatsOf(*layer_).sources.at("spare").chunks, 2U);
}

}  // namespace
}  // namespace banyan::fetch
