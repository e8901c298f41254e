#include "image-format/image_builder.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "image-format/decompress.h"
#include "image-format/erofs_reader.h"
#include "image-format/erofs_writer.h"
#include "image-format/merge.h"
#include "image-format/oci.h"
#include "image-format/zstd_sink.h"

namespace banyan::image_format {
namespace {

Result<std::vector<ErofsDevice>> DevicesOf(std::span<const LayerInput> layers) {
  std::vector<ErofsDevice> devices;
  for (const LayerInput& layer : layers) {
    if (layer.index->device_blocks > std::numeric_limits<uint32_t>::max()) {
      return Fail(Code::kResourceExhausted,
                  fmt::format("layer {}: {} blocks", layer.index->diff_id.ToString(), layer.index->device_blocks));
    }
    devices.push_back({layer.index->diff_id.Hex(), static_cast<uint32_t>(layer.index->device_blocks)});
  }
  return devices;
}

Result<std::vector<std::byte>> Compress(std::span<const std::byte> bytes, int level) {
  std::vector<std::byte> blob;
  AppendSink<std::vector<std::byte>> out(blob);
  ZstdSink sink(out, level);
  BANYAN_TRY(sink.Write(bytes));
  BANYAN_TRY(sink.Finish());
  return blob;
}

Device DeviceOf(const LayerInput& layer, uint32_t first_block) {
  const LayerIndex& index = *layer.index;
  Device device;
  device.blob_digest = index.blob_digest;
  device.blob_bytes = index.blob_bytes;
  device.diff_id = index.diff_id;
  device.index_digest = layer.index_digest;
  device.index_bytes = layer.index_bytes;
  device.first_block = first_block;
  device.blocks = static_cast<uint32_t>(index.device_blocks);
  device.chunks = index.chunks;
  return device;
}

}  // namespace

Result<BuiltImage> BuildImage(std::span<const LayerInput> layers, std::string_view converter_version,
                              const BuildOptions& options) {
  std::vector<const LayerIndex*> indexes;
  std::vector<Digest> diff_ids;
  for (const LayerInput& layer : layers) {
    indexes.push_back(layer.index);
    diff_ids.push_back(layer.index->diff_id);
  }
  BANYAN_ASSIGN(const std::vector<ErofsDevice> devices, DevicesOf(layers));
  BuiltImage image;
  {
    BANYAN_ASSIGN(const MergedTree tree, MergeLayers(indexes, {.lower_layers = options.lower_layers}));
    BANYAN_ASSIGN(ErofsMetadata metadata, WriteErofs(tree, devices));
    image.metadata = std::move(metadata.bytes);
    for (size_t i = 0; i < layers.size(); ++i) {
      image.map.devices.push_back(DeviceOf(layers[i], metadata.device_first_blocks[i]));
    }
  }
  BANYAN_ASSIGN(image.metadata_blob, Compress(image.metadata, options.metadata_level));
  image.map.converter_version = converter_version;
  image.map.chain_id = ChainId(diff_ids);
  image.map.metadata_digest = Digest::Of(image.metadata);
  image.map.metadata_bytes = image.metadata.size();
  image.map.metadata_blob_digest = Digest::Of(image.metadata_blob);
  image.map.metadata_blob_bytes = image.metadata_blob.size();
  AppendSink<std::vector<std::byte>> out(image.map_blob);
  BANYAN_TRY(EncodeImageMap(image.map, out));
  image.map_digest = Digest::Of(image.map_blob);
  return image;
}

Result<std::vector<std::byte>> DecodeMetadata(const ImageMap& map, std::span<const std::byte> blob) {
  const auto bad = [](std::string_view what) { return Fail(Code::kDataLoss, fmt::format("metadata blob: {}", what)); };
  if (blob.size() != map.metadata_blob_bytes || Digest::Of(blob) != map.metadata_blob_digest) {
    return bad("not the bytes that the map names");
  }
  MemorySource in(blob);
  BANYAN_ASSIGN(const std::unique_ptr<Decompressor> source, Decompressor::Open(in));
  if (source->compression() != Compression::kZstd) return bad("not a zstd frame");
  std::vector<std::byte> metadata;
  std::vector<std::byte> buffer(256 * kKiB);
  while (true) {
    BANYAN_ASSIGN(const size_t count, source->Read(buffer));
    if (count == 0) break;
    if (metadata.empty()) metadata.reserve(std::min<uint64_t>(map.metadata_bytes, 16 * blob.size() + kMiB));
    if (metadata.size() + count > map.metadata_bytes) return bad("more bytes than the map says");
    metadata.insert(metadata.end(), buffer.begin(), buffer.begin() + static_cast<ptrdiff_t>(count));
  }
  if (metadata.size() != map.metadata_bytes || Digest::Of(metadata) != map.metadata_digest) {
    return bad("decompresses to other bytes than the map names");
  }
  return metadata;
}

Status CheckMapAgainstMetadata(const ImageMap& map, std::span<const std::byte> metadata) {
  BANYAN_ASSIGN(const ErofsReader reader, ErofsReader::Open(metadata));
  const auto slots = reader.devices();
  if (metadata.size() != map.metadata_bytes || slots.size() != map.devices.size()) {
    return Fail(Code::kDataLoss, fmt::format("map of {} bytes of metadata and {} devices, metadata of {} and {}",
                                             map.metadata_bytes, map.devices.size(), metadata.size(), slots.size()));
  }
  for (size_t i = 0; i < slots.size(); ++i) {
    const Device& device = map.devices[i];
    const std::string hex = device.diff_id.Hex();
    if (slots[i].blocks != device.blocks || slots[i].first_block != device.first_block ||
        slots[i].tag != std::string_view(hex).substr(0, slots[i].tag.size()) || slots[i].tag.empty()) {
      return Fail(Code::kDataLoss,
                  fmt::format("device {} is layer {} in the map, but another in the metadata", i, hex));
    }
  }
  return {};
}

}  // namespace banyan::image_format
