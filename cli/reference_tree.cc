#include "cli/reference_tree.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <span>

#include <fmt/format.h>

#include "cli/text.h"
#include "common/units.h"

namespace banyan::cli {
namespace {

using image_format::TarBody;
using image_format::TarHeader;
using image_format::TarReader;
using image_format::TarType;

constexpr std::string_view kWhiteout = ".wh.";
constexpr std::string_view kAufsOwn = ".wh..wh.";
constexpr std::string_view kOpaque = ".wh..wh..opq";
constexpr int kMaxLinksInLayer = 255;
constexpr int kMaxLinksBelow = 40;

Inode PlainDirectory() {
  Inode inode;
  inode.mode = S_IFDIR | 0755;
  return inode;
}

std::vector<std::string> Split(std::string_view path) {
  std::vector<std::string> parts;
  size_t begin = 0;
  while (begin <= path.size()) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = path.substr(begin, end - begin);
    if (part == "..") {
      if (!parts.empty()) parts.pop_back();
    } else if (!part.empty() && part != ".") {
      parts.emplace_back(part);
    }
    begin = end + 1;
  }
  return parts;
}

// Where a walk stands after `name`, which is a symlink to `target`: the components still to go, next one last.
void PushTarget(std::string_view target, std::vector<std::string>& todo) {
  size_t end = target.size();
  while (end > 0) {
    const size_t slash = target.rfind('/', end - 1);
    const size_t begin = slash == std::string_view::npos ? 0 : slash + 1;
    const std::string_view part = target.substr(begin, end - begin);
    if (!part.empty() && part != ".") todo.emplace_back(part);
    if (slash == std::string_view::npos) return;
    end = slash;
  }
}

// What Linux lets a file of this type carry, less overlayfs's own marks.
bool Shows(uint32_t mode, std::string_view xattr) {
  if (xattr.starts_with("trusted.overlay.") || xattr.starts_with("user.overlay.")) return false;
  if (xattr.starts_with("user.")) return S_ISREG(mode) || S_ISDIR(mode);
  if (xattr == "system.posix_acl_access") return !S_ISLNK(mode);
  if (xattr == "system.posix_acl_default") return S_ISDIR(mode);
  return xattr.starts_with("trusted.") || xattr.starts_with("security.");
}

uint32_t FileType(TarType type) {
  switch (type) {
    case TarType::kSymlink:
      return S_IFLNK;
    case TarType::kCharacterDevice:
      return S_IFCHR;
    case TarType::kBlockDevice:
      return S_IFBLK;
    case TarType::kDirectory:
      return S_IFDIR;
    case TarType::kFifo:
      return S_IFIFO;
    default:
      return S_IFREG;
  }
}

}  // namespace

ReferenceTree::ReferenceTree() { tree_.Add(PlainDirectory()); }

Status ReferenceTree::AddLayer(ByteSource& tar) {
  layer_ = std::make_unique<Node>();
  layer_->kind = Node::Kind::kDirectory;
  layer_->implied = true;
  layer_->inode = tree_.Add(PlainDirectory());
  TarReader reader(tar);
  TarHeader header;
  while (true) {
    BANYAN_ASSIGN(const bool more, reader.Next(header));
    if (!more) break;
    BANYAN_ASSIGN(const Digest content, HashBody(reader));
    const Status applied = ApplyEntry(header, content);
    if (!applied) return Fail(applied.error().WithContext(fmt::format("entry '{}'", Printable(header.name))));
  }
  BANYAN_TRY(reader.Drain());
  BANYAN_TRY(ResolveLowerLinks(*layer_));
  LayOver(*layer_, Tree::kRoot);
  layer_.reset();
  return {};
}

Tree ReferenceTree::Finish() {
  tree_.CountLinks();
  return std::move(tree_);
}

Result<Digest> ReferenceTree::HashBody(TarReader& reader) {
  static constexpr std::array<std::byte, 64 * kKiB> kZeros{};
  Sha256 hash;
  while (true) {
    BANYAN_ASSIGN(TarBody body, reader.ReadBody());
    if (body.data.empty() && body.hole_bytes == 0) return hash.Finish();
    hash.Update(body.data);
    while (body.hole_bytes > 0) {
      const uint64_t bytes = std::min<uint64_t>(body.hole_bytes, kZeros.size());
      hash.Update(std::span(kZeros).first(bytes));
      body.hole_bytes -= bytes;
    }
  }
}

