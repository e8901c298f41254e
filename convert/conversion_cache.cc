#include "convert/conversion_cache.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/file_io.h"
#include "common/units.h"

namespace banyan::convert {
namespace {

constexpr int kRecordVersion = 2;  // 1 had no torrents
constexpr uint64_t kMaxRecordBytes = 64 * kKiB;
constexpr uint64_t kMaxIndexBytes = 64 * kMiB;

std::optional<Digest> DigestField(const nlohmann::json& record, const char* name) {
  const auto field = record.find(name);
  if (field == record.end() || !field->is_string()) return std::nullopt;
  auto digest = Digest::Parse(field->get_ref<const std::string&>());
  if (!digest) return std::nullopt;
  return *digest;
}

std::optional<uint64_t> NumberField(const nlohmann::json& record, const char* name) {
  const auto field = record.find(name);
  if (field == record.end() || !field->is_number_unsigned()) return std::nullopt;
  return field->get<uint64_t>();
}

struct Record {
  ConvertedLayer layer;  // without index_blob
  Digest index_digest;
  bool has_torrent = false;
};

std::optional<Record> ParseRecord(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object() || NumberField(json, "version") != kRecordVersion) return std::nullopt;
  const auto diff_id = DigestField(json, "diffId");
  const auto blob = DigestField(json, "blob");
  const auto index = DigestField(json, "index");
  const auto blob_bytes = NumberField(json, "blobBytes");
  if (!diff_id || !blob || !index || !blob_bytes) return std::nullopt;
  const auto torrent = json.find("torrent");
  if (torrent == json.end() || !torrent->is_boolean()) return std::nullopt;
  return Record{{*diff_id, *blob, *blob_bytes, {}, {}}, *index, torrent->get<bool>()};
}

std::string FormatRecord(const ConvertedLayer& layer) {
  return nlohmann::json{{"version", kRecordVersion},
                        {"diffId", layer.diff_id.ToString()},
                        {"blob", layer.blob_digest.ToString()},
                        {"blobBytes", layer.blob_bytes},
                        {"index", Digest::Of(layer.index_blob).ToString()},
                        {"torrent", layer.torrent.has_value()}}
      .dump(2);
}

}  // namespace

std::string ConversionKey::Hex() const {
  return Digest::Of(fmt::format("{}\n{}\n{}\n{} {} {}", source_digest.Hex(), converter_version, level,
                                chunking.min_blocks, chunking.average_blocks, chunking.max_blocks))
      .Hex();
}

std::optional<ConvertedLayer> ConversionCache::Find(const ConversionKey& key) const {
  const auto text = ReadFile(RecordPath(key), kMaxRecordBytes);
  if (!text) return std::nullopt;
  auto record = ParseRecord(*text);
  if (!record) return std::nullopt;
  auto index = ReadFile(RecordPath(key) + ".index", kMaxIndexBytes);
  if (!index || Digest::Of(*index) != record->index_digest) return std::nullopt;
  record->layer.index_blob = std::move(*index);
  if (record->has_torrent) {
    const auto metainfo = ReadFile(RecordPath(key) + ".torrent", image_format::kMaxTorrentBytes);
    if (!metainfo) return std::nullopt;
    auto torrent = image_format::ReadTorrent(*metainfo, record->layer.blob_digest, record->layer.blob_bytes);
    if (!torrent) return std::nullopt;
    record->layer.torrent = std::move(*torrent);
  }
  return std::move(record->layer);
}

Status ConversionCache::Put(const ConversionKey& key, const ConvertedLayer& layer) {
  if (layer.index_blob.size() > kMaxIndexBytes) return {};
  BANYAN_TRY(MakeDirectories(directory_));
  BANYAN_TRY(WriteFileDurably(RecordPath(key) + ".index", layer.index_blob));
  if (layer.torrent) BANYAN_TRY(WriteFileDurably(RecordPath(key) + ".torrent", layer.torrent->metainfo));
  return WriteFileDurably(RecordPath(key), FormatRecord(layer));
}

}  // namespace banyan::convert
