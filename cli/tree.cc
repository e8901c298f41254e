#include "cli/tree.h"

#include <sys/stat.h>

#include <algorithm>
#include <unordered_map>

#include <fmt/format.h>

#include "cli/text.h"
#include "common/units.h"

namespace banyan::cli {
namespace {

using image_format::ErofsReader;

std::string KindName(uint32_t mode) {
  switch (mode & S_IFMT) {
    case S_IFDIR:
      return "a directory";
    case S_IFREG:
      return "a regular file";
    case S_IFLNK:
      return "a symlink";
    case S_IFCHR:
      return "a character device";
    case S_IFBLK:
      return "a block device";
    case S_IFIFO:
      return "a FIFO";
    case S_IFSOCK:
      return "a socket";
    default:
      return "of unknown kind";
  }
}

bool IsSafeName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos;
}

// Reads metadata into a tree, breadth first, so that depth costs no stack.
class ErofsTreeBuilder {
 public:
  explicit ErofsTreeBuilder(const ErofsReader& reader) : reader_(reader) {
    out_.extents.resize(reader.devices().size());
  }

  Result<ErofsTree> Build() {
    BANYAN_ASSIGN([[maybe_unused]] const uint32_t root, AddInode(reader_.root()));
    for (uint32_t i = 0; i < nids_.size(); ++i) {
      if (S_ISDIR(out_.tree.inodes[i].mode)) BANYAN_TRY(AddChildren(i));
    }
    for (auto& extents : out_.extents) BANYAN_TRY(SortAndCheck(extents));
    return std::move(out_);
  }

 private:
  Result<uint32_t> AddInode(ErofsReader::Nid nid);
  Status AddChildren(uint32_t directory);
  Status AddExtent(ErofsReader::Nid nid, uint32_t inode);
  static Status SortAndCheck(std::vector<FileExtent>& extents);

  const ErofsReader& reader_;
  ErofsTree out_;
  std::vector<ErofsReader::Nid> nids_;  // of each inode
  std::unordered_map<ErofsReader::Nid, uint32_t> inode_of_;
};

Result<uint32_t> ErofsTreeBuilder::AddInode(ErofsReader::Nid nid) {
  BANYAN_ASSIGN(const ErofsReader::Stat stat, reader_.GetStat(nid));
  Inode inode;
  inode.mode = stat.mode;
  inode.uid = stat.uid;
  inode.gid = stat.gid;
  inode.link_count = stat.link_count;
  inode.mtime_seconds = stat.mtime_seconds;
  inode.mtime_nanoseconds = stat.mtime_nanoseconds;
  if (S_ISCHR(stat.mode) || S_ISBLK(stat.mode)) {
    inode.device_major = stat.device_major;
    inode.device_minor = stat.device_minor;
  }
  if (S_ISLNK(stat.mode)) {
    BANYAN_ASSIGN(inode.target, reader_.ReadLink(nid));
  }
  if (S_ISREG(stat.mode)) {
    inode.size = stat.size;
    inode.content = EmptyContent();
  }
  BANYAN_ASSIGN(inode.xattrs, reader_.Xattrs(nid));
  const uint32_t index = out_.tree.Add(std::move(inode));
  nids_.push_back(nid);
  inode_of_.emplace(nid, index);
  if (S_ISREG(stat.mode) && stat.size > 0) BANYAN_TRY(AddExtent(nid, index));
  return index;
}

Status ErofsTreeBuilder::AddExtent(ErofsReader::Nid nid, uint32_t inode) {
  BANYAN_ASSIGN(const ErofsReader::Extent extent, reader_.FileExtent(nid));
  out_.extents[extent.device].push_back({extent.first_block, extent.size, inode});
  return {};
}

Status ErofsTreeBuilder::AddChildren(uint32_t directory) {
  BANYAN_ASSIGN(const auto entries, reader_.ReadDirectory(nids_[directory]));
  for (const ErofsReader::DirectoryEntry& entry : entries) {
    if (entry.name == "." || entry.name == "..") continue;
    if (!IsSafeName(entry.name)) {
      return Fail(Code::kDataLoss, fmt::format("metadata: a directory has the name '{}'", Printable(entry.name)));
    }
    const auto known = inode_of_.find(entry.nid);
    uint32_t child;
    if (known == inode_of_.end()) {
      BANYAN_ASSIGN(child, AddInode(entry.nid));
    } else if (S_ISDIR(out_.tree.inodes[known->second].mode)) {
      return Fail(Code::kDataLoss,
                  fmt::format("metadata: the directory '{}' has several names", Printable(entry.name)));
    } else {
      child = known->second;
    }
    if (!out_.tree.inodes[directory].children.emplace(entry.name, child).second) {
      return Fail(Code::kDataLoss, fmt::format("metadata: '{}' is in one directory twice", Printable(entry.name)));
    }
  }
  return {};
}

Status ErofsTreeBuilder::SortAndCheck(std::vector<FileExtent>& extents) {
  std::sort(extents.begin(), extents.end(),
            [](const FileExtent& a, const FileExtent& b) { return a.first_block < b.first_block; });
  for (size_t i = 1; i < extents.size(); ++i) {
    if (extents[i - 1].first_block + BlocksFor(extents[i - 1].bytes) > extents[i].first_block) {
      return Fail(Code::kDataLoss, "metadata: two files share blocks");
    }
  }
  return {};
}

class Comparer {
 public:
  Comparer(const Tree& expected, const Tree& actual, const std::function<void(TreeDifference)>& report)
      : expected_(expected), actual_(actual), report_(report), partner_(expected.inodes.size(), kNone) {}

