// Whole small blobs: image maps, metadata, manifests, configurations. Files named by their digest beside the sparse
// ones; written aside and renamed, so a file that is there is whole; checked at each read, so one that rotted is found
// and removed.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/digest.h"
#include "common/result.h"
#include "store/index.h"

namespace banyan::store {

class StoreCore;

// Internally synchronised.
class SmallBlobs {
 public:
  using Clock = std::function<std::chrono::system_clock::time_point()>;
  // A blob used within this time is not evicted: whoever fetched it is about to mount with it.
  static constexpr std::chrono::minutes kYoung{10};

  SmallBlobs(StoreCore& core, Clock clock) : core_(core), clock_(std::move(clock)) {}

  // Before use: what the index knows.
  void Load(std::span<const std::pair<Digest, SmallBlobRecord>> records);

  Status Put(const Digest& digest, std::span<const std::byte> data);
  Result<std::string> Get(const Digest& digest);

  bool Has(const Digest& digest) const;
  // Those old enough to evict.
  std::vector<std::pair<Digest, SmallBlobRecord>> Evictable() const;
  // The bytes that went; 0 if it was not there or has been used again since.
  uint64_t Evict(const Digest& digest);
  // Adds the uses not yet written.
  void AppendUses(Index::Batch& batch);

 private:
  struct Entry {
    SmallBlobRecord record;
    bool use_written = true;
  };
  int64_t NowSeconds() const;
  bool Young(const SmallBlobRecord& record) const;
  uint64_t Remove(const Digest& digest, bool only_old);

  StoreCore& core_;
  const Clock clock_;
  std::mutex put_mutex_;  // one writer at a time: the temporary file's name is the digest's
  mutable std::mutex mutex_;
  std::unordered_map<Digest, Entry> blobs_;  // guarded by mutex_
};

}  // namespace banyan::store
