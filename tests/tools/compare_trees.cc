// compare_trees A B: finds every way in which two directory trees differ, as far as a program that runs in them could
// tell.
//
// It is the judge of the end-to-end tests: one tree is an image's mounted view, the other the same image unpacked by
// somebody else's tool. Compared are names (any bytes), types, modes, owners, mtimes to the nanosecond, link counts,
// which names are links to the same inode, xattrs, device numbers, symlink targets, sizes and contents. Sizes of
// directories and of allocated blocks belong to the file system beneath and are left out, as are atimes and ctimes.
//
// Each tree is listed by one thread, both at once, sorted by path, and the two lists are merged. Contents are compared
// in segments by a pool of readers. Exit status: 0 alike, 1 different or unreadable, 2 wrong usage.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "common/executor.h"
#include "common/file_io.h"
#include "common/result.h"
#include "common/unique_fd.h"

namespace {

using banyan::Result;
using banyan::Status;
using banyan::UniqueFd;

struct Options {
  std::string left, right;
  std::vector<std::string> ignored_xattrs;  // names; a final '*' stands for any rest
  bool root_mtime = true;
  bool content = true;
  size_t print_limit = 50;
};

struct Entry {
  std::string path;  // "" for the root, else "/a/b"
  struct stat stat {};
  std::string target;                         // of a symlink
  std::map<std::string, std::string> xattrs;  // without the ignored ones
};

std::string Quote(std::string_view bytes) {
  std::string quoted;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f && byte != '\\') {
      quoted += c;
    } else {
      quoted += fmt::format("\\x{:02x}", byte);
    }
  }
  return quoted;
}

// Collects differences from all threads; prints the first ones as they come.
class Report {
 public:
  explicit Report(size_t limit) : limit_(limit) {}

  void Add(std::string_view path, std::string_view what) {
    const std::lock_guard lock(mutex_);
    if (++count_ <= limit_) fmt::print("{}: {}\n", path.empty() ? "/" : Quote(path), what);
  }
  template <typename T>
  void AddUnequal(std::string_view path, std::string_view what, const T& left, const T& right) {
    if (left != right) Add(path, fmt::format("{}: {} | {}", what, left, right));
  }
  size_t count() const { return count_; }

 private:
  const size_t limit_;
  std::mutex mutex_;
  size_t count_ = 0;  // guarded by mutex_ while threads run
};

// What llistxattr(2) and lgetxattr(2) have in common: a size that may grow between two calls.
template <typename Call>
Result<std::string> ReadGrowing(const std::string& name, Call call) {
  std::string buffer(256, '\0');
  while (true) {
    const ssize_t got = call(buffer.data(), buffer.size());
    if (got >= 0) {
      buffer.resize(static_cast<size_t>(got));
      return buffer;
    }
    if (errno != ERANGE || buffer.size() > (1U << 20)) return banyan::FailErrno(name, errno);
    buffer.resize(buffer.size() * 4);
  }
}

bool Ignored(const Options& options, std::string_view name) {
  return std::any_of(options.ignored_xattrs.begin(), options.ignored_xattrs.end(), [&](std::string_view pattern) {
    if (!pattern.ends_with('*')) return name == pattern;
    pattern.remove_suffix(1);
    return name.starts_with(pattern);
  });
}

Status ReadXattrs(const Options& options, const std::string& file, std::map<std::string, std::string>& xattrs) {
  auto names = ReadGrowing(file, [&](char* data, size_t size) { return ::llistxattr(file.c_str(), data, size); });
  if (!names && names.error().code == banyan::Code::kUnimplemented) return {};  // a file system without them
  BANYAN_ASSIGN(const std::string list, std::move(names));
  for (size_t at = 0; at < list.size();) {
    const std::string name = list.c_str() + at;
    at += name.size() + 1;
    if (Ignored(options, name)) continue;
    BANYAN_ASSIGN(xattrs[name], ReadGrowing(file, [&](char* data, size_t size) {
                    return ::lgetxattr(file.c_str(), name.c_str(), data, size);
                  }));
  }
  return {};
}

