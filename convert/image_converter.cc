#include "convert/image_converter.h"

#include <fcntl.h>
#include <unistd.h>

#include <ctime>
#include <map>
#include <memory>
#include <set>
#include <unordered_set>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "common/file_io.h"
#include "convert/blob_stream.h"
#include "convert/uploader.h"
#include "image-format/artifact.h"
#include "image-format/image_builder.h"
#include "image-format/torrent.h"

namespace banyan::convert {
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
  std::optional<image_format::ArtifactTorrent> torrent;
};

// Passes the data blob on, and makes its torrent beside.
class TorrentTee final : public ByteSink {
 public:
  explicit TorrentTee(ByteSink& next) : next_(next) {}
  Status Write(std::span<const std::byte> data) override {
    BANYAN_TRY(next_.Write(data));
    return torrent_.Write(data);
  }
  // None for what cannot be a torrent: an empty blob, or one of hundreds of GiB.
  std::optional<image_format::Torrent> Finish(const Digest& blob) {
    auto torrent = torrent_.Finish(blob);
    if (!torrent) return std::nullopt;
    return std::move(*torrent);
  }

 private:
  ByteSink& next_;
  image_format::TorrentWriter torrent_;
};

// Removes a spool file when the last of those who need it is done.
struct SpoolFile {
  explicit SpoolFile(std::string file_path) : path(std::move(file_path)) {}
  ~SpoolFile() { ::unlink(path.c_str()); }
  SpoolFile(const SpoolFile&) = delete;
  SpoolFile& operator=(const SpoolFile&) = delete;
  const std::string path;
};

// What a parser calls an invalid argument is, to the user, an image that is no good.
Error AsBadContent(Error error) {
  if (error.code == Code::kInvalidArgument) error.code = Code::kDataLoss;
  return error;
}

