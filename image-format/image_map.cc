// The image map's bytes: one zstd frame of the magic "BYNIMAP1" and one ImageMap message.
#include "image-format/image_map.h"

#include <algorithm>
#include <limits>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "image-format/chunk_table_proto.h"
#include "image-format/decompress.h"
#include "image-format/layer_index.h"
#include "image-format/zstd_sink.h"
#include "proto/image_format.pb.h"

namespace banyan::image_format {
namespace {

constexpr std::string_view kMagic = "BYNIMAP1";
constexpr int kLevel = 5;
constexpr uint64_t kMaxMapBytes = 256 * kMiB;  // decompressed: over three million chunks
constexpr uint64_t kMaxMetadataBytes = 8 * kGiB;
constexpr size_t kMaxDevices = 65535;

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

tl::unexpected<Error> Bad(std::string_view what) {
  return Fail(Code::kInvalidArgument, fmt::format("image map: {}", what));
}

// The whole decompressed blob; memory grows only with bytes that came.
Result<std::string> ReadAll(ByteSource& in) {
  BANYAN_ASSIGN(const std::unique_ptr<Decompressor> source, Decompressor::Open(in));
  if (source->compression() != Compression::kZstd) return Bad("not a zstd frame");
  std::string bytes;
  std::vector<std::byte> buffer(64 * kKiB);
  while (true) {
    BANYAN_ASSIGN(const size_t count, source->Read(buffer));
    if (count == 0) return bytes;
    if (bytes.size() + count > kMaxMapBytes) {
      return Fail(Code::kResourceExhausted, fmt::format("image map: more than {} bytes", kMaxMapBytes));
    }
    bytes.append(reinterpret_cast<const char*>(buffer.data()), count);
  }
}

void DeviceToProto(const Device& device, proto::image::Device* message) {
  message->set_blob_digest(std::string(device.blob_digest.raw()));
  message->set_blob_bytes(device.blob_bytes);
  message->set_diff_id(std::string(device.diff_id.raw()));
  message->set_index_digest(std::string(device.index_digest.raw()));
  message->set_index_bytes(device.index_bytes);
  message->set_first_block(device.first_block);
  message->set_blocks(device.blocks);
  ChunkTableToProto(device.chunks, message->mutable_chunks());
}

Result<Device> DeviceFromProto(const proto::image::Device& message) {
  Device device;
  BANYAN_ASSIGN(device.blob_digest, Digest::FromBytes(message.blob_digest()));
  BANYAN_ASSIGN(device.diff_id, Digest::FromBytes(message.diff_id()));
  BANYAN_ASSIGN(device.index_digest, Digest::FromBytes(message.index_digest()));
  BANYAN_ASSIGN(device.chunks, ChunkTableFromProto(message.chunks()));
  device.blob_bytes = message.blob_bytes();
  device.index_bytes = message.index_bytes();
  device.first_block = message.first_block();
  device.blocks = message.blocks();
  return device;
}

Status CheckDevice(const Device& device, uint64_t first_block) {
  if (device.first_block != first_block) {
    return Bad(fmt::format("a device starts at block {}, not at {}", device.first_block, first_block));
  }
  if (device.blocks != device.chunks.device_blocks()) {
    return Bad(fmt::format("a device of {} blocks whose chunks have {}", device.blocks, device.chunks.device_blocks()));
  }
  if (device.blob_bytes != device.chunks.blob_bytes()) {
    return Bad(fmt::format("a blob of {} bytes whose chunks have {}", device.blob_bytes, device.chunks.blob_bytes()));
  }
  return {};
}

// The rules of docs/format.md §"Image map".
Status CheckMap(const ImageMap& map) {
  if (map.metadata_bytes == 0 || map.metadata_bytes % kBlockBytes != 0 || map.metadata_bytes > kMaxMetadataBytes) {
    return Bad(fmt::format("metadata of {} bytes", map.metadata_bytes));
  }
  if (map.metadata_blob_bytes == 0 || map.metadata_blob_bytes > map.metadata_bytes + kMiB) {
    return Bad(fmt::format("a metadata blob of {} bytes", map.metadata_blob_bytes));
  }
  if (map.devices.empty() || map.devices.size() > kMaxDevices)
    return Bad(fmt::format("{} devices", map.devices.size()));
  uint64_t next = map.metadata_bytes / kBlockBytes;
  for (size_t i = 0; i < map.devices.size(); ++i) {
    if (auto status = CheckDevice(map.devices[i], next); !status) {
      return Fail(status.error().WithContext(fmt::format("device {}", i)));
    }
    next += map.devices[i].blocks;
    if (next > std::numeric_limits<uint32_t>::max()) return Bad("more than 2^32 blocks");
  }
  return {};
}

}  // namespace

Status EncodeImageMap(const ImageMap& map, ByteSink& out) {
  BANYAN_TRY(CheckMap(map));
  proto::image::ImageMap message;
  message.set_format_version(kFormatVersion);
  message.set_converter_version(map.converter_version);
  message.set_chain_id(std::string(map.chain_id.raw()));
  message.set_metadata_digest(std::string(map.metadata_digest.raw()));
  message.set_metadata_bytes(map.metadata_bytes);
  message.set_metadata_blob_digest(std::string(map.metadata_blob_digest.raw()));
  message.set_metadata_blob_bytes(map.metadata_blob_bytes);
  for (const Device& device : map.devices) DeviceToProto(device, message.add_devices());
  if (message.ByteSizeLong() > kMaxMapBytes - kMagic.size()) {
    return Fail(Code::kResourceExhausted, fmt::format("image map: more than {} bytes", kMaxMapBytes));
  }
  ZstdSink sink(out, kLevel);
  BANYAN_TRY(sink.Write(Bytes(kMagic)));
  BANYAN_TRY(sink.Write(Bytes(message.SerializeAsString())));
  return sink.Finish();
}

Result<ImageMap> DecodeImageMap(ByteSource& in) {
  BANYAN_ASSIGN(const std::string bytes, ReadAll(in));
  if (!bytes.starts_with(kMagic)) return Bad("wrong magic bytes");
  proto::image::ImageMap message;
  if (!message.ParseFromArray(bytes.data() + kMagic.size(), static_cast<int>(bytes.size() - kMagic.size()))) {
    return Bad("message does not parse");
  }
  if (message.format_version() != kFormatVersion) {
    return Fail(Code::kUnimplemented, fmt::format("image map: format version {}, only {} is known",
                                                  message.format_version(), kFormatVersion));
  }
  ImageMap map;
  map.converter_version = message.converter_version();
  BANYAN_ASSIGN(map.chain_id, Digest::FromBytes(message.chain_id()));
  BANYAN_ASSIGN(map.metadata_digest, Digest::FromBytes(message.metadata_digest()));
  BANYAN_ASSIGN(map.metadata_blob_digest, Digest::FromBytes(message.metadata_blob_digest()));
  map.metadata_bytes = message.metadata_bytes();
  map.metadata_blob_bytes = message.metadata_blob_bytes();
  for (const proto::image::Device& device : message.devices()) {
    BANYAN_ASSIGN(Device parsed, DeviceFromProto(device));
    map.devices.push_back(std::move(parsed));
  }
  BANYAN_TRY(CheckMap(map));
  return map;
}

}  // namespace banyan::image_format