Status ReadTarget(const std::string& file, std::string& target) {
  target.assign(PATH_MAX + 1, '\0');
  const ssize_t length = ::readlink(file.c_str(), target.data(), target.size());
  if (length < 0) return banyan::FailErrno(file, errno);
  target.resize(static_cast<size_t>(length));
  return {};
}

// Lists one tree. A thing that cannot be read is a difference, not an end.
class Lister {
 public:
  Lister(const Options& options, std::string root, Report& report)
      : options_(options), root_(std::move(root)), report_(report) {}

  std::vector<Entry> List() {
    Visit("");
    std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.path < b.path; });
    return std::move(entries_);
  }

 private:
  void Visit(const std::string& path) {
    // By a list of directories to do, not by recursion: an image may be deeper than a stack.
    std::vector<std::string> directories;
    Add(path, directories);
    while (!directories.empty()) {
      const std::string directory = std::move(directories.back());
      directories.pop_back();
      ListDirectory(directory, directories);
    }
  }

  void ListDirectory(const std::string& path, std::vector<std::string>& directories) {
    const std::unique_ptr<DIR, int (*)(DIR*)> stream(::opendir((root_ + path + "/").c_str()), &::closedir);
    if (stream == nullptr) return Complain(path, banyan::ErrnoError("opendir", errno));
    while (true) {
      errno = 0;
      const dirent* entry = ::readdir(stream.get());
      if (entry == nullptr) break;
      const std::string_view name = entry->d_name;
      if (name == "." || name == "..") continue;
      Add(fmt::format("{}/{}", path, name), directories);
    }
    if (errno != 0) Complain(path, banyan::ErrnoError("readdir", errno));
  }

  void Add(const std::string& path, std::vector<std::string>& directories) {
    const std::string file = path.empty() ? root_ + "/." : root_ + path;
    Entry entry;
    entry.path = path;
    if (::lstat(file.c_str(), &entry.stat) != 0) return Complain(path, banyan::ErrnoError("lstat", errno));
    if (S_ISLNK(entry.stat.st_mode)) {
      if (const Status status = ReadTarget(file, entry.target); !status) Complain(path, status.error());
    }
    if (const Status status = ReadXattrs(options_, file, entry.xattrs); !status) Complain(path, status.error());
    if (S_ISDIR(entry.stat.st_mode)) directories.push_back(path);
    entries_.push_back(std::move(entry));
  }

  void Complain(const std::string& path, const banyan::Error& error) {
    report_.Add(path, fmt::format("cannot be read in {}: {}", root_, error.message));
  }

  const Options& options_;
  const std::string root_;
  Report& report_;
  std::vector<Entry> entries_;
};

// The first path, by order, of each path's inode: equal in both trees for every path exactly if the links are the same.
std::map<std::pair<dev_t, ino_t>, std::string_view> LinkLeaders(const std::vector<Entry>& entries) {
  std::map<std::pair<dev_t, ino_t>, std::string_view> leaders;
  for (const Entry& entry : entries) {
    if (!S_ISDIR(entry.stat.st_mode)) leaders.try_emplace({entry.stat.st_dev, entry.stat.st_ino}, entry.path);
  }
  return leaders;
}

std::string_view TypeName(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return "file";
    case S_IFDIR:
      return "directory";
    case S_IFLNK:
      return "symlink";
    case S_IFCHR:
      return "character device";
    case S_IFBLK:
      return "block device";
    case S_IFIFO:
      return "FIFO";
    case S_IFSOCK:
      return "socket";
    default:
      return "unknown";
  }
}

class Comparison {
 public:
  Comparison(const Options& options, Report& report) : options_(options), report_(report) {}

  // Returns how many bytes of content were found equal.
  uint64_t Run(const std::vector<Entry>& left, const std::vector<Entry>& right) {
    readers_.emplace(std::max(4U, 2 * std::thread::hardware_concurrency()));
    left_leaders_ = LinkLeaders(left);
    right_leaders_ = LinkLeaders(right);
    auto a = left.begin();
    auto b = right.begin();
    while (a != left.end() || b != right.end()) {
      if (b == right.end() || (a != left.end() && a->path < b->path)) {
        report_.Add((a++)->path, "only in the first tree");
      } else if (a == left.end() || b->path < a->path) {
        report_.Add((b++)->path, "only in the second tree");
      } else {
        Compare(*a++, *b++);
      }
    }
    readers_.reset();  // waits for the contents
    return compared_bytes_;
  }

