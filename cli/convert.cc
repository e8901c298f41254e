#include "cli/convert.h"

#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "cli/text.h"
#include "common/file_io.h"
#include "common/units.h"
#include "fetch/image_resolver.h"
#include "image-format/artifact.h"

namespace banyan::cli {
namespace {

using convert::LayerOutcome;
using convert::LayerStep;
using image_format::Artifact;

constexpr uint64_t kMaxKeyBytes = 16 * kKiB;

bool SamePlace(const net::ImageReference& a, const net::ImageReference& b) {
  if (a.transport != b.transport) return false;
  if (a.transport == net::ImageReference::Transport::kDocker) return a.host == b.host && a.repository == b.repository;
  std::error_code ignored;
  return std::filesystem::weakly_canonical(a.repository, ignored) ==
         std::filesystem::weakly_canonical(b.repository, ignored);
}

class Bars final : public convert::ConvertListener {
 public:
  explicit Bars(Progress& progress) : progress_(progress) {}

  void OnLayerBegin(const LayerStep& step) override {
    task_ = progress_.Start(LabelOf(step), "converting", step.bytes);
  }
  void OnLayerBytes(uint64_t bytes) override { task_->Advance(bytes); }
  void OnLayerEnd(const LayerStep& step, LayerOutcome outcome, const image_format::LayerIndex* index) override {
    if (outcome == LayerOutcome::kSameAsBelow) return progress_.Note(LabelOf(step) + ": the same as a layer below");
    if (outcome == LayerOutcome::kReused) return progress_.Note(LabelOf(step) + ": converted before");
    std::string text = outcome == LayerOutcome::kInterrupted ? "interrupted" : "failed";
    if (index != nullptr) {
      text = fmt::format("{} to {}, {} chunks", HumanBytes(step.bytes), HumanBytes(index->blob_bytes),
                         index->chunks.size());
    }
    progress_.Finish(task_, text);
  }

 private:
  static std::string LabelOf(const LayerStep& step) {
    return fmt::format("layer {}/{} {}", step.number + 1, step.count, step.digest.Short());
  }
  Progress& progress_;
  std::shared_ptr<Progress::Task> task_;
};

// The artifact that an earlier run left at the destination, if it is what this run would make.
class EarlierArtifact {
 public:
  EarlierArtifact(const ConvertCommandOptions& options, const fetch::ResolvedImage& image, net::Repository& destination,
                  bool elsewhere, const image_format::SigningKey* key)
      : options_(options), image_(image), destination_(destination), elsewhere_(elsewhere), key_(key) {}

  Result<std::optional<Digest>> Find() {
    if (options_.settings.force) return std::nullopt;
    return options_.tag.empty() ? Attached() : Tagged();
  }

 private:
  Result<std::optional<Digest>> Attached() {
    if (!elsewhere_) return Current(image_);
    auto resolved = fetch::ResolveImage(destination_, image_.descriptor.digest.ToString());
    if (!resolved && resolved.error().code == Code::kNotFound) return std::nullopt;
    BANYAN_ASSIGN(const fetch::ResolvedImage there, std::move(resolved));
    return Current(there);
  }
  std::optional<Digest> Current(const fetch::ResolvedImage& image) const {
    if (!image.artifact || image.artifact->converter_version != image_format::kConverterVersion) return std::nullopt;
    const bool trusted = key_ == nullptr || image_format::VerifyArtifact(*image.artifact, {{key_->public_key()}, ""});
    return trusted ? image.artifact_digest : std::nullopt;
  }
  Result<std::optional<Digest>> Tagged() {
    auto earlier = destination_.GetManifest(options_.tag);
    if (!earlier && earlier.error().code == Code::kNotFound) return std::nullopt;
    BANYAN_ASSIGN(const net::RawManifest manifest, std::move(earlier));
    const auto artifact = image_format::ParseArtifact(manifest.body);
    const bool current = artifact && artifact->converter_version == image_format::kConverterVersion &&
                         artifact->source_manifest == image_.descriptor.digest;
    return current ? std::optional(manifest.digest) : std::nullopt;
  }

  const ConvertCommandOptions& options_;
  const fetch::ResolvedImage& image_;
  net::Repository& destination_;
  const bool elsewhere_;
  const image_format::SigningKey* const key_;
};

Result<std::optional<image_format::SigningKey>> LoadKey(const std::string& path) {
  if (path.empty()) return std::nullopt;
  BANYAN_ASSIGN(const std::string pem, ReadFile(path, kMaxKeyBytes));
  auto key = image_format::SigningKey::FromPem(pem);
  if (!key) return Fail(key.error().WithContext(path));
  return std::optional(std::move(*key));
}

}  // namespace

image_format::Platform HostPlatform() {
#if defined(__aarch64__)
  return {"linux", "arm64", ""};
#else
  return {"linux", "amd64", ""};
#endif
}

Result<convert::ConvertReport> ConvertImage(const ConvertCommandOptions& options, const GlobalOptions& globals,
                                            const std::string& spool_directory, Progress& progress,
                                            std::stop_token stop) {
  image_format::Platform platform = HostPlatform();
  if (!options.platform.empty()) {
    BANYAN_ASSIGN(platform, image_format::ParsePlatform(options.platform));
  }
  BANYAN_ASSIGN(const auto key, LoadKey(options.key_file));
  BANYAN_ASSIGN(const OpenedImage from, OpenImage(globals, options.source));
  OpenedImage elsewhere;
  if (!options.destination.empty()) {
    BANYAN_ASSIGN(elsewhere, OpenImage(globals, options.destination, true));
    if (SamePlace(from.reference, elsewhere.reference)) elsewhere.repository.reset();
  }
  net::Repository& destination = elsewhere.repository ? *elsewhere.repository : *from.repository;
  BANYAN_ASSIGN(const fetch::ResolvedImage image, fetch::ResolveImage(*from.repository, from.selector(), platform));
  if (image_format::IsArtifact(image.manifest)) {
    return Fail(Code::kInvalidArgument, "is a Banyan image already: name the original image");
  }

  const convert::ConvertSource source{*from.repository, image.descriptor, image.manifest};
  convert::ConvertTarget target{destination, options.tag, {}};
  if (elsewhere.repository && options.tag.empty()) {
    const std::string& tag = elsewhere.reference.tag;
    target.copy_original_as = tag.empty() ? image.descriptor.digest.ToString() : tag;
  }
  EarlierArtifact earlier(options, image, destination, elsewhere.repository != nullptr, key ? &*key : nullptr);
  BANYAN_ASSIGN(const auto found, earlier.Find());
  if (found) {
    if (!target.copy_original_as.empty()) BANYAN_TRY(convert::CopyImage(source, target, spool_directory, stop));
    convert::ConvertReport report;
    report.manifest_digest = image.descriptor.digest;
    report.artifact_digest = *found;
    report.destination = destination.name();
    report.already_converted = true;
    return report;
  }
  convert::ConversionCache cache(globals.data_root);
  ThreadPool executor(options.jobs);
  Bars bars(progress);
  const convert::ConvertTools tools{.spool_directory = spool_directory,
                                    .cache = cache,
                                    .executor = executor,
                                    .listener = &bars,
                                    .key = key ? &*key : nullptr};
  return convert::ConvertImage(source, target, options.settings, tools, std::move(stop));
}

}  // namespace banyan::cli
