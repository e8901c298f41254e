#include "image-format/merge.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "image-format/layer_index_check.h"

namespace banyan::image_format {
namespace {

constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
constexpr size_t kMaxNames = size_t{1} << 31;
constexpr int kMaxSymlinks = 40;  // as the kernel

using Name = MergedTree::Name;
using Layers = std::vector<const LayerIndex*>;

// While layers are applied an inode is where its attributes are, and, for a directory, which child list is its own.
struct DraftInode {
  uint32_t layer = 0;
  uint32_t entry = 0;
  uint32_t directory = kNone;
};

struct DraftDirectory {
  std::vector<Name> names;
  bool touched = false;  // named by a layer above the lower part
};

struct Draft {
  Layers layers;
  std::vector<DraftInode> inodes;
  std::vector<DraftDirectory> directories;
  std::vector<std::vector<Name>> lower;  // partial merge: the directories' names before the upper part was applied

  const Entry& EntryOf(uint32_t layer, uint32_t entry) const { return layers[layer]->entries[entry]; }
  std::string_view NameOf(const Name& name) const { return EntryOf(name.layer, name.entry).name; }
  const Entry& EntryOf(uint32_t inode) const { return EntryOf(inodes[inode].layer, inodes[inode].entry); }
  bool IsDirectory(uint32_t inode) const { return inodes[inode].directory != kNone; }
  std::vector<Name>& NamesOf(uint32_t inode) { return directories[inodes[inode].directory].names; }
  const std::vector<Name>& NamesOf(uint32_t inode) const { return directories[inodes[inode].directory].names; }

  uint32_t AddInode(uint32_t layer, uint32_t entry, bool directory) {
    DraftInode inode{layer, entry, kNone};
    if (directory) {
      inode.directory = static_cast<uint32_t>(directories.size());
      directories.emplace_back();
    }
    inodes.push_back(inode);
    return static_cast<uint32_t>(inodes.size() - 1);
  }

  std::optional<uint32_t> Find(uint32_t directory, std::string_view name) const {
    const std::vector<Name>& names = NamesOf(directory);
    const auto it = std::lower_bound(names.begin(), names.end(), name,
                                     [this](const Name& a, std::string_view b) { return NameOf(a) < b; });
    if (it == names.end() || NameOf(*it) != name) return std::nullopt;
    return it->inode;
  }
};

// What `path` names in the tree, following symlinks (within the root) in its directories but not at its end.
std::optional<uint32_t> Resolve(const Draft& draft, std::string_view path) {
  std::vector<uint32_t> above{MergedTree::kRoot};
  std::vector<std::string_view> todo;  // components, last first; views into entries, which do not move
  const auto push = [&todo](std::string_view text) {
    while (!text.empty()) {
      const size_t slash = text.rfind('/');
      const std::string_view part = slash == std::string_view::npos ? text : text.substr(slash + 1);
      text = slash == std::string_view::npos ? std::string_view() : text.substr(0, slash);
      if (!part.empty() && part != ".") todo.push_back(part);
    }
  };
  push(path);
  for (int symlinks = 0; !todo.empty();) {
    const std::string_view part = todo.back();
    todo.pop_back();
    if (part == "..") {
      if (above.size() > 1) above.pop_back();
      continue;
    }
    const std::optional<uint32_t> found = draft.Find(above.back(), part);
    if (!found || todo.empty()) return found;
    if (draft.IsDirectory(*found)) {
      above.push_back(*found);
      continue;
    }
    const Entry& entry = draft.EntryOf(*found);
    if (entry.kind != EntryKind::kSymlink || ++symlinks > kMaxSymlinks) return std::nullopt;
    if (entry.target.starts_with('/')) above.resize(1);
    push(entry.target);
  }
  return above.back();
}

// One layer on top of the draft.
class LayerMerger {
 public:
  LayerMerger(Draft& draft, uint32_t layer)
      : draft_(draft), layer_(layer), index_(*draft.layers[layer]), inode_of_(index_.entries.size(), kNone) {}

  Status Run() {
    BANYAN_TRY(ListChildren());
    BANYAN_TRY(MakeInodes());
    MergeRoot();
    for (uint32_t entry = 0; entry < index_.entries.size(); ++entry) {
      if (index_.entries[entry].kind == EntryKind::kDirectory) MergeDirectory(entry);
    }
    return {};
  }

 private:
  std::string Where(uint32_t entry) const {
    return fmt::format("layer {} ({}): /{}", layer_, index_.diff_id.ToString(), PathOf(index_, entry));
  }