  uint64_t Run() {
    Compare("", Tree::kRoot, Tree::kRoot);
    return count_;
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;

  void Report(const std::string& path, std::string what) {
    ++count_;
    report_({path.empty() ? "/" : Printable(path), std::move(what)});
  }
  void Compare(const std::string& path, uint32_t expected, uint32_t actual);
  void CompareAttributes(const std::string& path, const Inode& expected, const Inode& actual);
  void CompareXattrs(const std::string& path, const Inode& expected, const Inode& actual);
  void CompareChildren(const std::string& path, const Inode& expected, const Inode& actual);

  const Tree& expected_;
  const Tree& actual_;
  const std::function<void(TreeDifference)>& report_;
  std::vector<uint32_t> partner_;                      // of each expected inode, the actual one it was first met as
  std::unordered_map<uint32_t, uint32_t> partner_of_;  // the reverse
  uint64_t count_ = 0;
};

void Comparer::Compare(const std::string& path, uint32_t expected, uint32_t actual) {
  const bool known = partner_[expected] != kNone;
  const auto reverse = partner_of_.try_emplace(actual, expected);
  if (!known) partner_[expected] = actual;
  if (partner_[expected] != actual || reverse.first->second != expected) {
    Report(path, "is linked to other names");
  } else if (known) {
    return;  // Another name of what was compared already.
  }
  const Inode& want = expected_.inodes[expected];
  const Inode& have = actual_.inodes[actual];
  CompareAttributes(path, want, have);
  if (S_ISDIR(want.mode) && S_ISDIR(have.mode)) CompareChildren(path, want, have);
}

void Comparer::CompareAttributes(const std::string& path, const Inode& want, const Inode& have) {
  if ((want.mode & S_IFMT) != (have.mode & S_IFMT)) {
    Report(path, fmt::format("is {}, not {}", KindName(have.mode), KindName(want.mode)));
    return;
  }
  const auto number = [&](std::string_view what, auto expected, auto actual) {
    if (expected != actual) Report(path, fmt::format("{} is {}, not {}", what, actual, expected));
  };
  if (want.mode != have.mode)
    Report(path, fmt::format("mode is {:04o}, not {:04o}", have.mode & 07777, want.mode & 07777));
  number("owner", want.uid, have.uid);
  number("group", want.gid, have.gid);
  number("link count", want.link_count, have.link_count);
  number("size", want.size, have.size);
  if (want.mtime_seconds != have.mtime_seconds || want.mtime_nanoseconds != have.mtime_nanoseconds) {
    Report(path, fmt::format("mtime is {}.{:09}, not {}.{:09}", have.mtime_seconds, have.mtime_nanoseconds,
                             want.mtime_seconds, want.mtime_nanoseconds));
  }
  if (want.device_major != have.device_major || want.device_minor != have.device_minor) {
    Report(path, fmt::format("device is {}:{}, not {}:{}", have.device_major, have.device_minor, want.device_major,
                             want.device_minor));
  }
  if (want.target != have.target) {
    Report(path, fmt::format("links to '{}', not '{}'", Printable(have.target), Printable(want.target)));
  }
  if (want.content != have.content) {
    Report(path, fmt::format("contents are {}, not {}", have.content.ToString(), want.content.ToString()));
  }
  CompareXattrs(path, want, have);
}

void Comparer::CompareXattrs(const std::string& path, const Inode& want, const Inode& have) {
  if (want.xattrs == have.xattrs) return;
  for (const auto& xattr : want.xattrs) {
    const auto found = std::find_if(have.xattrs.begin(), have.xattrs.end(),
                                    [&](const auto& other) { return other.name == xattr.name; });
    if (found == have.xattrs.end()) {
      Report(path, fmt::format("lacks the xattr {}", Printable(xattr.name)));
    } else if (found->value != xattr.value) {
      Report(path, fmt::format("xattr {} has another value", Printable(xattr.name)));
    }
  }
  for (const auto& xattr : have.xattrs) {
    const bool wanted = std::any_of(want.xattrs.begin(), want.xattrs.end(),
                                    [&](const auto& other) { return other.name == xattr.name; });
    if (!wanted) Report(path, fmt::format("has the xattr {}, which the layers do not give", Printable(xattr.name)));
  }
}

void Comparer::CompareChildren(const std::string& path, const Inode& want, const Inode& have) {
  const std::string prefix = path.empty() ? "" : path + "/";
  for (const auto& [name, inode] : want.children) {
    const auto found = have.children.find(name);
    if (found == have.children.end()) {
      Report(prefix + name, "is missing");
    } else {
      Compare(prefix + name, inode, found->second);
    }
  }
  for (const auto& [name, inode] : have.children) {
    if (!want.children.contains(name)) Report(prefix + name, "is not in the layers");
  }
}

}  // namespace

const Digest& EmptyContent() {
  static const Digest digest = Digest::Of(std::string_view());
  return digest;
}

uint32_t Tree::Add(Inode inode) {
  inodes.push_back(std::move(inode));
  return static_cast<uint32_t>(inodes.size() - 1);
}

void Tree::CountLinks() {
  for (Inode& inode : inodes) inode.link_count = S_ISDIR(inode.mode) ? 2 : 0;
  Walk([this](const std::string& path, uint32_t inode) {
    if (!S_ISDIR(inodes[inode].mode)) ++inodes[inode].link_count;
    if (S_ISDIR(inodes[inode].mode)) {
      for (const auto& [name, child] : inodes[inode].children) {
        if (S_ISDIR(inodes[child].mode)) ++inodes[inode].link_count;
      }
    }
    static_cast<void>(path);
  });
}

void Tree::Walk(const std::function<void(const std::string&, uint32_t)>& visit) const {
  std::vector<std::pair<std::string, uint32_t>> todo{{"", kRoot}};
  while (!todo.empty()) {
    const auto [path, inode] = std::move(todo.back());
    todo.pop_back();
    visit(path, inode);
    const auto& children = inodes[inode].children;
    for (auto child = children.rbegin(); child != children.rend(); ++child) {
      todo.emplace_back(path.empty() ? child->first : path + "/" + child->first, child->second);
    }
  }
}

Result<ErofsTree> ReadErofsTree(const ErofsReader& reader) {
  BANYAN_TRY(reader.Check());
  return ErofsTreeBuilder(reader).Build();
}

uint64_t CompareTrees(const Tree& expected, const Tree& actual, const std::function<void(TreeDifference)>& report) {
  return Comparer(expected, actual, report).Run();
}

}  // namespace banyan::cli
