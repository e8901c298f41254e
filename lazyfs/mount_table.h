// What is mounted where, and unmounting that cannot hang its caller.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace banyan::lazyfs {

struct MountEntry {
  unsigned major = 0;
  unsigned minor = 0;
  std::string mount_point;
  std::string fs_type;  // with its subtype: "fuse.banyan"
  std::string source;
};

// Parses the text of /proc/<pid>/mountinfo; lines that make no sense are left out.
std::vector<MountEntry> ParseMountInfo(std::string_view text);
// The topmost mount at exactly `path` in this process' namespace. Only the parent of `path` is looked up, so that a
// dead or hanging mount at `path` does not matter.
Result<std::optional<MountEntry>> FindMount(const std::string& path);

// Runs `task` on a thread of its own and waits at most `timeout` for it: for system calls that wait for a file system
// to answer. False: it has not ended (and goes on by itself; `task` must own all that it uses).
bool RunWithTimeout(std::function<void()> task, std::chrono::milliseconds timeout);

// umount2(path, flags) with a timeout, retried while busy for `busy_wait`, then with MNT_DETACH. kNotFound when nothing
// is mounted there, kDeadlineExceeded when the kernel has not answered in time.
Status UnmountWithin(const std::string& path, std::chrono::milliseconds busy_wait, std::chrono::milliseconds timeout);

}  // namespace banyan::lazyfs
