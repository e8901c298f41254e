#include "image-format/chunk_table.h"

#include <algorithm>
#include <memory>

#include <fmt/format.h>
#include <zstd.h>

namespace banyan::image_format {

namespace {

struct FreeDCtx {
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

}  // namespace

Status ChunkTable::Append(uint32_t compressed_bytes, uint32_t blocks, const Digest& compressed_digest,
                          const Digest& block_digest) {
  if (chunks_.size() >= kMaxChunks) {
    return Fail(Code::kInvalidArgument, fmt::format("chunk table: more than {} chunks", kMaxChunks));
  }
  if (compressed_bytes == 0 || compressed_bytes > kMaxChunkCompressedBytes || blocks == 0 || blocks > kMaxChunkBlocks) {
    return Fail(Code::kInvalidArgument,
                fmt::format("chunk {} of {} blocks in {} bytes: want 1 to {} blocks, 1 to {} bytes", chunks_.size(),
                            blocks, compressed_bytes, kMaxChunkBlocks, kMaxChunkCompressedBytes));
  }
  chunks_.push_back({blob_bytes(), compressed_bytes, blocks, device_blocks(), compressed_digest, block_digest});
  return {};
}

ChunkIndex ChunkTable::ChunkOfBlock(uint64_t block) const {
  const auto behind = std::upper_bound(chunks_.begin(), chunks_.end(), block,
                                       [](uint64_t wanted, const Chunk& chunk) { return wanted < chunk.first_block; });
  return static_cast<ChunkIndex>(behind - chunks_.begin()) - 1;
}

ChunkRange ChunkTable::ChunksOf(ByteRange range) const {
  return {ChunkOfBlock(range.begin / kBlockBytes), ChunkOfBlock((range.end - 1) / kBlockBytes) + 1};
}

bool operator==(const ChunkTable& a, const ChunkTable& b) {
  return std::equal(a.chunks_.begin(), a.chunks_.end(), b.chunks_.begin(), b.chunks_.end(),
                    [](const Chunk& x, const Chunk& y) {  // Offsets follow from the lengths.
                      return x.compressed_bytes == y.compressed_bytes && x.blocks == y.blocks &&
                             x.compressed_digest == y.compressed_digest && x.block_digest == y.block_digest;
                    });
}

Status DecodeChunk(const Chunk& chunk, std::span<const std::byte> compressed, std::vector<std::byte>& blocks) {
  if (compressed.size() != chunk.compressed_bytes) {
    return Fail(Code::kDataLoss, fmt::format("chunk at block {}: {} compressed bytes, want {}", chunk.first_block,
                                             compressed.size(), chunk.compressed_bytes));
  }
  if (const Digest actual = Digest::Of(compressed); actual != chunk.compressed_digest) {
    return Fail(Code::kDataLoss, fmt::format("chunk at block {}: compressed bytes have digest {}, want {}",
                                             chunk.first_block, actual.ToString(), chunk.compressed_digest.ToString()));
  }
  if (chunk.blocks > kMaxChunkBlocks) {
    return Fail(Code::kInvalidArgument, fmt::format("chunk at block {}: {} blocks, at most {} are allowed",
                                                    chunk.first_block, chunk.blocks, kMaxChunkBlocks));
  }
  thread_local const std::unique_ptr<ZSTD_DCtx, FreeDCtx> context(ZSTD_createDCtx());
  blocks.resize(chunk.device_bytes());
  const size_t size =
      ZSTD_decompressDCtx(context.get(), blocks.data(), blocks.size(), compressed.data(), compressed.size());
  if (ZSTD_isError(size) != 0U) {
    return Fail(Code::kDataLoss,
                fmt::format("chunk at block {}: does not decompress: {}", chunk.first_block, ZSTD_getErrorName(size)));
  }
  if (size != blocks.size()) {
    return Fail(Code::kDataLoss, fmt::format("chunk at block {}: decompresses to {} bytes, want {}", chunk.first_block,
                                             size, blocks.size()));
  }
  if (const Digest actual = Digest::Of(blocks); actual != chunk.block_digest) {
    return Fail(Code::kDataLoss, fmt::format("chunk at block {}: blocks have digest {}, want {}", chunk.first_block,
                                             actual.ToString(), chunk.block_digest.ToString()));
  }
  return {};
}

}  // namespace banyan::image_format
