#include "store/presence.h"

#include <utility>

namespace banyan::store {

Presence::Presence(Bitmap durable)
    : size_(durable.size()),
      words_(std::make_unique<std::atomic<uint32_t>[]>(size_)),
      count_(durable.count()),
      unsynced_(size_),
      syncing_(size_),
      durable_(std::move(durable)) {
  for (ChunkIndex i = 0; i < size_; ++i) {
    if (durable_.Test(i)) words_[i].store(kPresent, std::memory_order_relaxed);
  }
}

bool Presence::Lease(ChunkIndex chunk) {
  std::atomic<uint32_t>& word = words_[chunk];
  uint32_t old = word.load(std::memory_order_relaxed);
  while ((old & kPresent) != 0) {
    if (word.compare_exchange_weak(old, (old + 1) | kRecent, std::memory_order_acquire, std::memory_order_relaxed)) {
      return true;
    }
  }
  return false;
}

bool Presence::Unlease(ChunkIndex chunk) {
  const uint32_t now = words_[chunk].fetch_sub(1, std::memory_order_acq_rel) - 1;
  return (now & (kDoomed | kLeases)) == kDoomed;
}

Presence::WriteTurn Presence::BeginWrite(ChunkIndex chunk) {
  std::atomic<uint32_t>& word = words_[chunk];
  uint32_t old = word.load(std::memory_order_acquire);
  while (true) {
    if ((old & kPresent) != 0) return WriteTurn::kPresent;
    if ((old & (kLeases | kDoomed)) != 0) return WriteTurn::kDropped;
    if ((old & kOwned) != 0) {
      word.wait(old, std::memory_order_acquire);
      old = word.load(std::memory_order_acquire);
      continue;
    }
    if (word.compare_exchange_weak(old, kOwned, std::memory_order_acq_rel, std::memory_order_acquire)) {
      return WriteTurn::kOwned;
    }
  }
}

void Presence::FinishWrite(ChunkIndex chunk) {
  {
    // Before the chunk can be seen, and so before it can be removed.
    const std::scoped_lock lock(mutex_);
    unsynced_.Set(chunk);
  }
  count_.fetch_add(1, std::memory_order_relaxed);
  words_[chunk].store(kPresent | kRecent, std::memory_order_release);
  words_[chunk].notify_all();
}

bool Presence::Claim(ChunkIndex chunk, bool spare_recent) {
  std::atomic<uint32_t>& word = words_[chunk];
  uint32_t old = word.load(std::memory_order_relaxed);
  while ((old & kPresent) != 0 && (old & kLeases) == 0) {
    const bool spare = spare_recent && (old & kRecent) != 0;
    if (word.compare_exchange_weak(old, spare ? kPresent : kOwned, std::memory_order_acq_rel,
                                   std::memory_order_relaxed)) {
      if (!spare) count_.fetch_sub(1, std::memory_order_relaxed);
      return !spare;
    }
  }
  return false;
}

Presence::DropTurn Presence::ClaimForDrop(ChunkIndex chunk) {
  std::atomic<uint32_t>& word = words_[chunk];
  uint32_t old = word.load(std::memory_order_relaxed);
  while ((old & kPresent) != 0) {
    const uint32_t leases = old & kLeases;
    if (word.compare_exchange_weak(old, kOwned | leases, std::memory_order_acq_rel, std::memory_order_relaxed)) {
      count_.fetch_sub(1, std::memory_order_relaxed);
      return leases == 0 ? DropTurn::kOwned : DropTurn::kLeased;
    }
  }
  return DropTurn::kAbsent;
}

bool Presence::Doom(ChunkIndex chunk) {
  return (words_[chunk].fetch_or(kDoomed, std::memory_order_acq_rel) & kLeases) == 0;
}

bool Presence::ClearDurable(ChunkIndex chunk) {
  const std::scoped_lock lock(mutex_);
  unsynced_.Clear(chunk);
  syncing_.Clear(chunk);
  return durable_.Clear(chunk);
}

void Presence::Restore(ChunkIndex chunk, bool durable) {
  {
    const std::scoped_lock lock(mutex_);
    (durable ? durable_ : unsynced_).Set(chunk);
  }
  count_.fetch_add(1, std::memory_order_relaxed);
  words_[chunk].store(kPresent, std::memory_order_release);
  words_[chunk].notify_all();
}

void Presence::Release(ChunkIndex chunk) {
  words_[chunk].store(0, std::memory_order_release);
  words_[chunk].notify_all();
}

void Presence::Bar(ChunkIndex chunk) {
  words_[chunk].store(kOwned | kDoomed, std::memory_order_release);
  words_[chunk].notify_all();
}

bool Presence::Idle(ChunkIndex chunk) const {
  const uint32_t word = words_[chunk].load(std::memory_order_relaxed);
  return (word & kPresent) != 0 && (word & kLeases) == 0;
}

bool Presence::BeginSync() {
  const std::scoped_lock lock(mutex_);
  if (unsynced_.count() == 0) return false;
  syncing_ = std::exchange(unsynced_, Bitmap(size_));
  return true;
}

void Presence::FinishSync() {
  const std::scoped_lock lock(mutex_);
  for (ChunkIndex i = 0; syncing_.count() != 0 && i < size_; ++i) {
    if (syncing_.Clear(i)) durable_.Set(i);
  }
}

std::vector<ChunkIndex> Presence::AbandonSync() {
  const std::scoped_lock lock(mutex_);
  std::vector<ChunkIndex> lost;
  for (ChunkIndex i = 0; syncing_.count() != 0 && i < size_; ++i) {
    if (syncing_.Clear(i)) lost.push_back(i);
  }
  return lost;
}

std::string Presence::durable_bytes() const {
  const std::scoped_lock lock(mutex_);
  return durable_.bytes();
}

}  // namespace banyan::store
