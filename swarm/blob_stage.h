// One layer's data blob on its way in by BitTorrent, between libtorrent and the node store.
//
// Problem: BitTorrent writes 16 KiB blocks before it knows whether they are right, checks them by SHA-1 a piece, and
// pieces do not end where chunks do. Idea: blocks go to a file of their own that has no name. When a piece has passed,
// each chunk that lies in passed pieces is read back, checked against its SHA-256 and put into the store; a chunk that
// lies across pieces waits for the last of them. Invariant: a byte in the store has passed its SHA-256, and a chunk
// that is in the store is never written again, whatever a peer sends. Cost: one write to and one read from the page
// cache a byte, SHA-1 and SHA-256 once; on disk, what is not in the store yet.
//
// A piece whose chunks are all in the store needs no staging, however they came: blocks written to it are dropped, and
// its hash is taken as known, since its chunks were checked by the stronger one.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "common/result.h"
#include "common/unique_fd.h"
#include "common/units.h"
#include "image-format/torrent.h"
#include "store/node_store.h"

namespace banyan::swarm {

// Internally synchronised; calls of one stage exclude each other, and do local disk I/O only.
class BlobStage {
 public:
  // `torrent` must be of the layer's blob. The file is made in `directory`, which must exist, and is gone with the
  // stage.
  static Result<std::shared_ptr<BlobStage>> Open(std::shared_ptr<store::StoredLayer> layer,
                                                 image_format::Torrent torrent, const std::string& directory);

  uint32_t pieces() const { return pieces_; }
  ByteRange RangeOf(uint32_t piece) const;
  // The chunks that have bytes in the piece.
  ChunkRange ChunksOf(uint32_t piece) const;
  const image_format::Torrent& torrent() const { return torrent_; }
  const store::StoredLayer& layer() const { return *layer_; }

  // Whether all chunks of the piece are in the store.
  bool InStore(uint32_t piece) const;
  // A piece that has passed its check, or is in the store: its bytes can be read.
  bool Has(uint32_t piece) const;

  // Unchecked bytes of one piece. Ignored when the piece is there. kResourceExhausted: the disk is full.
  Status Write(uint64_t offset, std::span<const std::byte> data);
  // The SHA-1 of a piece whose blocks have all been written; if it is the torrent's, chunks go into the store.
  // kResourceExhausted: one could not be stored, and the piece does not count as there. kDataLoss: a chunk's SHA-256 is
  // wrong though its pieces are the torrent's, so the torrent is not of this blob.
  Result<image_format::InfoHash> HashPiece(uint32_t piece);
  // Checked bytes. kNotFound when some are not here (any more).
  Status Read(uint64_t offset, std::span<std::byte> out) const;

  // Whether Read() has missed bytes: what was offered has been evicted.
  bool lost() const { return lost_; }
  // Bytes that HashPiece() has put into the store.
  uint64_t committed_bytes() const;

 private:
  BlobStage(std::shared_ptr<store::StoredLayer> layer, image_format::Torrent torrent, UniqueFd file);

  bool HasLocked(uint32_t piece) const BANYAN_REQUIRES(mutex_);
  Status Commit(uint32_t piece, std::span<const std::byte> bytes) BANYAN_REQUIRES(mutex_);
  Status CommitChunk(ChunkIndex chunk, uint32_t piece, std::span<const std::byte> bytes) BANYAN_REQUIRES(mutex_);
  Status ReadChunkPart(ChunkIndex chunk, uint64_t offset, std::span<std::byte> out) const BANYAN_REQUIRES(mutex_);
  void Punch(ByteRange range) const;
  image_format::InfoHash ExpectedHash(uint32_t piece) const;

  const std::shared_ptr<store::StoredLayer> layer_;
  const image_format::Torrent torrent_;
  const uint64_t blob_bytes_;
  const uint32_t pieces_;
  const UniqueFd file_;

  mutable std::atomic<bool> lost_{false};
  mutable Mutex mutex_;
  std::vector<bool> passed_ BANYAN_GUARDED_BY(mutex_);
  uint64_t committed_bytes_ BANYAN_GUARDED_BY(mutex_) = 0;
};

}  // namespace banyan::swarm
