// One pass: source (digest) → decompressor → tar bytes (diff ID) → tar reader → tree and chunker → pipeline → blob.
// Whatever is unbounded in a layer (contents) streams through; what is kept (names, attributes, chunk table) has
// limits.
#include "image-format/layer_converter.h"

#include <memory>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "image-format/chunk_pipeline.h"
#include "image-format/chunker.h"
#include "image-format/decompress.h"
#include "image-format/hash_lane.h"
#include "image-format/layer_tree.h"
#include "image-format/tar_reader.h"

namespace banyan::image_format {

namespace {

// Hashes and counts what passes.
class HashingSource final : public ByteSource {
 public:
  // `after_read` sees the count so far, and may refuse to go on.
  HashingSource(ByteSource& source, Executor& executor, std::function<Status(uint64_t)> after_read)
      : source_(source), hash_(executor), after_read_(std::move(after_read)) {}

  Result<size_t> Read(std::span<std::byte> buffer) override {
    BANYAN_ASSIGN(const size_t count, source_.Read(buffer));
    hash_.Update(buffer.first(count));
    count_ += count;
    BANYAN_TRY(after_read_(count_));
    return count;
  }
  uint64_t count() const { return count_; }
  Digest Finish() { return hash_.Finish(); }

 private:
  ByteSource& source_;
  HashLane hash_;
  std::function<Status(uint64_t)> after_read_;
  uint64_t count_ = 0;
};

Status CheckDigest(std::string_view what, const Digest& actual, const std::optional<Digest>& expected) {
  if (!expected || *expected == actual) return {};
  return Fail(Code::kDataLoss, fmt::format("{} is {}, expected {}", what, actual.ToString(), expected->ToString()));
}

Status CheckRatio(uint64_t bytes, uint64_t compressed_bytes, const ConvertOptions& options) {
  if (bytes <= options.max_ratio_free_bytes || bytes / options.max_ratio <= compressed_bytes) return {};
  return Fail(
      Code::kResourceExhausted,
      fmt::format("decompression bomb: {} bytes out of {} compressed ones, at most {} times as many are allowed", bytes,
                  compressed_bytes, options.max_ratio));
}

Status CheckOptions(const ConvertOptions& options, const Chunking& chunking) {
  if (options.level < 1 || options.level > 19 || options.max_ratio == 0) {
    return Fail(Code::kInvalidArgument,
                fmt::format("compression level {} is not in 1 to 19, or the ratio is 0", options.level));
  }
  if (chunking.min_blocks == 0 || chunking.min_blocks > chunking.average_blocks ||
      chunking.average_blocks > chunking.max_blocks || chunking.max_blocks > kMaxChunkBlocks) {
    return Fail(Code::kInvalidArgument, fmt::format("chunking of {}, {} and {} blocks", chunking.min_blocks,
                                                    chunking.average_blocks, chunking.max_blocks));
  }
  return {};
}

Status StoreContents(TarReader& reader, const TarHeader& header, Chunker& chunker) {
  BANYAN_TRY(chunker.BeginFile(header.size));
  while (true) {
    BANYAN_ASSIGN(const TarBody body, reader.ReadBody());
    if (!body.data.empty()) {
      BANYAN_TRY(chunker.Append(body.data));
    } else if (body.hole_bytes > 0) {
      BANYAN_TRY(chunker.AppendZeros(body.hole_bytes));
    } else {
      return chunker.EndFile();
    }
  }
}

}  // namespace

Chunking ChunkingFor(uint64_t source_bytes) {
  if (source_bytes > 0 && source_bytes < 128 * kMiB) return {.min_blocks = 16, .average_blocks = 32, .max_blocks = 64};
  const uint32_t scale = source_bytes >= 16 * kGiB ? 16 : source_bytes >= 2 * kGiB ? 4 : 1;
  const Chunking usual;
  return {usual.min_blocks * scale, usual.average_blocks * scale, usual.max_blocks * scale};
}

Result<LayerIndex> ConvertLayer(ByteSource& layer, const ConvertOptions& options, Executor& executor,
                                ByteSink& data_blob) {
  LayerIndex index;
  index.converter_version = kConverterVersion;
  index.chunking = options.chunking.value_or(ChunkingFor(options.source_bytes));
  BANYAN_TRY(CheckOptions(options, index.chunking));

  HashingSource source(layer, executor, [&options](uint64_t count) -> Status {
    if (options.progress) options.progress(count);
    return {};
  });
  BANYAN_ASSIGN(const std::unique_ptr<Decompressor> decompressor, Decompressor::Open(source));
  HashingSource tar(*decompressor, executor, [&options, &source](uint64_t count) -> Status {
    if (options.stop.stop_requested()) return Fail(Code::kCancelled, "conversion was cancelled");
    return CheckRatio(count, source.count(), options);
  });
  TarReader reader(tar);
  LayerTree tree(options.max_entries);
  ChunkPipeline pipeline(options.level, index.chunking.max_blocks, executor, data_blob);
  Chunker chunker(index.chunking, pipeline);

  TarHeader header;
  while (true) {
    BANYAN_ASSIGN(const bool more, reader.Next(header));
    if (!more) break;
    BANYAN_ASSIGN(const bool store, tree.Apply(header, chunker.device_blocks()));
    if (!store) continue;
    const uint64_t limit = options.max_device_bytes / kBlockBytes;
    if (BlocksFor(header.size) > limit || chunker.device_blocks() > limit - BlocksFor(header.size)) {
      return Fail(Code::kResourceExhausted,
                  fmt::format("tar: entry at byte {} of {} bytes brings the layer over {} bytes", header.offset,
                              header.size, options.max_device_bytes));
    }
    BANYAN_TRY(CheckRatio(chunker.device_blocks() * kBlockBytes + header.size, source.count(), options));
    BANYAN_TRY(StoreContents(reader, header, chunker));
  }
  BANYAN_TRY(reader.Drain());
  BANYAN_TRY(chunker.Finish());
  BANYAN_TRY(pipeline.Finish());

  index.source_digest = source.Finish();
  index.diff_id = tar.Finish();
  BANYAN_TRY(CheckDigest("digest of the layer", index.source_digest, options.expected_source_digest));
  BANYAN_TRY(CheckDigest("diff ID of the layer", index.diff_id, options.expected_diff_id));
  index.chunks = pipeline.TakeTable();
  index.blob_digest = pipeline.BlobDigest();
  index.blob_bytes = index.chunks.blob_bytes();
  index.device_blocks = index.chunks.device_blocks();
  index.entries = tree.Finish();
  return index;
}

}  // namespace banyan::image_format
