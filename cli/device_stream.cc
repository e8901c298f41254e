#include "cli/device_stream.h"

#include <algorithm>

#include <fmt/format.h>

#include "common/units.h"
#include "convert/blob_stream.h"

namespace banyan::cli {
namespace {

Status Tell(const DeviceVisitor& visitor, Error error) {
  return visitor.on_bad ? visitor.on_bad(error) : Status(Fail(std::move(error)));
}

}  // namespace

Status StreamDevice(net::Repository& repository, const image_format::Device& device, std::stop_token stop,
                    const DeviceVisitor& visitor) {
  if (device.chunks.empty()) return {};
  const image_format::Descriptor blob{.media_type = std::string(image_format::kLayerBlobMediaType),
                                      .digest = device.blob_digest,
                                      .size = device.blob_bytes};
  BANYAN_ASSIGN(const auto stream, convert::OpenDescribedBlob(repository, blob, "data blob", std::move(stop)));
  std::vector<std::byte> compressed;
  std::vector<std::byte> blocks;
  for (ChunkIndex i = 0; i < device.chunks.size(); ++i) {
    const image_format::Chunk& chunk = device.chunks[i];
    compressed.resize(chunk.compressed_bytes);
    BANYAN_ASSIGN(const size_t read, ReadFully(*stream, compressed));
    if (read != compressed.size()) {
      return Fail(Code::kDataLoss, fmt::format("data blob {}: ends within chunk {}", device.blob_digest.ToString(), i));
    }
    const Status decoded = image_format::DecodeChunk(chunk, compressed, blocks);
    if (decoded) {
      BANYAN_TRY(visitor.on_blocks(chunk.first_block, blocks));
    } else {
      BANYAN_TRY(Tell(visitor, decoded.error().WithContext(
                                   fmt::format("chunk {} of data blob {}", i, device.blob_digest.ToString()))));
    }
  }
  const Status whole = stream->CheckToEnd(device.blob_digest);
  if (!whole && whole.error().code == Code::kDataLoss) return Tell(visitor, whole.error());
  return whole;
}

Status ExtentRouter::Feed(uint64_t first_block, std::span<const std::byte> blocks) {
  const uint64_t begin = first_block * kBlockBytes;
  const uint64_t end = begin + blocks.size();
  for (; next_ < extents_.size(); ++next_) {
    const FileExtent& extent = extents_[next_];
    const uint64_t extent_begin = extent.first_block * kBlockBytes;
    const uint64_t extent_end = extent_begin + extent.bytes;
    const uint64_t from = std::max(begin, extent_begin);
    const uint64_t to = std::min(end, extent_end);
    if (from < to) BANYAN_TRY(on_bytes_(extent, from - extent_begin, blocks.subspan(from - begin, to - from)));
    if (extent_end > end) return {};
  }
  return {};
}

}  // namespace banyan::cli