uint32_t ReferenceTree::NewInode(const TarHeader& header, const Digest& content) {
  Inode inode;
  inode.mode = FileType(header.type) | (header.type == TarType::kSymlink ? 0777 : header.mode);
  inode.uid = header.uid;
  inode.gid = header.gid;
  inode.mtime_seconds = header.mtime_seconds;
  inode.mtime_nanoseconds = header.mtime_nanoseconds;
  if (header.type == TarType::kFile) {
    inode.size = header.size;
    inode.content = content;
  }
  if (header.type == TarType::kSymlink) inode.target = header.linkname;
  if (header.type == TarType::kCharacterDevice || header.type == TarType::kBlockDevice) {
    inode.device_major = header.device_major;
    inode.device_minor = header.device_minor;
  }
  for (const auto& [name, value] : header.xattrs) {
    if (Shows(inode.mode, name)) inode.xattrs.push_back({name, value});
  }
  return tree_.Add(std::move(inode));
}

Status ReferenceTree::ApplyEntry(const TarHeader& header, const Digest& content) {
  Components path = Split(header.name);
  if (path.empty()) {
    if (header.type != TarType::kDirectory) return Fail(Code::kInvalidArgument, "the root is not a directory");
    layer_->inode = NewInode(header, content);
    layer_->implied = false;
    return {};
  }
  for (const std::string& part : path) {
    if (part.starts_with(kAufsOwn) && part != kOpaque) return {};
  }
  std::string name = std::move(path.back());
  path.pop_back();
  const bool opaque = name == kOpaque;
  const bool whiteout = !opaque && name.starts_with(kWhiteout);
  const bool link = header.type == TarType::kHardLink && !opaque && !whiteout;
  Node linked;
  if (link) BANYAN_TRY(PlaceLink(linked, Split(header.linkname)));
  BANYAN_ASSIGN(const Components parents, FollowLinks(path));
  BANYAN_ASSIGN(Node * parent, MakeParents(parents));
  if (opaque) {
    parent->opaque = true;
    return {};
  }
  if (whiteout) name.erase(0, kWhiteout.size());
  std::unique_ptr<Node>& place = parent->children[name];
  if (!place) place = std::make_unique<Node>();
  if (whiteout) {
    place->whiteout = true;
    if (place->kind == Node::Kind::kDirectory) {
      place->opaque = true;
      place->implied = false;
    }
    return {};
  }
  if (header.type == TarType::kDirectory) {
    if (place->kind != Node::Kind::kDirectory) place->opaque = place->whiteout;
    place->kind = Node::Kind::kDirectory;
    place->implied = false;
    place->inode = NewInode(header, content);
    return {};
  }
  auto fresh = std::make_unique<Node>();
  fresh->whiteout = place->whiteout;
  if (link) {
    fresh->kind = linked.kind;
    fresh->inode = linked.inode;
    fresh->lower_path = linked.lower_path;
  } else {
    fresh->kind = Node::Kind::kInode;
    fresh->inode = NewInode(header, content);
  }
  place = std::move(fresh);
  return {};
}

// Follows symlinks that this layer has; names that it does not have stay as they are.
Result<ReferenceTree::Components> ReferenceTree::FollowLinks(const Components& parents) const {
  Components todo(parents.rbegin(), parents.rend());
  Components done;
  int followed = 0;
  while (!todo.empty()) {
    std::string part = std::move(todo.back());
    todo.pop_back();
    if (part == "..") {
      if (!done.empty()) done.pop_back();
      continue;
    }
    done.push_back(std::move(part));
    const Node* node = FindNode(done);
    if (node == nullptr || node->kind != Node::Kind::kInode || !S_ISLNK(tree_.inodes[node->inode].mode)) continue;
    if (++followed > kMaxLinksInLayer) return Fail(Code::kInvalidArgument, "too many symlinks on the way");
    const std::string& target = tree_.inodes[node->inode].target;
    done.pop_back();
    if (target.starts_with('/')) done.clear();
    PushTarget(target, todo);
  }
  return done;
}

const ReferenceTree::Node* ReferenceTree::FindNode(const Components& path) const {
  const Node* node = layer_.get();
  for (const std::string& part : path) {
    const auto child = node->children.find(part);
    if (child == node->children.end()) return nullptr;
    node = child->second.get();
  }
  return node;
}

