// Reads EROFS metadata of the profile that erofs_writer.h writes, from memory or a mapping, and trusts none of it.
//
// Every access is checked against the bounds of the metadata; damage gives kDataLoss, never a crash, a loop or an
// unbounded allocation. It serves the FUSE tree view, `banyan verify` and `extract`.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "image-format/layer_index.h"

namespace banyan::image_format {

// Immutable and thread-safe. Borrows the metadata, which must outlive it; so must the names that it returns views of.
class ErofsReader {
 public:
  using Nid = uint64_t;

  struct Stat {
    uint32_t mode = 0;  // st_mode: type and permissions
    uint32_t uid = 0;
    uint32_t gid = 0;
    uint32_t link_count = 0;
    uint64_t size = 0;
    int64_t mtime_seconds = 0;
    uint32_t mtime_nanoseconds = 0;
    uint32_t device_major = 0;  // device nodes
    uint32_t device_minor = 0;
    uint32_t inode_number = 0;  // unique in the image, from 1
  };
  struct DirectoryEntry {
    std::string_view name;  // "." and ".." included
    Nid nid = 0;
    uint8_t type = 0;  // DT_REG, DT_DIR … of <dirent.h>
  };
  // The contents of a regular file: `size` bytes of a device (its place in devices()) from the start of `first_block`.
  struct Extent {
    uint32_t device = 0;
    uint32_t first_block = 0;
    uint64_t size = 0;
  };
  struct DeviceSlot {
    std::string_view tag;
    uint32_t blocks = 0;
    uint32_t first_block = 0;  // of the flattened form
  };

  // Checks superblock, checksum and device table. Takes the device-table form only, not the flattened one.
  static Result<ErofsReader> Open(std::span<const std::byte> metadata);

  Nid root() const { return root_; }
  std::span<const DeviceSlot> devices() const { return devices_; }
  uint64_t inode_count() const { return inode_count_; }

  // kNotFound when the directory has no such name, kFailedPrecondition when `directory` is none. O(log n).
  Result<Nid> Lookup(Nid directory, std::string_view name) const;
  // A path from the root, with or without leading slash; symlinks are not followed.
  Result<Nid> LookupPath(std::string_view path) const;
  Result<std::vector<DirectoryEntry>> ReadDirectory(Nid directory) const;
  Result<Stat> GetStat(Nid nid) const;
  Result<std::string> ReadLink(Nid nid) const;
  // Sorted by name.
  Result<std::vector<Xattr>> Xattrs(Nid nid) const;
  // kFailedPrecondition unless a regular file. An empty file has an empty extent at block 0 of device 0, which need not
  // exist; any other extent lies within its device.
  Result<Extent> FileExtent(Nid nid) const;

  // Checks the whole tree: directories sorted, `.` and `..` right, each node reached once (files: as often as they have
  // links), types of names and inodes equal, each extent within one device, link counts, number of inodes. O(inodes)
  // time and memory.
  Status Check() const;

 private:
  struct Inode;
  explicit ErofsReader(std::span<const std::byte> metadata) : metadata_(metadata) {}
  Result<std::span<const std::byte>> Bytes(uint64_t offset, uint64_t length) const;
  Status ReadSuperblock();
  Result<Inode> ReadInode(Nid nid) const;
  Result<std::span<const std::byte>> DirectoryBlock(const Inode& inode, uint64_t block) const;

  std::span<const std::byte> metadata_;
  Nid root_ = 0;
  uint64_t meta_offset_ = 0;
  uint64_t inode_count_ = 0;
  std::vector<DeviceSlot> devices_;
};

}  // namespace banyan::image_format
