#include "image-format/artifact.h"

#include <charconv>
#include <map>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "image-format/layer_index.h"

namespace banyan::image_format {
namespace {

tl::unexpected<Error> Bad(std::string_view what) {
  return Fail(Code::kInvalidArgument, fmt::format("artifact: {}", what));
}

Descriptor Describe(std::string_view media_type, const Digest& digest, uint64_t size, Annotations annotations = {}) {
  Descriptor descriptor;
  descriptor.media_type = media_type;
  descriptor.digest = digest;
  descriptor.size = size;
  descriptor.annotations = std::move(annotations);
  return descriptor;
}

Result<std::string> Annotation(const Annotations& annotations, std::string_view key) {
  const auto it = annotations.find(std::string(key));
  if (it == annotations.end()) return Bad(fmt::format("no annotation '{}'", key));
  return it->second;
}

Result<Digest> DigestAnnotation(const Annotations& annotations, std::string_view key) {
  BANYAN_ASSIGN(const std::string text, Annotation(annotations, key));
  return Digest::Parse(text);
}

Result<uint64_t> NumberAnnotation(const Annotations& annotations, std::string_view key) {
  BANYAN_ASSIGN(const std::string text, Annotation(annotations, key));
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) {
    return Bad(fmt::format("annotation '{}' is not a number", key));
  }
  return number;
}

Result<ArtifactLayer> LayerFrom(const Descriptor& index) {
  ArtifactLayer layer;
  layer.index_digest = index.digest;
  layer.index_bytes = index.size;
  BANYAN_ASSIGN(layer.source_digest, DigestAnnotation(index.annotations, kLayerSourceAnnotation));
  BANYAN_ASSIGN(layer.diff_id, DigestAnnotation(index.annotations, kLayerDiffIdAnnotation));
  BANYAN_ASSIGN(layer.blob_digest, DigestAnnotation(index.annotations, kLayerBlobAnnotation));
  BANYAN_ASSIGN(layer.blob_bytes, NumberAnnotation(index.annotations, kLayerBlobBytesAnnotation));
  return layer;
}

// The blob it is of must be listed, and no other torrent of it.
Result<ArtifactTorrent> TorrentFrom(const Descriptor& torrent, const std::map<Digest, uint64_t>& blobs,
                                    std::set<Digest>& seen) {
  ArtifactTorrent result{.torrent_digest = torrent.digest, .torrent_bytes = torrent.size};
  BANYAN_ASSIGN(result.blob_digest, DigestAnnotation(torrent.annotations, kLayerBlobAnnotation));
  BANYAN_ASSIGN(const std::string info_hash, Annotation(torrent.annotations, kInfoHashAnnotation));
  BANYAN_ASSIGN(result.info_hash, InfoHash::FromHex(info_hash));
  if (torrent.size == 0 || torrent.size > kMaxTorrentBytes) {
    return Bad(fmt::format("torrent {} of {} bytes", torrent.digest.ToString(), torrent.size));
  }
  if (!blobs.contains(result.blob_digest) || !seen.insert(result.blob_digest).second) {
    return Bad(fmt::format("torrent {} is of a blob that is not listed before it, or has one already",
                           torrent.digest.ToString()));
  }
  return result;
}

Status ReadLayers(const Manifest& manifest, Artifact& artifact) {
  if (manifest.layers.size() < 3 || manifest.layers[0].media_type != kImageMapMediaType ||
      manifest.layers[1].media_type != kImageMetadataMediaType) {
    return Bad("its layers do not begin with map, metadata and a layer");
  }
  artifact.map_digest = manifest.layers[0].digest;
  artifact.map_bytes = manifest.layers[0].size;
  artifact.metadata_blob_digest = manifest.layers[1].digest;
  artifact.metadata_blob_bytes = manifest.layers[1].size;
  std::map<Digest, uint64_t> blobs;
  std::set<Digest> with_torrent;
  for (size_t i = 2; i < manifest.layers.size(); ++i) {
    const Descriptor& descriptor = manifest.layers[i];
    if (descriptor.media_type == kLayerBlobMediaType) blobs.emplace(descriptor.digest, descriptor.size);
    if (descriptor.media_type == kTorrentMediaType) {
      BANYAN_ASSIGN(ArtifactTorrent torrent, TorrentFrom(descriptor, blobs, with_torrent));
      artifact.torrents.push_back(std::move(torrent));
    }
    if (descriptor.media_type != kLayerIndexMediaType) continue;  // later formats may add others
    BANYAN_ASSIGN(ArtifactLayer layer, LayerFrom(descriptor));
    const auto blob = blobs.find(layer.blob_digest);
    if (layer.blob_bytes > 0 && (blob == blobs.end() || blob->second != layer.blob_bytes)) {
      return Bad(fmt::format("index {} names a data blob that is not listed before it", descriptor.digest.ToString()));
    }
    artifact.layers.push_back(std::move(layer));
  }
  if (artifact.layers.empty()) return Bad("it lists no layer index");
  return {};
}

}  // namespace

