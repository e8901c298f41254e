#include "lazyfs/erofs_mount.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <set>
#include <string_view>
#include <utility>

#include "common/file_io.h"
#include "common/unique_fd.h"
#include "image-format/erofs_layout.h"

namespace banyan::lazyfs {
namespace {

namespace erofs = image_format::erofs;

constexpr char kBdiDir[] = "/sys/class/bdi";

// The kernel's own words about the last failure, if it has any.
std::string KernelLog(int context_fd) {
  std::string all;
  std::array<char, 512> line;
  for (int i = 0; i < 8; ++i) {
    const ssize_t got = read(context_fd, line.data(), line.size());
    if (got <= 0) break;
    all += fmt::format("; {}", std::string_view(line.data(), static_cast<size_t>(got)));
  }
  while (!all.empty() && all.back() == '\n') all.pop_back();
  return all;
}

Status Configure(int context_fd, unsigned command, const char* key, const char* value, const std::string& what) {
  if (fsconfig(context_fd, command, key, value, 0) == 0) return {};
  const int error = errno;
  return FailErrno(what + KernelLog(context_fd), error);
}

std::set<std::string> ErofsBdis() {
  std::set<std::string> found;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(kBdiDir, ignored)) {
    const std::string name = entry.path().filename();
    if (name.starts_with("erofs-")) found.insert(name);
  }
  return found;
}

bool SetReadAhead(const std::string& bdi, uint32_t kib) {
  std::ofstream file(fmt::format("{}/{}/read_ahead_kb", kBdiDir, bdi));
  file << kib;
  file.close();
  return static_cast<bool>(file);
}

// A block device's mount has the bdi of that device. A file's has one of its own, "erofs-<count>", which nothing
// connects with the mount: it is the one that has appeared. (Another process' mount of the same instant would get ours
// too.)
bool SetReadAheadOf(const ErofsMount& spec, const std::set<std::string>& bdis_before) {
  struct stat status {};
  if (stat(spec.target.c_str(), &status) != 0) return false;
  const std::string by_device = fmt::format("{}:{}", major(status.st_dev), minor(status.st_dev));
  if (SetReadAhead(by_device, spec.read_ahead_kib)) return true;
  bool any = false;
  for (const std::string& bdi : ErofsBdis()) {
    if (!bdis_before.contains(bdi)) any = SetReadAhead(bdi, spec.read_ahead_kib) || any;
  }
  return any;
}

}  // namespace

Result<ErofsMounted> MountErofs(const ErofsMount& spec) {
  // One at a time, so that the bdi that appears is this mount's.
  static std::mutex one_at_a_time;
  std::lock_guard lock(one_at_a_time);
  const std::set<std::string> bdis_before = ErofsBdis();
  ErofsMounted mounted;
  const UniqueFd context(fsopen("erofs", FSOPEN_CLOEXEC));
  if (!context) return FailErrno("this kernel's EROFS", errno);
  BANYAN_TRY(Configure(context.get(), FSCONFIG_SET_STRING, "source", spec.source.c_str(), "source " + spec.source));
  for (const std::string& device : spec.devices) {
    BANYAN_TRY(Configure(context.get(), FSCONFIG_SET_STRING, "device", device.c_str(), "device " + device));
  }
  if (!spec.selinux_context.empty()) {
    BANYAN_TRY(
        Configure(context.get(), FSCONFIG_SET_STRING, "context", spec.selinux_context.c_str(), "SELinux context"));
  }
  if (spec.direct_io) {
    const Status taken = Configure(context.get(), FSCONFIG_SET_FLAG, "directio", nullptr, "directio");
    mounted.direct_io = taken.has_value();
    if (!taken) mounted.notes.push_back("without directio: " + taken.error().message);
  }
  BANYAN_TRY(Configure(context.get(), FSCONFIG_SET_FLAG, "ro", nullptr, "option ro"));
  BANYAN_TRY(Configure(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, "mounting EROFS of " + spec.source));
  const UniqueFd mount_fd(fsmount(context.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY));
  if (!mount_fd) return FailErrno("fsmount of " + spec.source + KernelLog(context.get()), errno);
  if (move_mount(mount_fd.get(), "", AT_FDCWD, spec.target.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
    return FailErrno("attaching the mount to " + spec.target, errno);
  }
  if (spec.read_ahead_kib > 0 && !SetReadAheadOf(spec, bdis_before)) {
    mounted.notes.push_back("the mount's read-ahead could not be set");
  }
  return mounted;
}

Result<std::vector<uint32_t>> DeviceBlocks(const std::string& metadata_path) {
  BANYAN_ASSIGN(const UniqueFd file, OpenFile(metadata_path, O_RDONLY));
  std::array<std::byte, sizeof(erofs::Superblock)> raw;
  BANYAN_TRY(PreadFull(file.get(), raw, erofs::kSuperblockOffset, metadata_path));
  const auto super = erofs::Load<erofs::Superblock>(raw.data());
  if (super.magic != erofs::kMagic) return Fail(Code::kDataLoss, metadata_path + " is not EROFS metadata");
  std::vector<uint32_t> blocks;
  if ((super.feature_incompat & erofs::kIncompatDeviceTable) == 0) return blocks;
  std::vector<std::byte> table(size_t{super.extra_devices} * sizeof(erofs::DeviceSlot));
  BANYAN_TRY(PreadFull(file.get(), table, uint64_t{super.device_slot_offset} * erofs::kDeviceSlotBytes, metadata_path));
  for (size_t at = 0; at < table.size(); at += sizeof(erofs::DeviceSlot)) {
    blocks.push_back(erofs::Load<erofs::DeviceSlot>(table.data() + at).blocks);
  }
  return blocks;
}

}  // namespace banyan::lazyfs
