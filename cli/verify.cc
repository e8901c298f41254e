#include "cli/verify.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>
#include <optional>

#include <fmt/format.h>

#include "cli/device_stream.h"
#include "cli/loaded_image.h"
#include "cli/reference_tree.h"
#include "cli/text.h"
#include "cli/tree.h"
#include "common/file_io.h"
#include "convert/blob_stream.h"
#include "image-format/artifact.h"
#include "image-format/decompress.h"
#include "lazyfs/image_mount.h"

namespace banyan::cli {
namespace {

using image_format::Descriptor;
using image_format::Device;

// What is wrong with the image, as against with getting at it.
bool IsFinding(const Error& error) {
  return error.code == Code::kDataLoss || error.code == Code::kInvalidArgument || error.code == Code::kOutOfRange;
}

// Hashes what passes through.
class HashingSource final : public ByteSource {
 public:
  HashingSource(ByteSource& source, std::function<void()> on_read) : source_(source), on_read_(std::move(on_read)) {}
  Result<size_t> Read(std::span<std::byte> buffer) override {
    BANYAN_ASSIGN(const size_t bytes, source_.Read(buffer));
    hash_.Update(buffer.first(bytes));
    on_read_();
    return bytes;
  }
  Digest Finish() { return hash_.Finish(); }

 private:
  ByteSource& source_;
  std::function<void()> on_read_;
  Sha256 hash_;
};

class Verifier {
 public:
  Verifier(const VerifyOptions& options, const GlobalOptions& globals, const std::string& spool, Progress& progress,
           std::stop_token stop)
      : options_(options), globals_(globals), spool_(spool), progress_(progress), stop_(std::move(stop)) {}

  Result<VerifyReport> Run();

 private:
  void Find(std::string check, std::string what);
  // Turns what is wrong with the image into a finding; true if there was nothing wrong.
  Result<bool> Judge(std::string check, const Status& status);

  Status CheckImage();
  Status CheckIndexes();
  Status CheckIndex(const Device& device);
  Status CheckData();
  Status CheckDevice(size_t number);
  Status ReadOriginal();
  Status ReadOriginalLayer(net::Repository& repository, const Descriptor& layer, const Digest& diff_id,
                           Progress::Task& task, ReferenceTree& tree);
  void CompareWith(const Tree& view, const std::string& check);
  Status CheckMount();
  std::string DevicePath(size_t number) const { return fmt::format("{}/device-{}", spool_, number); }

  const VerifyOptions& options_;
  const GlobalOptions& globals_;
  const std::string spool_;
  Progress& progress_;
  const std::stop_token stop_;

