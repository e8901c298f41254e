// The wiring of the scheduler: the flight table (what to do) under one mutex, and the threads that do it.
//
// Whatever changes the table ends in Pump(), which takes out what may be sent and posts it. The mutex is never held
// while a source, the store, the timer, the executor or a completion is called. What these call back with holds the
// core weakly, so that a late answer after the scheduler's end finds nobody; sources are let go only on the threads of
// callers and of the executor, never on a source's own.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <unordered_map>
#include <vector>

#include "common/mutex.h"
#include "fetch/flight_table.h"
#include "fetch/pending_read.h"
#include "fetch/priority_tasks.h"
#include "fetch/read_ahead.h"
#include "fetch/scheduler.h"

namespace banyan::fetch {

// Internally synchronised.
class SchedulerCore : public std::enable_shared_from_this<SchedulerCore> {
 public:
  struct Layer {
    Layer(LayerId id_in, std::shared_ptr<store::StoredLayer> stored_in, uint64_t read_ahead_bytes)
        : id(id_in),
          stored(std::move(stored_in)),
          touches(stored->device().chunks.size()),
          read_ahead(read_ahead_bytes) {}

    const LayerId id;
    const std::shared_ptr<store::StoredLayer> stored;
    std::atomic<bool> cancelled = false;
    CounterTable counters;

    Mutex demand_mutex;
    TouchLog touches BANYAN_GUARDED_BY(demand_mutex);
    ReadAhead read_ahead BANYAN_GUARDED_BY(demand_mutex);

    // Guarded by the core's mutex.
    std::shared_ptr<ChunkSource> source;
    std::set<ReadId> reads;
    size_t relays = 0;           // of `reads`, those for peers
    ChunkIndex next_fill = 0;    // fill has asked for all before
    ChunkIndex next_decode = 0;  // fill has decoded all before
  };
  using LayerPtr = std::shared_ptr<Layer>;

  SchedulerCore(const Scheduler::Options& options, std::shared_ptr<Timer> timer);

  struct WantedChunk {
    LayerPtr layer;
    ChunkIndex chunk = 0;
    bool compressed_only = false;
  };

  LayerPtr AddLayer(std::shared_ptr<store::StoredLayer> stored, std::shared_ptr<ChunkSource> source, bool fill,
                    LanePlan lanes);
  ReadId Read(const LayerPtr& layer, ByteRange range, OnRead done);
  ReadId ReadCompressed(const LayerPtr& layer, ChunkIndex chunk, Priority priority, OnCompressed done);
  void Forget(ReadId relay);
  ChunkState StateOf(const Layer& layer, ChunkIndex chunk) const;
  void CancelAll(Layer& layer);
  // CancelAll(), and lets the source go.
  void RemoveLayer(Layer& layer);
  // Whoever prefetches these knows what is read: from reads of them nothing is guessed. What comes compressed only is
  // still to be decoded ahead of its readers.
  void Expect(std::span<const WantedChunk> chunks);
  void Prefetch(std::span<const WantedChunk> chunks);
  void Fill(Layer& layer);
  void SetFillPaused(bool paused);
  void WhenIdle(std::function<void()> done);
  Scheduler::Stats stats() const;
  size_t WaitingReads(const Layer& layer) const;
  // Cancels everything and waits for the tasks. Nothing begins afterwards.
  void Shutdown();

 private:
  struct ReadEvent {
    ReadId read;
    bool hung;  // else: its time is up
  };
  // Of this node, or (with `relay`, in place of `done`) of one chunk for a peer.
  struct WaitingRead : PendingRead {
    LayerPtr layer;
    OnCompressed relay;
    DeadlineQueue<ReadEvent>::Handle event;
  };
  struct ReadFailure {
    WaitingRead read;
    Error error;
  };

  ChunkRange NoteDemand(Layer& layer, ChunkRange chunks);
  void PrefetchRange(const LayerPtr& layer, ChunkRange chunks);
  ReadId Wait(const LayerPtr& layer, WaitingRead read);

