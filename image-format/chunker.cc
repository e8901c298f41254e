#include "image-format/chunker.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include <xxhash.h>

namespace banyan::image_format {

namespace {

bool IsZero(std::span<const std::byte> block) {
  // A block equals itself moved by one byte only if all its bytes are the same.
  return block[0] == std::byte{0} && std::memcmp(block.data(), block.data() + 1, block.size() - 1) == 0;
}

}  // namespace

Chunker::Chunker(const Chunking& chunking, ChunkSink& sink)
    : chunking_(chunking), mask_(std::bit_floor(chunking.average_blocks) - 1), sink_(sink) {
  partial_.reserve(kBlockBytes);
}

Status Chunker::BeginFile(uint64_t size_bytes) {
  return size_bytes >= uint64_t{chunking_.average_blocks} * kBlockBytes ? Cut() : Status();
}

Status Chunker::Append(std::span<const std::byte> data) {
  while (!data.empty()) {
    if (partial_.empty() && data.size() >= kBlockBytes) {
      BANYAN_TRY(AddBlock(data.first(kBlockBytes)));
      data = data.subspan(kBlockBytes);
      continue;
    }
    const size_t taken = std::min<size_t>(data.size(), kBlockBytes - partial_.size());
    partial_.insert(partial_.end(), data.begin(), data.begin() + static_cast<ptrdiff_t>(taken));
    data = data.subspan(taken);
    if (partial_.size() == kBlockBytes) BANYAN_TRY(EndFile());
  }
  return {};
}

Status Chunker::AppendZeros(uint64_t bytes) {
  if (!partial_.empty()) {
    const uint64_t taken = std::min<uint64_t>(bytes, kBlockBytes - partial_.size());
    partial_.resize(partial_.size() + taken);
    bytes -= taken;
    if (partial_.size() == kBlockBytes) BANYAN_TRY(EndFile());
  }
  BANYAN_TRY(AddZeroBlocks(bytes / kBlockBytes));
  partial_.resize(partial_.size() + bytes % kBlockBytes);
  return {};
}

// Pads and adds the partial block.
Status Chunker::EndFile() {
  if (partial_.empty()) return {};
  partial_.resize(kBlockBytes);
  BANYAN_TRY(AddBlock(partial_));
  partial_.clear();
  return {};
}

Status Chunker::AddBlock(std::span<const std::byte> block) {
  if (IsZero(block)) return AddZeroBlocks(1);
  if (zero_blocks_ > 0) {
    buffer_.resize(uint64_t{zero_blocks_} * kBlockBytes);
    zero_blocks_ = 0;
  }
  buffer_.insert(buffer_.end(), block.begin(), block.end());
  ++blocks_;
  ++device_blocks_;
  if (blocks_ < chunking_.min_blocks) return {};
  const bool matches = (XXH3_64bits(block.data(), block.size()) & mask_) == 0;
  return matches || blocks_ >= chunking_.max_blocks ? Cut() : Status();
}

Status Chunker::AddZeroBlocks(uint64_t count) {
  while (count > 0) {
    const auto taken = static_cast<uint32_t>(std::min<uint64_t>(count, chunking_.max_blocks - blocks_));
    if (buffer_.empty()) {
      zero_blocks_ += taken;
    } else {
      buffer_.resize(buffer_.size() + uint64_t{taken} * kBlockBytes);
    }
    blocks_ += taken;
    device_blocks_ += taken;
    count -= taken;
    if (blocks_ >= chunking_.max_blocks) BANYAN_TRY(Cut());
  }
  return {};
}

Status Chunker::Cut() {
  if (blocks_ == 0) return {};
  const Status taken = buffer_.empty() ? sink_.TakeZeros(zero_blocks_) : sink_.TakeChunk(buffer_);
  zero_blocks_ = 0;
  blocks_ = 0;
  return taken;
}

}  // namespace banyan::image_format
