#include "lazyfs/image_mount.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <optional>
#include <utility>

#include "common/units.h"
#include "lazyfs/erofs_mount.h"
#include "lazyfs/loop_device.h"
#include "lazyfs/mount_table.h"
#include "lazyfs/tree_server.h"

namespace banyan::lazyfs {
namespace {

constexpr std::array<std::pair<Form, std::string_view>, 4> kFormNames{
    {{Form::kAuto, "auto"}, {Form::kFile, "file"}, {Form::kLoop, "loop"}, {Form::kTree, "tree"}}};
constexpr std::string_view kTreeType = "fuse.banyan-tree";

// The order is all that binds devices to an image, and the kernel does not check it: sizes at least must fit.
Status CheckDevices(const MountSpec& spec) {
  BANYAN_ASSIGN(const std::vector<uint32_t> expected, DeviceBlocks(spec.metadata_path));
  if (expected.size() != spec.devices.size()) {
    return Fail(Code::kInvalidArgument, fmt::format("{} names {} devices, {} were given", spec.metadata_path,
                                                    expected.size(), spec.devices.size()));
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    const ImageDevice& device = spec.devices[i];
    const uint64_t wanted = uint64_t{expected[i]} * kBlockBytes;
    struct stat status {};
    if (stat(device.path.c_str(), &status) != 0) return FailErrno("device " + device.path, errno);
    const auto actual = static_cast<uint64_t>(status.st_size);
    if (device.size_bytes != wanted || actual != wanted) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("device {} ({}) should have {} bytes by the metadata, {} by the map, and has {}", i,
                              device.path, wanted, device.size_bytes, actual));
    }
  }
  return {};
}

std::string SessionName(const MountSpec& spec) {
  const std::string name = "tree:" + spec.target;
  // The keeper's names are short; a hash keeps long targets apart.
  return name.size() < 120 ? name : fmt::format("tree:{:016x}", std::hash<std::string>{}(spec.target));
}

Result<MountedImage> MountFile(const MountSpec& spec) {
  ErofsMount mount;
  mount.source = spec.metadata_path;
  for (const ImageDevice& device : spec.devices) mount.devices.push_back(device.path);
  mount.target = spec.target;
  mount.selinux_context = spec.selinux_context;
  mount.direct_io = true;
  mount.read_ahead_kib = spec.read_ahead_kib;
  BANYAN_ASSIGN(ErofsMounted mounted, MountErofs(mount));
  MountedImage image;
  image.form = Form::kFile;
  image.direct_io = mounted.direct_io;
  image.notes = std::move(mounted.notes);
  return image;
}

Result<MountedImage> MountLoop(const MountSpec& spec) {
  std::vector<LoopDevice> loops;  // held until the mount holds them
  BANYAN_ASSIGN(LoopDevice metadata, AttachLoop(spec.metadata_path));
  ErofsMount mount;
  mount.source = metadata.path;
  loops.push_back(std::move(metadata));
  MountedImage image;
  image.form = Form::kLoop;
  image.direct_io = true;
  for (const ImageDevice& device : spec.devices) {
    // A loop device of an empty file has no blocks, which EROFS accepts.
    BANYAN_ASSIGN(LoopDevice loop, AttachLoop(device.path));
    mount.devices.push_back(loop.path);
    if (!loop.direct_io) {
      image.direct_io = false;
      image.notes.push_back("no direct I/O for " + device.path);
    }
    loops.push_back(std::move(loop));
  }
  mount.target = spec.target;
  mount.selinux_context = spec.selinux_context;
  mount.read_ahead_kib = spec.read_ahead_kib;
  BANYAN_ASSIGN(ErofsMounted mounted, MountErofs(mount));
  image.notes.insert(image.notes.end(), mounted.notes.begin(), mounted.notes.end());
  return image;
}

Result<MountedImage> MountTree(const MountSpec& spec) {
  TreeServer::Options options;
  options.metadata_path = spec.metadata_path;
  for (const ImageDevice& device : spec.devices) {
    if (device.layer != nullptr) {
      options.layers.push_back(device.layer);
      continue;
    }
    BANYAN_ASSIGN(std::shared_ptr<fetch::LazyLayer> local, OpenLocalLayer(device.path));
    options.layers.push_back(std::move(local));
  }
  options.mount_dir = spec.target;
  options.selinux_context = spec.selinux_context;
  options.keeper = spec.keeper;
  options.session_name = SessionName(spec);
  BANYAN_ASSIGN(std::unique_ptr<TreeServer> server, TreeServer::Start(std::move(options)));
  MountedImage image;
  image.form = Form::kTree;
  image.adopted = server->taken_over();
  image.tree = std::move(server);
  BANYAN_ASSIGN(const std::optional<MountEntry> entry, FindMount(spec.target));
  if (entry && spec.read_ahead_kib > 0) {
    std::ofstream(fmt::format("/sys/class/bdi/{}:{}/read_ahead_kb", entry->major, entry->minor)) << spec.read_ahead_kib;
  }
  return image;
}

