// `banyan extract`: writes an image's merged tree to a directory, straight from metadata and chunks.
#pragma once

#include <cstdint>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "cli/command.h"
#include "cli/progress.h"
#include "cli/tree.h"
#include "common/result.h"
#include "common/unique_fd.h"

namespace banyan::cli {

// What could not be written as the image has it, and why it was left out: not root, or the file system below cannot
// hold it.
struct LeftOut {
  uint64_t owners = 0;
  uint64_t devices = 0;
  uint64_t xattrs = 0;
  uint64_t modes = 0;
  uint64_t total() const { return owners + devices + xattrs + modes; }
};

struct ExtractReport {
  uint64_t names = 0;
  uint64_t bytes = 0;  // of contents
  LeftOut left_out;
};

// Writes a tree in three passes: directories and empty files; contents as they come; then everything else (links,
// symlinks, devices, attributes). Symlinks come after all contents and every name is opened below its directory's
// descriptor without following links, so whatever names and targets an image has, nothing outside the directory is
// touched. Externally synchronised; borrows the tree.
class TreeWriter {
 public:
  // `directory` must be empty.
  static Result<TreeWriter> Open(const std::string& directory, const Tree& tree);

  Status MakeDirectoriesAndFiles();
  // A piece of a regular file's contents; zeros become holes.
  Status Write(uint32_t inode, uint64_t offset, std::span<const std::byte> bytes);
  Status Complete();

  const ExtractReport& report() const { return report_; }

 private:
  struct Name {
    uint32_t parent = 0;
    std::string name;
  };

  TreeWriter(UniqueFd root, const Tree& tree);
  Result<int> OpenDirectory(uint32_t inode);
  Result<int> OpenForWriting(uint32_t inode);
  Status MakeNode(uint32_t inode);
  Status SetAttributes(uint32_t inode);
  Status Tolerate(int error, uint64_t& counter, std::string_view what, uint32_t inode) const;
  std::string PathOf(uint32_t inode) const;

  UniqueFd root_;
  const Tree& tree_;
  std::vector<Name> first_name_;           // of each inode; the root's is unused
  std::vector<Name> names_;                // every name, parents first
  std::vector<uint32_t> name_inodes_;      // of each of names_
  UniqueFd directory_;                     // the one opened last
  uint32_t directory_inode_ = UINT32_MAX;  // whose
  UniqueFd file_;                          // the one written last
  uint32_t file_inode_ = UINT32_MAX;       // whose
  ExtractReport report_;
};

// What was written is removed again when it fails.
Result<ExtractReport> ExtractImage(const GlobalOptions& globals, const std::string& reference,
                                   const std::string& platform, const std::string& directory, Progress& progress,
                                   std::stop_token stop);

}  // namespace banyan::cli
