// Which chunks of one file are here, who reads them, and which of them the index may speak of.
//
// Reading needs no lock: each chunk has one atomic word that holds "present", an owner bit (someone writes or removes
// the chunk), and the number of leases. A lease is a compare-and-swap that only succeeds on a present chunk; removal
// takes the word from (present, no lease) to (owned), so a leased chunk cannot be removed and a chunk being removed
// cannot be leased.
//
// Durability is the way of a chunk through three bitmaps: unsynced (in the file) → syncing (an fdatasync that began
// after the write runs) → durable (that fdatasync returned; the index may say so). Removal clears all three. The bitmap
// `durable` is what is written to the index, whole.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "common/bitmap.h"
#include "common/units.h"

namespace banyan::store {

// Internally synchronised.
class Presence {
 public:
  // `durable`: the chunks that the index says are here.
  explicit Presence(Bitmap durable);

  uint32_t size() const { return size_; }
  bool Has(ChunkIndex chunk) const { return (words_[chunk].load(std::memory_order_acquire) & kPresent) != 0; }
  uint32_t count() const { return count_.load(std::memory_order_relaxed); }
  bool complete() const { return count() == size_; }

  // Reading. False: not present.
  bool Lease(ChunkIndex chunk);
  // True: the chunk was dropped meanwhile and this was the last lease on it; the caller owns it and must punch its hole
  // and then call Release().
  [[nodiscard]] bool Unlease(ChunkIndex chunk);

  // Writing. kOwned: write the bytes, then FinishWrite() or Release(). Waits while another thread writes or evicts the
  // chunk.
  enum class WriteTurn { kOwned, kPresent, kDropped };
  WriteTurn BeginWrite(ChunkIndex chunk);
  void FinishWrite(ChunkIndex chunk);

  // Removal, in the order Claim, ClearDurable + index write, hole punched, Release (or Restore instead of the last
  // two). Claims a present chunk that nobody leases. With `spare_recent`, a chunk leased since the last such call is
  // let off once.
  bool Claim(ChunkIndex chunk, bool spare_recent);
  // Claims it even when leased: it is absent at once, but its bytes must stay until Doom() or Unlease() says true.
  enum class DropTurn { kAbsent, kOwned, kLeased };
  DropTurn ClaimForDrop(ChunkIndex chunk);
  // After kLeased and the index write: hands the punching to the last lease. True: there is none left, the caller
  // punches.
  [[nodiscard]] bool Doom(ChunkIndex chunk);
  // Whether the index may have spoken of the chunk.
  bool ClearDurable(ChunkIndex chunk);
  // Takes a claim back: the chunk is present again, `durable` as ClearDurable() said.
  void Restore(ChunkIndex chunk, bool durable);
  void Release(ChunkIndex chunk);
  // Instead of Release(), which may come any time later: until then it cannot be written either (kDropped).
  void Bar(ChunkIndex chunk);
  // Whether nobody leases, writes or removes the chunk, and it is here.
  bool Idle(ChunkIndex chunk) const;

  // Flushing; one at a time. BeginSync(): whether there is anything to sync.
  bool BeginSync();
  void FinishSync();
  // The fdatasync failed: the chunks whose bytes can no longer be believed. They must be dropped.
  std::vector<ChunkIndex> AbandonSync();
  std::string durable_bytes() const;

 private:
  static constexpr uint32_t kPresent = 1U << 31;
  static constexpr uint32_t kOwned = 1U << 30;
  static constexpr uint32_t kDoomed = 1U << 29;
  static constexpr uint32_t kRecent = 1U << 28;
  static constexpr uint32_t kLeases = kRecent - 1;

  const uint32_t size_;
  const std::unique_ptr<std::atomic<uint32_t>[]> words_;
  std::atomic<uint32_t> count_;

  mutable std::mutex mutex_;
  Bitmap unsynced_;  // guarded by mutex_
  Bitmap syncing_;   // guarded by mutex_
  Bitmap durable_;   // guarded by mutex_
};

}  // namespace banyan::store
