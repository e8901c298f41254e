// The node store: what this node has of images, on disk, within a byte budget.
//
//   <root>/blobs/sha256/<hex>    compressed data blobs (sparse: only the chunks that are here) and whole small blobs
//   <root>/raw/<hex>             whole blobs of any size, as the mirror passes them on; <hex>.partial: on its way in
//   <root>/devices/<hex>         data devices (sparse), <hex> being the data blob's digest
//   <root>/index/                RocksDB: chunk tables, presence bitmaps, chunk digest → places, use counts
//
// Presence is kept in memory and written whole, in batches at most `flush_interval` apart, after the data themselves
// are on stable storage (fdatasync): a power cut can forget chunks, never invent them. DESIGN.md §4.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "common/digest.h"
#include "common/result.h"
#include "common/unique_fd.h"
#include "common/units.h"
#include "image-format/image_map.h"

namespace banyan::store {

class Disk;

// Keeps chunks of one layer where they are (no eviction, no punching) for as long as it lives. Movable. Thread-safe to
// destroy anywhere.
class ChunkLease {
 public:
  ChunkLease() = default;
  explicit ChunkLease(std::shared_ptr<void> hold) : hold_(std::move(hold)) {}

 private:
  std::shared_ptr<void> hold_;
};

// A chunk's compressed form, in place: `length` bytes of `fd` from `offset`, there as long as the lease. Movable.
struct CompressedChunk {
  int fd = -1;
  uint64_t offset = 0;
  size_t length = 0;
  ChunkLease lease;
};

// One layer's data in the store. Internally synchronised. Blocking calls do local disk I/O only.
class StoredLayer {
 public:
  virtual ~StoredLayer() = default;

  // The device's chunk table and digests; valid as long as this layer. A layer is shared by the images that have it, so
  // first_block, which is an image's affair, is 0 here.
  virtual const image_format::Device& device() const = 0;
  // A descriptor of the sparse device file (its size is device().device_bytes()), open as long as this layer.
  virtual int device_fd() const = 0;
  virtual const std::string& device_path() const = 0;

  // Whether the chunk's blocks are in the device file. Only a lease makes the answer last.
  virtual bool Has(ChunkIndex chunk) const = 0;
  // Whether all of them are.
  virtual bool complete() const = 0;
  virtual uint64_t present_bytes() const = 0;

  // Leases all chunks of `range` if all are present; nullopt otherwise.
  virtual std::optional<ChunkLease> Lease(ChunkRange range) = 0;

  // Puts a chunk's blocks in place. The caller has checked their digest. Already present: does nothing.
  // kResourceExhausted when neither eviction nor the disk gives the room: the chunk is then not stored, and nothing
  // else changed; serve it from memory.
  virtual Status PutBlocks(ChunkIndex chunk, std::span<const std::byte> blocks) = 0;
  // The same for its compressed form, kept for peers and for later decompression.
  virtual Status PutCompressed(ChunkIndex chunk, std::span<const std::byte> compressed) = 0;
  // kNotFound when absent. The bytes are as the disk gave them: check them.
  virtual Result<std::vector<std::byte>> GetCompressed(ChunkIndex chunk) = 0;
  // As Has() and present_bytes().
  virtual bool HasCompressed(ChunkIndex chunk) const = 0;
  virtual uint64_t compressed_bytes_present() const = 0;
  // For passing it on by sendfile(2): as the disk has it, not checked again. kNotFound when absent. One descriptor a
  // layer serves all leases that live at a time.
  virtual Result<CompressedChunk> LeaseCompressed(ChunkIndex chunk) = 0;

  // Looks for the chunk's block digest in the other layers' devices and copies it here (checked). False: no other layer
  // has it.
  virtual Result<bool> CopyFromOther(ChunkIndex chunk) = 0;
  // The same for its compressed form: of a chunk of the same blocks that was compressed to the same bytes.
  virtual Result<bool> CopyCompressedFromOther(ChunkIndex chunk) = 0;

  // Forgets a chunk that was found bad, in both forms: absent at once; its hole is punched now, or by the last lease on
  // it. Until then PutBlocks of this chunk is kResourceExhausted.
  virtual void Drop(ChunkIndex chunk) = 0;

