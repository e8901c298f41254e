// One tree out of a chain of layers, by the OCI image specification's rules for whiteouts.
//
// Layers are applied bottom first. A layer index is sorted and lists parents before children, so a layer is applied by
// one pass over its directories, each a merge of two sorted lists of names; nothing is walked that the layer does not
// name. The tree keeps no names or attributes of its own, only (layer, entry) references into the indexes: 500,000
// inodes cost about 20 MB besides the indexes. At the end inodes are renumbered in the order in which EROFS lays them
// out: the children of a directory together, then the subtrees below them, one after the other.
//
// Decisions where unpackers differ (docs/format.md §"Merging"): a directory that the tar only implies keeps the
// attributes of a lower directory; a directory over anything else (also over a symlink to a directory) replaces it; a
// hard link to a lower path is resolved before the layer's own whiteouts act, following symlinks in the directories of
// the path but not at its end.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "image-format/layer_index.h"

namespace banyan::image_format {

struct MergeOptions {
  // The first so many layers are mounted by themselves, below the result, under overlayfs. The tree then holds only
  // what the layers above change, with whiteouts for names that they remove and opaque marks on directories of which
  // nothing is left. A new hard link to a file of the lower part becomes a file of its own (overlayfs has no links
  // across layers).
  uint32_t lower_layers = 0;
};

// Immutable. Borrows the layer indexes that it was made of; they must outlive it.
class MergedTree {
 public:
  static constexpr uint32_t kRoot = 0;

  struct Name {
    uint32_t inode = 0;
    uint32_t layer = 0;  // with `entry`: who gave the name
    uint32_t entry = 0;
  };

  struct Inode {
    uint32_t layer = 0;  // with `entry`: who gave the attributes and contents
    uint32_t entry = 0;
    uint32_t link_count = 0;  // directories: 2 + subdirectories
    uint32_t parent = 0;      // directories: the inode of the directory above; the root's is itself
    uint32_t first_name = 0;  // directories: the children, in `names`
    uint32_t name_count = 0;
    bool whiteout = false;  // an overlayfs whiteout, in a partial merge only; layer and entry mean nothing then
    bool opaque = false;    // directories: carries trusted.overlay.opaque, in a partial merge only
  };

  uint32_t inode_count() const { return static_cast<uint32_t>(inodes_.size()); }
  const Inode& inode(uint32_t index) const { return inodes_[index]; }
  // The children of a directory, sorted by the bytes of their names; none for anything else.
  std::span<const Name> children(uint32_t index) const;
  std::string_view name(const Name& name) const;
  // The entry that describes the inode: never a link or a whiteout. Not for whiteout inodes.
  const Entry& entry(uint32_t index) const;
  bool is_directory(uint32_t index) const;
  // What the mounted inode shows, sorted by name: the entry's attributes without those that Linux or overlayfs would
  // not keep (other name spaces than user., trusted., security. and POSIX ACLs; trusted.overlay.*; user.* on anything
  // but files and directories; ACLs on symlinks), and the opaque mark of a partial merge.
  std::vector<Xattr> Xattrs(uint32_t index) const;
  uint32_t layer_count() const { return static_cast<uint32_t>(layers_.size()); }

 private:
  friend class TreeFlattener;
  std::vector<const LayerIndex*> layers_;
  std::vector<Inode> inodes_;
  std::vector<Name> names_;
};

// `layers` is the whole chain, bottom first. kInvalidArgument for a hard link to nothing or to a directory (names
// layer, path and target) and for indexes that break the order or parent rules of layer_index.h; kResourceExhausted
// beyond 2^31 names.
Result<MergedTree> MergeLayers(std::span<const LayerIndex* const> layers, const MergeOptions& options = {});

}  // namespace banyan::image_format
