// A directory tree in memory, as a program that runs in it could tell it: what `verify` compares and `extract` writes.
// Contents are held as digests. About 250 bytes a file.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/digest.h"
#include "common/result.h"
#include "image-format/erofs_reader.h"
#include "image-format/layer_index.h"

namespace banyan::cli {

struct Inode {
  uint32_t mode = 0;  // st_mode
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t link_count = 0;
  uint64_t size = 0;  // regular files only
  int64_t mtime_seconds = 0;
  uint32_t mtime_nanoseconds = 0;
  uint32_t device_major = 0;
  uint32_t device_minor = 0;
  std::string target;                        // symlinks
  std::vector<image_format::Xattr> xattrs;   // sorted by name
  Digest content;                            // regular files
  std::map<std::string, uint32_t> children;  // directories: name → inode
};

struct Tree {
  static constexpr uint32_t kRoot = 0;
  std::vector<Inode> inodes;

  uint32_t Add(Inode inode);
  // Counts names and subdirectories into link_count.
  void CountLinks();
  // Calls `visit` for each name, parents before children, with its path from the root ("" for the root itself).
  void Walk(const std::function<void(const std::string& path, uint32_t inode)>& visit) const;
};

// Where a file's contents lie in one device.
struct FileExtent {
  uint64_t first_block = 0;  // in the device
  uint64_t bytes = 0;
  uint32_t inode = 0;
};

// EROFS metadata as a tree, without contents, and where these are: for each device the extents in order.
struct ErofsTree {
  Tree tree;
  std::vector<std::vector<FileExtent>> extents;
};
// kDataLoss for anything that ErofsReader::Check() refuses, for names that no directory may hold, and for files that
// share blocks (no converter writes these).
Result<ErofsTree> ReadErofsTree(const image_format::ErofsReader& reader);

// A directory on this machine, read by system calls; every file is hashed. Mount points are entered.
Result<Tree> ReadDirectoryTree(const std::string& directory);

// Calls `report` with one line for each difference; `expected_name` and `actual_name` name the trees in it. Which names
// are links to one inode is compared too.
struct TreeDifference {
  std::string path;
  std::string what;
};
uint64_t CompareTrees(const Tree& expected, const Tree& actual, const std::function<void(TreeDifference)>& report);

// SHA-256 of no bytes: the content of empty files.
const Digest& EmptyContent();

}  // namespace banyan::cli