Artifact MakeArtifact(const BuiltImage& image, std::span<const LayerInput> layers) {
  Artifact artifact;
  artifact.converter_version = image.map.converter_version;
  artifact.chain_id = image.map.chain_id;
  artifact.map_digest = image.map_digest;
  artifact.map_bytes = image.map_blob.size();
  artifact.metadata_blob_digest = image.map.metadata_blob_digest;
  artifact.metadata_blob_bytes = image.map.metadata_blob_bytes;
  std::set<Digest> seen;
  for (const LayerInput& layer : layers) {
    if (!seen.insert(layer.index_digest).second) continue;
    artifact.layers.push_back({layer.index->source_digest, layer.index->diff_id, layer.index->blob_digest,
                               layer.index->blob_bytes, layer.index_digest, layer.index_bytes});
  }
  return artifact;
}

std::string WriteArtifact(const Artifact& artifact) {
  Manifest manifest;
  manifest.media_type = kOciManifestMediaType;
  manifest.artifact_type = kImageArtifactType;
  manifest.annotations = {{std::string(kFormatVersionAnnotation), std::to_string(kFormatVersion)},
                          {std::string(kConverterVersionAnnotation), artifact.converter_version},
                          {std::string(kChainIdAnnotation), artifact.chain_id.ToString()}};
  if (artifact.source_manifest) {
    manifest.annotations[std::string(kSourceManifestAnnotation)] = artifact.source_manifest->ToString();
  }
  if (artifact.signature) {
    manifest.annotations[std::string(kSignatureAnnotation)] = artifact.signature->value;
    manifest.annotations[std::string(kSignatureKeyAnnotation)] = artifact.signature->key_id;
    manifest.annotations[std::string(kSignatureTimeAnnotation)] = artifact.signature->time;
  }
  manifest.subject = artifact.subject;
  manifest.config = artifact.config ? *artifact.config
                                    : Describe(kOciEmptyMediaType, Digest::Of(kEmptyJsonBlob), kEmptyJsonBlob.size());
  manifest.layers.push_back(Describe(kImageMapMediaType, artifact.map_digest, artifact.map_bytes));
  manifest.layers.push_back(
      Describe(kImageMetadataMediaType, artifact.metadata_blob_digest, artifact.metadata_blob_bytes));
  std::set<Digest> seen;
  for (const ArtifactLayer& layer : artifact.layers) {
    if (layer.blob_bytes == 0 || !seen.insert(layer.blob_digest).second) continue;
    manifest.layers.push_back(Describe(kLayerBlobMediaType, layer.blob_digest, layer.blob_bytes,
                                       {{std::string(kLayerDiffIdAnnotation), layer.diff_id.ToString()}}));
  }
  for (const ArtifactLayer& layer : artifact.layers) {
    manifest.layers.push_back(Describe(kLayerIndexMediaType, layer.index_digest, layer.index_bytes,
                                       {{std::string(kLayerSourceAnnotation), layer.source_digest.ToString()},
                                        {std::string(kLayerDiffIdAnnotation), layer.diff_id.ToString()},
                                        {std::string(kLayerBlobAnnotation), layer.blob_digest.ToString()},
                                        {std::string(kLayerBlobBytesAnnotation), std::to_string(layer.blob_bytes)}}));
  }
  for (const ArtifactTorrent& torrent : artifact.torrents) {
    manifest.layers.push_back(Describe(kTorrentMediaType, torrent.torrent_digest, torrent.torrent_bytes,
                                       {{std::string(kLayerBlobAnnotation), torrent.blob_digest.ToString()},
                                        {std::string(kInfoHashAnnotation), torrent.info_hash.Hex()}}));
  }
  return WriteManifest(manifest);
}

