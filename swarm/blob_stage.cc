#include "swarm/blob_stage.h"

#include <fcntl.h>

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "common/file_io.h"
#include "image-format/chunk_table.h"

namespace banyan::swarm {
namespace {

using image_format::Chunk;
using image_format::InfoHash;
using image_format::kPieceBytes;

constexpr std::string_view kName = "staged blob";

}  // namespace

Result<std::shared_ptr<BlobStage>> BlobStage::Open(std::shared_ptr<store::StoredLayer> layer,
                                                   image_format::Torrent torrent, const std::string& directory) {
  BANYAN_ASSIGN(UniqueFd file, OpenFile(directory, O_RDWR | O_TMPFILE, 0600));
  return std::shared_ptr<BlobStage>(new BlobStage(std::move(layer), std::move(torrent), std::move(file)));
}

BlobStage::BlobStage(std::shared_ptr<store::StoredLayer> layer, image_format::Torrent torrent, UniqueFd file)
    : layer_(std::move(layer)),
      torrent_(std::move(torrent)),
      blob_bytes_(layer_->device().blob_bytes),
      pieces_(static_cast<uint32_t>((blob_bytes_ + kPieceBytes - 1) / kPieceBytes)),
      file_(std::move(file)),
      passed_(pieces_) {}

ByteRange BlobStage::RangeOf(uint32_t piece) const {
  const uint64_t begin = uint64_t{piece} * kPieceBytes;
  return {begin, std::min<uint64_t>(begin + kPieceBytes, blob_bytes_)};
}

ChunkRange BlobStage::ChunksOf(uint32_t piece) const {
  const auto chunks = layer_->device().chunks.chunks();
  const ByteRange range = RangeOf(piece);
  const auto first = std::upper_bound(chunks.begin(), chunks.end(), range.begin,
                                      [](uint64_t at, const Chunk& chunk) { return at < chunk.compressed_offset; });
  const auto end = std::lower_bound(chunks.begin(), chunks.end(), range.end,
                                    [](const Chunk& chunk, uint64_t at) { return chunk.compressed_offset < at; });
  return {static_cast<ChunkIndex>(first - chunks.begin() - 1), static_cast<ChunkIndex>(end - chunks.begin())};
}

bool BlobStage::InStore(uint32_t piece) const {
  const ChunkRange chunks = ChunksOf(piece);
  for (ChunkIndex chunk = chunks.begin; chunk < chunks.end; ++chunk) {
    if (!layer_->HasCompressed(chunk)) return false;
  }
  return true;
}

bool BlobStage::Has(uint32_t piece) const {
  const MutexLock lock(mutex_);
  return HasLocked(piece);
}

bool BlobStage::HasLocked(uint32_t piece) const { return passed_[piece] || InStore(piece); }

Status BlobStage::Write(uint64_t offset, std::span<const std::byte> data) {
  const MutexLock lock(mutex_);
  if (offset >= blob_bytes_ || data.size() > blob_bytes_ - offset) {
    return Fail(Code::kOutOfRange, fmt::format("block at {} is beyond the blob", offset));
  }
  if (HasLocked(static_cast<uint32_t>(offset / kPieceBytes))) return {};
  return PwriteFull(file_.get(), data, offset, kName);
}

InfoHash BlobStage::ExpectedHash(uint32_t piece) const {
  const std::string_view hashes = image_format::PieceHashes(torrent_, blob_bytes_);
  InfoHash hash;
  std::copy_n(hashes.begin() + piece * InfoHash::kBytes, InfoHash::kBytes, hash.bytes.begin());
  return hash;
}

Result<InfoHash> BlobStage::HashPiece(uint32_t piece) {
  const MutexLock lock(mutex_);
  if (HasLocked(piece)) return ExpectedHash(piece);
  const ByteRange range = RangeOf(piece);
  std::vector<std::byte> bytes(range.size());
  if (!PreadFull(file_.get(), bytes, range.begin, kName)) return InfoHash{};  // blocks are missing: no piece's hash
  const InfoHash hash = image_format::Sha1Of(bytes);
  if (hash != ExpectedHash(piece)) return hash;
  BANYAN_TRY(Commit(piece, bytes));
  return hash;
}

Status BlobStage::Commit(uint32_t piece, std::span<const std::byte> bytes) {
  const ChunkRange chunks = ChunksOf(piece);
  passed_[piece] = true;
  for (ChunkIndex chunk = chunks.begin; chunk < chunks.end; ++chunk) {
    const Status committed = CommitChunk(chunk, piece, bytes);
    if (committed) continue;
    passed_[piece] = false;
    return committed;
  }
  return {};
}

Status BlobStage::CommitChunk(ChunkIndex chunk, uint32_t piece, std::span<const std::byte> bytes) {
  if (layer_->HasCompressed(chunk)) return {};
  const Chunk& entry = layer_->device().chunks[chunk];
  const ByteRange range = entry.blob_range();
  const auto first = static_cast<uint32_t>(range.begin / kPieceBytes);
  const auto last = static_cast<uint32_t>((range.end - 1) / kPieceBytes);
  for (uint32_t other = first; other <= last; ++other) {
    if (!HasLocked(other)) return {};  // it will come with that piece
  }
  std::vector<std::byte> across;
  std::span<const std::byte> compressed;
  if (first == piece && last == piece) {
    compressed = bytes.subspan(range.begin - RangeOf(piece).begin, range.size());
  } else {
    across.resize(range.size());
    BANYAN_TRY(PreadFull(file_.get(), across, range.begin, kName));
    compressed = across;
  }
  if (Digest::Of(compressed) != entry.compressed_digest) {
    return Fail(Code::kDataLoss,
                fmt::format("chunk {} of layer {}: pieces are as torrent {} has them, the chunk is not", chunk,
                            layer_->device().blob_digest.ToString(), torrent_.info_hash.Hex()));
  }
  BANYAN_TRY(layer_->PutCompressed(chunk, compressed));
  committed_bytes_ += range.size();
  Punch(range);
  return {};
}

// The staged bytes are in the store now. What the file system cannot give back stays until the stage goes.
void BlobStage::Punch(ByteRange range) const {
  (void)::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(range.begin),
                    static_cast<off_t>(range.size()));
}

