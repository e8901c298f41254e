// Whole blobs: files that are one piece, named by their digest.
//
// Two kinds. Small ones (image maps, metadata, manifests, configurations) come at once, are written aside and renamed,
// lie beside the sparse files of layers, and are checked at each read; they stay for a while even when nobody uses
// them. Raw ones (what the mirror passes on: the layers of unconverted images) may be of any size, come piece by piece
// (blob_fill.cc), lie in a directory of their own, so that the same blob may be a layer's sparse file as well, and are
// trusted between scrubs; the least recently used go first, but none that is held.
//
// A raw blob's file is <hex>.partial until all its bytes are there, their digest is right, and they are on stable
// storage. A partial file that a dead process left is taken up again by the next fill, which hashes what is there; so
// it survives kill -9, which takes no page from the kernel, and is discarded after a reboot, which may have.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "common/digest.h"
#include "common/result.h"
#include "common/units.h"
#include "store/index.h"
#include "store/node_store.h"

namespace banyan::store {

class StoreCore;

// Internally synchronised.
class WholeBlobs {
 public:
  using Clock = std::function<std::chrono::system_clock::time_point()>;
  // A small blob used within this time is not evicted: whoever fetched it is about to mount with it.
  static constexpr std::chrono::minutes kYoung{10};
  // Less than this of a partial file is not worth a file.
  static constexpr uint64_t kLeastPartialBytes = 1 * kMiB;

  WholeBlobs(StoreCore& core, Clock clock, std::string raw_directory)
      : core_(core), clock_(std::move(clock)), raw_directory_(std::move(raw_directory)) {}

  // Before use: what the index knows, and what the directory of raw blobs holds. Removes what is neither known nor
  // worth taking up again.
  Status Load(std::span<const std::pair<Digest, WholeBlobRecord>> records);

  Status Put(const Digest& digest, std::span<const std::byte> data);
  Result<std::string> Get(const Digest& digest);

  // See NodeStore.
  Result<std::unique_ptr<BlobFill>> Begin(const Digest& digest, std::optional<uint64_t> blob_bytes);
  // `counts`: as a use.
  Result<StoredBlob> Open(const Digest& digest, bool counts = true);
  std::optional<uint64_t> BytesOf(const Digest& digest) const;
  Status Erase(const Digest& digest);

  // Those that are whole.
  std::vector<Digest> All() const;
  bool HasSmall(const Digest& digest) const;
  // Those that may be evicted now; partial ones too.
  std::vector<std::pair<Digest, WholeBlobRecord>> Evictable() const;
  // The bytes that went; 0 if it was not there or is used again since.
  uint64_t Evict(const Digest& digest);
  // Adds the uses not yet written.
  void AppendUses(Index::Batch& batch);

 private:
  friend class Fill;
  enum class State { kWhole, kPartial, kFilling };
  struct Entry {
    WholeBlobRecord record;  // kFilling: its bytes are those taken of the budget
    State state = State::kWhole;
    bool use_written = true;
    std::weak_ptr<const void> open;  // shared by all who have it open
  };
  enum class Which { kOnlyEvictable, kAny };

  int64_t NowSeconds() const;
  bool IsEvictable(const Entry& entry) const;
  std::string RawPath(const Digest& digest) const { return raw_directory_ + "/" + digest.Hex(); }
  std::string PartialPath(const Digest& digest) const { return RawPath(digest) + ".partial"; }
  std::string PathOf(const Digest& digest, const Entry& entry) const;
  void LoadPartials(bool worth_keeping);
  // Marks a use; whether the flusher must be woken to write it.
  bool Use(Entry& entry) const;
  uint64_t Remove(const Digest& digest, Which which);

  // A fill's: takes `bytes` more of the budget for it.
  Status Reserve(const Digest& digest, uint64_t bytes);
  // Its file is whole and durable under its last name.
  Status Adopt(const Digest& digest, uint64_t bytes);
  // It ended before: `bytes` are in the partial file, 0 if that is gone.
  void Abandon(const Digest& digest, uint64_t bytes);

  StoreCore& core_;
  const Clock clock_;
  const std::string raw_directory_;
  std::mutex put_mutex_;  // one writer of small blobs at a time: the temporary file's name is the digest's
  mutable std::mutex mutex_;
  std::unordered_map<Digest, Entry> blobs_;  // guarded by mutex_
};

}  // namespace banyan::store
