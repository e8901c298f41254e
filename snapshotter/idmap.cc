#include "snapshotter/idmap.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <span>

#include <fmt/format.h>

#include "common/file_io.h"
#include "lazyfs/mount_table.h"

namespace banyan::snapshotter {

namespace {

constexpr size_t kMaxRanges = 340;  // the kernel's limit
constexpr std::chrono::milliseconds kUnmountTimeout{5000};

Result<IdRange> ParseRange(std::string_view text, std::string_view label) {
  const auto bad = [&] {
    return Fail(Code::kInvalidArgument, fmt::format("{}: \"{}\" is not <inside>:<outside>:<count>", label, text));
  };
  IdRange range;
  const char* at = text.data();
  const char* const end = text.data() + text.size();
  for (uint32_t* number : {&range.inside, &range.outside, &range.count}) {
    const auto [stop, error] = std::from_chars(at, end, *number);
    const bool last = number == &range.count;
    if (error != std::errc() || last != (stop == end) || (!last && *stop != ':')) return bad();
    at = stop + (last ? 0 : 1);
  }
  const uint64_t last_id = std::max<uint64_t>(range.inside, range.outside) + range.count;
  if (range.count == 0 || last_id > UINT32_MAX) return bad();
  return range;
}

Result<std::vector<IdRange>> ParseRanges(std::string_view text, std::string_view label) {
  std::vector<IdRange> ranges;
  while (true) {
    const size_t comma = text.find(',');
    BANYAN_ASSIGN(const IdRange range, ParseRange(text.substr(0, comma), label));
    ranges.push_back(range);
    if (ranges.size() > kMaxRanges) return Fail(Code::kInvalidArgument, fmt::format("{}: too many ranges", label));
    if (comma == std::string_view::npos) return ranges;
    text.remove_prefix(comma + 1);
  }
}

Result<uint32_t> RootOf(const std::vector<IdRange>& ranges, std::string_view label) {
  for (const IdRange& range : ranges) {
    if (range.inside == 0) return range.outside;
  }
  return Fail(Code::kInvalidArgument, fmt::format("{}: does not map the container's 0", label));
}

std::string MapText(const std::vector<IdRange>& ranges) {
  std::string text;
  for (const IdRange& range : ranges) text += fmt::format("{} {} {}\n", range.inside, range.outside, range.count);
  return text;
}

Status WriteMap(const std::string& path, const std::vector<IdRange>& ranges) {
  const std::string text = MapText(ranges);
  BANYAN_ASSIGN(UniqueFd fd, OpenFile(path, O_WRONLY));
  return WriteFull(fd.get(), std::as_bytes(std::span(text.data(), text.size())), path);
}

// A process in a user namespace of its own that only waits for its end.
class Holder {
 public:
  static Result<Holder> Start() {
    // No exit signal, so that nobody's SIGCHLD handling or wait() meets it. The child calls nothing but the kernel.
    const long pid = ::syscall(SYS_clone, CLONE_NEWUSER, nullptr, nullptr, nullptr, nullptr);
    if (pid < 0) {
      const Error error = ErrnoError("make a user namespace", errno);
      return Fail(Code::kFailedPrecondition,
                  error.message + "; allow user namespaces (sysctl user.max_user_namespaces)");
    }
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      while (true) ::pause();
    }
    return Holder(static_cast<pid_t>(pid));
  }
  ~Holder() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    while (::waitpid(pid_, nullptr, __WALL) < 0 && errno == EINTR) {
    }
  }
  Holder(Holder&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  Holder& operator=(Holder&&) = delete;

  pid_t pid() const { return pid_; }

 private:
  explicit Holder(pid_t pid) : pid_(pid) {}
  pid_t pid_;
};

// Whether what is mounted at `target` is the directory `source`.
bool IsMountedThere(const std::string& source, const std::string& target) {
  const auto mount = lazyfs::FindMount(target);
  if (!mount || !*mount) return false;
  struct stat wanted;
  struct stat found;
  if (::stat(source.c_str(), &wanted) != 0 || ::stat(target.c_str(), &found) != 0) return false;
  return wanted.st_dev == found.st_dev && wanted.st_ino == found.st_ino;
}

tl::unexpected<Error> CannotMap(const std::string& directory, int error_number) {
  const auto mount = lazyfs::FindMount(directory);
  const std::string file_system = mount && *mount ? " (" + (*mount)->fs_type + ")" : "";
  return Fail(
      Code::kFailedPrecondition,
      fmt::format("{}{}: its owners cannot be mapped: {}; user namespaces need Linux 5.19 and a file system with "
                  "id-mapped mounts here: run the pod without one (hostUsers: true), or move the data root",
                  directory, file_system, std::strerror(error_number)));
}

}  // namespace

Result<std::optional<IdMapping>> ParseIdMapping(const Labels& labels) {
  const auto uids = labels.find(std::string(kUidMappingLabel));
  const auto gids = labels.find(std::string(kGidMappingLabel));
  if (uids == labels.end() && gids == labels.end()) return std::nullopt;
  if (uids == labels.end() || gids == labels.end()) {
    return Fail(Code::kInvalidArgument, fmt::format("{} and {} belong together", kUidMappingLabel, kGidMappingLabel));
  }
  IdMapping mapping;
  BANYAN_ASSIGN(mapping.uids, ParseRanges(uids->second, kUidMappingLabel));
  BANYAN_ASSIGN(mapping.gids, ParseRanges(gids->second, kGidMappingLabel));
  BANYAN_ASSIGN(mapping.root_uid, RootOf(mapping.uids, kUidMappingLabel));
  BANYAN_ASSIGN(mapping.root_gid, RootOf(mapping.gids, kGidMappingLabel));
  return mapping;
}

Result<UniqueFd> MakeUserNamespace(const IdMapping& mapping) {
  BANYAN_ASSIGN(const Holder holder, Holder::Start());
  const std::string process = fmt::format("/proc/{}", holder.pid());
  const auto with_reason = [](Error error) {
    return Fail(Code::kFailedPrecondition, "map ids: " + std::move(error.message));
  };
  if (Status status = WriteMap(process + "/uid_map", mapping.uids); !status) return with_reason(status.error());
  if (Status status = WriteMap(process + "/gid_map", mapping.gids); !status) return with_reason(status.error());
  return OpenFile(process + "/ns/user", O_RDONLY);
}

Status MountMapped(int user_namespace, const std::string& source, const std::string& target) {
  if (IsMountedThere(source, target)) return {};
  const Status stale = lazyfs::UnmountWithin(target, std::chrono::milliseconds(0), kUnmountTimeout);
  if (!stale && stale.error().code != Code::kNotFound) return stale;

  const UniqueFd clone(::open_tree(AT_FDCWD, source.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (!clone) return errno == ENOSYS ? CannotMap(source, errno) : FailErrno("clone the mount of " + source, errno);
  struct mount_attr attributes = {};
  attributes.attr_set = MOUNT_ATTR_IDMAP | MOUNT_ATTR_RDONLY;
  attributes.propagation = MS_PRIVATE;
  attributes.userns_fd = static_cast<uint64_t>(user_namespace);
  if (::mount_setattr(clone.get(), "", AT_EMPTY_PATH, &attributes, sizeof(attributes)) != 0) {
    return CannotMap(source, errno);
  }
  if (::move_mount(clone.get(), "", AT_FDCWD, target.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
    return FailErrno("mount " + target, errno);
  }
  return {};
}

}  // namespace banyan::snapshotter