  // Counts a use, for eviction.
  virtual void Touch() = 0;
  // While at least one Mounted is alive, eviction takes only single chunks of this layer, and last of all.
  virtual std::shared_ptr<void> HoldMounted() = 0;
  // For a mount straight on the device file: while the result is alive nothing of the file is punched, truncated or
  // rewritten. kFailedPrecondition unless complete.
  virtual Result<std::shared_ptr<void>> PinWhole() = 0;
};

// A whole blob, open. Its bytes stay as long as `hold` lives, also when it is erased.
struct StoredBlob {
  int fd = -1;  // open as long as `hold`
  uint64_t bytes = 0;
  std::shared_ptr<const void> hold;
};

// A blob on its way into the store, in order. Externally synchronised, but for bytes() and fd(), which readers may use
// meanwhile: [0, bytes()) of fd() can be read, and stays so as long as this lives. Destroyed before Commit(): what has
// come is kept for the next BeginBlob() if it is worth it, and never counts as the blob.
class BlobFill {
 public:
  virtual ~BlobFill() = default;
  // So far; not 0 at first when an earlier fill's bytes are taken up. They are not checked until Finish().
  virtual uint64_t bytes() const = 0;
  virtual int fd() const = 0;
  // kResourceExhausted when neither eviction nor the disk gives the room: nothing was appended, what there is can still
  // be read. kDataLoss: more bytes than the blob has.
  virtual Status Append(std::span<const std::byte> data) = 0;
  // Now the size is known. kResourceExhausted: no room for all of it; nothing changed. kDataLoss: there is more
  // already, and nothing of it will be kept.
  virtual Status Expect(uint64_t blob_bytes) = 0;
  // All bytes are here: checks their digest. kDataLoss when it is wrong, and nothing of it will be kept; also when
  // bytes are missing.
  virtual Status Finish() = 0;
  // After Finish(): brings the file to stable storage (which may take long) and makes the blob one of the store's.
  virtual Status Commit() = 0;
  // Nothing is to be kept.
  virtual void Discard() = 0;
  // Ends the fill now, as its destruction would: another may begin. What was readable stays so.
  virtual void Close() = 0;
};

struct StoreUsage {
  uint64_t blob_bytes = 0;    // allocated on disk
  uint64_t device_bytes = 0;  // allocated on disk
  uint64_t budget_bytes = 0;
  uint64_t evicted_bytes = 0;  // since the store was opened
};

struct ScrubReport {
  uint64_t chunks_checked = 0;
  std::vector<std::string> bad_chunks;  // "chunk 17 of layer sha256:…"
  uint64_t blobs_checked = 0;
  std::vector<std::string> bad_blobs;  // "blob sha256:…"; removed
};

// Internally synchronised. One process at a time holds a root (a lock file says so). Layers and leases may outlive the
// store: what is here stays readable, what is put then fails with kFailedPrecondition.
class NodeStore {
 public:
  struct Options {
    std::string root;
    uint64_t budget_bytes = 64 * kGiB;
    std::chrono::milliseconds flush_interval{1000};
    // Eviction waits for StartEviction(), so that pins can be rebuilt from the mount table first.
    bool defer_eviction = false;
    // For tests: the disk under blobs and devices, and the clock by which small blobs age. Null: the real ones.
    std::shared_ptr<Disk> disk;
    std::function<std::chrono::system_clock::time_point()> clock;
  };

  // kFailedPrecondition when another process holds the root. A damaged index is set aside with a warning and begun
  // anew.
  static Result<std::unique_ptr<NodeStore>> Open(Options options);
  virtual ~NodeStore() = default;

  // The layer's handle: the one that is open, or one made from disk, or a new empty one. `device` must agree with what
  // the store has under that blob digest (kDataLoss otherwise).
  virtual Result<std::shared_ptr<StoredLayer>> OpenLayer(const image_format::Device& device) = 0;

  // Whole small blobs (maps, metadata, manifests, configurations). Checked against their digest on the way in.
  virtual Status PutBlob(const Digest& digest, std::span<const std::byte> data) = 0;
  // Read whole and checked against its digest: a blob that rotted on disk is removed and kNotFound returned, so that it
  // is fetched again.
  virtual Result<std::string> GetBlob(const Digest& digest) = 0;

  // Whole blobs of any size. They are not the sparse files of a layer's chunks: one digest may be both.
  // kAlreadyExists: it is in the store. kAborted: another fill of it is under way. kResourceExhausted: no room. Reads
  // and hashes what an earlier fill left, at the speed of the disk.
  virtual Result<std::unique_ptr<BlobFill>> BeginBlob(const Digest& digest, std::optional<uint64_t> blob_bytes) = 0;
  // Small ones too. Not checked now, but when it came, and by Scrub(). kNotFound. Counts as a use.
  virtual Result<StoredBlob> OpenBlob(const Digest& digest) = 0;
  // The size of a whole blob; nullopt when it is not here.
  virtual std::optional<uint64_t> BlobBytes(const Digest& digest) const = 0;
  // kNotFound. Those who have it open keep it.
  virtual Status EraseBlob(const Digest& digest) = 0;

  // A few bytes under a key, for those who keep blobs here and must remember what they mean (tags, media types). Lost
  // with the index; not evicted, so keep them few. An empty value erases.
  virtual Status PutNote(std::string_view key, std::string_view value) = 0;
  virtual Result<std::string> GetNote(std::string_view key) = 0;

  // Re-reads every present chunk against its block digest and every whole blob against its own, at most
  // `bytes_per_second` (0: no limit); drops and names the bad.
  virtual Result<ScrubReport> Scrub(std::stop_token stop, uint64_t bytes_per_second) = 0;

  // Forgets the chunks of layers that nobody holds mounted (StoredLayer::HoldMounted), except those in `keep`, and raw
  // blobs that nobody has open. The bytes that this gave back.
  virtual uint64_t DropUnused(const std::set<Digest>& keep) = 0;
  virtual void StartEviction() = 0;
  // For files of others on the store's disk, when it is full: gives back at least `bytes` by eviction. False: it
  // cannot.
  virtual bool FreeDisk(uint64_t bytes) = 0;
  virtual StoreUsage usage() const = 0;
  // Makes everything put so far survive a power cut.
  virtual Status Flush() = 0;
};

// Runs `write`, which makes a file of about `bytes` on the store's disk; whenever the disk is full for it
// (kResourceExhausted), evicts and runs it again, a few times.
Status WriteWithRoom(NodeStore& store, uint64_t bytes, const std::function<Status()>& write);

}  // namespace banyan::store
