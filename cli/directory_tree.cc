// Reads a directory on this machine into a Tree, through descriptors: no path is ever longer than one name.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>

#include <fmt/format.h>

#include "cli/text.h"
#include "cli/tree.h"
#include "common/file_io.h"
#include "common/units.h"

namespace banyan::cli {
namespace {

class DirectoryReader {
 public:
  Result<Tree> Read(const std::string& directory) {
    BANYAN_ASSIGN(UniqueFd fd, OpenFile(directory, O_RDONLY | O_DIRECTORY));
    struct stat stat;
    if (::fstat(fd.get(), &stat) != 0) return FailErrno(directory, errno);
    Inode root = FromStat(stat);
    BANYAN_ASSIGN(root.xattrs, ReadXattrs(fmt::format("/proc/self/fd/{}/.", fd.get()), directory));
    tree_.Add(std::move(root));
    BANYAN_TRY(ReadChildren(std::move(fd), Tree::kRoot, directory));
    return std::move(tree_);
  }

 private:
  static Inode FromStat(const struct stat& stat);
  static Result<std::vector<image_format::Xattr>> ReadXattrs(const std::string& path, const std::string& name);
  static Result<Digest> HashFile(int parent, const std::string& name, const std::string& path);
  Status ReadChildren(UniqueFd fd, uint32_t directory, const std::string& path);
  Result<uint32_t> ReadChild(int parent, const std::string& name, const std::string& path);

  Tree tree_;
  std::map<std::pair<dev_t, ino_t>, uint32_t> known_;  // of files with several links
};

Inode DirectoryReader::FromStat(const struct stat& stat) {
  Inode inode;
  inode.mode = stat.st_mode;
  inode.uid = stat.st_uid;
  inode.gid = stat.st_gid;
  inode.link_count = static_cast<uint32_t>(stat.st_nlink);
  inode.mtime_seconds = stat.st_mtim.tv_sec;
  inode.mtime_nanoseconds = static_cast<uint32_t>(stat.st_mtim.tv_nsec);
  if (S_ISREG(stat.st_mode)) inode.size = static_cast<uint64_t>(stat.st_size);
  if (S_ISCHR(stat.st_mode) || S_ISBLK(stat.st_mode)) {
    inode.device_major = major(stat.st_rdev);
    inode.device_minor = minor(stat.st_rdev);
  }
  return inode;
}

Result<std::vector<image_format::Xattr>> DirectoryReader::ReadXattrs(const std::string& path, const std::string& name) {
  std::vector<image_format::Xattr> xattrs;
  std::string names(64 * kKiB, '\0');
  const ssize_t length = ::llistxattr(path.c_str(), names.data(), names.size());
  if (length < 0 && errno == ENOTSUP) return xattrs;
  if (length < 0) return FailErrno("list the xattrs of " + Printable(name), errno);
  names.resize(static_cast<size_t>(length));
  std::string value(64 * kKiB, '\0');
  for (size_t at = 0; at < names.size(); at = names.find('\0', at) + 1) {
    const std::string xattr = names.c_str() + at;
    const ssize_t bytes = ::lgetxattr(path.c_str(), xattr.c_str(), value.data(), value.size());
    if (bytes < 0) return FailErrno(fmt::format("read xattr {} of {}", xattr, Printable(name)), errno);
    xattrs.push_back({xattr, value.substr(0, static_cast<size_t>(bytes))});
  }
  std::sort(xattrs.begin(), xattrs.end());
  return xattrs;
}

Result<Digest> DirectoryReader::HashFile(int parent, const std::string& name, const std::string& path) {
  UniqueFd fd(::openat(parent, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return FailErrno("open " + Printable(path), errno);
  FdSource source(std::move(fd), Printable(path));
  Sha256 hash;
  std::vector<std::byte> buffer(256 * kKiB);
  while (true) {
    BANYAN_ASSIGN(const size_t bytes, source.Read(buffer));
    if (bytes == 0) return hash.Finish();
    hash.Update(std::span(buffer).first(bytes));
  }
}

Result<uint32_t> DirectoryReader::ReadChild(int parent, const std::string& name, const std::string& path) {
  struct stat stat;
  if (::fstatat(parent, name.c_str(), &stat, AT_SYMLINK_NOFOLLOW) != 0) return FailErrno(Printable(path), errno);
  const bool linked = !S_ISDIR(stat.st_mode) && stat.st_nlink > 1;
  if (linked) {
    if (const auto found = known_.find({stat.st_dev, stat.st_ino}); found != known_.end()) return found->second;
  }
  Inode inode = FromStat(stat);
  if (S_ISLNK(stat.st_mode)) {
    std::string target(static_cast<size_t>(PATH_MAX), '\0');
    const ssize_t length = ::readlinkat(parent, name.c_str(), target.data(), target.size());
    if (length < 0) return FailErrno("read the link " + Printable(path), errno);
    inode.target = target.substr(0, static_cast<size_t>(length));
  }
  if (S_ISREG(stat.st_mode)) {
    BANYAN_ASSIGN(inode.content, HashFile(parent, name, path));
  }
  BANYAN_ASSIGN(inode.xattrs, ReadXattrs(fmt::format("/proc/self/fd/{}/{}", parent, name), path));
  const uint32_t index = tree_.Add(std::move(inode));
  if (linked) known_.emplace(std::pair(stat.st_dev, stat.st_ino), index);
  return index;
}

Status DirectoryReader::ReadChildren(UniqueFd fd, uint32_t directory, const std::string& path) {
  const int parent = fd.get();
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(fd.release()), ::closedir);
  if (!stream) return FailErrno("read directory " + Printable(path), errno);
  errno = 0;
  while (const dirent* entry = ::readdir(stream.get())) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    const std::string child_path = path + "/" + name;
    BANYAN_ASSIGN(const uint32_t child, ReadChild(parent, name, child_path));
    tree_.inodes[directory].children.emplace(name, child);
    if (S_ISDIR(tree_.inodes[child].mode)) {
      UniqueFd child_fd(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (!child_fd) return FailErrno("open " + Printable(child_path), errno);
      BANYAN_TRY(ReadChildren(std::move(child_fd), child, child_path));
    }
    errno = 0;
  }
  if (errno != 0) return FailErrno("read directory " + Printable(path), errno);
  return {};
}

}  // namespace

Result<Tree> ReadDirectoryTree(const std::string& directory) { return DirectoryReader().Read(directory); }

}  // namespace banyan::cli
