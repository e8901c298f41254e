#include "image-format/layer_tree.h"

#include <algorithm>
#include <numeric>
#include <random>

#include <fmt/format.h>
#include <xxhash.h>

#include "image-format/layer_index_check.h"
#include "image-format/tar_header.h"

namespace banyan::image_format {

namespace {

constexpr std::string_view kWhiteoutPrefix = ".wh.";
constexpr std::string_view kMetaPrefix = ".wh..wh.";
constexpr std::string_view kOpaqueName = ".wh..wh..opq";
constexpr int kMaxLinksFollowed = 255;
constexpr uint64_t kMaxTextBytes = 256 * kMiB;

tl::unexpected<Error> Bad(std::string message) { return Fail(Code::kInvalidArgument, std::move(message)); }

// The components of a path, without "." and empty ones and with ".." taken away lexically; ".." at the root is the
// root.
std::vector<std::string_view> CleanComponents(std::string_view path) {
  std::vector<std::string_view> components;
  while (!path.empty()) {
    const size_t slash = std::min(path.find('/'), path.size());
    const std::string_view component = path.substr(0, slash);
    path.remove_prefix(std::min(slash + 1, path.size()));
    if (component.empty() || component == ".") continue;
    if (component != "..") {
      components.push_back(component);
    } else if (!components.empty()) {
      components.pop_back();
    }
  }
  return components;
}

}  // namespace

LayerTree::LayerTree(uint64_t max_entries)
    : max_entries_(std::min<uint64_t>(max_entries, kMaxEntries)),
      hash_seed_(std::random_device()()),  // Against names made to collide; the output does not depend on it.
      nodes_(1),
      inodes_(1),
      table_(1024, kNone) {
  nodes_[0].inode = 0;
  inodes_[0].implied = true;
}

bool LayerTree::IsDirectory(NodeId node) const {
  return nodes_[node].inode != kNone && inodes_[nodes_[node].inode].kind == EntryKind::kDirectory;
}

bool LayerTree::IsSymlink(NodeId node) const {
  return nodes_[node].inode != kNone && inodes_[nodes_[node].inode].kind == EntryKind::kSymlink;
}

// The slot that holds the name, or the free one where it belongs.
size_t LayerTree::SlotOf(NodeId parent, std::string_view name) const {
  const size_t mask = table_.size() - 1;
  const uint64_t hash = XXH3_64bits_withSeed(name.data(), name.size(), hash_seed_ ^ (uint64_t{parent} << 32));
  for (size_t slot = hash & mask;; slot = (slot + 1) & mask) {
    const NodeId node = table_[slot];
    if (node == kNone || (nodes_[node].parent == parent && NameOf(node) == name)) return slot;
  }
}

LayerTree::NodeId LayerTree::Find(NodeId parent, std::string_view name) const { return table_[SlotOf(parent, name)]; }

void LayerTree::GrowTable() {
  std::vector<NodeId> old(table_.size() * 2, kNone);
  old.swap(table_);
  for (const NodeId node : old) {
    if (node != kNone) table_[SlotOf(nodes_[node].parent, NameOf(node))] = node;
  }
}

Status LayerTree::Charge(size_t bytes) {
  text_bytes_ += bytes;
  if (text_bytes_ <= kMaxTextBytes) return {};
  return Fail(Code::kResourceExhausted,
              fmt::format("the layer has more than {} bytes of names, link targets and xattrs", kMaxTextBytes));
}

Result<LayerTree::InodeId> LayerTree::AddInode(const Inode& inode) {
  if (inodes_.size() >= max_entries_) {
    return Fail(Code::kResourceExhausted, fmt::format("the layer has more than {} entries", max_entries_));
  }
  inodes_.push_back(inode);
  return static_cast<InodeId>(inodes_.size() - 1);
}

// Takes the name's slot, from another node if need be.
Result<LayerTree::NodeId> LayerTree::NewNode(NodeId parent, std::string_view name) {
  if (nodes_.size() >= max_entries_) {
    return Fail(Code::kResourceExhausted, fmt::format("the layer has more than {} entries", max_entries_));
  }
  BANYAN_TRY(Charge(name.size()));
  if (nodes_.size() * 2 > table_.size()) GrowTable();
  const size_t slot = SlotOf(parent, name);
  const auto id = static_cast<NodeId>(nodes_.size());
  Node node;
  node.parent = parent;
  node.name_bytes = static_cast<uint8_t>(name.size());
  if (table_[slot] == kNone) {
    node.name_offset = static_cast<uint32_t>(names_.size());
    names_ += name;
  } else {
    Node& old = nodes_[table_[slot]];
    node.name_offset = old.name_offset;
    node.whiteout = old.whiteout;
    old.dead = true;
  }
  nodes_.push_back(node);
  table_[slot] = id;
  return id;
}

// Follows the symlinks that this layer has. Names that it does not have are taken as they are.
Result<LayerTree::Path> LayerTree::Resolve(const std::vector<std::string_view>& parents) const {
  std::vector<std::string_view> rest(parents.rbegin(), parents.rend());  // next component last
  Path path;
  int followed = 0;
  while (!rest.empty()) {
    const std::string_view name = rest.back();
    rest.pop_back();
    if (name == "..") {
      if (!path.empty()) path.pop_back();
      continue;
    }
    const NodeId parent = path.empty() ? 0 : path.back().node;
    const NodeId node = parent == kNone ? kNone : Find(parent, name);
    if (node == kNone || !IsSymlink(node)) {
      path.push_back({name, node});
      continue;
    }
    if (++followed > kMaxLinksFollowed) return Bad("too many symbolic links on the way");
    std::string_view target = targets_[inodes_[nodes_[node].inode].target];
    if (target.starts_with('/')) path.clear();
    while (!target.empty()) {  // The last component goes in first.
      const size_t slash = target.rfind('/');
      const std::string_view component = slash == std::string_view::npos ? target : target.substr(slash + 1);
      if (!component.empty() && component != ".") rest.push_back(component);
      target = slash == std::string_view::npos ? std::string_view() : target.substr(0, slash);
    }
  }
  return path;
}

// Makes the path's directories; the result is the last one.
Result<LayerTree::NodeId> LayerTree::MakeDirectories(const Path& path) {
  NodeId parent = 0;
  size_t bytes = 0;
  for (const Step& step : path) {
    if (!IsValidName(step.name)) return Bad(fmt::format("a parent's name is longer than {} bytes", kMaxNameBytes));
    bytes += step.name.size() + 1;
    if (bytes > kMaxPathBytes) return Bad(fmt::format("the path is longer than {} bytes", kMaxPathBytes));
    const NodeId node = Find(parent, step.name);
    if (node != kNone && IsDirectory(node)) {
      parent = node;
      continue;
    }
    if (node != kNone && nodes_[node].inode != kNone) {
      return Bad(fmt::format("its parent '{}' is not a directory", PrintableName(step.name)));
    }
    BANYAN_ASSIGN(parent, Materialize(parent, step.name, true));
    Inode inode;
    // Below a whiteout nothing of the lower layers is left to take attributes from.
    inode.implied = !nodes_[parent].whiteout;
    inode.opaque = nodes_[parent].whiteout;
    BANYAN_ASSIGN(nodes_[parent].inode, AddInode(inode));
  }
  return parent;
}

// A node of this name, fit to be given an inode: what was there is replaced, but for a directory when one is wanted.
Result<LayerTree::NodeId> LayerTree::Materialize(NodeId parent, std::string_view name, bool directory) {
  const NodeId node = Find(parent, name);
  if (node == kNone || (IsDirectory(node) && !directory)) return NewNode(parent, name);
  return node;
}

Status LayerTree::ApplyWhiteout(NodeId parent, std::string_view name) {
  BANYAN_ASSIGN(const NodeId node, Materialize(parent, name, true));
  nodes_[node].whiteout = true;
  if (IsDirectory(node)) {
    Inode& inode = inodes_[nodes_[node].inode];
    inode.opaque = true;
    inode.implied = false;
  }
  return {};
}

Result<LayerTree::InodeId> LayerTree::LinkTarget(std::string_view linkname) {
  std::vector<std::string_view> components = CleanComponents(linkname);
  if (components.empty()) return Bad("a hard link to a directory");
  const std::string_view base = components.back();
  components.pop_back();
  BANYAN_ASSIGN(const Path parents, Resolve(components));
  NodeId parent = 0;
  std::string path;
  for (const Step& step : parents) {
    parent = step.node;
    if (parent != kNone && nodes_[parent].inode != kNone && !IsDirectory(parent)) {
      return Bad(fmt::format("hard link target '{}' lies below a non-directory", PrintableName(linkname)));
    }
    path.append(step.name).push_back('/');
  }
  path += base;
  const NodeId node = parent == kNone ? kNone : Find(parent, base);
  if (node != kNone && nodes_[node].inode != kNone) {
    if (IsDirectory(node)) return Bad(fmt::format("a hard link to the directory '{}'", PrintableName(linkname)));
    return nodes_[node].inode;
  }
  for (const Step& step : parents) {
    if (!IsValidName(step.name)) return Bad("a hard link target's name is too long");
  }
  if (!IsValidName(base) || path.size() > kMaxPathBytes) return Bad("a hard link target's name is too long");
  Inode inode;
  inode.kind = EntryKind::kLinkToLower;
  inode.mode = 0;
  inode.target = static_cast<uint32_t>(targets_.size());
  BANYAN_TRY(Charge(path.size()));
  targets_.push_back(std::move(path));
  return AddInode(inode);
}

Status LayerTree::SetAttributes(const TarHeader& header, Inode& inode) {
  inode.mode = header.type == TarType::kSymlink ? 0777 : header.mode;
  inode.uid = header.uid;
  inode.gid = header.gid;
  inode.mtime_seconds = header.mtime_seconds;
  inode.mtime_nanoseconds = header.mtime_nanoseconds;
  inode.implied = false;
  inode.xattrs = kNone;
  std::vector<Xattr> kept;
  size_t bytes = 0;
  for (const auto& [name, value] : header.xattrs) {
    if (!IsKeptXattr(name)) continue;
    bytes += name.size() + value.size();
    if (value.size() > kMaxXattrValueBytes || bytes > kMaxXattrTotalBytes) {
      return Bad(fmt::format("xattr '{}' is too large", PrintableName(name)));
    }
    kept.push_back({name, value});
  }
  if (kept.empty()) return {};
  BANYAN_TRY(Charge(bytes));
  inode.xattrs = static_cast<uint32_t>(xattrs_.size());
  xattrs_.push_back(std::move(kept));
  return {};
}

Result<LayerTree::InodeId> LayerTree::NewInode(const TarHeader& header, uint64_t first_block) {
  Inode inode;
  BANYAN_TRY(SetAttributes(header, inode));
  switch (header.type) {
    case TarType::kDirectory:
    case TarType::kHardLink:  // LinkTarget() makes these.
      inode.kind = EntryKind::kDirectory;
      break;
    case TarType::kFile:
      inode.kind = EntryKind::kRegular;
      inode.size = header.size;
      inode.first_block = header.size > 0 ? first_block : 0;
      break;
    case TarType::kSymlink:
      if (header.linkname.empty() || header.linkname.size() > kMaxPathBytes)
        return Bad("a symlink target of a wrong length");
      inode.kind = EntryKind::kSymlink;
      inode.target = static_cast<uint32_t>(targets_.size());
      BANYAN_TRY(Charge(header.linkname.size()));
      targets_.push_back(header.linkname);
      break;
    case TarType::kCharacterDevice:
    case TarType::kBlockDevice:
      if (header.device_major > kMaxDeviceMajor || header.device_minor > kMaxDeviceMinor) {
        return Bad(fmt::format("device {}:{} is beyond what Linux has", header.device_major, header.device_minor));
      }
      inode.kind = header.type == TarType::kCharacterDevice ? EntryKind::kCharacterDevice : EntryKind::kBlockDevice;
      inode.first_block = uint64_t{header.device_major} << 32 | header.device_minor;
      break;
    case TarType::kFifo:
      inode.kind = EntryKind::kFifo;
      break;
  }
  return AddInode(inode);
}

Result<bool> LayerTree::Apply(const TarHeader& header, uint64_t first_block) {
  const auto apply = [&]() -> Result<bool> {
    std::vector<std::string_view> components = CleanComponents(header.name);
    if (components.empty()) {
      if (header.type != TarType::kDirectory) return Bad("the root is not a directory");
      BANYAN_TRY(SetAttributes(header, inodes_[0]));
      return false;
    }
    for (const std::string_view component : components) {
      if (component.starts_with(kMetaPrefix) && component != kOpaqueName) return false;
    }
    const std::string_view base = components.back();
    components.pop_back();
    for (const std::string_view component : components) {
      if (component.starts_with(kWhiteoutPrefix)) return Bad("it lies below a whiteout");
    }
    const bool whiteout = base.starts_with(kWhiteoutPrefix) && base != kOpaqueName;
    const std::string_view name = whiteout ? base.substr(kWhiteoutPrefix.size()) : base;
    if (!IsValidName(name)) return Bad(whiteout ? "a whiteout of nothing" : "the name is longer than 255 bytes");

    BANYAN_ASSIGN(const Path parents, Resolve(components));
    InodeId inode = kNone;
    if (!whiteout && header.type == TarType::kHardLink) {
      BANYAN_ASSIGN(inode, LinkTarget(header.linkname));
    }
    BANYAN_ASSIGN(const NodeId parent, MakeDirectories(parents));
    if (base == kOpaqueName) {
      inodes_[nodes_[parent].inode].opaque = true;
      return false;
    }
    size_t path_bytes = name.size();
    for (const Step& step : parents) path_bytes += step.name.size() + 1;
    if (path_bytes > kMaxPathBytes) return Bad(fmt::format("the path is longer than {} bytes", kMaxPathBytes));
    if (whiteout) {
      BANYAN_TRY(ApplyWhiteout(parent, name));
      return false;
    }
    const bool directory = header.type == TarType::kDirectory;
    BANYAN_ASSIGN(const NodeId node, Materialize(parent, name, directory));
    if (directory && IsDirectory(node)) {
      BANYAN_TRY(SetAttributes(header, inodes_[nodes_[node].inode]));
      return false;
    }
    if (inode == kNone) {
      BANYAN_ASSIGN(inode, NewInode(header, first_block));
    }
    nodes_[node].inode = inode;
    if (directory) inodes_[inode].opaque = nodes_[node].whiteout;
    return header.type == TarType::kFile && header.size > 0;
  };
  auto result = apply();
  if (!result) {
    return Fail(std::move(result).error().WithContext(
        fmt::format("tar: entry at byte {} ('{}')", header.offset, PrintableName(header.name))));
  }
  return result;
}

Entry LayerTree::EntryOf(NodeId id) const {
  const Node& node = nodes_[id];
  Entry entry;
  entry.name = NameOf(id);
  if (node.inode == kNone) {
    entry.kind = EntryKind::kWhiteout;
    return entry;
  }
  const Inode& inode = inodes_[node.inode];
  entry.kind = inode.kind;
  entry.mode = inode.mode;
  entry.uid = inode.uid;
  entry.gid = inode.gid;
  entry.mtime_seconds = inode.mtime_seconds;
  entry.mtime_nanoseconds = inode.mtime_nanoseconds;
  entry.opaque = inode.opaque;
  entry.implied = inode.implied;
  if (inode.kind == EntryKind::kRegular) {
    entry.size = inode.size;
    entry.first_block = inode.first_block;
  }
  if (inode.kind == EntryKind::kCharacterDevice || inode.kind == EntryKind::kBlockDevice) {
    entry.device_major = static_cast<uint32_t>(inode.first_block >> 32);
    entry.device_minor = static_cast<uint32_t>(inode.first_block);
  }
  if (inode.target != kNone) entry.target = targets_[inode.target];
  if (inode.xattrs != kNone) entry.xattrs = xattrs_[inode.xattrs];
  return entry;
}

std::vector<Entry> LayerTree::Finish() {
  table_ = {};
  // Ids rise from parent to child, so one pass finds what hangs below a replaced node.
  std::vector<NodeId> live;
  for (NodeId id = 1; id < nodes_.size(); ++id) {
    nodes_[id].dead = nodes_[id].dead || nodes_[nodes_[id].parent].dead;
    if (!nodes_[id].dead) live.push_back(id);
  }
  std::sort(live.begin(), live.end(), [this](NodeId a, NodeId b) {
    return nodes_[a].parent != nodes_[b].parent ? nodes_[a].parent < nodes_[b].parent : NameOf(a) < NameOf(b);
  });
  std::vector<uint32_t> first_child(nodes_.size() + 1);  // in `live`
  for (const NodeId id : live) ++first_child[nodes_[id].parent + 1];
  std::partial_sum(first_child.begin(), first_child.end(), first_child.begin());

  std::vector<Entry> entries;
  entries.reserve(live.size() + 1);
  std::vector<NodeId> order{0};  // the node of each entry
  order.reserve(live.size() + 1);
  std::vector<uint32_t> first_name(inodes_.size(), kNone);  // the entry that carries each inode
  entries.push_back(EntryOf(0));
  for (uint32_t parent = 0; parent < order.size(); ++parent) {
    const NodeId directory = order[parent];
    for (uint32_t i = first_child[directory]; i < first_child[directory + 1]; ++i) {
      const NodeId id = live[i];
      const InodeId inode = nodes_[id].inode;
      Entry entry;
      if (inode != kNone && first_name[inode] != kNone && inodes_[inode].kind != EntryKind::kLinkToLower) {
        entry.name = NameOf(id);
        entry.kind = EntryKind::kLinkToEntry;
        entry.link_entry = first_name[inode];
      } else {
        entry = EntryOf(id);
        if (inode != kNone) first_name[inode] = static_cast<uint32_t>(entries.size());
      }
      entry.parent = parent;
      entries.push_back(std::move(entry));
      order.push_back(id);
    }
  }
  return entries;
}

}  // namespace banyan::image_format
