#include "cli/convert.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <memory>
#include <unordered_set>
#include <vector>

#include <fmt/format.h>

#include "cli/blob_stream.h"
#include "cli/conversion_cache.h"
#include "cli/text.h"
#include "cli/uploader.h"
#include "common/executor.h"
#include "common/file_io.h"
#include "fetch/image_resolver.h"
#include "image-format/artifact.h"
#include "image-format/image_builder.h"

namespace banyan::cli {
namespace {

using image_format::Artifact;
using image_format::Descriptor;
using image_format::ImageConfig;
using image_format::LayerIndex;
using image_format::LayerInput;

// One distinct layer of the image, converted.
struct DoneLayer {
  LayerIndex index;
  Digest index_digest;
  uint64_t index_bytes = 0;
};

// Removes a spool file when the last of those who need it is done.
struct SpoolFile {
  explicit SpoolFile(std::string file_path) : path(std::move(file_path)) {}
  ~SpoolFile() { ::unlink(path.c_str()); }
  SpoolFile(const SpoolFile&) = delete;
  SpoolFile& operator=(const SpoolFile&) = delete;
  const std::string path;
};

bool SamePlace(const net::ImageReference& a, const net::ImageReference& b) {
  if (a.transport != b.transport) return false;
  if (a.transport == net::ImageReference::Transport::kDocker) return a.host == b.host && a.repository == b.repository;
  std::error_code ignored;
  return std::filesystem::weakly_canonical(a.repository, ignored) ==
         std::filesystem::weakly_canonical(b.repository, ignored);
}

// What a parser calls an invalid argument is, to the user, an image that is no good.
Error AsBadContent(Error error) {
  if (error.code == Code::kInvalidArgument) error.code = Code::kDataLoss;
  return error;
}

class Converter {
 public:
  Converter(const ConvertCommandOptions& options, const GlobalOptions& globals, const std::string& spool_directory,
            Progress& progress, std::stop_token stop)
      : options_(options),
        globals_(globals),
        spool_(spool_directory),
        progress_(progress),
        stop_(std::move(stop)),
        cache_(globals.data_root),
        executor_(options.jobs) {}

  Result<ConvertReport> Run() {
    BANYAN_TRY(Open());
    BANYAN_ASSIGN(const bool done, FindEarlierArtifact());
    if (done) return report_;
    BANYAN_TRY(ReadConfig());
    for (size_t i = 0; i < image_.manifest.layers.size(); ++i) BANYAN_TRY(HandleLayer(i));
    BANYAN_TRY(uploader_.Finish());
    BANYAN_TRY(Publish());
    return report_;
  }

 private:
  Status Open();
  Result<bool> FindEarlierArtifact();
  Result<std::optional<Digest>> EarlierTaggedArtifact();
  Status ReadConfig();
  Status HandleLayer(size_t i);
  Result<bool> ReuseLayer(const ConversionKey& key, const Digest& diff_id, const std::string& label);
  Status ConvertOneLayer(size_t i, const ConversionKey& key, const std::string& label);
  Status Upload(const ConversionKey& key, const ConvertedLayer& layer, std::shared_ptr<SpoolFile> data,
                std::shared_ptr<SpoolFile> original);
  Status Keep(const Digest& source_digest, LayerIndex index, const std::string& index_blob);
  Status Publish();
  Status PublishOriginal();
  Status CheckStop() const;
  void Count(const LayerIndex& index, uint64_t index_bytes);

  net::Repository& source() { return *source_image_.repository; }
  net::Repository& destination() { return elsewhere_ ? *destination_image_.repository : *source_image_.repository; }
  // Whether the original image is to be copied to the destination.
  bool copies_original() const { return elsewhere_ && options_.tag.empty(); }

  const ConvertCommandOptions& options_;
  const GlobalOptions& globals_;
  const std::string spool_;
  Progress& progress_;
  const std::stop_token stop_;
  ConversionCache cache_;
  ThreadPool executor_;

