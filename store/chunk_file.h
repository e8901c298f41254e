// One sparse file of a layer's chunks, in either form: the blocks in devices/, the compressed bytes in blobs/.
//
// Ties the three things that have to agree: the bytes on the disk, the presence words, and the bytes counted for
// eviction.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "common/result.h"
#include "common/unique_fd.h"
#include "image-format/chunk_table.h"
#include "store/budget.h"
#include "store/disk.h"
#include "store/presence.h"

namespace banyan::store {

// What the files of one directory share.
struct ChunkDirectory {
  std::string path;
  Disk& disk;
  // A file was made since the directory was synced last. Outlives the file's handle: one that made a file may close
  // before another puts the first chunk into it.
  std::atomic<bool> has_new_names{false};
};

// Internally synchronised.
class ChunkFile {
 public:
  // `chunks` must outlive the file. The chunks of `durable` that the file system says are holes are not believed: an
  // index that lost its newest records may speak of chunks that were punched since. `keep_open`: for a file whose
  // descriptor others use; the other kind is opened for each operation.
  static Result<std::unique_ptr<ChunkFile>> Open(Form form, const image_format::ChunkTable& chunks, std::string path,
                                                 Bitmap durable, ChunkDirectory& directory, bool keep_open);

  Form form() const { return form_; }
  const std::string& path() const { return path_; }
  int fd() const { return fd_.get(); }
  Presence& presence() { return presence_; }
  const Presence& presence() const { return presence_; }
  ByteRange RangeOf(ChunkIndex chunk) const {
    return form_ == Form::kBlocks ? chunks_[chunk].device_range() : chunks_[chunk].blob_range();
  }
  uint64_t BytesOf(ChunkIndex chunk) const { return RangeOf(chunk).size(); }
  const Digest& DigestOf(ChunkIndex chunk) const {
    return form_ == Form::kBlocks ? chunks_[chunk].block_digest : chunks_[chunk].compressed_digest;
  }
  // Of present chunks.
  uint64_t present_bytes() const { return bytes_.load(std::memory_order_relaxed); }
  // Of chunks present and not leased: what eviction could take.
  uint64_t IdleBytes() const;
  // Of chunks the index may speak of.
  uint64_t BytesIn(const std::string& bitmap) const;
  // Whether holes were found where the index had chunks.
  bool lost_chunks() const { return lost_chunks_; }

  // The caller owns the chunk (Presence::BeginWrite). On an error its range is a hole again.
  Status Write(ChunkIndex chunk, std::span<const std::byte> data);
  // After Write(): the chunk can be seen.
  void Publish(ChunkIndex chunk);
  // The caller leases the chunk.
  Status Read(ChunkIndex chunk, std::span<std::byte> buffer);
  // A descriptor for those who read leased chunks themselves; the same one for all who have it at a time.
  Result<std::shared_ptr<const UniqueFd>> SharedFd();
  // As Read(), from the disk rather than from the page cache, as far as the kernel grants it.
  Status ReadFromDisk(ChunkIndex chunk, std::span<std::byte> buffer);
  // Makes all that was written before durable, but for the file's name, which is the directory's affair.
  Status Sync();

  // Claims idle chunks until they have `bytes`. `spare_recent`: first those not leased since the last round.
  std::vector<ChunkIndex> ClaimIdle(uint64_t bytes, bool spare_recent);
  // Punches the holes of owned, ascending chunks and lets go of them.
  void PunchAndRelease(std::span<const ChunkIndex> chunks);
  // The same in two steps, while the index still speaks of them: they stay unwritable in between.
  void PunchAndBar(std::span<const ChunkIndex> chunks);
  void Release(std::span<const ChunkIndex> chunks);
  // The index could not be told of a drop: the bytes of dropped chunks stay, lest it speak of holes. ReleaseDropped()
  // heeds it.
  void KeepDropped() { keep_dropped_.store(true, std::memory_order_relaxed); }
  void ReleaseDropped(ChunkIndex chunk);
  // The bytes of claimed chunks count no more (or again).
  void Discount(uint64_t bytes) { bytes_.fetch_sub(bytes, std::memory_order_relaxed); }
  void Recount(uint64_t bytes) { bytes_.fetch_add(bytes, std::memory_order_relaxed); }

 private:
  ChunkFile(Form form, const image_format::ChunkTable& chunks, std::string path, Bitmap durable,
            ChunkDirectory& directory, UniqueFd fd, bool lost_chunks);
  uint64_t size_bytes() const { return form_ == Form::kBlocks ? chunks_.device_bytes() : chunks_.blob_bytes(); }
  // Runs `use` with a descriptor of the file.
  template <typename Use>
  Status WithFd(Use use);
  Status Punch(int fd, std::span<const ChunkIndex> chunks);

  const Form form_;
  const image_format::ChunkTable& chunks_;
  const std::string path_;
  ChunkDirectory& directory_;
  UniqueFd fd_;  // kept open, or none
  Presence presence_;
  const bool lost_chunks_;
  std::atomic<uint64_t> bytes_;
  std::atomic<bool> keep_dropped_{false};
  std::mutex shared_mutex_;
  std::weak_ptr<const UniqueFd> shared_fd_;  // guarded by shared_mutex_
  std::atomic<ChunkIndex> hand_{0};          // where the next round of eviction begins
};

}  // namespace banyan::store