  LoadedImage image_;
  std::optional<ErofsTree> view_;  // unless the metadata are bad
  std::optional<Tree> original_;   // unless the layers are bad
  bool data_good_ = true;
  VerifyReport report_;
};

void Verifier::Find(std::string check, std::string what) {
  ++report_.finding_count;
  if (report_.findings.size() < VerifyReport::kMaxFindings)
    report_.findings.push_back({std::move(check), std::move(what)});
}

Result<bool> Verifier::Judge(std::string check, const Status& status) {
  if (status) return true;
  if (!IsFinding(status.error())) return Fail(status.error());
  Find(std::move(check), status.error().message);
  return false;
}

Result<VerifyReport> Verifier::Run() {
  BANYAN_ASSIGN(const bool loaded, Judge("documents", CheckImage()));
  if (!loaded) return report_;
  BANYAN_TRY(CheckIndexes());
  BANYAN_TRY(CheckData());
  BANYAN_TRY(Judge("layers", ReadOriginal()));
  if (view_ && original_) CompareWith(view_->tree, "view");
  if (options_.mount && view_ && original_ && data_good_) BANYAN_TRY(CheckMount());
  return report_;
}

Status Verifier::CheckImage() {
  BANYAN_ASSIGN(image_, LoadImage(globals_, options_.reference, options_.platform));
  report_.blobs += 2;
  report_.bytes += image_.map_bytes + image_.map.metadata_blob_bytes;
  const auto tree = [&]() -> Result<ErofsTree> {
    BANYAN_ASSIGN(const auto reader, image_format::ErofsReader::Open(image_.metadata));
    report_.inodes = reader.inode_count();
    return ReadErofsTree(reader);
  };
  auto view = tree();
  if (view) {
    view_ = std::move(*view);
    for (const Inode& inode : view_->tree.inodes) report_.names += inode.children.size();
  } else {
    BANYAN_TRY(Judge("metadata", Fail(view.error())));
  }
  return {};
}

Status Verifier::CheckIndexes() {
  for (const Device& device : image_.map.devices) BANYAN_TRY(Judge("documents", CheckIndex(device)));
  return {};
}

Status Verifier::CheckIndex(const Device& device) {
  BANYAN_ASSIGN(const image_format::LayerIndex index, LoadLayerIndex(image_, device));
  ++report_.blobs;
  report_.bytes += device.index_bytes;
  if (index.blob_digest != device.blob_digest || index.diff_id != device.diff_id || !(index.chunks == device.chunks)) {
    return Fail(Code::kDataLoss,
                fmt::format("layer index {} and the image map disagree", device.index_digest.ToString()));
  }
  return {};
}

Status Verifier::CheckData() {
  for (size_t i = 0; i < image_.map.devices.size(); ++i) {
    auto good = Judge("data", CheckDevice(i));
    if (!good) return Fail(good.error());
    data_good_ = data_good_ && *good;
  }
  return {};
}

Status Verifier::CheckDevice(size_t number) {
  const Device& device = image_.map.devices[number];
  UniqueFd local;
  if (options_.mount) {
    BANYAN_ASSIGN(local, OpenFile(DevicePath(number), O_WRONLY | O_CREAT | O_TRUNC, 0600));
    if (::ftruncate(local.get(), static_cast<off_t>(device.device_bytes())) != 0)
      return FailErrno(DevicePath(number), errno);
  }
  if (device.chunks.empty()) return {};
  const std::string label =
      fmt::format("data {}/{} {}", number + 1, image_.map.devices.size(), device.blob_digest.Short());
  const auto task = progress_.Start(label, "checking", device.device_bytes());

  Sha256 hash;
  uint64_t hashed = 0;
  const auto on_bytes = [&](const FileExtent& extent, uint64_t offset, std::span<const std::byte> bytes) -> Status {
    if (offset == 0) hashed = 0;
    if (offset != hashed) return {};  // A bad chunk before has been reported.
    hash.Update(bytes);
    hashed += bytes.size();
    if (hashed == extent.bytes) view_->tree.inodes[extent.inode].content = hash.Finish();
    return {};
  };
  ExtentRouter router(view_ ? std::span<const FileExtent>(view_->extents[number]) : std::span<const FileExtent>(),
                      on_bytes);
  DeviceVisitor visitor;
  visitor.on_blocks = [&](uint64_t first_block, std::span<const std::byte> blocks) -> Status {
    task->Advance(blocks.size());
    if (local) BANYAN_TRY(PwriteFull(local.get(), blocks, first_block * kBlockBytes, DevicePath(number)));
    return router.Feed(first_block, blocks);
  };
  visitor.on_bad = [&](const Error& error) -> Status {
    data_good_ = false;
    Find("data", error.message);
    return {};
  };
  const Status status = StreamDevice(image_.repository(), device, stop_, visitor);
  progress_.Finish(
      task, status ? fmt::format("{} in {} chunks", HumanBytes(device.blob_bytes), device.chunks.size()) : "failed");
  ++report_.blobs;
  report_.bytes += device.blob_bytes;
  report_.chunks += device.chunks.size();
  return status;
}

Status Verifier::ReadOriginal() {
  OpenedImage elsewhere;
  if (!options_.original.empty()) {
    BANYAN_ASSIGN(elsewhere, OpenImage(globals_, options_.original));
  }
  net::Repository& repository = options_.original.empty() ? image_.repository() : *elsewhere.repository;
  const auto& artifact = image_.artifact();
  const Digest wanted = artifact.subject ? artifact.subject->digest
                                         : artifact.source_manifest.value_or(image_.resolved.descriptor.digest);
  auto raw = repository.GetManifest(wanted.ToString());
  if (!raw && raw.error().code == Code::kNotFound) {
    return Fail(Code::kNotFound, fmt::format("the original image {} is not in {}: say where it is with --original",
                                             wanted.ToString(), repository.name()));
  }
  BANYAN_TRY(raw);
  BANYAN_ASSIGN(const auto manifest, image_format::ParseManifest(raw->body));
  BANYAN_ASSIGN(const std::string json, repository.GetBlob(manifest.config.digest, image_format::kMaxImageConfigBytes));
  BANYAN_ASSIGN(const auto config, image_format::ParseImageConfig(json));
  if (config.diff_ids.size() != manifest.layers.size()) {
    return Fail(Code::kDataLoss, "the original's manifest and configuration disagree about its layers");
  }
  if (image_format::ChainId(config.diff_ids) != image_.map.chain_id) {
    Find("documents", "the map's chain ID is not that of the original's layers");
  }

  ReferenceTree tree;
  for (size_t i = 0; i < manifest.layers.size(); ++i) {
    const std::string label =
        fmt::format("layer {}/{} {}", i + 1, manifest.layers.size(), manifest.layers[i].digest.Short());
    const auto task = progress_.Start(label, "comparing", manifest.layers[i].size);
    const Status read = ReadOriginalLayer(repository, manifest.layers[i], config.diff_ids[i], *task, tree);
    progress_.Finish(task, read ? "read" : "failed");
    if (!read) return Fail(read.error().WithContext(label));
  }
  original_ = tree.Finish();
  return {};
}

Status Verifier::ReadOriginalLayer(net::Repository& repository, const Descriptor& layer, const Digest& diff_id,
                                   Progress::Task& task, ReferenceTree& tree) {
  BANYAN_ASSIGN(const auto stream, convert::OpenDescribedBlob(repository, layer, "layer", stop_));
  BANYAN_ASSIGN(const auto decompressor, image_format::Decompressor::Open(*stream));
  HashingSource tar(*decompressor, [&task, &stream, seen = uint64_t{0}]() mutable {
    task.Advance(stream->position() - seen);
    seen = stream->position();
  });
  BANYAN_TRY(tree.AddLayer(tar));
  if (const Digest actual = tar.Finish(); actual != diff_id) {
    return Fail(Code::kDataLoss, fmt::format("its tar has diff ID {}, not {}", actual.ToString(), diff_id.ToString()));
  }
  ++report_.blobs;
  report_.bytes += layer.size;
  return stream->CheckToEnd(layer.digest);
}

void Verifier::CompareWith(const Tree& view, const std::string& check) {
  CompareTrees(*original_, view, [&](TreeDifference difference) {
    Find(check, fmt::format("{}: {}", difference.path, difference.what));
  });
}

Status Verifier::CheckMount() {
  BANYAN_ASSIGN(const lazyfs::Form form, lazyfs::ParseForm(options_.form));
  lazyfs::MountSpec spec;
  spec.metadata_path = spool_ + "/metadata";
  spec.target = VerifyMountPoint(spool_);
  spec.form = form;
  spec.adopt = false;
  BANYAN_TRY(WriteFileDurably(spec.metadata_path,
                              {reinterpret_cast<const char*>(image_.metadata.data()), image_.metadata.size()}, 0600));
  BANYAN_TRY(MakeDirectories(spec.target, 0700));
  for (size_t i = 0; i < image_.map.devices.size(); ++i) {
    spec.devices.push_back({DevicePath(i), image_.map.devices[i].device_bytes(), nullptr});
  }
  BANYAN_ASSIGN(lazyfs::MountedImage mounted, lazyfs::MountImage(spec));
  report_.mount_form = lazyfs::FormName(mounted.form);
  const auto walked = ReadDirectoryTree(spec.target);
  const Status unmounted = lazyfs::UmountImage(mounted);
  if (!walked) {
    Find("mount", walked.error().message);
  } else {
    CompareWith(*walked, "mount");
  }
  return unmounted;
}

}  // namespace

std::string VerifyMountPoint(const std::string& spool_directory) { return spool_directory + "/mount"; }

Result<VerifyReport> VerifyImage(const VerifyOptions& options, const GlobalOptions& globals,
                                 const std::string& spool_directory, Progress& progress, std::stop_token stop) {
  return Verifier(options, globals, spool_directory, progress, std::move(stop)).Run();
}

}  // namespace banyan::cli
