// What a layer's tar means: entries applied in order to a tree, which becomes the entry table of the layer index.
//
// The rules are the OCI image specification's; where unpackers differ, containerd's overlayfs decides, except where
// noted:
// - Names are cleaned lexically and clamped to the root ("../../x", "/x" and "a/../x" all are "x"). Parents are then
// looked up in
//   this layer's tree: a symlink there is followed within the root (at most 255 a name), a missing parent becomes an
//   implied directory (0755, 0:0, mtime 0; a lower layer's attributes win at the merge), any other non-directory is an
//   error.
// - A path given again: a directory over a directory replaces the attributes and keeps the children; anything else
// replaces all.
//   What the device holds of a replaced file stays there, unused.
// - The root's own entry counts (containerd drops it, umoci and docker do not).
// - A hard link takes the inode its target has at that moment; its own attributes are ignored (containerd would apply
// them). It may name a symlink.
//   A target that this layer does not have is one of the lower layers (containerd refuses these). Directories cannot be
//   linked.
// - ".wh.x" and ".wh..wh.opq" act on the lower layers only, wherever they stand in the tar: "x" in the same layer
// stays, and if it
//   is a directory it is opaque. Other ".wh..wh." names (aufs's own) are skipped with all below. Entries below another
//   ".wh." name, and ".wh." followed by nothing, "." or "..", are errors.
// - A 0:0 character device is kept as a device: under an overlay mount it hides its name, as it does in containerd.
// - Symlinks have mode 0777, as Linux gives them. Xattrs that IsKeptXattr() refuses are dropped.
// - mtimes before 1970 stay (containerd makes them 1970).
//
// Cost: about 16 bytes a name, 64 an inode, 8 of hash table, and the names themselves.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "image-format/layer_index.h"
#include "image-format/tar_reader.h"

namespace banyan::image_format {

// Externally synchronised. After an error the tree is of no use.
class LayerTree {
 public:
  // At most `max_entries` names are made, replaced and implied ones included, and 256 MiB of names, link
  // targets and xattrs; kResourceExhausted beyond.
  explicit LayerTree(uint64_t max_entries);

  // Applies one entry; contents, if any, start at `first_block` of the device. True if the contents are wanted there.
  // kInvalidArgument names the entry.
  Result<bool> Apply(const TarHeader& header, uint64_t first_block);

  // The entry table, by breadth: every parent before its children, the children of a directory one behind the other and
  // sorted by name bytes. Of an inode with several names, the first in this order carries it. Ends the tree.
  std::vector<Entry> Finish();

 private:
  using NodeId = uint32_t;
  using InodeId = uint32_t;
  static constexpr uint32_t kNone = UINT32_MAX;

  // A name. Its id is above its parent's.
  struct Node {
    NodeId parent = 0;
    InodeId inode = kNone;  // none: a whiteout and nothing else
    uint32_t name_offset = 0;
    uint8_t name_bytes = 0;
    bool whiteout = false;  // the layer has ".wh.<name>"
    bool dead = false;      // replaced, with all below
  };
  struct Inode {
    EntryKind kind = EntryKind::kDirectory;
    bool opaque = false;
    bool implied = false;
    uint16_t mode = 0755;
    uint32_t uid = 0;
    uint32_t gid = 0;
    uint32_t mtime_nanoseconds = 0;
    int64_t mtime_seconds = 0;
    uint64_t size = 0;
    uint64_t first_block = 0;  // devices: major << 32 | minor
    uint32_t target = kNone;   // in targets_
    uint32_t xattrs = kNone;   // in xattrs_
  };
  struct Step {
    std::string_view name;
    NodeId node = kNone;  // not in this layer
  };
  using Path = std::vector<Step>;

  std::string_view NameOf(NodeId node) const {
    return {names_.data() + nodes_[node].name_offset, nodes_[node].name_bytes};
  }
  bool IsDirectory(NodeId node) const;
  bool IsSymlink(NodeId node) const;
  NodeId Find(NodeId parent, std::string_view name) const;
  size_t SlotOf(NodeId parent, std::string_view name) const;
  Result<NodeId> NewNode(NodeId parent, std::string_view name);
  void GrowTable();

  Result<Path> Resolve(const std::vector<std::string_view>& parents) const;
  Result<NodeId> MakeDirectories(const Path& path);
  Result<NodeId> Materialize(NodeId parent, std::string_view name, bool directory);
  Status ApplyWhiteout(NodeId parent, std::string_view name);
  Result<InodeId> LinkTarget(std::string_view linkname);
  Result<InodeId> NewInode(const TarHeader& header, uint64_t first_block);
  Status Charge(size_t bytes);
  Result<InodeId> AddInode(const Inode& inode);
  Status SetAttributes(const TarHeader& header, Inode& inode);
  Entry EntryOf(NodeId node) const;

  uint64_t max_entries_;
  uint64_t hash_seed_;
  std::vector<Node> nodes_;  // [0] is the root
  std::vector<Inode> inodes_;
  std::string names_;
  uint64_t text_bytes_ = 0;  // names, targets and xattrs, replaced ones included
  std::vector<std::string> targets_;
  std::vector<std::vector<Xattr>> xattrs_;
  std::vector<NodeId> table_;  // open addressing by (parent, name); kNone: free
};

}  // namespace banyan::image_format