bool IsArtifact(const Manifest& manifest) { return manifest.artifact_type == kImageArtifactType; }

Result<Artifact> ParseArtifact(std::string_view json) {
  BANYAN_ASSIGN(const Manifest manifest, ParseManifest(json));
  if (!IsArtifact(manifest)) {
    return Bad(fmt::format("artifactType is '{}', not '{}'", manifest.artifact_type, kImageArtifactType));
  }
  BANYAN_ASSIGN(const uint64_t version, NumberAnnotation(manifest.annotations, kFormatVersionAnnotation));
  if (version != kFormatVersion) {
    return Fail(Code::kUnimplemented,
                fmt::format("artifact: format version {}, only {} is known", version, kFormatVersion));
  }
  Artifact artifact;
  BANYAN_ASSIGN(artifact.converter_version, Annotation(manifest.annotations, kConverterVersionAnnotation));
  BANYAN_ASSIGN(artifact.chain_id, DigestAnnotation(manifest.annotations, kChainIdAnnotation));
  artifact.subject = manifest.subject;
  if (manifest.config.media_type != kOciEmptyMediaType) artifact.config = manifest.config;
  if (!artifact.subject && !artifact.config) return Bad("neither a subject nor an image configuration");
  if (manifest.annotations.contains(std::string(kSourceManifestAnnotation))) {
    BANYAN_ASSIGN(artifact.source_manifest, DigestAnnotation(manifest.annotations, kSourceManifestAnnotation));
  }
  if (manifest.annotations.contains(std::string(kSignatureAnnotation))) {
    ArtifactSignature signature;
    BANYAN_ASSIGN(signature.value, Annotation(manifest.annotations, kSignatureAnnotation));
    BANYAN_ASSIGN(signature.key_id, Annotation(manifest.annotations, kSignatureKeyAnnotation));
    BANYAN_ASSIGN(signature.time, Annotation(manifest.annotations, kSignatureTimeAnnotation));
    artifact.signature = std::move(signature);
  }
  BANYAN_TRY(ReadLayers(manifest, artifact));
  return artifact;
}

Status CheckArtifactAgainstMap(const Artifact& artifact, const ImageMap& map) {
  const auto bad = [](std::string_view what) { return Fail(Code::kDataLoss, fmt::format("image map: {}", what)); };
  if (map.chain_id != artifact.chain_id) return bad("another chain ID than the artifact's");
  if (map.metadata_blob_digest != artifact.metadata_blob_digest ||
      map.metadata_blob_bytes != artifact.metadata_blob_bytes) {
    return bad("other metadata than the artifact's");
  }
  std::map<Digest, const ArtifactLayer*> layers;
  for (const ArtifactLayer& layer : artifact.layers) layers.emplace(layer.index_digest, &layer);
  std::vector<Digest> diff_ids;
  for (const Device& device : map.devices) {
    const auto it = layers.find(device.index_digest);
    if (it == layers.end() || it->second->blob_digest != device.blob_digest || it->second->diff_id != device.diff_id ||
        it->second->blob_bytes != device.blob_bytes || it->second->index_bytes != device.index_bytes) {
      return bad(fmt::format("layer {} is not as the artifact lists it", device.diff_id.ToString()));
    }
    diff_ids.push_back(device.diff_id);
  }
  if (ChainId(diff_ids) != map.chain_id) return bad("its layers do not make its chain ID");
  return {};
}

}  // namespace banyan::image_format
