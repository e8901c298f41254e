// The store's memory across restarts: a RocksDB of few, whole records. Keys are one letter and raw digests:
//
//   L <blob>                       the layer's chunk table; written once
//   P <blob>                       what is here of it: both presence bitmaps, byte counts, uses; written whole at each
//                                  flush
//   R <block digest> <blob> <chunk, big-endian>   a place where blocks of that digest may be; written with L
//   S <blob>                       a whole blob: size, last use, kind
//   N <key>                        a note of those who keep blobs here
//
// Presence bitmaps are values, not merges: thousands of pending merges read slowly. The write-ahead log is kept short,
// since it is replayed at the next start. Records are little-endian; RocksDB's checksums guard them.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "common/database.h"
#include "common/digest.h"
#include "common/result.h"
#include "image-format/image_map.h"

namespace rocksdb {
class DB;
class WriteBatch;
}  // namespace rocksdb

namespace banyan::store {

struct PresenceRecord {
  uint64_t uses = 0;
  double age = 0;  // eviction's clock at the last use
  uint64_t block_bytes = 0;
  uint64_t compressed_bytes = 0;
  std::string blocks;      // Bitmap::bytes()
  std::string compressed;  // Bitmap::bytes()
  friend bool operator==(const PresenceRecord&, const PresenceRecord&) = default;
};

struct WholeBlobRecord {
  uint64_t bytes = 0;
  int64_t last_use_seconds = 0;  // since the epoch
  bool raw = false;              // of any size, in a directory of its own
  friend bool operator==(const WholeBlobRecord&, const WholeBlobRecord&) = default;
};

struct ChunkPlace {
  Digest blob;
  ChunkIndex chunk = 0;
  friend bool operator==(const ChunkPlace&, const ChunkPlace&) = default;
};

// Serialised forms, for the index and its tests. Decoders take any bytes: kDataLoss when they are not a record.
std::string EncodeLayer(const image_format::Device& device);
Result<image_format::Device> DecodeLayer(const Digest& blob, std::string_view record);
std::string EncodePresence(const PresenceRecord& record);
Result<PresenceRecord> DecodePresence(std::string_view record);

// Internally synchronised.
class Index {
 public:
  // Externally synchronised. Applied whole or not at all.
  class Batch {
   public:
    Batch();
    ~Batch();
    Batch(Batch&&) noexcept;
    void PutLayer(const image_format::Device& device);
    void PutPresence(const Digest& blob, const PresenceRecord& record);
    // Removes L, P and the places of the layer.
    void DeleteLayer(const image_format::Device& device);
    // Removes L and P of a layer whose table cannot be read; its places stay, and lead nowhere.
    void DeleteUnreadableLayer(const Digest& blob);
    void PutWholeBlob(const Digest& blob, const WholeBlobRecord& record);
    void DeleteWholeBlob(const Digest& blob);
    // An empty value deletes.
    void PutNote(std::string_view key, std::string_view value);
    bool empty() const;

   private:
    friend class Index;
    std::unique_ptr<rocksdb::WriteBatch> batch_;
  };

  // Opens or makes the database in directory `path`. One that is damaged is renamed to `path`.damaged-<n>, with a
  // warning, and begun anew: `begun_anew` then says that nothing which the files may hold is known any more.
  // A disk without any room: opened to be read; writes fail until there is room. kUnavailable, kResourceExhausted when
  // it cannot be opened for a reason that says nothing about it.
  static Result<std::unique_ptr<Index>> Open(const std::string& path, bool& begun_anew);

  // `sync`: on stable storage on return. After a failure, writes fail at once for a moment rather than each try the
  // disk.
  Status Write(Batch batch, bool sync);
  // Ends that moment: there is room again.
  void EndQuiet() { quiet_until_ = Clock::time_point::min(); }

  // kNotFound; kDataLoss when it cannot be read.
  Result<image_format::Device> GetLayer(const Digest& blob);
  Result<PresenceRecord> GetPresence(const Digest& blob);
  // kNotFound.
  Result<std::string> GetNote(std::string_view key);
  // At most `limit` places of the block digest; none on any error.
  std::vector<ChunkPlace> Places(const Digest& block_digest, size_t limit);

  // What was there when the index was opened.
  struct Summary {
    std::vector<std::pair<Digest, PresenceRecord>> layers;  // bitmaps left out
    std::vector<std::pair<Digest, WholeBlobRecord>> whole_blobs;
  };
  Result<Summary> ReadSummary();

 private:
  using Clock = std::chrono::steady_clock;

  Index(Database db, std::string path, bool read_only);
  static Result<std::unique_ptr<Index>> TryOpen(const std::string& path);
  std::shared_ptr<rocksdb::DB> db() const;
  Status WriteNow(rocksdb::WriteBatch& batch, bool sync);
  // Of one that was opened to be read: opens it to be written if there is room now.
  Status OpenToWrite();

  const std::string path_;
  mutable std::mutex mutex_;
  std::shared_ptr<rocksdb::DB> db_;  // guarded by mutex_
  bool read_only_ = false;           // guarded by mutex_
  std::atomic<Clock::time_point> quiet_until_{Clock::time_point::min()};
};

}  // namespace banyan::store
