#include "fetch/limited_source.h"

#include <algorithm>
#include <condition_variable>
#include <unordered_map>

#include <fmt/format.h>

namespace banyan::fetch {

Clock::time_point RateLimit::Reserve(uint64_t bytes, Clock::time_point now) {
  if (unlimited()) return now;
  constexpr auto kBurst = std::chrono::milliseconds(250);
  const auto time = std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(static_cast<double>(bytes) / static_cast<double>(bytes_per_second_)));
  const std::lock_guard lock(mutex_);
  const auto start = std::max(next_, now - kBurst);
  next_ = start + time;
  return std::max(start, now);
}

struct LimitedSource::State {
  struct Waiting {
    ChunkRequest request;
    OnChunk on_chunk;
    Timer::Id alarm = 0;
  };
  std::mutex mutex;
  std::condition_variable left;
  std::unordered_map<uint64_t, Waiting> waiting;  // guarded by mutex
  uint64_t last = 0;                              // guarded by mutex
  size_t inside = 0;                              // guarded by mutex: tasks of the timer that use the inner source
};

LimitedSource::LimitedSource(std::shared_ptr<ChunkSource> inner, std::shared_ptr<RateLimit> limit, Timer& timer)
    : inner_(std::move(inner)), limit_(std::move(limit)), timer_(timer), state_(std::make_shared<State>()) {}

LimitedSource::~LimitedSource() {
  std::unordered_map<uint64_t, State::Waiting> waiting;
  {
    std::unique_lock lock(state_->mutex);
    waiting.swap(state_->waiting);
    state_->left.wait(lock, [this] { return state_->inside == 0; });
  }
  for (const auto& [key, held] : waiting) {
    timer_.Cancel(held.alarm);
    for (ChunkIndex chunk = held.request.chunks.begin; chunk < held.request.chunks.end; ++chunk) {
      held.on_chunk(chunk, Fail(Code::kCancelled, fmt::format("chunk {} of layer {}: the source is closed", chunk,
                                                              held.request.device->blob_digest.ToString())));
    }
  }
}

void LimitedSource::Fetch(ChunkRequest request, OnChunk on_chunk) {
  const auto now = timer_.Now();
  if (limit_->unlimited() || request.priority == Priority::kDemand) {
    return inner_->Fetch(std::move(request), std::move(on_chunk));
  }
  const auto& chunks = request.device->chunks;
  const uint64_t bytes =
      chunks[request.chunks.end - 1].blob_range().end - chunks[request.chunks.begin].blob_range().begin;
  const auto when = limit_->Reserve(bytes, now);
  if (when <= now) return inner_->Fetch(std::move(request), std::move(on_chunk));
  const std::lock_guard lock(state_->mutex);
  const uint64_t key = ++state_->last;
  State::Waiting& waiting = state_->waiting[key];
  waiting.request = std::move(request);
  waiting.on_chunk = std::move(on_chunk);
  waiting.alarm = timer_.At(when, [weak = std::weak_ptr(state_), key, inner = inner_.get()] {
    const auto state = weak.lock();
    if (!state) return;
    std::unique_lock state_lock(state->mutex);
    auto due = state->waiting.extract(key);
    if (due.empty()) return;
    ++state->inside;  // the source, and so `inner`, stays until we have left
    state_lock.unlock();
    inner->Fetch(std::move(due.mapped().request), std::move(due.mapped().on_chunk));
    state_lock.lock();
    if (--state->inside == 0) state->left.notify_all();
  });
}

}  // namespace banyan::fetch
