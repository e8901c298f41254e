// Many threads, a source that fails, lies and forgets, a store with hardly any room: every byte read is right, every
// read ends.
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <thread>

#include "common/file_io.h"
#include "fetch/scheduler.h"
#include "fetch/testing/fake_store.h"
#include "fetch/testing/test_layer.h"

namespace banyan::fetch {
namespace {

using namespace std::chrono_literals;
using testing::FakeStoredLayer;
using testing::TestLayer;

// Answers on threads of its own, in time, late, wrongly or never.
class UnreliableSource final : public ChunkSource, public std::enable_shared_from_this<UnreliableSource> {
 public:
  UnreliableSource(const TestLayer& layer, ThreadTimer& timer, uint32_t fail_percent)
      : layer_(layer), timer_(timer), fail_percent_(fail_percent) {}

  void Fetch(ChunkRequest request, OnChunk on_chunk) override {
    const uint64_t draw = next_.fetch_add(0x9e3779b97f4a7c15U);
    if (draw % 100 < fail_percent_ / 4) return;  // lost
    timer_.At(Clock::now() + std::chrono::microseconds(draw % 3000),
              [self = shared_from_this(), request = std::move(request), on_chunk = std::move(on_chunk), draw] {
                self->Answer(request, on_chunk, draw);
              });
  }
  std::string_view name() const override { return "unreliable"; }

 private:
  void Answer(const ChunkRequest& request, const OnChunk& on_chunk, uint64_t draw) const {
    std::mt19937_64 random(draw);
    for (ChunkIndex chunk = request.chunks.begin; chunk < request.chunks.end; ++chunk) {
      auto bytes = layer_.Compressed(chunk);
      const uint64_t fate = random() % 100;
      if (fate < fail_percent_ / 2) {
        on_chunk(chunk, Fail(fate % 2 == 0 ? Code::kUnavailable : Code::kDeadlineExceeded, "unlucky"));
        continue;
      }
      if (fate < fail_percent_) bytes[random() % bytes.size()] ^= std::byte{1};
      on_chunk(chunk, std::move(bytes));
    }
  }

  const TestLayer& layer_;
  ThreadTimer& timer_;
  const uint32_t fail_percent_;
  std::atomic<uint64_t> next_ = 12345;
};

// Waits for reads to end, and checks them.
class Checker {
 public:
  explicit Checker(const TestLayer& layer) : layer_(layer) {}

  void Read(LazyLayer& lazy, ByteRange range, bool may_be_cancelled) {
    {
      const std::lock_guard lock(mutex_);
      ++outstanding_;
    }
    lazy.Read(range, [this, range, may_be_cancelled](Result<ReadView> view) {
      Check(range, view, may_be_cancelled);
      const std::lock_guard lock(mutex_);
      if (--outstanding_ == 0) ended_.notify_all();
    });
  }
  bool WaitAll() {
    std::unique_lock lock(mutex_);
    return ended_.wait_for(lock, 100s, [this] { return outstanding_ == 0; });
  }

 private:
  void Check(ByteRange range, const Result<ReadView>& view, bool may_be_cancelled) {
    if (!view) {
      EXPECT_TRUE(may_be_cancelled && view.error().code == Code::kCancelled) << view.error().message;
      return;
    }
    std::vector<std::byte> bytes = view->memory;
    if (view->fd >= 0) {
      bytes.resize(view->length);
      EXPECT_TRUE(PreadFull(view->fd, bytes, view->offset, "device"));
    }
    EXPECT_TRUE(bytes == layer_.Blocks(range)) << "wrong bytes";
  }