 private:
  static constexpr uint64_t kSegmentBytes = 32 << 20;
  static constexpr size_t kBufferBytes = 512 << 10;

  void Compare(const Entry& a, const Entry& b) {
    const struct stat& x = a.stat;
    const struct stat& y = b.stat;
    report_.AddUnequal(a.path, "type", TypeName(x.st_mode), TypeName(y.st_mode));
    if ((x.st_mode & S_IFMT) != (y.st_mode & S_IFMT)) return;
    if ((x.st_mode & 07777) != (y.st_mode & 07777)) {
      report_.Add(a.path, fmt::format("mode: {:04o} | {:04o}", x.st_mode & 07777, y.st_mode & 07777));
    }
    report_.AddUnequal(a.path, "uid", x.st_uid, y.st_uid);
    report_.AddUnequal(a.path, "gid", x.st_gid, y.st_gid);
    report_.AddUnequal(a.path, "link count", x.st_nlink, y.st_nlink);
    if (options_.root_mtime || !a.path.empty()) CompareTimes(a, b);
    CompareXattrs(a, b);
    CompareLinks(a, b);
    if (S_ISLNK(x.st_mode)) report_.AddUnequal(a.path, "target", Quote(a.target), Quote(b.target));
    if (S_ISCHR(x.st_mode) || S_ISBLK(x.st_mode)) CompareDevices(a, b);
    if (S_ISREG(x.st_mode)) CompareFiles(a, b);
  }

  void CompareTimes(const Entry& a, const Entry& b) {
    const timespec& x = a.stat.st_mtim;
    const timespec& y = b.stat.st_mtim;
    if (x.tv_sec == y.tv_sec && x.tv_nsec == y.tv_nsec) return;
    report_.Add(a.path, fmt::format("mtime: {}.{:09} | {}.{:09}", x.tv_sec, x.tv_nsec, y.tv_sec, y.tv_nsec));
  }

  void CompareXattrs(const Entry& a, const Entry& b) {
    std::set<std::string_view> names;
    for (const auto& [name, value] : a.xattrs) names.insert(name);
    for (const auto& [name, value] : b.xattrs) names.insert(name);
    const auto show = [](const Entry& entry, std::string_view name) {
      const auto found = entry.xattrs.find(std::string(name));
      return found == entry.xattrs.end() ? std::string("(none)") : "\"" + Quote(found->second) + "\"";
    };
    for (const std::string_view name : names) {
      report_.AddUnequal(a.path, fmt::format("xattr {}", Quote(name)), show(a, name), show(b, name));
    }
  }

  void CompareLinks(const Entry& a, const Entry& b) {
    if (S_ISDIR(a.stat.st_mode)) return;
    const std::string_view x = left_leaders_.at({a.stat.st_dev, a.stat.st_ino});
    const std::string_view y = right_leaders_.at({b.stat.st_dev, b.stat.st_ino});
    report_.AddUnequal(a.path, "is the same inode as", Quote(x), Quote(y));
  }

  void CompareDevices(const Entry& a, const Entry& b) {
    const auto show = [](const Entry& entry) {
      return fmt::format("{}:{}", major(entry.stat.st_rdev), minor(entry.stat.st_rdev));
    };
    report_.AddUnequal(a.path, "device number", show(a), show(b));
  }

  void CompareFiles(const Entry& a, const Entry& b) {
    report_.AddUnequal(a.path, "size", a.stat.st_size, b.stat.st_size);
    if (!options_.content || a.stat.st_size != b.stat.st_size) return;
    // One comparison an inode, however many names it has, unless the links differ.
    if (!seen_.insert({{a.stat.st_dev, a.stat.st_ino}, {b.stat.st_dev, b.stat.st_ino}}).second) return;
    const auto size = static_cast<uint64_t>(a.stat.st_size);
    for (uint64_t at = 0; at < size; at += kSegmentBytes) {
      readers_->Post(
          [this, path = a.path, at, end = std::min(size, at + kSegmentBytes)] { CompareBytes(path, at, end); });
    }
  }

