#include "fetch/chunk_intake.h"

#include <utility>

#include <fmt/format.h>

#include "common/log.h"
#include "image-format/chunk_table.h"

namespace banyan::fetch {
namespace {

// Decoded blocks are rarely kept, so each thread decodes into the same memory; huge ones are given back.
constexpr size_t kScratchBytes = 2 * kMiB;

HeldChunk StoreBlocks(store::StoredLayer& layer, ChunkIndex chunk, std::vector<std::byte>& blocks) {
  const Status put = layer.PutBlocks(chunk, blocks);
  if (put) {
    if (HeldChunk held = LeaseChunk(layer, chunk)) return held;  // else it has been evicted already
  } else if (put.error().code != Code::kResourceExhausted) {
    spdlog::warn("{}: cannot be stored: {}", ChunkName(layer, chunk), put.error().message);
  }
  return {nullptr, std::make_shared<const std::vector<std::byte>>(std::move(blocks))};
}

bool StoreCompressed(store::StoredLayer& layer, ChunkIndex chunk, std::span<const std::byte> compressed) {
  const Status put = layer.PutCompressed(chunk, compressed);
  if (!put) spdlog::debug("{}: compressed form not kept: {}", ChunkName(layer, chunk), put.error().message);
  return put.has_value();
}

}  // namespace

std::string ChunkName(const store::StoredLayer& layer, ChunkIndex chunk) {
  return fmt::format("chunk {} of layer {}", chunk, layer.device().blob_digest.ToString());
}

HeldChunk LeaseChunk(store::StoredLayer& layer, ChunkIndex chunk) {
  auto lease = layer.Lease({chunk, chunk + 1});
  if (!lease) return {};
  return {std::make_shared<store::ChunkLease>(std::move(*lease)), nullptr};
}

std::optional<LocalChunk> FindLocally(store::StoredLayer& layer, ChunkIndex chunk) {
  if (HeldChunk held = LeaseChunk(layer, chunk)) return LocalChunk{std::move(held), {}};

  const Result<bool> copied = layer.CopyFromOther(chunk);
  if (copied && *copied) {
    if (HeldChunk held = LeaseChunk(layer, chunk)) return LocalChunk{std::move(held), "reuse"};
  } else if (!copied && copied.error().code != Code::kResourceExhausted) {
    spdlog::warn("{}: cannot be copied from another layer: {}", ChunkName(layer, chunk), copied.error().message);
  }

  CopyCompressed(layer, chunk);
  const auto compressed = layer.GetCompressed(chunk);
  if (!compressed) return std::nullopt;
  auto held = TakeIn(layer, chunk, *compressed, false);
  if (held) return LocalChunk{std::move(*held), "store"};
  spdlog::warn("{}; dropped from the store", held.error().message);
  layer.Drop(chunk);
  return std::nullopt;
}

bool CopyCompressed(store::StoredLayer& layer, ChunkIndex chunk) {
  if (layer.HasCompressed(chunk)) return false;
  const Result<bool> copied = layer.CopyCompressedFromOther(chunk);
  if (!copied && copied.error().code != Code::kResourceExhausted) {
    spdlog::warn("{}: cannot be copied from another layer: {}", ChunkName(layer, chunk), copied.error().message);
  }
  return copied && *copied;
}

Result<HeldChunk> TakeIn(store::StoredLayer& layer, ChunkIndex chunk, std::span<const std::byte> compressed,
                         bool keep_compressed) {
  thread_local std::vector<std::byte> blocks;
  const Status decoded = image_format::DecodeChunk(layer.device().chunks[chunk], compressed, blocks);
  if (!decoded) return Fail(decoded.error().WithContext(ChunkName(layer, chunk)));
  if (keep_compressed) StoreCompressed(layer, chunk, compressed);
  HeldChunk held = StoreBlocks(layer, chunk, blocks);
  if (blocks.capacity() > kScratchBytes) std::vector<std::byte>().swap(blocks);
  return held;
}

Result<bool> TakeInCompressed(store::StoredLayer& layer, ChunkIndex chunk, const ChunkBytes& compressed, bool keep) {
  const image_format::Chunk& expected = layer.device().chunks[chunk];
  const bool right =
      compressed.size() == expected.compressed_bytes &&
      (compressed.checked || Digest::Of(std::span<const std::byte>(compressed)) == expected.compressed_digest);
  if (!right) return Fail(Code::kDataLoss, ChunkName(layer, chunk) + ": compressed digest mismatch");
  return keep && StoreCompressed(layer, chunk, compressed);
}

}  // namespace banyan::fetch
