// Writes a merged tree as EROFS metadata without file data (docs/format.md §"EROFS profile").
//
// A regular file is one chunk whose index names its layer's device and the block there; with addresses in one space for
// all devices the kernel would ask for every page by itself (docs/decisions/0003). The device table gives each device a
// place behind the metadata all the same, for the flattened form (erofs_flatten.h). The output is a function of the
// input alone: the same tree and devices give the same bytes.
//
// Layout: block 0 holds the superblock and up to 23 device slots (more go to the blocks behind it); then inodes with
// their xattrs and inline tails, in the order of the tree; then the full blocks of directories, in the same order.
// Nothing inline crosses a block. Memory: the output (about 125 bytes an inode) plus 12 bytes an inode.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/result.h"
#include "image-format/merge.h"

namespace banyan::image_format {

struct ErofsDevice {
  std::string tag;  // shown by tools; 1 to 63 bytes without NUL (cut to fit)
  uint32_t blocks = 0;
};

struct ErofsMetadata {
  std::vector<std::byte> bytes;               // a multiple of kBlockBytes
  std::vector<uint32_t> device_first_blocks;  // in the unified space, one for each device
};

// `devices[i]` holds the contents of the tree's layer i. kInvalidArgument when a file lies outside its layer's device,
// kResourceExhausted when something exceeds what EROFS can hold (2^32 blocks, 65,535 devices, xattr sizes, device
// numbers).
Result<ErofsMetadata> WriteErofs(const MergedTree& tree, std::span<const ErofsDevice> devices);

}  // namespace banyan::image_format
