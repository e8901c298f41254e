#include "fetch/testing/fake_store.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cstdlib>

#include "common/file_io.h"

namespace banyan::fetch::testing {

FakeStoredLayer::FakeStoredLayer(const TestLayer& layer, uint64_t budget_bytes)
    : layer_(layer),
      budget_bytes_(budget_bytes),
      fd_(memfd_create("device", MFD_CLOEXEC)),
      compressed_fd_(memfd_create("blob", MFD_CLOEXEC)) {
  if (!fd_ || !compressed_fd_ || ftruncate(fd_.get(), static_cast<off_t>(layer.blocks.size())) != 0) std::abort();
}

bool FakeStoredLayer::Has(ChunkIndex chunk) const {
  const std::lock_guard lock(mutex_);
  return present_.contains(chunk);
}

bool FakeStoredLayer::complete() const {
  const std::lock_guard lock(mutex_);
  return present_.size() == device().chunks.size();
}

uint64_t FakeStoredLayer::present_bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

std::optional<store::ChunkLease> FakeStoredLayer::Lease(ChunkRange range) {
  const std::lock_guard lock(mutex_);
  for (ChunkIndex chunk = range.begin; chunk < range.end; ++chunk) {
    if (!present_.contains(chunk)) return std::nullopt;
  }
  const std::lock_guard leases_lock(leases_->mutex);
  for (ChunkIndex chunk = range.begin; chunk < range.end; ++chunk) ++leases_->count[chunk];
  return store::ChunkLease(std::shared_ptr<void>(nullptr, [leases = leases_, range](void*) {
    const std::lock_guard release_lock(leases->mutex);
    for (ChunkIndex chunk = range.begin; chunk < range.end; ++chunk) --leases->count[chunk];
  }));
}

bool FakeStoredLayer::EvictOneLocked() {
  const std::lock_guard lock(leases_->mutex);
  for (ChunkIndex chunk : present_) {
    if (leases_->count[chunk] > 0) continue;
    const ByteRange range = device().chunks[chunk].device_range();
    if (fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(range.begin),
                  static_cast<off_t>(range.size())) != 0) {
      std::abort();
    }
    bytes_ -= range.size();
    present_.erase(chunk);
    return true;
  }
  return false;
}

Status FakeStoredLayer::PutLocked(ChunkIndex chunk, std::span<const std::byte> blocks) {
  if (present_.contains(chunk)) return {};
  while (bytes_ + blocks.size() > budget_bytes_) {
    if (!EvictOneLocked()) return Fail(Code::kResourceExhausted, "the fake store is full");
  }
  BANYAN_TRY(PwriteFull(fd_.get(), blocks, device().chunks[chunk].device_range().begin, path_));
  present_.insert(chunk);
  bytes_ += blocks.size();
  ++puts_;
  return {};
}

Status FakeStoredLayer::PutBlocks(ChunkIndex chunk, std::span<const std::byte> blocks) {
  const std::lock_guard lock(mutex_);
  return PutLocked(chunk, blocks);
}

Status FakeStoredLayer::PutCompressed(ChunkIndex chunk, std::span<const std::byte> compressed) {
  {
    const std::lock_guard lock(mutex_);
    if (!room_for_compressed_) return Fail(Code::kResourceExhausted, "the fake store is full");
  }
  SetCompressed(chunk, {compressed.begin(), compressed.end()});
  return {};
}

Result<std::vector<std::byte>> FakeStoredLayer::GetCompressed(ChunkIndex chunk) {
  const std::lock_guard lock(mutex_);
  const auto found = compressed_.find(chunk);
  if (found == compressed_.end()) return Fail(Code::kNotFound, "not in the fake store");
  return found->second;
}

uint64_t FakeStoredLayer::compressed_bytes_present() const {
  const std::lock_guard lock(mutex_);
  uint64_t bytes = 0;
  for (const auto& [chunk, data] : compressed_) bytes += data.size();
  return bytes;
}

Result<store::CompressedChunk> FakeStoredLayer::LeaseCompressed(ChunkIndex chunk) {
  const std::lock_guard lock(mutex_);
  const auto found = compressed_.find(chunk);
  if (found == compressed_.end()) return Fail(Code::kNotFound, "not in the fake store");
  const uint64_t offset = device().chunks[chunk].compressed_offset;
  BANYAN_TRY(PwriteFull(compressed_fd_.get(), found->second, offset, "memfd:blob"));
  return store::CompressedChunk{compressed_fd_.get(), offset, found->second.size(), {}};
}

Result<bool> FakeStoredLayer::CopyFromOther(ChunkIndex chunk) {
  const std::lock_guard lock(mutex_);
  if (!offered_.contains(chunk)) return false;
  BANYAN_TRY(PutLocked(chunk, layer_.Blocks(device().chunks[chunk].device_range())));
  return true;
}

Result<bool> FakeStoredLayer::CopyCompressedFromOther(ChunkIndex chunk) {
  const std::lock_guard lock(mutex_);
  if (!offered_compressed_.contains(chunk)) return false;
  compressed_[chunk] = layer_.Compressed(chunk);
  return true;
}

void FakeStoredLayer::Drop(ChunkIndex chunk) {
  const std::lock_guard lock(mutex_);
  dropped_.push_back(chunk);
  compressed_.erase(chunk);
  if (present_.erase(chunk) != 0) bytes_ -= device().chunks[chunk].device_bytes();
}

void FakeStoredLayer::OfferCopy(ChunkIndex chunk) {
  const std::lock_guard lock(mutex_);
  offered_.insert(chunk);
}

void FakeStoredLayer::OfferCompressedCopy(ChunkIndex chunk) {
  const std::lock_guard lock(mutex_);
  offered_compressed_.insert(chunk);
}

void FakeStoredLayer::SetRoomForCompressed(bool room) {
  const std::lock_guard lock(mutex_);
  room_for_compressed_ = room;
}

void FakeStoredLayer::SetCompressed(ChunkIndex chunk, std::vector<std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  compressed_[chunk] = std::move(bytes);
}

bool FakeStoredLayer::HasCompressed(ChunkIndex chunk) const {
  const std::lock_guard lock(mutex_);
  return compressed_.contains(chunk);
}

std::vector<ChunkIndex> FakeStoredLayer::dropped() const {
  const std::lock_guard lock(mutex_);
  return dropped_;
}

size_t FakeStoredLayer::puts() const {
  const std::lock_guard lock(mutex_);
  return puts_;
}

}  // namespace banyan::fetch::testing