  // Groups the entries by directory and checks the order on which all else relies.
  Status ListChildren() {
    const std::vector<Entry>& entries = index_.entries;
    const auto fail = [this](size_t entry, std::string_view what) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("layer {} ({}): entry {} {}", layer_, index_.diff_id.ToString(), entry, what));
    };
    if (entries.empty() || entries[0].kind != EntryKind::kDirectory) return fail(0, "is no root directory");
    if (entries.size() >= kMaxNames) return Fail(Code::kResourceExhausted, "a layer has more than 2^31 entries");
    first_child_.assign(entries.size() + 1, 0);
    for (size_t i = 1; i < entries.size(); ++i) {
      const Entry& entry = entries[i];
      if (entry.parent >= i || entries[entry.parent].kind != EntryKind::kDirectory) {
        return fail(i, "has no directory before it as parent");
      }
      if (!IsValidName(entry.name)) {
        return fail(i, "has a name that no file can have");
      }
      ++first_child_[entry.parent + 1];
    }
    for (size_t i = 0; i < entries.size(); ++i) first_child_[i + 1] += first_child_[i];
    children_.resize(entries.size() - 1);
    std::vector<uint32_t> next(first_child_.begin(), first_child_.end() - 1);
    for (uint32_t i = 1; i < entries.size(); ++i) {
      const uint32_t parent = entries[i].parent;
      const uint32_t place = next[parent]++;
      children_[place] = i;
      if (place > first_child_[parent] && entries[children_[place - 1]].name >= entries[i].name) {
        return fail(i, "is not in the order of names");
      }
    }
    return {};
  }

  // Inodes of everything but directories; links to lower layers are looked up while those are still unchanged.
  Status MakeInodes() {
    for (uint32_t i = 0; i < index_.entries.size(); ++i) {
      const Entry& entry = index_.entries[i];
      switch (entry.kind) {
        case EntryKind::kDirectory:
        case EntryKind::kWhiteout:
        case EntryKind::kLinkToEntry:
          break;
        case EntryKind::kLinkToLower: {
          const std::optional<uint32_t> target = draft_.inodes.empty() ? std::nullopt : Resolve(draft_, entry.target);
          if (!target) {
            return Fail(Code::kInvalidArgument,
                        fmt::format("{}: hard link to /{}, which does not exist", Where(i), entry.target));
          }
          if (draft_.IsDirectory(*target)) {
            return Fail(Code::kInvalidArgument,
                        fmt::format("{}: hard link to /{}, which is a directory", Where(i), entry.target));
          }
          inode_of_[i] = *target;
          break;
        }
        default:
          inode_of_[i] = draft_.AddInode(layer_, i, false);
      }
    }
    for (uint32_t i = 0; i < index_.entries.size(); ++i) {
      const Entry& entry = index_.entries[i];
      if (entry.kind != EntryKind::kLinkToEntry) continue;
      const uint32_t target = entry.link_entry;
      if (target >= inode_of_.size() || inode_of_[target] == kNone ||
          index_.entries[target].kind == EntryKind::kLinkToEntry) {
        return Fail(Code::kInvalidArgument,
                    fmt::format("{}: hard link to entry {}, which is no file", Where(i), target));
      }
      inode_of_[i] = inode_of_[target];
    }
    return {};
  }

  void MergeRoot() {
    if (draft_.inodes.empty() || !draft_.IsDirectory(MergedTree::kRoot)) return;
    inode_of_[0] = MergedTree::kRoot;
    TakeAttributes(0, MergedTree::kRoot);
  }

  void TakeAttributes(uint32_t entry, uint32_t inode) {
    if (index_.entries[entry].implied) return;
    draft_.inodes[inode].layer = layer_;
    draft_.inodes[inode].entry = entry;
  }

  // The names that the layer gives in the directory of `entry`, over those that are there.
  void MergeDirectory(uint32_t entry) {
    const uint32_t directory = draft_.inodes[inode_of_[entry]].directory;
    draft_.directories[directory].touched = true;
    std::vector<Name> below = std::move(draft_.directories[directory].names);
    if (index_.entries[entry].opaque) below.clear();
    const std::span<const uint32_t> above(children_.data() + first_child_[entry],
                                          first_child_[entry + 1] - first_child_[entry]);
    std::vector<Name> merged;
    merged.reserve(below.size() + above.size());
    auto lower = below.begin();
    for (const uint32_t child : above) {
      const std::string_view name = index_.entries[child].name;
      while (lower != below.end() && draft_.NameOf(*lower) < name) merged.push_back(*lower++);
      const bool replaces = lower != below.end() && draft_.NameOf(*lower) == name;
      PutChild(child, replaces ? &*lower : nullptr, merged);
      if (replaces) ++lower;
    }
    merged.insert(merged.end(), lower, below.end());
    draft_.directories[directory].names = std::move(merged);
  }

