// ErofsReader::Check: one walk from the root. It terminates on any metadata because a directory is entered only once,
// and its memory is bounded by the inodes that fit the metadata.
#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "image-format/erofs_reader.h"

namespace banyan::image_format {
namespace {

using Nid = ErofsReader::Nid;

class Checker {
 public:
  Checker(const ErofsReader& reader, uint64_t metadata_bytes) : reader_(reader), budget_(metadata_bytes) {}

  Status Run() {
    BANYAN_ASSIGN(const ErofsReader::Stat root, reader_.GetStat(reader_.root()));
    if (!S_ISDIR(root.mode)) return Damage(reader_.root(), "the root is no directory");
    BANYAN_TRY(See(reader_.root(), root));
    std::vector<Step> stack{{reader_.root(), reader_.root()}};
    while (!stack.empty()) {
      const Step step = stack.back();
      stack.pop_back();
      BANYAN_TRY(CheckDirectory(step, stack));
    }
    for (const auto& [nid, links] : links_) {
      if (links.expected != links.found) {
        return Damage(nid, fmt::format("link count {} with {} links", links.expected, links.found));
      }
    }
    if (links_.size() != reader_.inode_count()) {
      return Damage(reader_.root(), fmt::format("{} inodes reached of {}", links_.size(), reader_.inode_count()));
    }
    return {};
  }

 private:
  struct Step {
    Nid directory;
    Nid parent;
  };
  struct Links {
    uint32_t expected = 0;
    uint32_t found = 0;
  };

  static tl::unexpected<Error> Damage(Nid nid, std::string_view what) {
    return Fail(Code::kDataLoss, fmt::format("EROFS inode at nid {}: {}", nid, what));
  }

  Status CheckDirectory(const Step& step, std::vector<Step>& stack) {
    BANYAN_ASSIGN(const auto entries, reader_.ReadDirectory(step.directory));
    bool self = false;
    bool up = false;
    for (const ErofsReader::DirectoryEntry& entry : entries) BANYAN_TRY(Spend(step.directory, entry.name.size()));
    links_[step.directory].found += 2;  // its "." and its name above ("..", for the root)
    for (size_t i = 0; i < entries.size(); ++i) {
      const ErofsReader::DirectoryEntry& entry = entries[i];
      if (i > 0 && entries[i - 1].name >= entry.name) return Damage(step.directory, "names out of order");
      if (entry.name == ".") {
        self = entry.nid == step.directory && entry.type == DT_DIR;
      } else if (entry.name == "..") {
        up = entry.nid == step.parent && entry.type == DT_DIR;
      } else {
        BANYAN_TRY(CheckEntry(step.directory, entry, stack));
      }
    }
    if (!self || !up) return Damage(step.directory, "'.' or '..' is wrong");
    return {};
  }

  Status CheckEntry(Nid directory, const ErofsReader::DirectoryEntry& entry, std::vector<Step>& stack) {
    BANYAN_ASSIGN(const ErofsReader::Stat stat, reader_.GetStat(entry.nid));
    if (IFTODT(stat.mode) != entry.type) return Damage(entry.nid, "another type than its name says");
    const auto seen = links_.find(entry.nid);
    if (S_ISDIR(stat.mode)) {
      if (seen != links_.end()) return Damage(entry.nid, "a directory with two names");
      BANYAN_TRY(See(entry.nid, stat));
      ++links_[directory].found;
      stack.push_back({entry.nid, directory});
      return {};
    }
    if (seen != links_.end()) {
      ++seen->second.found;
      return {};
    }
    BANYAN_TRY(See(entry.nid, stat));
    links_[entry.nid].found = 1;
    return CheckContents(entry.nid, stat);
  }

  Status See(Nid nid, const ErofsReader::Stat& stat) {
    if (links_.size() >= reader_.inode_count()) return Damage(nid, "more inodes than the superblock says");
    if (!inode_numbers_.insert(stat.inode_number).second) return Damage(nid, "an inode number used twice");
    links_[nid].expected = stat.link_count;
    BANYAN_ASSIGN(const std::vector<Xattr> xattrs, reader_.Xattrs(nid));
    for (const Xattr& xattr : xattrs) BANYAN_TRY(Spend(nid, xattr.value.size()));
    return {};
  }

  // Names and attributes of honest metadata do not overlap; those of crafted ones may, and would make the walk
  // quadratic.
  Status Spend(Nid nid, uint64_t bytes) {
    if (bytes > budget_) return Damage(nid, "more names and attributes than the metadata have bytes");
    budget_ -= bytes;
    return {};
  }

  Status CheckContents(Nid nid, const ErofsReader::Stat& stat) const {
    if (S_ISLNK(stat.mode)) {
      BANYAN_ASSIGN(const std::string target, reader_.ReadLink(nid));
      if (target.find('\0') != std::string::npos) return Damage(nid, "a NUL in a symlink's target");
    }
    if (!S_ISREG(stat.mode)) return {};
    BANYAN_TRY(reader_.FileExtent(nid));
    return {};
  }

  const ErofsReader& reader_;
  uint64_t budget_;
  std::unordered_map<Nid, Links> links_;
  std::unordered_set<uint32_t> inode_numbers_;
};

}  // namespace

Status ErofsReader::Check() const { return Checker(*this, metadata_.size()).Run(); }

}  // namespace banyan::image_format
