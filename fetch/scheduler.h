// The fetch scheduler: decides which chunk is fetched next, and makes layers readable while they arrive.
//
// A read is answered from the store if its chunks are there. What is missing is fetched once, however many readers wait
// for it (single flight): copied from another layer that has the same chunk, decoded from compressed bytes that the
// store keeps, or asked of the layer's source, adjacent chunks in one request. Demand goes before prefetch, prefetch
// before fill.
//
// With keep_compressed, chunks are for peers too (RelayLayer): what arrives is checked, stored and passed on in its
// compressed form, and decoded only when a reader of this node waits for it or is expected to (prefetch). Fill then
// brings compressed chunks; when nothing else is wanted, those of filled layers are decoded, one at a time, so that
// the layer becomes complete.
//
// Invariants: a byte that a reader sees has passed its SHA-256; a failed attempt is tried again until read_timeout; a
// full disk never fails a read; nothing that hangs in one layer delays another (no thread waits, windows of demand are
// a layer's own, a request that makes no progress no longer holds back the lower classes). DESIGN.md §5.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/executor.h"
#include "common/units.h"
#include "fetch/chunk_source.h"
#include "fetch/counters.h"
#include "fetch/lazy_layer.h"
#include "fetch/relay_layer.h"
#include "fetch/request_planner.h"
#include "fetch/timer.h"
#include "fetch/touch_log.h"
#include "store/node_store.h"

namespace banyan::fetch {

class SchedulerCore;

// Internally synchronised.
class Scheduler {
 public:
  struct Options {
    Executor& executor;      // for disk I/O, digests and decoding; must outlive the scheduler
    Timer* timer = nullptr;  // must outlive the scheduler and its layers; null: one of its own
    ClassLimits demand_limits{64 * kMiB, 4 * kMiB, 64};  // each layer has such a window
    ClassLimits prefetch_limits{8 * kMiB, 4 * kMiB, 4};
    ClassLimits fill_limits{4 * kMiB, 1 * kMiB, 2};
    std::chrono::milliseconds read_timeout{5 * 60 * 1000};
    // A request that is unanswered for so long, plus its bytes at 128 KiB/s, is given up and tried again.
    std::chrono::milliseconds attempt_timeout{10'000};
    std::chrono::milliseconds hung_after{10'000};  // a read that waits longer is counted and logged once
    // A request without progress for so long no longer holds back the lower classes.
    std::chrono::milliseconds stalled_after{2'000};
    uint64_t read_ahead_bytes = 16 * kMiB;  // of the device, at most; 0: none
    bool fill = false;                      // the default of AddOptions::fill
    bool keep_compressed = false;           // store what arrives in its compressed form first, for peers
    uint64_t jitter_seed = 0;               // 0: from the clock
  };

  struct AddOptions {
    std::optional<bool> fill;  // fetch the whole layer in the background
    LanePlan lanes;            // the ways of the layer's source; see ChunkRequest::lane
  };

  struct PrefetchItem {
    std::shared_ptr<LazyLayer> layer;  // of this scheduler; others are ignored
    ChunkIndex chunk = 0;
    // With keep_compressed: fetched, but not decoded; either form will do. See ProgressOf().
    bool compressed_only = false;
  };

  struct Stats {
    std::map<std::string, SourceCounters> sources;
    uint64_t reads = 0;
    uint64_t reads_at_once = 0;                 // answered from the store, without waiting
    uint64_t reads_from_memory = 0;             // the disk had no room
    uint64_t reads_failed = 0;                  // cancelled ones not counted
    uint64_t waiting_reads = 0;                 // now
    uint64_t waiting_relays = 0;                // now: RelayLayer::ReadCompressed
    uint64_t hung_reads = 0;                    // ever
    std::chrono::milliseconds longest_read{0};  // of those that have ended
    std::chrono::microseconds waited{0};        // of those that had to wait and have ended, together
    uint64_t chunks_in_flight = 0;              // now: wanted and not here, of any class
    uint64_t retries = 0;
  };

  // Of one layer, since it was added.
  struct LayerStats {
    std::map<std::string, SourceCounters> sources;
    size_t waiting_reads = 0;  // now
  };

  explicit Scheduler(Options options);
  // Answers what waits with kCancelled, then waits for the scheduler's tasks on the executor (local work only). Not to
  // be called on the executor's or a source's threads.
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // The layer is dropped, as by CancelAll(), when the last reference to the result goes. Make one LazyLayer for a
  // device and share it: single flight and CancelAll() are per LazyLayer. May be used after the scheduler's end
  // (kCancelled).
  std::shared_ptr<LazyLayer> AddLayer(std::shared_ptr<store::StoredLayer> stored, std::shared_ptr<ChunkSource> source,
                                      AddOptions options);
  std::shared_ptr<LazyLayer> AddLayer(std::shared_ptr<store::StoredLayer> stored, std::shared_ptr<ChunkSource> source) {
    return AddLayer(std::move(stored), std::move(source), AddOptions());
  }

  // The same layer as peers see it; null when it is not of a scheduler. It shares the layer's life.
  static std::shared_ptr<RelayLayer> RelayOf(const std::shared_ptr<LazyLayer>& layer);

  // Fetches these chunks, in this order, at Priority::kPrefetch; those that are here or under way are skipped. A chunk
  // that fails three times is left to its reader. The caller knows what is read: reads of these chunks cause no
  // read-ahead, unless they are asked for in compressed form only and so are still to be decoded.
  void Prefetch(std::span<const PrefetchItem> items);

  // Fetches the whole layer in the background from now on, as AddOptions::fill does from the start.
  void Fill(const LazyLayer& layer);

  // How far a layer has come, in compressed bytes; it is all here in one form or the other when nothing is missing.
  // Looks at every chunk.
  struct Progress {
    uint64_t bytes = 0;            // of the whole layer
    uint64_t missing_bytes = 0;    // here in neither form
    uint64_t undecoded_bytes = 0;  // here in compressed form only
  };
  static Progress ProgressOf(const LazyLayer& layer);

  // Requests of fill that are under way are finished. Nests not.
  void PauseFill();
  void ResumeFill();

  // Calls `done` once, on any thread, as soon as nothing is wanted: no read waits, prefetch is done, and fill (decoding
  // included) is done or paused.
  void WhenIdle(std::function<void()> done);
  // Blocks; false when it took longer than `timeout`.
  bool WaitIdle(std::chrono::milliseconds timeout);

  // The chunks of `layer` in the order in which demand reads first asked for them.
  std::vector<FirstTouch> FirstTouches(const LazyLayer& layer) const;

  Stats stats() const;
  LayerStats StatsOf(const LazyLayer& layer) const;

 private:
  const bool fill_;
  std::shared_ptr<SchedulerCore> core_;
};

}  // namespace banyan::fetch