  void PutChild(uint32_t child, const Name* lower, std::vector<Name>& merged) {
    const Entry& entry = index_.entries[child];
    if (entry.kind == EntryKind::kWhiteout) return;
    if (entry.kind == EntryKind::kDirectory) {
      if (lower != nullptr && draft_.IsDirectory(lower->inode)) {
        inode_of_[child] = lower->inode;
        TakeAttributes(child, lower->inode);
        merged.push_back(*lower);
        return;
      }
      inode_of_[child] = draft_.AddInode(layer_, child, true);
    }
    merged.push_back(Name{inode_of_[child], layer_, child});
  }

  Draft& draft_;
  const uint32_t layer_;
  const LayerIndex& index_;
  std::vector<uint32_t> inode_of_;     // by entry
  std::vector<uint32_t> first_child_;  // by entry, into children_
  std::vector<uint32_t> children_;
};

// What Linux would let this kind of file have.
bool KeepsXattr(EntryKind kind, std::string_view name) {
  if (!IsKeptXattr(name)) return false;
  if (name.starts_with("user.")) return kind == EntryKind::kRegular || kind == EntryKind::kDirectory;
  if (name == "system.posix_acl_access") return kind != EntryKind::kSymlink;
  return name != "system.posix_acl_default" || kind == EntryKind::kDirectory;
}

}  // namespace

// Renumbers what is left in the order of layout; of a partial merge only what differs from the lower part.
class TreeFlattener {
 public:
  TreeFlattener(Draft& draft, bool partial) : draft_(draft), partial_(partial), number_(draft.inodes.size(), kNone) {}

  Result<MergedTree> Run() && {
    tree_.layers_ = draft_.layers;
    Number(MergedTree::kRoot);
    std::vector<Task> stack{{MergedTree::kRoot, partial_}};
    while (!stack.empty()) {
      const Task task = stack.back();
      stack.pop_back();
      const size_t first = stack.size();
      if (task.differs) {
        EmitDifference(task.inode, stack);
      } else {
        EmitAll(task.inode, stack);
      }
      std::reverse(stack.begin() + static_cast<ptrdiff_t>(first), stack.end());
      if (tree_.names_.size() >= kMaxNames) return Fail(Code::kResourceExhausted, "an image has more than 2^31 names");
    }
    tree_.inodes_.shrink_to_fit();
    tree_.names_.shrink_to_fit();
    return std::move(tree_);
  }

 private:
  struct Task {
    uint32_t inode;  // a directory of the draft
    bool differs;    // emit only what is not in the lower part
  };

  // The inode's new number.
  uint32_t Number(uint32_t inode) {
    if (number_[inode] == kNone) {
      number_[inode] = static_cast<uint32_t>(tree_.inodes_.size());
      MergedTree::Inode& out = tree_.inodes_.emplace_back();
      out.layer = draft_.inodes[inode].layer;
      out.entry = draft_.inodes[inode].entry;
      if (draft_.IsDirectory(inode)) out.link_count = 2;
    }
    return number_[inode];
  }

  void Begin(uint32_t directory) {
    tree_.inodes_[number_[directory]].first_name = static_cast<uint32_t>(tree_.names_.size());
  }

  void EmitName(uint32_t directory, const Name& name) {
    const uint32_t number = Number(name.inode);
    if (draft_.IsDirectory(name.inode)) {
      tree_.inodes_[number].parent = number_[directory];
      ++tree_.inodes_[number_[directory]].link_count;
    } else {
      ++tree_.inodes_[number].link_count;
    }
    tree_.names_.push_back(Name{number, name.layer, name.entry});
    ++tree_.inodes_[number_[directory]].name_count;
  }

  void EmitWhiteout(uint32_t directory, const Name& name) {
    MergedTree::Inode& out = tree_.inodes_.emplace_back();
    out.whiteout = true;
    out.link_count = 1;
    tree_.names_.push_back(Name{static_cast<uint32_t>(tree_.inodes_.size() - 1), name.layer, name.entry});
    ++tree_.inodes_[number_[directory]].name_count;
  }

