#include "peer-agent/documents.h"

#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/file_io.h"
#include "image-format/image_builder.h"
#include "image-format/layer_index.h"

namespace banyan::peer_agent {

namespace {

constexpr uint64_t kMaxMapBytes = 512 * kMiB;
constexpr uint64_t kMaxMetadataBlobBytes = 2 * kGiB;
constexpr uint64_t kMaxIndexBytes = 512 * kMiB;

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

// Replaces a file whole: a mount may be reading the old one. Not synced: these files are checked against their digest
// at each use, and a cold start shall not wait for the disk.
Status ReplaceFile(store::NodeStore& store, const std::string& path, std::span<const std::byte> contents) {
  const std::string temporary = fmt::format("{}.tmp.{}", path, ::gettid());
  const auto write = [&]() -> Status {
    BANYAN_ASSIGN(const UniqueFd file, OpenFile(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600));
    BANYAN_TRY(WriteFull(file.get(), contents, temporary));
    if (::rename(temporary.c_str(), path.c_str()) != 0) return FailErrno("rename to " + path, errno);
    return {};
  };
  const Status status = store::WriteWithRoom(store, contents.size(), write);
  if (!status) ::unlink(temporary.c_str());
  return status;
}

// What a parser calls an invalid argument is, to whoever mounts, an image that is no good.
template <typename T>
Result<T> AsBadContent(Result<T> result) {
  if (!result && result.error().code == Code::kInvalidArgument) result.error().code = Code::kDataLoss;
  return result;
}

Result<image_format::ImageMap> DecodeMap(std::string_view blob) {
  MemorySource source(Bytes(blob));
  return AsBadContent(image_format::DecodeImageMap(source));
}

}  // namespace

Result<std::unique_ptr<Documents>> Documents::Open(std::string data_root, store::NodeStore& store, GetFirst get_first) {
  std::string directory = std::move(data_root) + "/metadata";
  BANYAN_TRY(MakeDirectories(directory, 0700));
  return std::unique_ptr<Documents>(new Documents(std::move(directory), store, std::move(get_first)));
}

std::string Documents::MapPath(const Digest& digest) const {
  return fmt::format("{}/{}.map", directory_, digest.Hex());
}

std::string Documents::MetadataPath(const Digest& digest) const {
  return fmt::format("{}/{}.erofs", directory_, digest.Hex());
}

Result<std::string> Documents::Blob(const Origins& origins, const Digest& digest, uint64_t limit_bytes) {
  Result<std::string> blob = store_.GetBlob(digest);
  if (blob || blob.error().code != Code::kNotFound) return blob;
  if (get_first_ && !origins.empty()) {
    blob = get_first_(digest, limit_bytes);
    if (blob) return blob;  // it went through the store
    if (blob.error().code != Code::kNotFound) spdlog::info("{}; the registry is asked", blob.error().message);
  }
  for (const auto& origin : origins) {
    blob = origin->GetBlob(digest, limit_bytes);
    if (!blob) continue;
    // A full disk costs the cache, not the mount.
    if (Status status = store_.PutBlob(digest, Bytes(*blob)); !status) {
      spdlog::warn("blob {} is not cached: {}", digest.ToString(), status.error().message);
    }
    return blob;
  }
  return blob;
}

Result<image_format::ImageMap> Documents::Map(const Origins& origins, const Digest& digest) {
  const std::string path = MapPath(digest);
  auto blob = ReadFile(path, kMaxMapBytes);
  if (!blob || Digest::Of(*blob) != digest) {
    BANYAN_ASSIGN(blob, Blob(origins, digest, kMaxMapBytes));
    BANYAN_TRY(ReplaceFile(store_, path, Bytes(*blob)));
  }
  return DecodeMap(*blob);
}

Result<std::string> Documents::Metadata(const Origins& origins, const image_format::ImageMap& map) {
  const std::string path = MetadataPath(map.metadata_digest);
  if (const auto present = ReadFile(path, map.metadata_bytes)) {
    if (Digest::Of(*present) == map.metadata_digest) {
      BANYAN_TRY(image_format::CheckMapAgainstMetadata(map, Bytes(*present)));
      return path;
    }
    spdlog::warn("{} is damaged and made again", path);
  }
  BANYAN_ASSIGN(const std::string blob, Blob(origins, map.metadata_blob_digest, kMaxMetadataBlobBytes));
  BANYAN_ASSIGN(const std::vector<std::byte> metadata, AsBadContent(image_format::DecodeMetadata(map, Bytes(blob))));
  BANYAN_TRY(image_format::CheckMapAgainstMetadata(map, metadata));
  BANYAN_TRY(ReplaceFile(store_, path, metadata));
  return path;
}

Result<ImageDocuments> Documents::Prefix(const Origins& origins, const Digest& map_digest, uint32_t layers,
                                         uint32_t lower_layers) {
  ImageDocuments documents;
  documents.map_digest = map_digest;
  BANYAN_ASSIGN(documents.map, Map(origins, map_digest));
  if (layers < documents.map.devices.size() || lower_layers > 0) {
    const auto key = std::make_tuple(map_digest, layers, lower_layers);
    std::optional<Digest> known;
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = built_.find(key); found != built_.end()) known = found->second;
    }
    auto map = known ? Map({}, *known) : Result<image_format::ImageMap>(Fail(Code::kNotFound, "not made yet"));
    if (!map) {
      BANYAN_ASSIGN(ImageDocuments built, Build(origins, documents.map, layers, lower_layers));
      const std::lock_guard lock(mutex_);
      built_[key] = built.map_digest;
      return built;
    }
    documents.map_digest = *known;
    documents.map = std::move(*map);
  }
  BANYAN_ASSIGN(documents.metadata_path, Metadata(origins, documents.map));
  return documents;
}

