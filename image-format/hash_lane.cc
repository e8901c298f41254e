#include "image-format/hash_lane.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "common/units.h"

namespace banyan::image_format {

namespace {

constexpr size_t kPieceBytes = 256 * kKiB;
constexpr size_t kMaxQueued = 8;
constexpr size_t kMinConcurrency = 3;

}  // namespace

struct HashLane::Shared {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::vector<std::byte>> queue;   // guarded by mutex
  std::vector<std::vector<std::byte>> spare;  // guarded by mutex
  bool active = false;                        // guarded by mutex: someone hashes
  Sha256 hash;                                // used by whoever is active

  // Hashes what is queued, unless another thread is at it.
  void Drain(std::unique_lock<std::mutex>& lock) {
    if (active) return;
    active = true;
    while (!queue.empty()) {
      std::vector<std::byte> piece = std::move(queue.front());
      queue.pop_front();
      lock.unlock();
      hash.Update(piece);
      piece.clear();
      lock.lock();
      spare.push_back(std::move(piece));
      changed.notify_all();
    }
    active = false;
    changed.notify_all();
  }
};

HashLane::HashLane(Executor& executor)
    : executor_(executor), shared_(std::make_shared<Shared>()), at_once_(executor.concurrency() < kMinConcurrency) {}

HashLane::~HashLane() = default;

void HashLane::Update(std::span<const std::byte> data) {
  if (at_once_) {
    shared_->hash.Update(data);
    return;
  }
  while (!data.empty()) {
    const size_t taken = std::min(data.size(), kPieceBytes - pending_.size());
    pending_.insert(pending_.end(), data.begin(), data.begin() + static_cast<ptrdiff_t>(taken));
    data = data.subspan(taken);
    if (pending_.size() == kPieceBytes) Flush();
  }
}

void HashLane::Flush() {
  {
    std::unique_lock lock(shared_->mutex);
    while (shared_->queue.size() >= kMaxQueued) {
      if (shared_->active) {
        shared_->changed.wait(lock);
      } else {
        shared_->Drain(lock);
      }
    }
    shared_->queue.push_back(std::move(pending_));
    pending_ = {};
    if (!shared_->spare.empty()) {
      pending_ = std::move(shared_->spare.back());
      shared_->spare.pop_back();
    }
    if (shared_->active) return;
  }
  pending_.reserve(kPieceBytes);
  executor_.Post([shared = shared_] {
    std::unique_lock lock(shared->mutex);
    shared->Drain(lock);
  });
}

Digest HashLane::Finish() {
  if (!pending_.empty()) Flush();
  std::unique_lock lock(shared_->mutex);
  while (shared_->active || !shared_->queue.empty()) {
    if (shared_->active) {
      shared_->changed.wait(lock);
    } else {
      shared_->Drain(lock);
    }
  }
  return shared_->hash.Finish();
}

}  // namespace banyan::image_format