  void EmitAll(uint32_t directory, std::vector<Task>& stack) {
    Begin(directory);
    for (const Name& name : draft_.NamesOf(directory)) {
      EmitName(directory, name);
      if (draft_.IsDirectory(name.inode)) stack.push_back({name.inode, false});
    }
    if (!partial_) std::vector<Name>().swap(draft_.NamesOf(directory));
  }

  void EmitDifference(uint32_t directory, std::vector<Task>& stack) {
    const std::vector<Name>& now = draft_.NamesOf(directory);
    const std::vector<Name>& before = draft_.lower[draft_.inodes[directory].directory];
    // overlayfs ignores an opaque mark on a layer's root.
    if (directory != MergedTree::kRoot && !before.empty() && !AnySurvives(before, now)) {
      tree_.inodes_[number_[directory]].opaque = true;
      EmitAll(directory, stack);
      return;
    }
    Begin(directory);
    auto old = before.begin();
    for (const Name& name : now) {
      while (old != before.end() && draft_.NameOf(*old) < draft_.NameOf(name)) EmitWhiteout(directory, *old++);
      const Name* same = old != before.end() && draft_.NameOf(*old) == draft_.NameOf(name) ? &*old++ : nullptr;
      EmitChanged(directory, name, same, stack);
    }
    while (old != before.end()) EmitWhiteout(directory, *old++);
  }

  void EmitChanged(uint32_t directory, const Name& name, const Name* before, std::vector<Task>& stack) {
    const bool is_directory = draft_.IsDirectory(name.inode);
    const bool kept = before != nullptr && before->inode == name.inode;
    if (kept && (!is_directory || !draft_.directories[draft_.inodes[name.inode].directory].touched)) return;
    EmitName(directory, name);
    if (!is_directory) return;
    stack.push_back({name.inode, kept});
    if (before != nullptr && !kept && draft_.IsDirectory(before->inode)) {
      tree_.inodes_[number_[name.inode]].opaque = true;
    }
  }

  bool AnySurvives(const std::vector<Name>& before, const std::vector<Name>& now) const {
    auto it = now.begin();
    for (const Name& old : before) {
      while (it != now.end() && draft_.NameOf(*it) < draft_.NameOf(old)) ++it;
      if (it != now.end() && it->inode == old.inode && draft_.NameOf(*it) == draft_.NameOf(old)) return true;
    }
    return false;
  }

  Draft& draft_;
  const bool partial_;
  std::vector<uint32_t> number_;  // by inode of the draft
  MergedTree tree_;
};

std::span<const MergedTree::Name> MergedTree::children(uint32_t index) const {
  return std::span(names_).subspan(inodes_[index].first_name, inodes_[index].name_count);
}

std::string_view MergedTree::name(const Name& name) const { return layers_[name.layer]->entries[name.entry].name; }

const Entry& MergedTree::entry(uint32_t index) const {
  return layers_[inodes_[index].layer]->entries[inodes_[index].entry];
}

bool MergedTree::is_directory(uint32_t index) const {
  return !inodes_[index].whiteout && entry(index).kind == EntryKind::kDirectory;
}

std::vector<Xattr> MergedTree::Xattrs(uint32_t index) const {
  std::vector<Xattr> kept;
  if (inodes_[index].whiteout) return kept;
  const Entry& of = entry(index);
  std::copy_if(of.xattrs.begin(), of.xattrs.end(), std::back_inserter(kept),
               [&of](const Xattr& xattr) { return KeepsXattr(of.kind, xattr.name); });
  if (inodes_[index].opaque) kept.push_back({"trusted.overlay.opaque", "y"});
  std::sort(kept.begin(), kept.end());
  kept.erase(std::unique(kept.begin(), kept.end(), [](const Xattr& a, const Xattr& b) { return a.name == b.name; }),
             kept.end());
  return kept;
}

Result<MergedTree> MergeLayers(std::span<const LayerIndex* const> layers, const MergeOptions& options) {
  Draft draft;
  draft.layers.assign(layers.begin(), layers.end());
  if (layers.empty() || options.lower_layers >= layers.size()) {
    return Fail(Code::kInvalidArgument, "no layers to merge");
  }
  draft.AddInode(0, 0, true);
  const bool partial = options.lower_layers > 0;
  for (uint32_t layer = 0; layer < layers.size(); ++layer) {
    if (partial && layer == options.lower_layers) {
      for (DraftDirectory& directory : draft.directories) {
        directory.touched = false;
        draft.lower.push_back(directory.names);
      }
    }
    BANYAN_TRY(LayerMerger(draft, layer).Run());
  }
  return TreeFlattener(draft, partial).Run();
}

}  // namespace banyan::image_format