  OpenedImage source_image_;
  OpenedImage destination_image_;  // if elsewhere_
  bool elsewhere_ = false;
  fetch::ResolvedImage image_;
  std::string config_json_;
  ImageConfig config_;
  std::map<Digest, std::unique_ptr<DoneLayer>> done_;  // by source digest
  std::unordered_set<Digest> block_digests_;
  ConvertReport report_;
  Uploader uploader_;  // last: its thread uses the members above
};

Status Converter::CheckStop() const {
  if (stop_.stop_requested()) return Fail(Code::kCancelled, "interrupted");
  return {};
}

Status Converter::Open() {
  image_format::Platform platform = HostPlatform();
  if (!options_.platform.empty()) {
    BANYAN_ASSIGN(platform, image_format::ParsePlatform(options_.platform));
  }
  BANYAN_ASSIGN(source_image_, OpenImage(globals_, options_.source));
  if (!options_.destination.empty()) {
    BANYAN_ASSIGN(destination_image_, OpenImage(globals_, options_.destination, true));
    elsewhere_ = !SamePlace(source_image_.reference, destination_image_.reference);
  }
  BANYAN_ASSIGN(image_, fetch::ResolveImage(source(), source_image_.selector(), platform));
  if (image_format::IsArtifact(image_.manifest)) {
    return Fail(Code::kInvalidArgument, "is a Banyan image already: name the original image");
  }
  report_.manifest_digest = image_.descriptor.digest;
  report_.destination = destination().name();
  report_.layers = static_cast<uint32_t>(image_.manifest.layers.size());
  return {};
}

Result<std::optional<Digest>> Converter::EarlierTaggedArtifact() {
  auto earlier = destination().GetManifest(options_.tag);
  if (!earlier) {
    if (earlier.error().code == Code::kNotFound) return std::nullopt;
    return Fail(earlier.error());
  }
  const auto artifact = image_format::ParseArtifact(earlier->body);
  const bool current = artifact && artifact->converter_version == image_format::kConverterVersion &&
                       artifact->source_manifest == image_.descriptor.digest;
  return current ? std::optional(earlier->digest) : std::nullopt;
}

Result<bool> Converter::FindEarlierArtifact() {
  if (options_.force) return false;
  std::optional<Digest> found;
  if (!options_.tag.empty()) {
    BANYAN_ASSIGN(found, EarlierTaggedArtifact());
  } else {
    fetch::ResolvedImage there = image_;
    if (elsewhere_) {
      auto resolved = fetch::ResolveImage(destination(), image_.descriptor.digest.ToString());
      if (!resolved && resolved.error().code == Code::kNotFound) return false;
      BANYAN_ASSIGN(there, std::move(resolved));
    }
    if (there.artifact && there.artifact->converter_version == image_format::kConverterVersion)
      found = there.artifact_digest;
  }
  if (!found) return false;
  report_.artifact_digest = *found;
  report_.already_converted = true;
  if (copies_original()) BANYAN_TRY(PublishOriginal());
  return true;
}

Status Converter::ReadConfig() {
  BANYAN_ASSIGN(config_json_, source().GetBlob(image_.manifest.config.digest, image_format::kMaxImageConfigBytes));
  BANYAN_ASSIGN(config_, image_format::ParseImageConfig(config_json_));
  if (config_.diff_ids.size() != image_.manifest.layers.size()) {
    return Fail(Code::kDataLoss, fmt::format("the manifest lists {} layers, the configuration {}",
                                             image_.manifest.layers.size(), config_.diff_ids.size()));
  }
  for (const Descriptor& layer : image_.manifest.layers) {
    BANYAN_TRY(image_format::LayerCompression(layer.media_type));
  }
  return {};
}

Status Converter::HandleLayer(size_t i) {
  BANYAN_TRY(CheckStop());
  const Descriptor& layer = image_.manifest.layers[i];
  const std::string label = fmt::format("layer {}/{} {}", i + 1, image_.manifest.layers.size(), layer.digest.Short());
  report_.source_bytes += layer.size;
  if (done_.contains(layer.digest)) {
    progress_.Note(label + ": the same as a layer below");
    return {};
  }
  const ConversionKey key{layer.digest, std::string(image_format::kConverterVersion), options_.level,
                          image_format::ChunkingFor(layer.size)};
  BANYAN_ASSIGN(const bool reused, ReuseLayer(key, config_.diff_ids[i], label));
  if (reused) {
    if (!copies_original()) return {};
    return CopyBlob(source(), destination(), layer, label, spool_ + "/copy", stop_);
  }
  const Status converted = ConvertOneLayer(i, key, label);
  if (!converted) return Fail(AsBadContent(converted.error().WithContext(label)));
  ++report_.layers_converted;
  return {};
}

// A layer that was converted before, if the destination has its data still, or the source has.
Result<bool> Converter::ReuseLayer(const ConversionKey& key, const Digest& diff_id, const std::string& label) {
  if (options_.force) return false;
  auto found = cache_.Find(key);
  if (!found || found->diff_id != diff_id) return false;
  MemorySource blob(std::as_bytes(std::span(found->index_blob)));
  auto index = image_format::DecodeLayerIndex(blob);
  if (!index || index->blob_digest != found->blob_digest) return false;

  if (found->blob_bytes > 0) {
    BANYAN_ASSIGN(bool present, destination().HasBlob(found->blob_digest));
    if (!present && elsewhere_) {
      BANYAN_ASSIGN(const bool at_source, source().HasBlob(found->blob_digest));
      if (at_source) {
        const Descriptor data{.media_type = std::string(image_format::kLayerBlobMediaType),
                              .digest = found->blob_digest,
                              .size = found->blob_bytes};
        BANYAN_TRY(CopyBlob(source(), destination(), data, label, spool_ + "/copy", stop_));
        present = true;
      }
    }
    if (!present) return false;
  }
  BANYAN_TRY(destination().PutBlob(Digest::Of(found->index_blob), found->index_blob));
  BANYAN_TRY(Keep(key.source_digest, std::move(*index), found->index_blob));
  progress_.Note(label + ": converted before");
  return true;
}

Status Converter::ConvertOneLayer(size_t i, const ConversionKey& key, const std::string& label) {
  const Descriptor& layer = image_.manifest.layers[i];
  const auto data = std::make_shared<SpoolFile>(fmt::format("{}/{}.data", spool_, i));
  BANYAN_ASSIGN(const UniqueFd data_fd, OpenFile(data->path, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  FdSink data_sink(data_fd.get(), data->path);

  std::shared_ptr<SpoolFile> original;
  UniqueFd original_fd;
  std::optional<FdSink> original_sink;
  if (copies_original()) {
    original = std::make_shared<SpoolFile>(fmt::format("{}/{}.original", spool_, i));
    BANYAN_ASSIGN(original_fd, OpenFile(original->path, O_WRONLY | O_CREAT | O_TRUNC, 0600));
    original_sink.emplace(original_fd.get(), original->path);
  }

  const auto task = progress_.Start(label, "converting", layer.size);
  image_format::ConvertOptions options;
  options.level = options_.level;
  options.source_bytes = layer.size;
  options.chunking = key.chunking;
  options.max_device_bytes = options_.max_layer_bytes;
  options.max_entries = options_.max_entries;
  options.max_ratio = options_.max_ratio;
  options.max_ratio_free_bytes = options_.max_ratio_free_bytes;
  options.expected_source_digest = layer.digest;
  options.expected_diff_id = config_.diff_ids[i];
  options.stop = stop_;
  options.progress = [&task, seen = uint64_t{0}](uint64_t bytes) mutable {
    task->Advance(bytes - seen);
    seen = bytes;
  };
  auto convert = [&]() -> Result<LayerIndex> {
    BANYAN_ASSIGN(const auto stream,
                  OpenDescribedBlob(source(), layer, "blob", stop_, original_sink ? &*original_sink : nullptr));
    return image_format::ConvertLayer(*stream, options, executor_, data_sink);
  };
  auto index = convert();
  if (!index) {
    progress_.Finish(task, stop_.stop_requested() ? "interrupted" : "failed");
    return Fail(index.error());
  }
  progress_.Finish(task, fmt::format("{} to {}, {} chunks", HumanBytes(layer.size), HumanBytes(index->blob_bytes),
                                     index->chunks.size()));

  ConvertedLayer converted{index->diff_id, index->blob_digest, index->blob_bytes, {}};
  AppendSink<std::string> index_sink(converted.index_blob);
  BANYAN_TRY(image_format::EncodeLayerIndex(*index, index_sink));
  BANYAN_TRY(Keep(layer.digest, std::move(*index), converted.index_blob));
  return Upload(key, converted, data, original);
}

Status Converter::Upload(const ConversionKey& key, const ConvertedLayer& layer, std::shared_ptr<SpoolFile> data,
                         std::shared_ptr<SpoolFile> original) {
  return uploader_.Add([this, key, layer, data = std::move(data), original = std::move(original)]() -> Status {
    if (layer.blob_bytes > 0) BANYAN_TRY(destination().PutBlobFile(layer.blob_digest, data->path));
    BANYAN_TRY(destination().PutBlob(Digest::Of(layer.index_blob), layer.index_blob));
    if (original) BANYAN_TRY(destination().PutBlobFile(key.source_digest, original->path));
    return cache_.Put(key, layer);
  });
}

Status Converter::Keep(const Digest& source_digest, LayerIndex index, const std::string& index_blob) {
  auto layer = std::make_unique<DoneLayer>();
  layer->index = std::move(index);
  layer->index_digest = Digest::Of(index_blob);
  layer->index_bytes = index_blob.size();
  Count(layer->index, layer->index_bytes);
  done_.emplace(source_digest, std::move(layer));
  return {};
}

void Converter::Count(const LayerIndex& index, uint64_t index_bytes) {
  report_.device_bytes += index.chunks.device_bytes();
  report_.blob_bytes += index.blob_bytes;
  report_.index_bytes += index_bytes;
  report_.chunks += index.chunks.size();
  for (const auto& chunk : index.chunks.chunks()) {
    if (!block_digests_.insert(chunk.block_digest).second) ++report_.shared_chunks;
  }
}

Status Converter::PublishOriginal() {
  net::Repository& to = destination();
  if (config_json_.empty()) BANYAN_TRY(ReadConfig());
  for (const Descriptor& layer : image_.manifest.layers) {
    BANYAN_TRY(CopyBlob(source(), to, layer, "layer " + layer.digest.Short(), spool_ + "/copy", stop_));
  }
  BANYAN_TRY(to.PutBlob(image_.manifest.config.digest, config_json_));
  BANYAN_ASSIGN(const net::RawManifest manifest, source().GetManifest(image_.descriptor.digest.ToString()));
  std::string reference = destination_image_.reference.tag;
  if (reference.empty()) reference = manifest.digest.ToString();
  BANYAN_TRY(to.PutManifest(reference, image_.descriptor.media_type, manifest.body));
  return {};
}

Status Converter::Publish() {
  std::vector<LayerInput> inputs;
  for (const Descriptor& layer : image_.manifest.layers) {
    const DoneLayer& done = *done_.at(layer.digest);
    inputs.push_back({&done.index, done.index_digest, done.index_bytes});
  }
  auto result = image_format::BuildImage(inputs, image_format::kConverterVersion);
  if (!result) return Fail(AsBadContent(result.error().WithContext("merging the layers")));
  const image_format::BuiltImage built = std::move(*result);
  BANYAN_TRY(CheckStop());
  Artifact artifact = image_format::MakeArtifact(built, inputs);
  net::Repository& to = destination();
  const std::span<const std::byte> metadata(built.metadata_blob);
  const std::span<const std::byte> map(built.map_blob);
  BANYAN_TRY(
      to.PutBlob(built.map.metadata_blob_digest, {reinterpret_cast<const char*>(metadata.data()), metadata.size()}));
  BANYAN_TRY(to.PutBlob(built.map_digest, {reinterpret_cast<const char*>(map.data()), map.size()}));
  report_.metadata_bytes = metadata.size();
  report_.map_bytes = map.size();

  const bool tagged = !options_.tag.empty();
  if (tagged) {
    BANYAN_TRY(to.PutBlob(image_.manifest.config.digest, config_json_));
    artifact.config = image_.manifest.config;
    artifact.source_manifest = image_.descriptor.digest;
  } else {
    BANYAN_TRY(to.PutBlob(Digest::Of(image_format::kEmptyJsonBlob), image_format::kEmptyJsonBlob));
    artifact.subject = Descriptor{
        .media_type = image_.descriptor.media_type, .digest = image_.descriptor.digest, .size = image_.descriptor.size};
  }
  if (copies_original()) BANYAN_TRY(PublishOriginal());
  BANYAN_TRY(CheckStop());
  const std::string manifest = image_format::WriteArtifact(artifact);
  const std::string reference = tagged ? options_.tag : Digest::Of(manifest).ToString();
  BANYAN_ASSIGN(report_.artifact_digest, to.PutManifest(reference, image_format::kOciManifestMediaType, manifest));
  return {};
}

}  // namespace

image_format::Platform HostPlatform() {
#if defined(__aarch64__)
  return {"linux", "arm64", ""};
#else
  return {"linux", "amd64", ""};
#endif
}

Result<ConvertReport> ConvertImage(const ConvertCommandOptions& options, const GlobalOptions& globals,
                                   const std::string& spool_directory, Progress& progress, std::stop_token stop) {
  return Converter(options, globals, spool_directory, progress, std::move(stop)).Run();
}

}  // namespace banyan::cli