std::string_view AsText(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string LabelOf(const LayerStep& step) {
  return fmt::format("layer {}/{} {}", step.number + 1, step.count, step.digest.Short());
}

Result<std::string> GetConfig(const ConvertSource& source) {
  return source.repository.GetBlob(source.manifest.config.digest, image_format::kMaxImageConfigBytes);
}

class Converter {
 public:
  Converter(const ConvertSource& source, const ConvertTarget& target, const ConvertSettings& settings,
            const ConvertTools& tools, std::stop_token stop)
      : source_(source), target_(target), settings_(settings), tools_(tools), stop_(std::move(stop)) {}

  Result<ConvertReport> Run() {
    report_.manifest_digest = source_.descriptor.digest;
    report_.destination = to().name();
    report_.layers = static_cast<uint32_t>(source_.manifest.layers.size());
    BANYAN_TRY(ReadConfig());
    for (size_t i = 0; i < source_.manifest.layers.size(); ++i) BANYAN_TRY(HandleLayer(i));
    BANYAN_TRY(uploader_.Finish());
    BANYAN_TRY(Publish());
    return report_;
  }

 private:
  Status ReadConfig();
  Status HandleLayer(size_t i);
  Result<bool> ReuseLayer(const LayerStep& step, const ConversionKey& key);
  Result<bool> HasData(const ConvertedLayer& layer, const std::string& label);
  Status ConvertOneLayer(const LayerStep& step, const ConversionKey& key, std::shared_ptr<LayerGate::Pass> pass);
  image_format::ConvertOptions OptionsFor(const LayerStep& step, const ConversionKey& key) const;
  Status Keep(const Digest& source_digest, LayerIndex index, const ConvertedLayer& layer);
  Status Publish();
  Status PublishBlobs(const image_format::BuiltImage& built);
  Result<Artifact> DescribeResult(const image_format::BuiltImage& built, const std::vector<LayerInput>& inputs);
  Status CheckStop() const;
  void Count(const LayerIndex& index, uint64_t index_bytes);
  void TellEnd(const LayerStep& step, LayerOutcome outcome, const LayerIndex* index) {
    if (tools_.listener != nullptr) tools_.listener->OnLayerEnd(step, outcome, index);
  }

  net::Repository& from() { return source_.repository; }
  net::Repository& to() { return target_.repository; }
  bool elsewhere() const { return &source_.repository != &target_.repository; }
  bool copies_original() const { return !target_.copy_original_as.empty(); }
  std::string copy_path() const { return tools_.spool_directory + "/copy"; }

  const ConvertSource& source_;
  const ConvertTarget& target_;
  const ConvertSettings& settings_;
  const ConvertTools& tools_;
  const std::stop_token stop_;

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

Status Converter::ReadConfig() {
  BANYAN_ASSIGN(config_json_, GetConfig(source_));
  BANYAN_ASSIGN(config_, image_format::ParseImageConfig(config_json_));
  if (config_.diff_ids.size() != source_.manifest.layers.size()) {
    return Fail(Code::kDataLoss, fmt::format("the manifest lists {} layers, the configuration {}",
                                             source_.manifest.layers.size(), config_.diff_ids.size()));
  }
  for (const Descriptor& layer : source_.manifest.layers) {
    BANYAN_TRY(image_format::LayerCompression(layer.media_type));
  }
  return {};
}

Status Converter::HandleLayer(size_t i) {
  BANYAN_TRY(CheckStop());
  const Descriptor& layer = source_.manifest.layers[i];
  const LayerStep step{i, source_.manifest.layers.size(), layer.digest, layer.size};
  report_.source_bytes += layer.size;
  if (done_.contains(layer.digest)) {
    TellEnd(step, LayerOutcome::kSameAsBelow, nullptr);
    return {};
  }
  const ConversionKey key{layer.digest, std::string(image_format::kConverterVersion), settings_.level,
                          image_format::ChunkingFor(layer.size)};
  std::shared_ptr<LayerGate::Pass> pass;
  if (tools_.gate != nullptr) {
    pass = tools_.gate->Enter(key.Hex(), stop_);
    BANYAN_TRY(CheckStop());
  }
  BANYAN_ASSIGN(const bool reused, ReuseLayer(step, key));
  if (reused) {
    TellEnd(step, LayerOutcome::kReused, &done_.at(layer.digest)->index);
    if (!copies_original()) return {};
    return CopyBlob(from(), to(), layer, LabelOf(step), copy_path(), stop_);
  }
  const Status converted = ConvertOneLayer(step, key, std::move(pass));
  if (!converted) return Fail(AsBadContent(converted.error().WithContext(LabelOf(step))));
  ++report_.layers_converted;
  return {};
}

// A layer that was converted before, if the destination has its data still, or the source has.
Result<bool> Converter::ReuseLayer(const LayerStep& step, const ConversionKey& key) {
  if (settings_.force) return false;
  auto found = tools_.cache.Find(key);
  if (!found || found->diff_id != config_.diff_ids[step.number]) return false;
  MemorySource blob(std::as_bytes(std::span(found->index_blob)));
  auto index = image_format::DecodeLayerIndex(blob);
  if (!index || index->blob_digest != found->blob_digest) return false;
  BANYAN_ASSIGN(const bool present, HasData(*found, LabelOf(step)));
  if (!present) return false;
  BANYAN_TRY(to().PutBlob(Digest::Of(found->index_blob), found->index_blob));
  if (found->torrent) BANYAN_TRY(to().PutBlob(Digest::Of(found->torrent->metainfo), found->torrent->metainfo));
  BANYAN_TRY(Keep(key.source_digest, std::move(*index), *found));
  return true;
}

Result<bool> Converter::HasData(const ConvertedLayer& layer, const std::string& label) {
  if (layer.blob_bytes == 0) return true;
  BANYAN_ASSIGN(const bool present, to().HasBlob(layer.blob_digest));
  if (present || !elsewhere()) return present;
  BANYAN_ASSIGN(const bool at_source, from().HasBlob(layer.blob_digest));
  if (!at_source) return false;
  const Descriptor data{.media_type = std::string(image_format::kLayerBlobMediaType),
                        .digest = layer.blob_digest,
                        .size = layer.blob_bytes};
  BANYAN_TRY(CopyBlob(from(), to(), data, label, copy_path(), stop_));
  return true;
}

image_format::ConvertOptions Converter::OptionsFor(const LayerStep& step, const ConversionKey& key) const {
  image_format::ConvertOptions options;
  options.level = settings_.level;
  options.source_bytes = step.bytes;
  options.chunking = key.chunking;
  options.max_device_bytes = settings_.max_layer_bytes;
  options.max_entries = settings_.max_entries;
  options.max_ratio = settings_.max_ratio;
  options.max_ratio_free_bytes = settings_.max_ratio_free_bytes;
  options.expected_source_digest = step.digest;
  options.expected_diff_id = config_.diff_ids[step.number];
  options.stop = stop_;
  if (tools_.listener != nullptr) {
    options.progress = [listener = tools_.listener, seen = uint64_t{0}](uint64_t bytes) mutable {
      listener->OnLayerBytes(bytes - seen);
      seen = bytes;
    };
  }
  return options;
}

Status Converter::ConvertOneLayer(const LayerStep& step, const ConversionKey& key,
                                  std::shared_ptr<LayerGate::Pass> pass) {
  const auto open = [&](const char* kind, std::shared_ptr<SpoolFile>& file) {
    file = std::make_shared<SpoolFile>(fmt::format("{}/{}.{}", tools_.spool_directory, step.number, kind));
    return OpenFile(file->path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  };
  std::shared_ptr<SpoolFile> data;
  BANYAN_ASSIGN(const UniqueFd data_fd, open("data", data));
  FdSink data_file(data_fd.get(), data->path);
  TorrentTee data_sink(data_file);
  std::shared_ptr<SpoolFile> original;
  UniqueFd original_fd;
  std::optional<FdSink> original_sink;
  if (copies_original()) {
    BANYAN_ASSIGN(original_fd, open("original", original));
    original_sink.emplace(original_fd.get(), original->path);
  }

  if (tools_.listener != nullptr) tools_.listener->OnLayerBegin(step);
  const auto convert = [&]() -> Result<LayerIndex> {
    BANYAN_ASSIGN(const auto stream, OpenDescribedBlob(from(), source_.manifest.layers[step.number], "blob", stop_,
                                                       original_sink ? &*original_sink : nullptr));
    return image_format::ConvertLayer(*stream, OptionsFor(step, key), tools_.executor, data_sink);
  };
  auto index = convert();
  if (!index) {
    TellEnd(step, stop_.stop_requested() ? LayerOutcome::kInterrupted : LayerOutcome::kFailed, nullptr);
    return Fail(index.error());
  }
  TellEnd(step, LayerOutcome::kConverted, &*index);

  ConvertedLayer layer{index->diff_id, index->blob_digest, index->blob_bytes, {}, {}};
  layer.torrent = data_sink.Finish(layer.blob_digest);
  AppendSink<std::string> index_sink(layer.index_blob);
  BANYAN_TRY(image_format::EncodeLayerIndex(*index, index_sink));
  BANYAN_TRY(Keep(step.digest, std::move(*index), layer));
  return uploader_.Add([this, key, layer, data, original, pass]() -> Status {
    if (layer.blob_bytes > 0) BANYAN_TRY(to().PutBlobFile(layer.blob_digest, data->path));
    BANYAN_TRY(to().PutBlob(Digest::Of(layer.index_blob), layer.index_blob));
    if (layer.torrent) BANYAN_TRY(to().PutBlob(Digest::Of(layer.torrent->metainfo), layer.torrent->metainfo));
    if (original) BANYAN_TRY(to().PutBlobFile(key.source_digest, original->path));
    return tools_.cache.Put(key, layer);
  });
}

Status Converter::Keep(const Digest& source_digest, LayerIndex index, const ConvertedLayer& layer) {
  auto done = std::make_unique<DoneLayer>();
  done->index = std::move(index);
  done->index_digest = Digest::Of(layer.index_blob);
  done->index_bytes = layer.index_blob.size();
  if (layer.torrent) {
    done->torrent = {layer.blob_digest, Digest::Of(layer.torrent->metainfo), layer.torrent->metainfo.size(),
                     layer.torrent->info_hash};
  }
  Count(done->index, done->index_bytes);
  done_.emplace(source_digest, std::move(done));
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

Status Converter::PublishBlobs(const image_format::BuiltImage& built) {
  BANYAN_TRY(to().PutBlob(built.map.metadata_blob_digest, AsText(built.metadata_blob)));
  BANYAN_TRY(to().PutBlob(built.map_digest, AsText(built.map_blob)));
  report_.metadata_bytes = built.metadata_blob.size();
  report_.map_bytes = built.map_blob.size();
  return {};
}

Result<Artifact> Converter::DescribeResult(const image_format::BuiltImage& built,
                                           const std::vector<LayerInput>& inputs) {
  Artifact artifact = image_format::MakeArtifact(built, inputs);
  std::set<Digest> listed;
  for (const Descriptor& layer : source_.manifest.layers) {
    const DoneLayer& done = *done_.at(layer.digest);
    if (done.torrent && listed.insert(done.torrent->blob_digest).second) artifact.torrents.push_back(*done.torrent);
  }
  if (!target_.tag.empty()) {
    BANYAN_TRY(to().PutBlob(source_.manifest.config.digest, config_json_));
    artifact.config = source_.manifest.config;
    artifact.source_manifest = source_.descriptor.digest;
    return artifact;
  }
  BANYAN_TRY(to().PutBlob(Digest::Of(image_format::kEmptyJsonBlob), image_format::kEmptyJsonBlob));
  artifact.subject = Descriptor{.media_type = source_.descriptor.media_type,
                                .digest = source_.descriptor.digest,
                                .size = source_.descriptor.size};
  if (tools_.key != nullptr) {
    const int64_t now = tools_.unix_seconds ? tools_.unix_seconds() : std::time(nullptr);
    BANYAN_TRY(image_format::SignArtifact(artifact, *tools_.key, now));
  }
  return artifact;
}

Status Converter::Publish() {
  std::vector<LayerInput> inputs;
  for (const Descriptor& layer : source_.manifest.layers) {
    const DoneLayer& done = *done_.at(layer.digest);
    inputs.push_back({&done.index, done.index_digest, done.index_bytes});
  }
  auto built = image_format::BuildImage(inputs, image_format::kConverterVersion);
  if (!built) return Fail(AsBadContent(built.error().WithContext("merging the layers")));
  BANYAN_TRY(CheckStop());
  BANYAN_TRY(PublishBlobs(*built));
  BANYAN_ASSIGN(const Artifact artifact, DescribeResult(*built, inputs));
  if (copies_original()) BANYAN_TRY(CopyImage(source_, target_, tools_.spool_directory, stop_));
  BANYAN_TRY(CheckStop());
  const std::string manifest = image_format::WriteArtifact(artifact);
  const std::string reference = target_.tag.empty() ? Digest::Of(manifest).ToString() : target_.tag;
  BANYAN_ASSIGN(report_.artifact_digest, to().PutManifest(reference, image_format::kOciManifestMediaType, manifest));
  return {};
}

}  // namespace

Result<ConvertReport> ConvertImage(const ConvertSource& source, const ConvertTarget& target,
                                   const ConvertSettings& settings, const ConvertTools& tools, std::stop_token stop) {
  return Converter(source, target, settings, tools, std::move(stop)).Run();
}

Status CopyImage(const ConvertSource& source, const ConvertTarget& target, const std::string& spool_directory,
                 std::stop_token stop) {
  for (const Descriptor& layer : source.manifest.layers) {
    BANYAN_TRY(CopyBlob(source.repository, target.repository, layer, "layer " + layer.digest.Short(),
                        spool_directory + "/copy", stop));
  }
  BANYAN_ASSIGN(const std::string config, GetConfig(source));
  BANYAN_TRY(target.repository.PutBlob(source.manifest.config.digest, config));
  BANYAN_ASSIGN(const net::RawManifest manifest, source.repository.GetManifest(source.descriptor.digest.ToString()));
  BANYAN_TRY(target.repository.PutManifest(target.copy_original_as, source.descriptor.media_type, manifest.body));
  return {};
}

}  // namespace banyan::convert