  // The path of a request: Send on the executor, OnAnswer on a thread of the source's, Accept on the executor, Deliver.
  void Pump();
  void Send(const PlannedRequest& request);
  void FetchFrom(ChunkSource& source, const LayerPtr& layer, const PlannedRequest& request, ChunkRange chunks);
  // Whom a request went to, when, and how long the chunk that came took.
  struct Asked {
    std::string_view source;
    Clock::time_point at;
    Clock::duration waited{};
  };
  void OnAnswer(const LayerPtr& layer, Asked asked, const PlannedRequest& request, ChunkIndex chunk,
                Result<ChunkBytes> answer);
  void Accept(const LayerPtr& layer, const Asked& asked, Priority priority, ChunkIndex chunk,
              const std::shared_ptr<const ChunkBytes>& bytes);
  Status AcceptBlocks(const LayerPtr& layer, ChunkIndex chunk, const std::shared_ptr<const ChunkBytes>& bytes,
                      bool keep_compressed);
  Status AcceptCompressed(const LayerPtr& layer, ChunkIndex chunk, const std::shared_ptr<const ChunkBytes>& bytes);
  bool DeliverLocally(const LayerPtr& layer, const PlannedRequest& request, ChunkIndex chunk);
  // What has come of a chunk. `last`: the flight ends, unless another form is wanted.
  struct Arrival {
    HeldChunk blocks;                          // may be empty
    std::optional<CompressedView> compressed;  // for peers, if one waits
    bool no_room = false;                      // it could not be stored
    bool last = true;
  };
  void Deliver(const LayerPtr& layer, ChunkIndex chunk, const Arrival& arrival);
  Forms FormsOf(const Layer& layer, ChunkIndex chunk) const;
  std::optional<CompressedView> CompressedIfWanted(const Layer& layer, ChunkIndex chunk,
                                                   const std::shared_ptr<const ChunkBytes>& bytes) const;
  void Refill(const LayerPtr& layer, ChunkIndex from);
  void DecodeOne(const LayerPtr& layer, ChunkIndex from);
  static void FailRead(WaitingRead& read, Error error);

  void CountRequest(Layer& layer, std::string_view source);
  void CountChunk(Layer& layer, std::string_view source, Priority priority, uint64_t compressed_bytes,
                  Clock::duration waited = {});
  void CountFailure(Layer& layer, std::string_view source, bool bad_bytes);

  void OnAlarm(Clock::time_point when);
  void LogHung(const std::vector<std::string>& reads);
  void LogFailed(const std::vector<ReadFailure>& failures);

  WaitingRead TakeRead(ReadId id) BANYAN_REQUIRES(mutex_);
  void LeaveMissing(const WaitingRead& read, ReadId id) BANYAN_REQUIRES(mutex_);
  Error TimeoutError(const WaitingRead& read) const BANYAN_REQUIRES(mutex_);
  std::vector<WaitingRead> DropReads(Layer& layer) BANYAN_REQUIRES(mutex_);
  LayerPtr TakeRefill() BANYAN_REQUIRES(mutex_);
  LayerPtr TakeDecode() BANYAN_REQUIRES(mutex_);
  bool FetchedAll() const BANYAN_REQUIRES(mutex_);
  bool Idle() const BANYAN_REQUIRES(mutex_);

  const Scheduler::Options options_;
  const std::shared_ptr<Timer> timer_;
  PriorityTasks tasks_;
  CounterTable counters_;
  std::atomic<uint64_t> reads_total_ = 0;
  std::atomic<uint64_t> reads_at_once_ = 0;
  std::atomic<uint64_t> reads_from_memory_ = 0;

  mutable Mutex mutex_;
  FlightTable table_ BANYAN_GUARDED_BY(mutex_);
  std::unordered_map<LayerId, LayerPtr> layers_ BANYAN_GUARDED_BY(mutex_);
  std::set<LayerId> filling_ BANYAN_GUARDED_BY(mutex_);    // layers that fill has not gone through
  std::set<LayerId> undecoded_ BANYAN_GUARDED_BY(mutex_);  // layers that fill has gone through, all but decoding
  std::unordered_map<ReadId, WaitingRead> reads_ BANYAN_GUARDED_BY(mutex_);
  DeadlineQueue<ReadEvent> read_events_ BANYAN_GUARDED_BY(mutex_);
  std::vector<std::function<void()>> idle_callbacks_ BANYAN_GUARDED_BY(mutex_);
  Clock::time_point alarm_ BANYAN_GUARDED_BY(mutex_) = Clock::time_point::max();
  LayerId last_layer_ BANYAN_GUARDED_BY(mutex_) = 0;
  ReadId last_read_ BANYAN_GUARDED_BY(mutex_) = 0;
  bool pumping_ BANYAN_GUARDED_BY(mutex_) = false;
  bool pump_again_ BANYAN_GUARDED_BY(mutex_) = false;
  bool refilling_ BANYAN_GUARDED_BY(mutex_) = false;
  bool decoding_ BANYAN_GUARDED_BY(mutex_) = false;
  size_t relays_ BANYAN_GUARDED_BY(mutex_) = 0;  // of reads_
  bool fill_paused_ BANYAN_GUARDED_BY(mutex_) = false;
  bool stopped_ BANYAN_GUARDED_BY(mutex_) = false;
  uint64_t reads_failed_ BANYAN_GUARDED_BY(mutex_) = 0;
  uint64_t hung_reads_ BANYAN_GUARDED_BY(mutex_) = 0;
  Clock::duration longest_read_ BANYAN_GUARDED_BY(mutex_){};
  Clock::duration waited_ BANYAN_GUARDED_BY(mutex_){};  // of all reads that had to, together
};

}  // namespace banyan::fetch
