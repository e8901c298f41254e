// A ceiling for what prefetch and fill bring in, so that the node's workload keeps its share of the link. Demand
// passes.
#pragma once

#include <memory>
#include <mutex>
#include <string_view>
#include <utility>

#include "fetch/chunk_source.h"
#include "fetch/timer.h"

namespace banyan::fetch {

// A token bucket that holds a quarter of a second's worth. Internally synchronised; one for all sources of a node.
class RateLimit {
 public:
  explicit RateLimit(uint64_t bytes_per_second) : bytes_per_second_(bytes_per_second) {}  // 0: none

  bool unlimited() const { return bytes_per_second_ == 0; }
  // Takes `bytes` and says when they may move; those who ask later come later.
  Clock::time_point Reserve(uint64_t bytes, Clock::time_point now);

 private:
  const uint64_t bytes_per_second_;
  std::mutex mutex_;
  Clock::time_point next_{};  // guarded by mutex_: when what has been taken will have moved
};

// Internally synchronised. A request waits until its bytes may move, then goes out whole. The destructor answers what
// waits with kCancelled.
class LimitedSource final : public ChunkSource {
 public:
  // `timer` must outlive the source.
  LimitedSource(std::shared_ptr<ChunkSource> inner, std::shared_ptr<RateLimit> limit, Timer& timer);
  ~LimitedSource() override;

  void Fetch(ChunkRequest request, OnChunk on_chunk) override;
  std::string_view name() const override { return inner_->name(); }

 private:
  struct State;

  const std::shared_ptr<ChunkSource> inner_;
  const std::shared_ptr<RateLimit> limit_;
  Timer& timer_;
  const std::shared_ptr<State> state_;  // shared with the timer's tasks
};

}  // namespace banyan::fetch
