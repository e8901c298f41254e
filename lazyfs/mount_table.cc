#include "lazyfs/mount_table.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "common/file_io.h"

namespace banyan::lazyfs {
namespace {

constexpr auto kBusyRetry = std::chrono::milliseconds(20);

// mountinfo writes space, tab, newline and backslash as \ooo.
std::string Unescape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    const char* digits = text.data() + i + 1;
    if (text[i] == '\\' && i + 3 < text.size() && std::from_chars(digits, digits + 3, value, 8).ptr == digits + 3) {
      out.push_back(static_cast<char>(value));
      i += 3;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const size_t end = text.find(separator);
    if (end != 0) parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return parts;
}

// ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [OPTIONAL…] - TYPE SOURCE SUPEROPTIONS
std::optional<MountEntry> ParseLine(std::string_view line) {
  const std::vector<std::string_view> fields = Split(line, ' ');
  if (fields.size() < 6) return std::nullopt;
  size_t dash = 6;
  while (dash < fields.size() && fields[dash] != "-") ++dash;
  if (dash + 2 >= fields.size()) return std::nullopt;
  MountEntry entry;
  const std::string_view device = fields[2];
  const char* end = device.data() + device.size();
  const auto major = std::from_chars(device.data(), end, entry.major);
  if (major.ec != std::errc() || major.ptr == end || *major.ptr != ':') return std::nullopt;
  if (std::from_chars(major.ptr + 1, end, entry.minor).ptr != end) return std::nullopt;
  entry.mount_point = Unescape(fields[4]);
  entry.fs_type = Unescape(fields[dash + 1]);
  entry.source = Unescape(fields[dash + 2]);
  return entry;
}

Result<std::string> Canonical(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  const size_t slash = path.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  const std::unique_ptr<char, decltype(&free)> real(realpath(parent.c_str(), nullptr), &free);
  if (real == nullptr) return FailErrno(fmt::format("looking up {}", parent), errno);
  std::string result(real.get());
  if (name.empty()) return result;
  if (result.back() != '/') result.push_back('/');
  return result + name;
}

struct Outcome {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
};

}  // namespace

std::vector<MountEntry> ParseMountInfo(std::string_view text) {
  std::vector<MountEntry> entries;
  for (std::string_view line : Split(text, '\n')) {
    if (auto entry = ParseLine(line)) entries.push_back(*std::move(entry));
  }
  return entries;
}

Result<std::optional<MountEntry>> FindMount(const std::string& path) {
  BANYAN_ASSIGN(const std::string wanted, Canonical(path));
  BANYAN_ASSIGN(const std::string text, ReadFile("/proc/self/mountinfo"));
  std::optional<MountEntry> found;
  for (MountEntry& entry : ParseMountInfo(text)) {
    if (entry.mount_point == wanted) found = std::move(entry);
  }
  return found;
}

bool RunWithTimeout(std::function<void()> task, std::chrono::milliseconds timeout) {
  auto outcome = std::make_shared<Outcome>();
  std::thread([outcome, task = std::move(task)] {
    task();
    std::lock_guard lock(outcome->mutex);
    outcome->done = true;
    outcome->changed.notify_all();
  }).detach();
  std::unique_lock lock(outcome->mutex);
  return outcome->changed.wait_for(lock, timeout, [&] { return outcome->done; });
}

Status UnmountWithin(const std::string& path, std::chrono::milliseconds busy_wait, std::chrono::milliseconds timeout) {
  auto error = std::make_shared<std::atomic<int>>(0);
  const bool ended = RunWithTimeout(
      [error, path, busy_wait] {
        const auto give_up = std::chrono::steady_clock::now() + busy_wait;
        int result = umount2(path.c_str(), UMOUNT_NOFOLLOW);
        while (result != 0 && errno == EBUSY && std::chrono::steady_clock::now() < give_up) {
          std::this_thread::sleep_for(kBusyRetry);
          result = umount2(path.c_str(), UMOUNT_NOFOLLOW);
        }
        if (result != 0 && errno == EBUSY) result = umount2(path.c_str(), UMOUNT_NOFOLLOW | MNT_DETACH);
        if (result != 0) *error = errno;
      },
      timeout);
  if (!ended) return Fail(Code::kDeadlineExceeded, fmt::format("unmounting {}: the kernel still waits", path));
  if (*error == EINVAL || *error == ENOENT) return Fail(Code::kNotFound, fmt::format("nothing is mounted at {}", path));
  if (*error != 0) return FailErrno(fmt::format("unmounting {}", path), *error);
  return {};
}

}  // namespace banyan::lazyfs