  void CompareBytes(const std::string& path, uint64_t begin, uint64_t end) {
    const auto left = banyan::OpenFile(options_.left + path, O_RDONLY | O_NOFOLLOW);
    if (!left) return report_.Add(path, left.error().message);
    const auto right = banyan::OpenFile(options_.right + path, O_RDONLY | O_NOFOLLOW);
    if (!right) return report_.Add(path, right.error().message);
    thread_local std::vector<std::byte> left_buffer(kBufferBytes);
    thread_local std::vector<std::byte> right_buffer(kBufferBytes);
    for (uint64_t at = begin; at < end;) {
      const size_t length = std::min<uint64_t>(kBufferBytes, end - at);
      const std::span<std::byte> x(left_buffer.data(), length);
      const std::span<std::byte> y(right_buffer.data(), length);
      if (const Status s = banyan::PreadFull(left->get(), x, at, options_.left + path); !s) {
        return report_.Add(path, s.error().message);
      }
      if (const Status s = banyan::PreadFull(right->get(), y, at, options_.right + path); !s) {
        return report_.Add(path, s.error().message);
      }
      if (std::memcmp(x.data(), y.data(), length) != 0) {
        const auto differs = std::mismatch(x.begin(), x.end(), y.begin()).first - x.begin();
        return report_.Add(path, fmt::format("content differs at byte {}", at + static_cast<uint64_t>(differs)));
      }
      at += length;
      compared_bytes_ += length;
    }
  }

  using Inode = std::pair<dev_t, ino_t>;

  const Options& options_;
  Report& report_;
  std::atomic<uint64_t> compared_bytes_ = 0;
  std::map<Inode, std::string_view> left_leaders_, right_leaders_;
  std::set<std::pair<Inode, Inode>> seen_;
  std::optional<banyan::ThreadPool> readers_;
};

[[noreturn]] void Usage() {
  std::fputs(
      "usage: compare_trees [--ignore-mtime-of-root] [--ignore-xattr NAME[*]]... [--no-content] [--print N] A B\n",
      stderr);
  std::exit(2);
}

Options ParseArguments(std::span<char*> arguments) {
  Options options;
  std::vector<std::string> trees;
  for (size_t i = 1; i < arguments.size(); ++i) {
    const std::string_view argument = arguments[i];
    const auto value = [&]() -> std::string_view {
      if (++i == arguments.size()) Usage();
      return arguments[i];
    };
    if (argument == "--ignore-mtime-of-root") {
      options.root_mtime = false;
    } else if (argument == "--no-content") {
      options.content = false;
    } else if (argument == "--ignore-xattr") {
      options.ignored_xattrs.emplace_back(value());
    } else if (argument == "--print") {
      const std::string_view number = value();
      const auto parsed = std::from_chars(number.data(), number.data() + number.size(), options.print_limit);
      if (parsed.ec != std::errc() || parsed.ptr != number.data() + number.size()) Usage();
    } else if (argument.starts_with("-")) {
      Usage();
    } else {
      trees.emplace_back(argument);
    }
  }
  if (trees.size() != 2) Usage();
  options.left = trees[0];
  options.right = trees[1];
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = ParseArguments(std::span(argv, static_cast<size_t>(argc)));
  Report report(options.print_limit);
  std::vector<Entry> left;
  std::vector<Entry> right;
  {
    std::jthread lister([&] { left = Lister(options, options.left, report).List(); });
    right = Lister(options, options.right, report).List();
  }
  const uint64_t bytes = Comparison(options, report).Run(left, right);
  fmt::print("{} and {} entries, {} bytes compared: {} differences\n", left.size(), right.size(), bytes,
             report.count());
  return report.count() == 0 ? 0 : 1;
}
