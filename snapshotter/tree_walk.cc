#include "snapshotter/tree_walk.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "common/file_io.h"
#include "common/unique_fd.h"

namespace banyan::snapshotter {

namespace {

constexpr uint64_t kStatBlock = 512;  // of st_blocks, whatever the file system's are
constexpr int kDirectory = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

using Inode = std::pair<dev_t, ino_t>;

Result<Inode> IdentityOf(int fd, const std::string& root) {
  struct stat status;
  if (::fstat(fd, &status) != 0) return FailErrno("stat below " + root, errno);
  return Inode{status.st_dev, status.st_ino};
}

// Calls visit(name, status) for each entry of the open directory.
template <typename Visit>
Status ForEachEntry(int fd, const std::string& root, Visit visit) {
  UniqueFd copy(::openat(fd, ".", kDirectory));
  if (!copy) return FailErrno("open below " + root, errno);
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(::fdopendir(copy.get()), ::closedir);
  if (!directory) return FailErrno("list below " + root, errno);
  copy.release();
  for (errno = 0; const dirent* entry = ::readdir(directory.get()); errno = 0) {
    const std::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    struct stat status;
    if (::fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno == ENOENT) continue;
      return FailErrno("stat below " + root, errno);
    }
    BANYAN_TRY(visit(entry->d_name, status));
  }
  if (errno != 0) return FailErrno("list below " + root, errno);
  return {};
}

// Depth first. `file` is called for all that is not a directory, `enter` before a directory's entries (false: not into
// it), `leave` after them, with its parent's descriptor.
struct Visitor {
  virtual ~Visitor() = default;
  virtual Status File(int parent, const char* name, const struct stat& status) = 0;
  virtual bool Enter(const struct stat& status) = 0;
  virtual Status Leave(int parent, const char* name) = 0;
};

struct Level {
  Inode identity;
  std::string name;
  std::vector<std::string> pending;  // subdirectories not yet entered
};

Status ReadLevel(int fd, const std::string& root, Visitor& visitor, Level& level) {
  BANYAN_ASSIGN(level.identity, IdentityOf(fd, root));
  return ForEachEntry(fd, root, [&](const char* name, const struct stat& status) -> Status {
    if (!S_ISDIR(status.st_mode)) return visitor.File(fd, name, status);
    if (visitor.Enter(status)) level.pending.emplace_back(name);
    return {};
  });
}

Status Walk(UniqueFd fd, const std::string& root, Visitor& visitor) {
  std::vector<Level> levels(1);
  BANYAN_TRY(ReadLevel(fd.get(), root, visitor, levels.back()));
  while (true) {
    Level& level = levels.back();
    if (!level.pending.empty()) {
      Level next;
      next.name = std::move(level.pending.back());
      level.pending.pop_back();
      UniqueFd child(::openat(fd.get(), next.name.c_str(), kDirectory));
      if (!child && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP)) continue;
      if (!child) return FailErrno("open below " + root, errno);
      fd = std::move(child);
      BANYAN_TRY(ReadLevel(fd.get(), root, visitor, next));
      levels.push_back(std::move(next));
      continue;
    }
    if (levels.size() == 1) return {};
    const std::string name = std::move(level.name);
    levels.pop_back();
    UniqueFd parent(::openat(fd.get(), "..", kDirectory));
    if (!parent) return FailErrno("open below " + root, errno);
    fd = std::move(parent);
    BANYAN_ASSIGN(const Inode identity, IdentityOf(fd.get(), root));
    if (identity != levels.back().identity) return Fail(Code::kAborted, root + ": changed while it was read");
    BANYAN_TRY(visitor.Leave(fd.get(), name.c_str()));
  }
}

class Scan final : public Visitor {
 public:
  explicit Scan(const struct stat& root) : device_(root.st_dev) { Count(root); }

  Status File(int /*parent*/, const char* /*name*/, const struct stat& status) override {
    Count(status);
    return {};
  }
  bool Enter(const struct stat& status) override {
    if (status.st_dev != device_) return false;
    Count(status);
    return true;
  }
  Status Leave(int /*parent*/, const char* /*name*/) override { return {}; }

  const Usage& usage() const { return usage_; }

 private:
  void Count(const struct stat& status) {
    const bool linked = !S_ISDIR(status.st_mode) && status.st_nlink > 1;
    if (linked && !seen_.insert(status.st_ino).second) return;
    usage_.bytes += static_cast<uint64_t>(status.st_blocks) * kStatBlock;
    usage_.inodes += 1;
  }

  const dev_t device_;
  std::set<ino_t> seen_;  // of files with several links
  Usage usage_;
};

class Removal final : public Visitor {
 public:
  Removal(const std::string& root, const std::atomic<bool>& stop) : root_(root), stop_(stop) {}

  Status File(int parent, const char* name, const struct stat& /*status*/) override { return Unlink(parent, name, 0); }
  bool Enter(const struct stat& /*status*/) override { return true; }
  Status Leave(int parent, const char* name) override { return Unlink(parent, name, AT_REMOVEDIR); }

 private:
  Status Unlink(int parent, const char* name, int flags) {
    if (stop_) return Fail(Code::kCancelled, "stopped while deleting " + root_);
    if (::unlinkat(parent, name, flags) != 0 && errno != ENOENT) return FailErrno("delete below " + root_, errno);
    return {};
  }

  const std::string& root_;
  const std::atomic<bool>& stop_;
};

}  // namespace

Result<Usage> ScanUsage(const std::string& directory) {
  BANYAN_ASSIGN(UniqueFd fd, OpenFile(directory, kDirectory));
  struct stat status;
  if (::fstat(fd.get(), &status) != 0) return FailErrno("stat " + directory, errno);
  Scan scan(status);
  BANYAN_TRY(Walk(std::move(fd), directory, scan));
  return scan.usage();
}

Status RemoveTree(const std::string& directory, const std::atomic<bool>& stop) {
  UniqueFd fd(::open(directory.c_str(), kDirectory));
  if (!fd && errno == ENOENT) return {};
  if (!fd) return FailErrno("open " + directory, errno);
  Removal removal(directory, stop);
  BANYAN_TRY(Walk(std::move(fd), directory, removal));
  if (::rmdir(directory.c_str()) != 0 && errno != ENOENT) return FailErrno("delete " + directory, errno);
  return {};
}

}  // namespace banyan::snapshotter
