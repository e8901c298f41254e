#include "cli/inspect.h"

#include "image-format/artifact.h"
#include "image-format/erofs_reader.h"

namespace banyan::cli {

Sharing CountShared(const image_format::ChunkTable& table, ChunkSet& known, bool add) {
  Sharing sharing;
  for (const auto& chunk : table.chunks()) {
    const bool present = add ? !known.insert(chunk.block_digest).second : known.contains(chunk.block_digest);
    if (!present) continue;
    ++sharing.chunks;
    sharing.device_bytes += chunk.device_bytes();
    sharing.blob_bytes += chunk.compressed_bytes;
  }
  return sharing;
}

Result<ImageFacts> InspectImage(const GlobalOptions& globals, const std::string& reference, const std::string& against,
                                const std::string& platform) {
  BANYAN_ASSIGN(const LoadedImage image, LoadImage(globals, reference, platform));
  std::optional<ChunkSet> other;
  if (!against.empty()) {
    BANYAN_ASSIGN(const LoadedImage other_image, LoadImageMap(globals, against, platform));
    other.emplace();
    for (const auto& device : other_image.map.devices) CountShared(device.chunks, *other, true);
  }

  BANYAN_ASSIGN(const auto reader, image_format::ErofsReader::Open(image.metadata));
  ImageFacts facts;
  facts.manifest_digest = image.artifact().source_manifest.value_or(image.resolved.descriptor.digest);
  facts.artifact_digest = *image.resolved.artifact_digest;
  facts.repository = image.repository().name();
  facts.converter_version = image.artifact().converter_version;
  facts.tagged = !image.artifact().subject.has_value();
  facts.chain_id = image.map.chain_id;
  facts.inodes = reader.inode_count();
  facts.map_bytes = image.map_bytes;
  facts.metadata_bytes = image.map.metadata_bytes;
  facts.metadata_blob_bytes = image.map.metadata_blob_bytes;

  ChunkSet known;
  for (const auto& device : image.map.devices) {
    BANYAN_ASSIGN(const image_format::LayerIndex index, LoadLayerIndex(image, device));
    LayerFacts layer;
    layer.blob_digest = device.blob_digest;
    layer.diff_id = device.diff_id;
    layer.device_bytes = device.device_bytes();
    layer.blob_bytes = device.blob_bytes;
    layer.index_bytes = device.index_bytes;
    layer.chunks = device.chunks.size();
    layer.entries = index.entries.size();
    layer.with_lower = CountShared(device.chunks, known, true);
    if (other) layer.with_other = CountShared(device.chunks, *other, false);
    facts.layers.push_back(layer);
  }
  return facts;
}

}  // namespace banyan::cli
