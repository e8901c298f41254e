#include "lazyfs/loop_device.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "common/file_io.h"
#include "common/units.h"

namespace banyan::lazyfs {
namespace {

constexpr int kAttempts = 200;
constexpr auto kRetry = std::chrono::milliseconds(5);

std::vector<std::string> LoopDevices() {
  std::vector<std::string> found;
  DIR* dir = opendir("/sys/block");
  if (dir == nullptr) return found;
  while (const dirent* entry = readdir(dir)) {
    const std::string name = entry->d_name;
    if (name.starts_with("loop")) found.push_back("/dev/" + name);
  }
  closedir(dir);
  return found;
}

// A kernel that reports 32-bit old_dev style numbers and makedev's layout differ only beyond 8-bit majors.
bool SameDevice(uint64_t of_loop, dev_t of_file) {
  const auto minor_bits = static_cast<uint64_t>(minor(of_file));
  const uint64_t packed =
      (minor_bits & 0xFF) | (static_cast<uint64_t>(major(of_file)) << 8) | ((minor_bits & ~0xFFULL) << 12);
  return of_loop == packed || of_loop == of_file;
}

// The status of a loop device that serves exactly this file, in the way we want it.
std::optional<loop_info64> StatusIfServing(int loop_fd, const struct stat& file) {
  loop_info64 info{};
  if (ioctl(loop_fd, LOOP_GET_STATUS64, &info) != 0) return std::nullopt;
  const bool same = SameDevice(info.lo_device, file.st_dev) && info.lo_inode == file.st_ino && info.lo_offset == 0 &&
                    info.lo_sizelimit == 0 && (info.lo_flags & LO_FLAGS_READ_ONLY) != 0 &&
                    (info.lo_flags & LO_FLAGS_AUTOCLEAR) != 0;
  return same ? std::optional(info) : std::nullopt;
}

std::optional<LoopDevice> FindExisting(const struct stat& file) {
  for (std::string& path : LoopDevices()) {
    UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) continue;
    // Once open it cannot be cleared, so what is seen now stays.
    const auto info = StatusIfServing(fd.get(), file);
    if (info) return LoopDevice{std::move(path), std::move(fd), (info->lo_flags & LO_FLAGS_DIRECT_IO) != 0};
  }
  return std::nullopt;
}

// nullopt: somebody else took that device; try again.
Result<std::optional<LoopDevice>> TryConfigure(int control_fd, int file_fd, const std::string& file_path) {
  const int number = ioctl(control_fd, LOOP_CTL_GET_FREE);
  if (number < 0) return FailErrno("asking for a free loop device", errno);
  LoopDevice device;
  device.path = fmt::format("/dev/loop{}", number);
  BANYAN_ASSIGN(device.hold, OpenFile(device.path, O_RDONLY));
  loop_config config{};
  config.fd = static_cast<uint32_t>(file_fd);
  config.block_size = kBlockBytes;
  config.info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
  std::memcpy(config.info.lo_file_name, file_path.data(), std::min<size_t>(file_path.size(), LO_NAME_SIZE - 1));
  if (ioctl(device.hold.get(), LOOP_CONFIGURE, &config) != 0) {
    if (errno == EBUSY) return std::nullopt;
    return FailErrno(fmt::format("making {} a loop device of {}", device.path, file_path), errno);
  }
  loop_info64 info{};
  if (ioctl(device.hold.get(), LOOP_GET_STATUS64, &info) != 0) return FailErrno(device.path, errno);
  if ((info.lo_flags & LO_FLAGS_DIRECT_IO) == 0) {
    (void)ioctl(device.hold.get(), LOOP_SET_DIRECT_IO, 1UL);
    (void)ioctl(device.hold.get(), LOOP_GET_STATUS64, &info);
  }
  device.direct_io = (info.lo_flags & LO_FLAGS_DIRECT_IO) != 0;
  return device;
}

}  // namespace

Result<LoopDevice> AttachLoop(const std::string& file_path) {
  BANYAN_ASSIGN(const UniqueFd file, OpenFile(file_path, O_RDONLY));
  struct stat status {};
  if (fstat(file.get(), &status) != 0) return FailErrno(file_path, errno);
  if (auto existing = FindExisting(status)) return *std::move(existing);
  BANYAN_ASSIGN(const UniqueFd control, OpenFile("/dev/loop-control", O_RDWR));
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    BANYAN_ASSIGN(std::optional<LoopDevice> device, TryConfigure(control.get(), file.get(), file_path));
    if (device) return *std::move(device);
    std::this_thread::sleep_for(kRetry);
  }
  return Fail(Code::kResourceExhausted, fmt::format("no free loop device for {}", file_path));
}

}  // namespace banyan::lazyfs