  const TestLayer& layer_;
  std::mutex mutex_;
  std::condition_variable ended_;
  size_t outstanding_ = 0;  // guarded by mutex_
};

TEST(SchedulerStress, EveryByteIsRightAndEveryReadEnds) {
  std::vector<uint32_t> lengths;
  for (uint32_t i = 0; i < 120; ++i) lengths.push_back(1 + i * 7 % 16);
  const TestLayer test_layer = testing::MakeTestLayer(lengths);
  const uint64_t size = test_layer.blocks.size();

  ThreadTimer source_timer;
  ThreadPool pool(3);
  Scheduler scheduler({.executor = pool,
                       .prefetch_limits = {512 * kKiB, 128 * kKiB, 4},
                       .attempt_timeout = 150ms,
                       .stalled_after = 50ms});
  const auto roomy = std::make_shared<FakeStoredLayer>(test_layer);
  const auto tight = std::make_shared<FakeStoredLayer>(test_layer, size / 10);
  for (ChunkIndex chunk = 0; chunk < 120; chunk += 7) roomy->OfferCopy(chunk);
  const auto make_source = [&](uint32_t fail_percent) {
    return std::make_shared<UnreliableSource>(test_layer, source_timer, fail_percent);
  };
  auto source_a = make_source(20);
  auto source_b = make_source(10);
  auto source_c = make_source(10);
  auto filled = scheduler.AddLayer(roomy, source_a, {.fill = true});
  auto small = scheduler.AddLayer(tight, source_b);
  auto doomed = scheduler.AddLayer(std::make_shared<FakeStoredLayer>(test_layer), source_c);

  Checker checker(test_layer);
  std::vector<std::thread> readers;
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    readers.emplace_back([&, seed] {
      std::mt19937_64 random(seed);
      uint64_t at = 0;
      for (int i = 0; i < 150; ++i) {
        LazyLayer& layer = *(i % 3 == 0 ? filled : i % 3 == 1 ? small : doomed);
        at = random() % 4 == 0 ? random() % size : at;
        const uint64_t length = std::min<uint64_t>(1 + random() % (200 * kKiB), size - at);
        checker.Read(layer, {at, at + length}, &layer == doomed.get());
        at = at + length < size ? at + length : 0;
        if (i % 16 == 0) {
          scheduler.Prefetch(std::vector<Scheduler::PrefetchItem>{{filled, static_cast<ChunkIndex>(random() % 120)},
                                                                  {small, static_cast<ChunkIndex>(random() % 120)}});
        }
        if (i % 8 == 0) std::this_thread::sleep_for(1ms);
      }
    });
  }
  std::this_thread::sleep_for(20ms);
  scheduler.PauseFill();
  doomed->CancelAll();
  scheduler.ResumeFill();
  for (auto& reader : readers) reader.join();
  EXPECT_TRUE(checker.WaitAll());
  EXPECT_TRUE(scheduler.WaitIdle(100s));
  EXPECT_TRUE(roomy->complete());
  EXPECT_EQ(scheduler.stats().waiting_reads, 0U);
}

// Peers and readers of this node at once, in a layer that is being filled and decoded; some peers lose patience.
TEST(SchedulerStress, PeersAndReadersGetTheRightBytes) {
  std::vector<uint32_t> lengths;
  for (uint32_t i = 0; i < 120; ++i) lengths.push_back(1 + i * 7 % 16);
  const TestLayer test_layer = testing::MakeTestLayer(lengths);
  ThreadTimer source_timer;
  ThreadPool pool(3);
  Scheduler scheduler({.executor = pool,
                       .prefetch_limits = {512 * kKiB, 128 * kKiB, 4},
                       .attempt_timeout = 150ms,
                       .stalled_after = 50ms,
                       .keep_compressed = true});
  const auto stored = std::make_shared<FakeStoredLayer>(test_layer);
  for (ChunkIndex chunk = 0; chunk < 120; chunk += 7) stored->OfferCopy(chunk);
  auto layer = scheduler.AddLayer(stored, std::make_shared<UnreliableSource>(test_layer, source_timer, 20),
                                  {.fill = true, .lanes = {.lanes = 2, .of = std::vector<uint8_t>(60, 1)}});
  const auto relay = Scheduler::RelayOf(layer);

  Checker checker(test_layer);
  std::atomic<int> relayed = 0;
  std::vector<std::thread> threads;
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    threads.emplace_back([&, seed] {
      std::mt19937_64 random(seed);
      for (int i = 0; i < 200; ++i) {
        const auto chunk = static_cast<ChunkIndex>(random() % 120);
        if (seed % 2 == 0) {
          checker.Read(*layer, test_layer.device->chunks[chunk].device_range(), false);
        } else {
          const ReadId id =
              relay->ReadCompressed(chunk, Priority(random() % 3), [&, chunk](Result<CompressedView> view) {
                ASSERT_TRUE(view) << view.error().message;
                std::vector<std::byte> bytes(view->length);
                if (view->fd < 0) bytes = *view->memory;
                EXPECT_TRUE(view->fd < 0 || PreadFull(view->fd, bytes, view->offset, "blob"));
                EXPECT_TRUE(bytes == test_layer.Compressed(chunk));
                ++relayed;
              });
          if (i % 5 == 0) relay->Forget(id);
        }
        if (i % 8 == 0) std::this_thread::sleep_for(1ms);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_TRUE(checker.WaitAll());
  EXPECT_TRUE(scheduler.WaitIdle(100s));
  EXPECT_TRUE(stored->complete());
  EXPECT_GE(relayed, 2 * 160);
  EXPECT_EQ(scheduler.stats().waiting_relays, 0U);
  EXPECT_EQ(scheduler.stats().chunks_in_flight, 0U);
}

TEST(SchedulerStress, EndsInTheMiddleOfEverything) {
  const TestLayer test_layer = testing::MakeTestLayer(std::vector<uint32_t>(64, 8));
  ThreadTimer source_timer;
  for (int round = 0; round < 20; ++round) {
    ThreadPool pool(2);
    Checker checker(test_layer);
    const auto source = std::make_shared<UnreliableSource>(test_layer, source_timer, 10);
    auto scheduler = std::make_unique<Scheduler>(Scheduler::Options{.executor = pool, .attempt_timeout = 50ms});
    auto layer = scheduler->AddLayer(std::make_shared<FakeStoredLayer>(test_layer), source, {.fill = true});
    for (uint64_t chunk = 0; chunk < 64; ++chunk) {
      checker.Read(*layer, {chunk * 8 * kBlockBytes, (chunk + 1) * 8 * kBlockBytes}, true);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(round * 200));
    if (round % 2 == 0) layer.reset();
    scheduler.reset();
    EXPECT_TRUE(checker.WaitAll());
    std::this_thread::sleep_for(4ms);  // the source's last answers
  }
}

}  // namespace
}  // namespace banyan::fetch
