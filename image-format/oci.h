// The OCI image specification's JSON documents (and docker's schema 2 twins): manifests, indexes, image configurations.
//
// They come from outside. Parsers take any bytes and return a document or kInvalidArgument that names the field; sizes,
// nesting and counts are bounded, duplicate keys refused, unknown fields ignored. Writers give the same bytes for the
// same document.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/digest.h"
#include "common/result.h"
#include "image-format/decompress.h"

namespace banyan::image_format {

inline constexpr uint64_t kMaxManifestBytes = 4 * 1024 * 1024;
inline constexpr uint64_t kMaxImageConfigBytes = 8 * 1024 * 1024;

inline constexpr std::string_view kOciManifestMediaType = "application/vnd.oci.image.manifest.v1+json";
inline constexpr std::string_view kOciIndexMediaType = "application/vnd.oci.image.index.v1+json";
inline constexpr std::string_view kOciConfigMediaType = "application/vnd.oci.image.config.v1+json";
inline constexpr std::string_view kOciEmptyMediaType = "application/vnd.oci.empty.v1+json";
inline constexpr std::string_view kDockerManifestMediaType = "application/vnd.docker.distribution.manifest.v2+json";
inline constexpr std::string_view kDockerIndexMediaType = "application/vnd.docker.distribution.manifest.list.v2+json";
inline constexpr std::string_view kDockerConfigMediaType = "application/vnd.docker.container.image.v1+json";

struct Platform {
  std::string os = "linux";
  std::string architecture = "amd64";
  std::string variant;  // "v7"; empty: the architecture's default
  friend bool operator==(const Platform&, const Platform&) = default;
};
// "linux/arm64/v8"
std::string ToString(const Platform& platform);
// "os/architecture[/variant]".
Result<Platform> ParsePlatform(std::string_view text);

using Annotations = std::map<std::string, std::string>;

struct Descriptor {
  std::string media_type;
  Digest digest;
  uint64_t size = 0;
  std::string artifact_type;  // may be empty
  Annotations annotations;
  std::optional<Platform> platform;
  friend bool operator==(const Descriptor&, const Descriptor&) = default;
};

struct Manifest {
  std::string media_type;     // kOciManifestMediaType or kDockerManifestMediaType
  std::string artifact_type;  // may be empty
  Descriptor config;
  std::vector<Descriptor> layers;  // bottom first
  std::optional<Descriptor> subject;
  Annotations annotations;
};

struct Index {
  std::string media_type;  // kOciIndexMediaType or kDockerIndexMediaType
  std::string artifact_type;
  std::vector<Descriptor> manifests;
  std::optional<Descriptor> subject;
  Annotations annotations;
};

struct ImageConfig {
  Platform platform;
  std::vector<std::string> env;  // "NAME=value"
  std::vector<std::string> entrypoint;
  std::vector<std::string> cmd;
  std::string working_dir;
  std::string user;
  std::vector<Digest> diff_ids;  // bottom first
};

// Whether a manifest media type is an index (or docker's manifest list), or a manifest. `; charset=…` is ignored.
bool IsIndex(std::string_view media_type);
bool IsManifest(std::string_view media_type);
// How a layer of this media type is compressed. kUnimplemented for foreign (non-distributable), encrypted and unknown
// media types, with a message that says which.
Result<Compression> LayerCompression(std::string_view media_type);

// The media type of a manifest's body: its mediaType field, else `content_type` (what the registry said), else by its
// fields.
Result<std::string> DetectMediaType(std::string_view body, std::string_view content_type = {});

Result<Manifest> ParseManifest(std::string_view json);
Result<Index> ParseIndex(std::string_view json);
Result<ImageConfig> ParseImageConfig(std::string_view json);
// One descriptor, as the referrers API lists them.
Result<Descriptor> ParseDescriptor(std::string_view json);

std::string WriteManifest(const Manifest& manifest);
std::string WriteIndex(const Index& index);
std::string WriteDescriptor(const Descriptor& descriptor);

// The manifest for `wanted`: same os and architecture, and the highest variant not above the wanted one (a missing
// variant is v8 for arm64, v7 for arm, v1 for amd64). Among equals the first. kNotFound lists what there is.
Result<Descriptor> ChoosePlatform(const Index& index, const Platform& wanted = {});

// OCI image specification, §"Layer ChainID". Zero for no layers.
Digest ChainId(std::span<const Digest> diff_ids);

}  // namespace banyan::image_format