Result<MountedImage> MountAs(Form form, const MountSpec& spec) {
  switch (form) {
    case Form::kFile:
      return MountFile(spec);
    case Form::kLoop:
      return MountLoop(spec);
    default:
      return MountTree(spec);
  }
}

std::string BackingFile(const std::string& loop_path) {
  std::ifstream file(
      fmt::format("/sys/block/{}/loop/backing_file", std::filesystem::path(loop_path).filename().string()));
  std::string path;
  std::getline(file, path);
  return path;
}

// The mount at the target, if it is this image's; kFailedPrecondition if it is something else.
Result<std::optional<MountedImage>> FindOurs(const MountSpec& spec) {
  BANYAN_ASSIGN(const std::optional<MountEntry> entry, FindMount(spec.target));
  if (!entry) return std::nullopt;
  MountedImage image;
  image.target = spec.target;
  image.adopted = true;
  std::error_code ignored;
  const std::string metadata = std::filesystem::canonical(spec.metadata_path, ignored);
  if (spec.adopt && entry->fs_type == "erofs") {
    const bool loop = entry->source.starts_with("/dev/loop");
    image.form = loop ? Form::kLoop : Form::kFile;
    const std::string source = loop ? BackingFile(entry->source) : entry->source;
    if (source == metadata || source == spec.metadata_path) {
      if (!spec.replace) return image;
      if (umount2(spec.target.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0) {
        return FailErrno(fmt::format("unmounting {}, whose devices are gone", spec.target), errno);
      }
      return std::nullopt;
    }
  }
  if (spec.adopt && entry->fs_type == kTreeType && (spec.form == Form::kTree || spec.form == Form::kAuto)) {
    BANYAN_ASSIGN(image, MountTree(spec));
    image.target = spec.target;
    return image;
  }
  return Fail(Code::kFailedPrecondition,
              fmt::format("{} of {} is mounted at {} already", entry->fs_type, entry->source, spec.target));
}

}  // namespace

std::string_view FormName(Form form) {
  for (const auto& [value, name] : kFormNames) {
    if (value == form) return name;
  }
  return "unknown";
}

Result<Form> ParseForm(std::string_view text) {
  for (const auto& [value, name] : kFormNames) {
    if (name == text) return value;
  }
  return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is no mount form (auto, file, loop, tree)", text));
}

Result<MountedImage> MountImage(const MountSpec& spec) {
  BANYAN_ASSIGN(std::optional<MountedImage> ours, FindOurs(spec));
  if (ours) return *std::move(ours);
  BANYAN_TRY(CheckDevices(spec));
  const std::vector<Form> forms =
      spec.form == Form::kAuto ? std::vector{Form::kFile, Form::kLoop, Form::kTree} : std::vector{spec.form};
  std::vector<std::string> refusals;
  for (const Form form : forms) {
    Result<MountedImage> image = MountAs(form, spec);
    if (image) {
      image->target = spec.target;
      image->notes.insert(image->notes.begin(), refusals.begin(), refusals.end());
      return image;
    }
    refusals.push_back(fmt::format("{}: {}", FormName(form), image.error().message));
  }
  return Fail(Code::kUnavailable,
              fmt::format("mounting {} at {}: {}", spec.metadata_path, spec.target, fmt::join(refusals, "; ")));
}

Status UmountImage(MountedImage& image, const UmountOptions& options) {
  if (image.tree == nullptr) return UmountTarget(image.target, options);
  for (const auto& layer : options.cancel) layer->CancelAll();
  Status stopped = image.tree->Stop();
  image.tree.reset();
  return stopped;
}

Status UmountTarget(const std::string& target, const UmountOptions& options) {
  for (const auto& layer : options.cancel) layer->CancelAll();
  Status unmounted = UnmountWithin(target, options.busy_wait, options.timeout);
  if (!unmounted && unmounted.error().code == Code::kNotFound) return {};
  return unmounted;
}

}  // namespace banyan::lazyfs
