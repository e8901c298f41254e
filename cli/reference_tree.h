// What an image's layers mean, worked out from their tars alone: the tree that `verify` holds a mounted view against.
//
// It shares no code with conversion but the readers of tar and compression: layer index, merging and EROFS are what is
// being checked. So it is written the plain way: each layer becomes a small tree of its own, with marks, and is then
// laid over the tree of those below. The rules are those of docs/format.md (OCI image specification, §"Changesets").
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cli/tree.h"
#include "common/byte_stream.h"
#include "common/result.h"
#include "image-format/tar_reader.h"

namespace banyan::cli {

// Externally synchronised.
class ReferenceTree {
 public:
  ReferenceTree();

  // Reads an uncompressed tar to its end and lays it over the tree. After an error the tree is of no use.
  Status AddLayer(ByteSource& tar);
  // Counts links and drops what no name leads to from the comparison. Ends the tree.
  Tree Finish();

 private:
  // A name in the layer being read.
  struct Node {
    enum class Kind { kNothing, kInode, kDirectory, kLowerLink };
    Kind kind = Kind::kNothing;  // kNothing: only a whiteout
    uint32_t inode = 0;          // kInode; kDirectory: holds the attributes
    std::string lower_path;      // kLowerLink
    bool implied = false;        // kDirectory
    bool opaque = false;         // kDirectory
    bool whiteout = false;
    std::map<std::string, std::unique_ptr<Node>> children;
  };
  using Components = std::vector<std::string>;

  Result<Digest> HashBody(image_format::TarReader& reader);
  Status ApplyEntry(const image_format::TarHeader& header, const Digest& content);
  Result<Node*> MakeParents(const Components& parents);
  Result<Components> FollowLinks(const Components& parents) const;
  const Node* FindNode(const Components& path) const;
  Status PlaceLink(Node& place, const Components& target);
  uint32_t NewInode(const image_format::TarHeader& header, const Digest& content);
  Status ResolveLowerLinks(Node& node);
  Result<uint32_t> FindLower(const std::string& path) const;
  void LayOver(Node& node, uint32_t directory);

  Tree tree_;
  std::unique_ptr<Node> layer_;  // the layer being read
};

}  // namespace banyan::cli