Status BlobStage::Read(uint64_t offset, std::span<std::byte> out) const {
  const MutexLock lock(mutex_);
  if (out.empty()) return {};
  if (offset >= blob_bytes_ || out.size() > blob_bytes_ - offset) {
    return Fail(Code::kOutOfRange, fmt::format("bytes at {} are beyond the blob", offset));
  }
  const auto chunks = layer_->device().chunks.chunks();
  auto chunk = std::upper_bound(chunks.begin(), chunks.end(), offset,
                                [](uint64_t at, const Chunk& entry) { return at < entry.compressed_offset; });
  for (--chunk; !out.empty(); ++chunk) {
    const size_t part = std::min<uint64_t>(out.size(), chunk->blob_range().end - offset);
    BANYAN_TRY(ReadChunkPart(static_cast<ChunkIndex>(chunk - chunks.begin()), offset, out.first(part)));
    offset += part;
    out = out.subspan(part);
  }
  return {};
}

// From the store, or, while the chunk waits for a neighbour piece, from passed pieces in the file.
Status BlobStage::ReadChunkPart(ChunkIndex chunk, uint64_t offset, std::span<std::byte> out) const {
  const Chunk& entry = layer_->device().chunks[chunk];
  if (const auto stored = layer_->LeaseCompressed(chunk)) {
    return PreadFull(stored->fd, out, stored->offset + (offset - entry.compressed_offset), kName);
  }
  const auto first = static_cast<uint32_t>(entry.blob_range().begin / kPieceBytes);
  const auto last = static_cast<uint32_t>((entry.blob_range().end - 1) / kPieceBytes);
  bool whole = true;
  for (uint32_t piece = first; piece <= last; ++piece) whole = whole && passed_[piece];
  // A chunk that had all its pieces has left the file: it was in the store, and was evicted.
  bool here = !whole;
  const auto end = static_cast<uint32_t>((offset + out.size() - 1) / kPieceBytes);
  for (auto piece = static_cast<uint32_t>(offset / kPieceBytes); piece <= end; ++piece) here = here && passed_[piece];
  if (!here) {
    lost_ = true;
    return Fail(Code::kNotFound,
                fmt::format("chunk {} of layer {} is not here", chunk, layer_->device().blob_digest.ToString()));
  }
  return PreadFull(file_.get(), out, offset, kName);
}

uint64_t BlobStage::committed_bytes() const {
  const MutexLock lock(mutex_);
  return committed_bytes_;
}

}  // namespace banyan::swarm
