// The artifact manifest that ties an image to its Banyan form (docs/format.md §"Artifact").
//
// It is an OCI 1.1 image manifest of artifactType kImageArtifactType whose layers are, in this order: the image map,
// the metadata, each distinct non-empty data blob, each distinct layer index (both bottom layer first), and the
// torrents of data blobs. The map alone decides which device uses which blob; the list keeps the blobs alive in a
// registry and lets a converter find layers done before. Torrents may be missing: artifacts of before have none.
//
// Attached (the default): config is the empty blob and `subject` the original manifest. Tagged: config is the original
// image's configuration, so that the image can be run from this manifest alone, without a subject; an annotation names
// the original.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/digest.h"
#include "common/result.h"
#include "image-format/image_builder.h"
#include "image-format/image_map.h"
#include "image-format/oci.h"
#include "image-format/torrent.h"

namespace banyan::image_format {

inline constexpr std::string_view kEmptyJsonBlob = "{}";  // the config of an attached artifact; push it as well

// On the manifest.
inline constexpr std::string_view kFormatVersionAnnotation = "vnd.banyan.format.version";
inline constexpr std::string_view kConverterVersionAnnotation = "vnd.banyan.converter.version";
inline constexpr std::string_view kChainIdAnnotation = "vnd.banyan.image.chain-id";
inline constexpr std::string_view kSourceManifestAnnotation = "vnd.banyan.image.source-manifest";  // tagged form
// Signature, see signature.h. All three or none.
inline constexpr std::string_view kSignatureAnnotation = "vnd.banyan.signature";
inline constexpr std::string_view kSignatureKeyAnnotation = "vnd.banyan.signature.key";
inline constexpr std::string_view kSignatureTimeAnnotation = "vnd.banyan.signature.time";
// On index descriptors (diff ID: on data blobs as well).
inline constexpr std::string_view kLayerSourceAnnotation = "vnd.banyan.layer.source";
inline constexpr std::string_view kLayerDiffIdAnnotation = "vnd.banyan.layer.diff-id";
inline constexpr std::string_view kLayerBlobAnnotation = "vnd.banyan.layer.blob";
inline constexpr std::string_view kLayerBlobBytesAnnotation = "vnd.banyan.layer.blob-bytes";
// On torrent descriptors, with kLayerBlobAnnotation.
inline constexpr std::string_view kInfoHashAnnotation = "vnd.banyan.torrent.info-hash";

struct ArtifactLayer {
  Digest source_digest;  // the OCI layer that was converted
  Digest diff_id;
  Digest blob_digest;
  uint64_t blob_bytes = 0;  // 0: the layer has no file contents, and no such blob is stored
  Digest index_digest;
  uint64_t index_bytes = 0;
  friend bool operator==(const ArtifactLayer&, const ArtifactLayer&) = default;
};

// The torrent of a data blob.
struct ArtifactTorrent {
  Digest blob_digest;     // of the data blob
  Digest torrent_digest;  // of the metainfo, a blob of its own
  uint64_t torrent_bytes = 0;
  InfoHash info_hash;
  friend bool operator==(const ArtifactTorrent&, const ArtifactTorrent&) = default;
};

// As the manifest has it: any text, until it is verified.
struct ArtifactSignature {
  std::string key_id;
  std::string time;
  std::string value;  // base64
  friend bool operator==(const ArtifactSignature&, const ArtifactSignature&) = default;
};

struct Artifact {
  std::string converter_version;
  Digest chain_id;
  Digest map_digest;
  uint64_t map_bytes = 0;
  Digest metadata_blob_digest;
  uint64_t metadata_blob_bytes = 0;
  std::vector<ArtifactLayer> layers;      // distinct indexes, bottom layer first
  std::vector<ArtifactTorrent> torrents;  // of distinct data blobs among `layers`; may be empty
  std::optional<Descriptor> subject;      // attached form
  std::optional<Descriptor> config;       // tagged form: the original image's configuration
  std::optional<Digest> source_manifest;  // tagged form
  std::optional<ArtifactSignature> signature;
};

// The artifact of a built image; `layers[i].index` as given to BuildImage. Fill in the torrents, `subject`, or `config`
// and `source_manifest`, before writing.
Artifact MakeArtifact(const BuiltImage& image, std::span<const LayerInput> layers);

// Deterministic. Attached if the artifact has a subject.
std::string WriteArtifact(const Artifact& artifact);
// kInvalidArgument for what is no Banyan artifact or breaks its rules, kUnimplemented for a newer format version.
Result<Artifact> ParseArtifact(std::string_view json);
// Whether a manifest is one, without reading further.
bool IsArtifact(const Manifest& manifest);

// Whether the map is the artifact's: chain ID, metadata, and each device's blob and index listed. kDataLoss.
Status CheckArtifactAgainstMap(const Artifact& artifact, const ImageMap& map);

}  // namespace banyan::image_format
