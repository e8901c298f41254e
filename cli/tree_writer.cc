#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include <fmt/format.h>

#include "cli/extract.h"
#include "cli/text.h"
#include "common/file_io.h"
#include "common/units.h"

namespace banyan::cli {
namespace {

constexpr uint32_t kNoName = UINT32_MAX;

bool IsZero(std::span<const std::byte> bytes) {
  return bytes.empty() ||
         (bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

int ErrnoIf(int result) { return result == 0 ? 0 : errno; }

}  // namespace

TreeWriter::TreeWriter(UniqueFd root, const Tree& tree)
    : root_(std::move(root)), tree_(tree), first_name_(tree.inodes.size(), {kNoName, {}}) {
  // Breadth first, so parents come first and depth costs no stack.
  std::vector<uint32_t> directories{Tree::kRoot};
  for (size_t i = 0; i < directories.size(); ++i) {
    const uint32_t parent = directories[i];
    for (const auto& [name, child] : tree_.inodes[parent].children) {
      names_.push_back({parent, name});
      name_inodes_.push_back(child);
      if (first_name_[child].parent == kNoName) first_name_[child] = {parent, name};
      if (S_ISDIR(tree_.inodes[child].mode)) directories.push_back(child);
    }
  }
  report_.names = names_.size();
}

Result<TreeWriter> TreeWriter::Open(const std::string& directory, const Tree& tree) {
  BANYAN_ASSIGN(UniqueFd root, OpenFile(directory, O_RDONLY | O_DIRECTORY));
  std::error_code error;
  const bool empty = std::filesystem::is_empty(directory, error);
  if (error) return FailErrno("read " + directory, error.value());
  if (!empty)
    return Fail(Code::kInvalidArgument, fmt::format("{} is not empty: name a new or an empty directory", directory));
  return TreeWriter(std::move(root), tree);
}

std::string TreeWriter::PathOf(uint32_t inode) const {
  std::string path;
  for (; inode != Tree::kRoot; inode = first_name_[inode].parent) path = "/" + first_name_[inode].name + path;
  return path.empty() ? "/" : Printable(path);
}

// The descriptor is valid until the next call.
Result<int> TreeWriter::OpenDirectory(uint32_t inode) {
  if (inode == Tree::kRoot) return root_.get();
  if (inode == directory_inode_) return directory_.get();
  std::vector<uint32_t> way;
  for (uint32_t at = inode; at != Tree::kRoot; at = first_name_[at].parent) way.push_back(at);
  UniqueFd fd;
  int parent = root_.get();
  for (auto step = way.rbegin(); step != way.rend(); ++step) {
    UniqueFd next(::openat(parent, first_name_[*step].name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!next) return FailErrno("open " + PathOf(*step), errno);
    fd = std::move(next);
    parent = fd.get();
  }
  directory_ = std::move(fd);
  directory_inode_ = inode;
  return directory_.get();
}

Status TreeWriter::MakeDirectoriesAndFiles() {
  for (size_t i = 0; i < names_.size(); ++i) {
    const uint32_t inode = name_inodes_[i];
    const Inode& of = tree_.inodes[inode];
    const bool directory = S_ISDIR(of.mode);
    const bool first = first_name_[inode].parent == names_[i].parent && first_name_[inode].name == names_[i].name;
    if (!first || (!directory && !S_ISREG(of.mode))) continue;
    BANYAN_ASSIGN(const int parent, OpenDirectory(names_[i].parent));
    if (directory) {
      if (::mkdirat(parent, names_[i].name.c_str(), 0700) != 0) return FailErrno("make " + PathOf(inode), errno);
      continue;
    }
    const UniqueFd file(
        ::openat(parent, names_[i].name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!file || ::ftruncate(file.get(), static_cast<off_t>(of.size)) != 0)
      return FailErrno("make " + PathOf(inode), errno);
    report_.bytes += of.size;
  }
  return {};
}

Result<int> TreeWriter::OpenForWriting(uint32_t inode) {
  if (inode == file_inode_) return file_.get();
  const Name& name = first_name_[inode];
  BANYAN_ASSIGN(const int parent, OpenDirectory(name.parent));
  file_.reset(::openat(parent, name.name.c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC));
  file_inode_ = file_ ? inode : UINT32_MAX;
  if (!file_) return FailErrno("open " + PathOf(inode), errno);
  return file_.get();
}

Status TreeWriter::Write(uint32_t inode, uint64_t offset, std::span<const std::byte> bytes) {
  BANYAN_ASSIGN(const int file, OpenForWriting(inode));
  while (!bytes.empty()) {
    // Runs of blocks that are all zeros, or not.
    size_t run = 0;
    const bool zero = IsZero(bytes.first(std::min<size_t>(kBlockBytes, bytes.size())));
    while (run < bytes.size()) {
      const size_t block = std::min<size_t>(kBlockBytes, bytes.size() - run);
      if (IsZero(bytes.subspan(run, block)) != zero) break;
      run += block;
    }
    if (!zero) BANYAN_TRY(PwriteFull(file, bytes.first(run), offset, PathOf(inode)));
    bytes = bytes.subspan(run);
    offset += run;
  }
  return {};
}

Status TreeWriter::Complete() {
  file_.reset();
  for (size_t i = 0; i < names_.size(); ++i) {
    const uint32_t inode = name_inodes_[i];
    const Name& first = first_name_[inode];
    if (first.parent == names_[i].parent && first.name == names_[i].name) {
      const uint32_t mode = tree_.inodes[inode].mode;
      if (!S_ISDIR(mode) && !S_ISREG(mode)) BANYAN_TRY(MakeNode(inode));
      continue;
    }
    // Both ends may lie in different directories; the cache holds one of them.
    BANYAN_ASSIGN(const int cached, OpenDirectory(first.parent));
    const UniqueFd from(::fcntl(cached, F_DUPFD_CLOEXEC, 0));
    BANYAN_ASSIGN(const int to, OpenDirectory(names_[i].parent));
    // The first name of a device that could not be made is not there.
    if (::linkat(from.get(), first.name.c_str(), to, names_[i].name.c_str(), 0) != 0 && errno != ENOENT) {
      return FailErrno("link " + PathOf(inode), errno);
    }
  }
  // Backwards: a directory's mtime and mode come after everything below it.
  for (size_t i = names_.size(); i-- > 0;) {
    const Name& first = first_name_[name_inodes_[i]];
    if (first.parent == names_[i].parent && first.name == names_[i].name) BANYAN_TRY(SetAttributes(name_inodes_[i]));
  }
  return SetAttributes(Tree::kRoot);
}

Status TreeWriter::MakeNode(uint32_t inode) {
  const Inode& of = tree_.inodes[inode];
  const Name& name = first_name_[inode];
  BANYAN_ASSIGN(const int parent, OpenDirectory(name.parent));
  if (S_ISLNK(of.mode)) {
    if (::symlinkat(of.target.c_str(), parent, name.name.c_str()) != 0)
      return FailErrno("make symlink " + PathOf(inode), errno);
    return {};
  }
  const dev_t device = makedev(of.device_major, of.device_minor);
  return Tolerate(ErrnoIf(::mknodat(parent, name.name.c_str(), (of.mode & S_IFMT) | 0600, device)),
                  report_.left_out.devices, "make", inode);
}

// Counts what this user or this file system may not do; any other failure is one.
Status TreeWriter::Tolerate(int error, uint64_t& counter, std::string_view what, uint32_t inode) const {
  if (error == 0) return {};
  if (error != EPERM && error != ENOTSUP) return FailErrno(fmt::format("{} {}", what, PathOf(inode)), error);
  ++counter;
  return {};
}

Status TreeWriter::SetAttributes(uint32_t inode) {
  const Inode& of = tree_.inodes[inode];
  const bool root = inode == Tree::kRoot;
  const std::string name = root ? "." : first_name_[inode].name;
  BANYAN_ASSIGN(const int parent, OpenDirectory(root ? Tree::kRoot : first_name_[inode].parent));
  struct stat stat;
  if (::fstatat(parent, name.c_str(), &stat, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return {};  // A device that could not be made.
    return FailErrno(PathOf(inode), errno);
  }
  if (stat.st_uid != of.uid || stat.st_gid != of.gid) {
    BANYAN_TRY(Tolerate(ErrnoIf(::fchownat(parent, name.c_str(), of.uid, of.gid, AT_SYMLINK_NOFOLLOW)),
                        report_.left_out.owners, "change the owner of", inode));
  }
  if (!S_ISLNK(of.mode)) {
    BANYAN_TRY(Tolerate(ErrnoIf(::fchmodat(parent, name.c_str(), of.mode & 07777, 0)), report_.left_out.modes,
                        "change the mode of", inode));
  }
  const std::string path = fmt::format("/proc/self/fd/{}/{}", parent, name);
  for (const auto& xattr : of.xattrs) {
    BANYAN_TRY(
        Tolerate(ErrnoIf(::lsetxattr(path.c_str(), xattr.name.c_str(), xattr.value.data(), xattr.value.size(), 0)),
                 report_.left_out.xattrs, "set an xattr of", inode));
  }
  const timespec times[2] = {{0, UTIME_OMIT}, {of.mtime_seconds, of.mtime_nanoseconds}};
  if (::utimensat(parent, name.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0)
    return FailErrno("set the time of " + PathOf(inode), errno);
  return {};
}

}  // namespace banyan::cli