Result<ReferenceTree::Node*> ReferenceTree::MakeParents(const Components& parents) {
  Node* node = layer_.get();
  for (const std::string& part : parents) {
    std::unique_ptr<Node>& child = node->children[part];
    if (!child) child = std::make_unique<Node>();
    if (child->kind == Node::Kind::kNothing) {
      child->kind = Node::Kind::kDirectory;
      child->implied = !child->whiteout;
      child->opaque = child->whiteout;
      child->inode = tree_.Add(PlainDirectory());
    }
    if (child->kind != Node::Kind::kDirectory) {
      return Fail(Code::kInvalidArgument, fmt::format("its parent '{}' is not a directory", Printable(part)));
    }
    node = child.get();
  }
  return node;
}

// Makes `place` another name of what `target` names now.
Status ReferenceTree::PlaceLink(Node& place, const Components& target) {
  if (target.empty()) return Fail(Code::kInvalidArgument, "a hard link to the root");
  BANYAN_ASSIGN(Components path, FollowLinks(Components(target.begin(), target.end() - 1)));
  path.push_back(target.back());
  const Node* found = FindNode(path);
  if (found == nullptr || found->kind == Node::Kind::kNothing) {
    place.kind = Node::Kind::kLowerLink;
    for (const std::string& part : path) place.lower_path += (place.lower_path.empty() ? "" : "/") + part;
    return {};
  }
  if (found->kind == Node::Kind::kDirectory) return Fail(Code::kInvalidArgument, "a hard link to a directory");
  place.kind = found->kind;
  place.inode = found->inode;
  place.lower_path = found->lower_path;
  return {};
}

// While the lower layers are still as they were.
Status ReferenceTree::ResolveLowerLinks(Node& node) {
  if (node.kind == Node::Kind::kLowerLink) {
    BANYAN_ASSIGN(node.inode, FindLower(node.lower_path));
    node.kind = Node::Kind::kInode;
  }
  for (const auto& [name, child] : node.children) BANYAN_TRY(ResolveLowerLinks(*child));
  return {};
}

Result<uint32_t> ReferenceTree::FindLower(const std::string& path) const {
  const Components parts = Split(path);
  Components todo(parts.rbegin(), parts.rend());
  std::vector<uint32_t> trail{Tree::kRoot};
  int followed = 0;
  while (!todo.empty()) {
    const std::string part = std::move(todo.back());
    todo.pop_back();
    if (part == "..") {
      if (trail.size() > 1) trail.pop_back();
      continue;
    }
    const Inode& directory = tree_.inodes[trail.back()];
    const auto child = directory.children.find(part);
    if (child == directory.children.end()) {
      return Fail(Code::kInvalidArgument, fmt::format("a hard link to '{}', which no layer has", Printable(path)));
    }
    const Inode& inode = tree_.inodes[child->second];
    if (!S_ISLNK(inode.mode) || todo.empty()) {
      trail.push_back(child->second);
      continue;
    }
    if (++followed > kMaxLinksBelow) return Fail(Code::kInvalidArgument, "too many symlinks on the way");
    if (inode.target.starts_with('/')) trail.resize(1);
    PushTarget(inode.target, todo);
  }
  if (S_ISDIR(tree_.inodes[trail.back()].mode)) {
    return Fail(Code::kInvalidArgument, fmt::format("a hard link to the directory '{}'", Printable(path)));
  }
  return trail.back();
}

void ReferenceTree::LayOver(Node& node, uint32_t directory) {
  if (node.opaque) tree_.inodes[directory].children.clear();
  if (!node.implied) {
    auto children = std::move(tree_.inodes[directory].children);
    tree_.inodes[directory] = tree_.inodes[node.inode];
    tree_.inodes[directory].children = std::move(children);
  }
  for (auto& [name, child] : node.children) {
    auto& names = tree_.inodes[directory].children;
    const auto lower = names.find(name);
    const bool over_directory = lower != names.end() && S_ISDIR(tree_.inodes[lower->second].mode);
    if (child->kind == Node::Kind::kNothing) {
      if (lower != names.end()) names.erase(lower);
    } else if (child->kind == Node::Kind::kInode) {
      names[name] = child->inode;
    } else if (over_directory) {
      LayOver(*child, lower->second);
    } else {
      // Its own inode becomes the directory; nothing is below it yet.
      names[name] = child->inode;
      child->implied = true;
      LayOver(*child, child->inode);
    }
  }
}

}  // namespace banyan::cli
