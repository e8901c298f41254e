#include "image-format/oci.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "image-format/oci_json.h"

namespace banyan::image_format {
namespace {

using oci_json::json;

constexpr uint64_t kMaxDescriptorBytes = 64 * 1024;
constexpr size_t kMaxLayers = 65535;
constexpr uint64_t kMaxBlobBytes = uint64_t{1} << 50;  // a petabyte; keeps sums of sizes from overflowing

std::string_view WithoutParameters(std::string_view media_type) {
  media_type = media_type.substr(0, media_type.find(';'));
  while (media_type.ends_with(' ')) media_type.remove_suffix(1);
  return media_type;
}

// ---- Reading ----

Result<Annotations> ReadAnnotations(const json& object) {
  Annotations annotations;
  BANYAN_ASSIGN(const json* field, oci_json::Object(object, "annotations"));
  if (field == nullptr) return annotations;
  for (const auto& [key, value] : field->items()) {
    if (!value.is_string()) return Fail(Code::kInvalidArgument, fmt::format("annotation '{}' is not a string", key));
    annotations.emplace(key, value.get_ref<const std::string&>());
  }
  return annotations;
}

Result<Platform> ReadPlatform(const json& object) {
  Platform platform;
  BANYAN_ASSIGN(platform.os, oci_json::String(object, "os"));
  BANYAN_ASSIGN(platform.architecture, oci_json::String(object, "architecture"));
  BANYAN_ASSIGN(platform.variant, oci_json::String(object, "variant"));
  return platform;
}

Result<Descriptor> ReadDescriptor(const json& object) {
  if (!object.is_object()) return Fail(Code::kInvalidArgument, "a descriptor is not an object");
  Descriptor descriptor;
  BANYAN_ASSIGN(descriptor.media_type, oci_json::String(object, "mediaType"));
  BANYAN_ASSIGN(const std::string digest, oci_json::String(object, "digest"));
  BANYAN_ASSIGN(descriptor.digest, Digest::Parse(digest));
  if (!object.contains("size")) return Fail(Code::kInvalidArgument, "a descriptor without size");
  BANYAN_ASSIGN(descriptor.size, oci_json::Unsigned(object, "size"));
  if (descriptor.size > kMaxBlobBytes) {
    return Fail(Code::kInvalidArgument, fmt::format("a descriptor of {} bytes", descriptor.size));
  }
  BANYAN_ASSIGN(descriptor.artifact_type, oci_json::String(object, "artifactType"));
  BANYAN_ASSIGN(descriptor.annotations, ReadAnnotations(object));
  BANYAN_ASSIGN(const json* platform, oci_json::Object(object, "platform"));
  if (platform != nullptr) {
    BANYAN_ASSIGN(descriptor.platform, ReadPlatform(*platform));
  }
  return descriptor;
}

Result<std::vector<Descriptor>> ReadDescriptors(const json& object, const char* key) {
  std::vector<Descriptor> descriptors;
  BANYAN_ASSIGN(const json* field, oci_json::Array(object, key));
  if (field == nullptr) return Fail(Code::kInvalidArgument, fmt::format("no field '{}'", key));
  if (field->size() > kMaxLayers) return Fail(Code::kInvalidArgument, fmt::format("{} {}", field->size(), key));
  for (size_t i = 0; i < field->size(); ++i) {
    auto descriptor = ReadDescriptor((*field)[i]);
    if (!descriptor) return Fail(descriptor.error().WithContext(fmt::format("{}[{}]", key, i)));
    descriptors.push_back(std::move(*descriptor));
  }
  return descriptors;
}

Result<std::optional<Descriptor>> ReadOptionalDescriptor(const json& object, const char* key) {
  BANYAN_ASSIGN(const json* field, oci_json::Object(object, key));
  if (field == nullptr) return std::optional<Descriptor>();
  auto descriptor = ReadDescriptor(*field);
  if (!descriptor) return Fail(descriptor.error().WithContext(key));
  return std::optional<Descriptor>(std::move(*descriptor));
}

Status CheckSchemaVersion(const json& object) {
  BANYAN_ASSIGN(const uint64_t version, oci_json::Unsigned(object, "schemaVersion"));
  if (version == 2) return {};
  return Fail(Code::kUnimplemented, fmt::format("schemaVersion {}, only 2 is known", version));
}

Result<std::vector<std::string>> ReadStrings(const json& object, const char* key) {
  std::vector<std::string> strings;
  BANYAN_ASSIGN(const json* field, oci_json::Array(object, key));
  if (field == nullptr) return strings;
  for (const json& item : *field) {
    if (!item.is_string())
      return Fail(Code::kInvalidArgument, fmt::format("field '{}' is not an array of strings", key));
    strings.push_back(item.get_ref<const std::string&>());
  }
  return strings;
}

Result<Manifest> ReadManifest(const json& document) {
  BANYAN_TRY(CheckSchemaVersion(document));
  Manifest manifest;
  BANYAN_ASSIGN(manifest.media_type, oci_json::String(document, "mediaType"));
  if (manifest.media_type.empty()) manifest.media_type = kOciManifestMediaType;
  if (!IsManifest(manifest.media_type)) {
    return Fail(Code::kInvalidArgument, fmt::format("media type '{}' is no image manifest's", manifest.media_type));
  }
  if (document.contains("manifests")) return Fail(Code::kInvalidArgument, "a manifest that is an index as well");
  BANYAN_ASSIGN(manifest.artifact_type, oci_json::String(document, "artifactType"));
  BANYAN_ASSIGN(auto config, ReadOptionalDescriptor(document, "config"));
  if (!config) return Fail(Code::kInvalidArgument, "no field 'config'");
  manifest.config = std::move(*config);
  BANYAN_ASSIGN(manifest.layers, ReadDescriptors(document, "layers"));
  BANYAN_ASSIGN(manifest.subject, ReadOptionalDescriptor(document, "subject"));
  BANYAN_ASSIGN(manifest.annotations, ReadAnnotations(document));
  return manifest;
}

Result<Index> ReadIndex(const json& document) {
  BANYAN_TRY(CheckSchemaVersion(document));
  Index index;
  BANYAN_ASSIGN(index.media_type, oci_json::String(document, "mediaType"));
  if (index.media_type.empty()) index.media_type = kOciIndexMediaType;
  if (!IsIndex(index.media_type)) {
    return Fail(Code::kInvalidArgument, fmt::format("media type '{}' is no index's", index.media_type));
  }
  if (document.contains("layers")) return Fail(Code::kInvalidArgument, "an index that is a manifest as well");
  BANYAN_ASSIGN(index.artifact_type, oci_json::String(document, "artifactType"));
  BANYAN_ASSIGN(index.manifests, ReadDescriptors(document, "manifests"));
  BANYAN_ASSIGN(index.subject, ReadOptionalDescriptor(document, "subject"));
  BANYAN_ASSIGN(index.annotations, ReadAnnotations(document));
  return index;
}

Result<ImageConfig> ReadImageConfig(const json& document) {
  ImageConfig config;
  BANYAN_ASSIGN(config.platform, ReadPlatform(document));
  BANYAN_ASSIGN(const json* rootfs, oci_json::Object(document, "rootfs"));
  if (rootfs == nullptr) return Fail(Code::kInvalidArgument, "no field 'rootfs'");
  BANYAN_ASSIGN(const std::vector<std::string> diff_ids, ReadStrings(*rootfs, "diff_ids"));
  if (diff_ids.size() > kMaxLayers) return Fail(Code::kInvalidArgument, fmt::format("{} diff_ids", diff_ids.size()));
  for (const std::string& text : diff_ids) {
    BANYAN_ASSIGN(const Digest digest, Digest::Parse(text));
    config.diff_ids.push_back(digest);
  }
  BANYAN_ASSIGN(const json* run, oci_json::Object(document, "config"));
  if (run == nullptr) return config;
  BANYAN_ASSIGN(config.env, ReadStrings(*run, "Env"));
  BANYAN_ASSIGN(config.entrypoint, ReadStrings(*run, "Entrypoint"));
  BANYAN_ASSIGN(config.cmd, ReadStrings(*run, "Cmd"));
  BANYAN_ASSIGN(config.working_dir, oci_json::String(*run, "WorkingDir"));
  BANYAN_ASSIGN(config.user, oci_json::String(*run, "User"));
  return config;
}

template <typename T>
Result<T> ParseAs(std::string_view text, uint64_t limit_bytes, std::string_view what, Result<T> (*read)(const json&)) {
  BANYAN_ASSIGN(const json document, oci_json::Parse(text, limit_bytes, what));
  Result<T> result = read(document);
  if (!result) return Fail(result.error().WithContext(what));
  return result;
}

// ---- Writing ----

json PlatformJson(const Platform& platform) {
  json out = {{"architecture", platform.architecture}, {"os", platform.os}};
  if (!platform.variant.empty()) out["variant"] = platform.variant;
  return out;
}

json DescriptorJson(const Descriptor& descriptor) {
  json out = {
      {"mediaType", descriptor.media_type}, {"digest", descriptor.digest.ToString()}, {"size", descriptor.size}};
  if (!descriptor.artifact_type.empty()) out["artifactType"] = descriptor.artifact_type;
  if (!descriptor.annotations.empty()) out["annotations"] = descriptor.annotations;
  if (descriptor.platform) out["platform"] = PlatformJson(*descriptor.platform);
  return out;
}

json DescriptorsJson(const std::vector<Descriptor>& descriptors) {
  json out = json::array();
  for (const Descriptor& descriptor : descriptors) out.push_back(DescriptorJson(descriptor));
  return out;
}

// nlohmann keeps keys sorted, so equal documents give equal bytes. Annotations that are not UTF-8 are mended, not
// thrown at.
std::string Text(const json& document) {
  return document.dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
}

template <typename Document>
json CommonJson(const Document& document) {
  json out = {{"schemaVersion", 2}, {"mediaType", document.media_type}};
  if (!document.artifact_type.empty()) out["artifactType"] = document.artifact_type;
  if (document.subject) out["subject"] = DescriptorJson(*document.subject);
  if (!document.annotations.empty()) out["annotations"] = document.annotations;
  return out;
}

// ---- Platforms ----

// A variant's rank within its architecture: "v8" is 8, an empty one the default. -1: not a number.
int VariantRank(const Platform& platform) {
  std::string_view variant = platform.variant;
  if (variant.empty()) {
    if (platform.architecture == "arm64") return 8;
    return platform.architecture == "arm" ? 7 : 1;
  }
  if (variant.starts_with('v')) variant.remove_prefix(1);
  if (variant.empty() || variant.size() > 2) return -1;
  int rank = 0;
  for (const char c : variant) {
    if (c < '0' || c > '9') return -1;
    rank = rank * 10 + (c - '0');
  }
  return rank;
}

}  // namespace

std::string ToString(const Platform& platform) {
  std::string text = platform.os + "/" + platform.architecture;
  if (!platform.variant.empty()) text += "/" + platform.variant;
  return text;
}

Result<Platform> ParsePlatform(std::string_view text) {
  const size_t first = text.find('/');
  const size_t second = first == std::string_view::npos ? first : text.find('/', first + 1);
  Platform platform;
  platform.os = text.substr(0, first);
  platform.architecture = first == std::string_view::npos ? "" : text.substr(first + 1, second - first - 1);
  platform.variant = second == std::string_view::npos ? "" : text.substr(second + 1);
  if (platform.os.empty() || platform.architecture.empty() || platform.variant.find('/') != std::string::npos) {
    return Fail(Code::kInvalidArgument, fmt::format("platform '{}' is not os/architecture[/variant]", text));
  }
  return platform;
}

bool IsIndex(std::string_view media_type) {
  const std::string_view type = WithoutParameters(media_type);
  return type == kOciIndexMediaType || type == kDockerIndexMediaType;
}

bool IsManifest(std::string_view media_type) {
  const std::string_view type = WithoutParameters(media_type);
  return type == kOciManifestMediaType || type == kDockerManifestMediaType;
}

Result<Compression> LayerCompression(std::string_view media_type) {
  constexpr std::string_view kOci = "application/vnd.oci.image.layer.v1.tar";
  constexpr std::string_view kDocker = "application/vnd.docker.image.rootfs.diff.tar";
  const std::string_view type = WithoutParameters(media_type);
  for (const std::string_view base : {kOci, kDocker}) {
    if (!type.starts_with(base)) continue;
    const std::string_view rest = type.substr(base.size());
    if (rest.empty()) return Compression::kNone;
    if (rest == "+gzip" || rest == ".gzip") return Compression::kGzip;
    if (rest == "+zstd" || rest == ".zstd") return Compression::kZstd;
  }
  std::string_view why = "unknown layer media type";
  if (type.find("nondistributable") != std::string_view::npos || type.find(".foreign.") != std::string_view::npos) {
    why = "foreign (non-distributable) layers cannot be converted";
  } else if (type.find("encrypted") != std::string_view::npos) {
    why = "encrypted layers cannot be converted";
  }
  return Fail(Code::kUnimplemented, fmt::format("{}: '{}'", why, type));
}

Result<std::string> DetectMediaType(std::string_view body, std::string_view content_type) {
  BANYAN_ASSIGN(const json document, oci_json::Parse(body, kMaxManifestBytes, "manifest"));
  BANYAN_ASSIGN(const std::string own, oci_json::String(document, "mediaType"));
  if (!own.empty()) return own;
  if (IsIndex(content_type) || IsManifest(content_type)) return std::string(WithoutParameters(content_type));
  if (document.contains("manifests")) return std::string(kOciIndexMediaType);
  if (document.contains("layers")) return std::string(kOciManifestMediaType);
  return Fail(Code::kInvalidArgument, "manifest: neither a manifest nor an index");
}

Result<Manifest> ParseManifest(std::string_view text) {
  return ParseAs(text, kMaxManifestBytes, "manifest", &ReadManifest);
}

Result<Index> ParseIndex(std::string_view text) { return ParseAs(text, kMaxManifestBytes, "index", &ReadIndex); }

Result<ImageConfig> ParseImageConfig(std::string_view text) {
  return ParseAs(text, kMaxImageConfigBytes, "image configuration", &ReadImageConfig);
}

Result<Descriptor> ParseDescriptor(std::string_view text) {
  return ParseAs(text, kMaxDescriptorBytes, "descriptor", &ReadDescriptor);
}

std::string WriteManifest(const Manifest& manifest) {
  json document = CommonJson(manifest);
  document["config"] = DescriptorJson(manifest.config);
  document["layers"] = DescriptorsJson(manifest.layers);
  return Text(document);
}

std::string WriteIndex(const Index& index) {
  json document = CommonJson(index);
  document["manifests"] = DescriptorsJson(index.manifests);
  return Text(document);
}

std::string WriteDescriptor(const Descriptor& descriptor) { return Text(DescriptorJson(descriptor)); }

Result<Descriptor> ChoosePlatform(const Index& index, const Platform& wanted) {
  const Descriptor* best = nullptr;
  int best_rank = -1;
  const int limit = VariantRank(wanted);
  std::string offered;
  for (const Descriptor& descriptor : index.manifests) {
    if (!descriptor.platform) continue;
    const Platform& platform = *descriptor.platform;
    offered += (offered.empty() ? "" : ", ") + ToString(platform);
    if (platform.os != wanted.os || platform.architecture != wanted.architecture) continue;
    if (platform.variant == wanted.variant && limit < 0) return descriptor;
    const int rank = VariantRank(platform);
    if (rank < 0 || rank > limit || rank <= best_rank) continue;
    best = &descriptor;
    best_rank = rank;
  }
  if (best != nullptr) return *best;
  // An index of one manifest without a platform (some builders write it) names that manifest.
  if (index.manifests.size() == 1 && !index.manifests[0].platform) return index.manifests[0];
  return Fail(Code::kNotFound, fmt::format("no manifest for {}; there are: {}", ToString(wanted),
                                           offered.empty() ? "none with a platform" : offered));
}

Digest ChainId(std::span<const Digest> diff_ids) {
  Digest chain;
  for (size_t i = 0; i < diff_ids.size(); ++i) {
    chain = i == 0 ? diff_ids[0] : Digest::Of(chain.ToString() + " " + diff_ids[i].ToString());
  }
  return chain;
}

}  // namespace banyan::image_format
