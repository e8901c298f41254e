// Makes room: asks the policy (eviction.h) whom, then removes in the one order that a power cut cannot turn into lies:
// claim the chunks, write the index, punch the holes, let go.
//
// A disk that others have filled may lack the room to write the index. Then the holes come first, and the chunks can be
// neither read nor written until the index has been told. A power cut in between leaves an index that speaks of holes,
// which is found out when the layer is opened (ChunkFile::Open).
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "common/result.h"
#include "store/budget.h"
#include "store/eviction.h"

namespace banyan::store {

class Layer;
class StoreCore;
struct Removal;

// On whose behalf room is made. A writer does not evict what it writes itself: a layer larger than the budget is stored
// in part, rather than chasing its own tail. Relay copies do not push out what mounted images read.
struct Asker {
  const Layer* layer = nullptr;  // null: a whole blob
  Form form = Form::kCompressed;
  bool raw = false;  // a whole blob that the mirror passes on
};

// Internally synchronised. Evictions run one at a time; those who wait find the room that the one before made.
class Evictor {
 public:
  Evictor(StoreCore& core, bool started) : core_(core), started_(started) {}

  void Start() { started_.store(true, std::memory_order_relaxed); }
  // Takes `bytes` of the budget, evicting if it must. kResourceExhausted, and nothing evicted, when that cannot
  // suffice.
  Status Take(uint64_t bytes, const Asker& asker);
  // For a disk that is full though the budget is not: whether at least `bytes` were given back.
  bool FreeDisk(uint64_t bytes, const Asker& asker);
  // Tells the index what it could not be told before.
  void Settle();
  // Before the store goes: nothing is told any more.
  void Close();

  // Since the beginning.
  uint64_t evicted_bytes() const { return evicted_bytes_.load(std::memory_order_relaxed); }

 private:
  uint64_t Evict(uint64_t need, const Asker& asker);
  uint64_t Remove(std::vector<Removal>& removals);
  void SettleLocked();  // mutex_ held
  uint64_t Counted(uint64_t bytes);

  StoreCore& core_;
  std::atomic<bool> started_;
  std::atomic<uint64_t> evicted_bytes_{0};
  std::mutex mutex_;
  std::vector<Removal> owed_;  // guarded by mutex_; punched, and the index still speaks of them
};

}  // namespace banyan::store
