#include "image-format/erofs_flatten.h"

#include <dirent.h>

#include <algorithm>

#include "common/units.h"
#include "image-format/erofs_layout.h"
#include "image-format/erofs_reader.h"

namespace banyan::image_format {
namespace {

using erofs::Load;
using erofs::Store;

// A kernel that sees no device table takes no notice of a chunk's device, so files become flat.
void FlattenInode(std::byte* at, uint64_t first_block) {
  auto inode = Load<erofs::ExtendedInode>(at);
  const uint64_t indexes = erofs::ChunkCount(BlocksFor(inode.size)) * sizeof(erofs::ChunkIndex);
  std::fill_n(at + erofs::ChunkIndexOffset(erofs::XattrAreaBytes(inode.xattr_count)), indexes, std::byte{0});
  inode.format = 1 | erofs::kFlatPlain << 1;
  inode.start = static_cast<uint32_t>(first_block);
  Store(at, inode);
}

}  // namespace

Result<std::vector<std::byte>> FlattenMetadata(std::span<const std::byte> metadata) {
  BANYAN_ASSIGN(const ErofsReader reader, ErofsReader::Open(metadata));
  BANYAN_TRY(reader.Check());
  std::vector<std::byte> flat(metadata.begin(), metadata.end());
  auto super = Load<erofs::Superblock>(flat.data() + erofs::kSuperblockOffset);

  // Everything is read from the original: a file with several names may be met again.
  std::vector<ErofsReader::Nid> directories{reader.root()};
  while (!directories.empty()) {
    const ErofsReader::Nid directory = directories.back();
    directories.pop_back();
    BANYAN_ASSIGN(const auto entries, reader.ReadDirectory(directory));
    for (const ErofsReader::DirectoryEntry& entry : entries) {
      if (entry.name == "." || entry.name == "..") continue;
      if (entry.type == DT_DIR) directories.push_back(entry.nid);
      if (entry.type != DT_REG) continue;
      BANYAN_ASSIGN(const ErofsReader::Extent extent, reader.FileExtent(entry.nid));
      if (extent.size == 0) continue;
      const uint64_t offset = uint64_t{super.meta_block} * kBlockBytes + entry.nid * erofs::kSlotBytes;
      const uint64_t block = uint64_t{reader.devices()[extent.device].first_block} + extent.first_block;
      std::copy_n(metadata.data() + offset, sizeof(erofs::ExtendedInode), flat.data() + offset);
      FlattenInode(flat.data() + offset, block);
    }
  }

  if (!reader.devices().empty()) {
    super.blocks = reader.devices().back().first_block + reader.devices().back().blocks;
  }
  super.feature_incompat = 0;
  super.extra_devices = 0;
  super.device_slot_offset = 0;
  Store(flat.data() + erofs::kSuperblockOffset, super);
  super.checksum = erofs::SuperblockChecksum(std::span(flat).first(kBlockBytes));
  Store(flat.data() + erofs::kSuperblockOffset, super);
  return flat;
}

}  // namespace banyan::image_format
