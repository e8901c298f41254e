#include "fetch/image_resolver.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

namespace banyan::fetch {

namespace {

using image_format::Descriptor;

struct FoundManifest {
  net::RawManifest raw;
  Descriptor descriptor;
};

// The manifest itself, through at most one index.
Result<FoundManifest> GetPlatformManifest(net::Repository& repository, const std::string& reference,
                                          const image_format::Platform& platform) {
  BANYAN_ASSIGN(net::RawManifest raw, repository.GetManifest(reference));
  BANYAN_ASSIGN(std::string media_type, image_format::DetectMediaType(raw.body, raw.media_type));
  Descriptor descriptor{.media_type = media_type, .digest = raw.digest, .size = raw.body.size()};
  if (!image_format::IsIndex(media_type)) return FoundManifest{std::move(raw), std::move(descriptor)};

  BANYAN_ASSIGN(const image_format::Index index, image_format::ParseIndex(raw.body));
  BANYAN_ASSIGN(descriptor, image_format::ChoosePlatform(index, platform));
  BANYAN_ASSIGN(raw, repository.GetManifest(descriptor.digest.ToString()));
  return FoundManifest{std::move(raw), std::move(descriptor)};
}

// The candidates of our artifact type, newest converter first: registries keep no order.
std::vector<Descriptor> ArtifactCandidates(const std::vector<std::string>& referrers) {
  std::vector<Descriptor> candidates;
  for (const std::string& text : referrers) {
    auto descriptor = image_format::ParseDescriptor(text);
    if (!descriptor || descriptor->artifact_type != image_format::kImageArtifactType) continue;
    candidates.push_back(std::move(*descriptor));
  }
  const auto version = [](const Descriptor& descriptor) {
    const auto found = descriptor.annotations.find(std::string(image_format::kConverterVersionAnnotation));
    return found == descriptor.annotations.end() ? std::string() : found->second;
  };
  std::stable_sort(candidates.begin(), candidates.end(),
                   [&](const Descriptor& a, const Descriptor& b) { return version(a) > version(b); });
  return candidates;
}

// The candidate, if it is an artifact of that manifest; nullopt if it is no good or gone. An error when it cannot be
// read now: to say then that the image has not been converted would be wrong.
Result<std::optional<image_format::Artifact>> GetArtifact(net::Repository& repository, const Descriptor& candidate,
                                                          const Digest& subject, const image_format::Manifest& image,
                                                          const ArtifactCheck& check) {
  const auto pass_over = [&](std::string_view why) {
    spdlog::warn("{}: passing over artifact {} of {}: {}", repository.name(), candidate.digest.ToString(),
                 subject.ToString(), why);
    return std::nullopt;
  };
  const auto raw = repository.GetManifest(candidate.digest.ToString());
  if (!raw && raw.error().code != Code::kNotFound) return Fail(raw.error());
  if (!raw) return pass_over(raw.error().message);
  auto artifact = image_format::ParseArtifact(raw->body);
  if (!artifact) return pass_over(artifact.error().message);
  if (!artifact->subject || artifact->subject->digest != subject) return pass_over("its subject is another manifest");
  if (check) {
    if (const Status trusted = check(*artifact); !trusted) return pass_over(trusted.error().message);
  }
  std::set<Digest> layers;
  std::set<Digest> converted;
  for (const Descriptor& layer : image.layers) layers.insert(layer.digest);
  for (const image_format::ArtifactLayer& layer : artifact->layers) converted.insert(layer.source_digest);
  if (converted != layers) return pass_over("it is made of other layers than the image's");
  return std::optional(std::move(*artifact));
}

}  // namespace

Result<ResolvedImage> ResolveImage(net::Repository& repository, const std::string& reference,
                                   const image_format::Platform& platform, const ArtifactCheck& check) {
  BANYAN_ASSIGN(FoundManifest found, GetPlatformManifest(repository, reference, platform));
  ResolvedImage image;
  image.descriptor = std::move(found.descriptor);
  BANYAN_ASSIGN(image.manifest, image_format::ParseManifest(found.raw.body));
  image.config_digest = image.manifest.config.digest;
  if (image_format::IsArtifact(image.manifest)) {
    BANYAN_ASSIGN(image.artifact, image_format::ParseArtifact(found.raw.body));
    image.artifact_digest = image.descriptor.digest;
    return image;
  }

  BANYAN_ASSIGN(const std::vector<std::string> referrers,
                repository.Referrers(image.descriptor.digest, image_format::kImageArtifactType));
  for (const Descriptor& candidate : ArtifactCandidates(referrers)) {
    BANYAN_ASSIGN(image.artifact, GetArtifact(repository, candidate, image.descriptor.digest, image.manifest, check));
    if (!image.artifact) continue;
    image.artifact_digest = candidate.digest;
    return image;
  }
  return image;
}

Result<ResolvedImage> ResolveConvertedImage(net::Repository& repository, const std::string& reference,
                                            const image_format::Platform& platform, const ArtifactCheck& check) {
  BANYAN_ASSIGN(ResolvedImage image, ResolveImage(repository, reference, platform, check));
  if (!image.artifact) {
    return Fail(Code::kNotFound, fmt::format("{} '{}' has no Banyan artifact: run `banyan convert` on it first",
                                             repository.name(), reference));
  }
  return image;
}

}  // namespace banyan::fetch