Result<ImageDocuments> Documents::Build(const Origins& origins, const image_format::ImageMap& map, uint32_t layers,
                                        uint32_t lower_layers) {
  const std::string what = fmt::format("layers {} to {} of {} of chain {}", lower_layers + 1, layers,
                                       map.devices.size(), map.chain_id.ToString());
  std::vector<image_format::LayerIndex> indexes;
  std::vector<image_format::LayerInput> inputs;
  indexes.reserve(layers);
  for (uint32_t i = 0; i < layers; ++i) {
    const image_format::Device& device = map.devices[i];
    auto blob = Blob(origins, device.index_digest, kMaxIndexBytes);
    if (!blob) return Fail(blob.error().WithContext(what));
    MemorySource source(Bytes(*blob));
    auto index = AsBadContent(image_format::DecodeLayerIndex(source));
    if (!index) return Fail(index.error().WithContext(what));
    if (index->blob_digest != device.blob_digest || index->diff_id != device.diff_id) {
      return Fail(Code::kDataLoss,
                  fmt::format("{}: index {} is another layer's", what, device.index_digest.ToString()));
    }
    indexes.push_back(std::move(*index));
    inputs.push_back({&indexes.back(), device.index_digest, device.index_bytes});
  }
  auto built = AsBadContent(
      image_format::BuildImage(inputs, map.converter_version, {.lower_layers = lower_layers, .metadata_level = 1}));
  if (!built) return Fail(built.error().WithContext(what));
  ImageDocuments documents;
  documents.map_digest = built->map_digest;
  documents.metadata_path = MetadataPath(built->map.metadata_digest);
  BANYAN_TRY(ReplaceFile(store_, MapPath(built->map_digest), built->map_blob));
  BANYAN_TRY(ReplaceFile(store_, documents.metadata_path, built->metadata));
  indexes.clear();
  ::malloc_trim(0);  // trees and indexes of a large image are tens of MiB, and wanted rarely
  // Its metadata exist nowhere else: should the file rot, this brings it back.
  if (Status status = store_.PutBlob(built->map.metadata_blob_digest, built->metadata_blob); !status) {
    spdlog::debug("metadata of {} are not cached: {}", what, status.error().message);
  }
  documents.map = std::move(built->map);
  return documents;
}

void Documents::KeepOnly(const std::set<Digest>& map_digests, const std::set<Digest>& metadata_digests) {
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(directory_, error)) {
    const auto digest = Digest::FromHex(file.path().stem().string());
    const bool wanted = digest && (file.path().extension() == ".map" ? map_digests.contains(*digest)
                                                                     : metadata_digests.contains(*digest));
    if (!wanted) std::filesystem::remove(file.path(), error);
  }
}

}  // namespace banyan::peer_agent
