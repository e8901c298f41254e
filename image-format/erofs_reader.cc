#include "image-format/erofs_reader.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "image-format/erofs_layout.h"

namespace banyan::image_format {
namespace {

using erofs::ChunkIndex;
using erofs::Load;

constexpr uint64_t kInodeBytes = sizeof(erofs::ExtendedInode);
constexpr uint64_t kMaxSymlinkBytes = 4095;

// The types on disk are the kernel's FT_* numbers.
uint8_t FromDiskType(uint8_t type) {
  constexpr std::array<uint8_t, 8> kTypes{DT_UNKNOWN, DT_REG, DT_DIR, DT_CHR, DT_BLK, DT_FIFO, DT_SOCK, DT_LNK};
  return type < kTypes.size() ? kTypes[type] : uint8_t{DT_UNKNOWN};
}

// One block of a directory (the last may be short): dirents, then names.
class DirectoryBlockView {
 public:
  static Result<DirectoryBlockView> Parse(std::span<const std::byte> block) {
    if (block.size() < erofs::kDirentBytes) return Fail(Code::kDataLoss, "directory block too short");
    const auto names = Load<uint16_t>(block.data() + erofs::kDirentNameOffset);
    if (names < erofs::kDirentBytes || names % erofs::kDirentBytes != 0 || names > block.size()) {
      return Fail(Code::kDataLoss, fmt::format("directory block whose names begin at byte {}", names));
    }
    return DirectoryBlockView(block, names / erofs::kDirentBytes);
  }

  size_t size() const { return count_; }
  uint64_t nid(size_t i) const { return Load<uint64_t>(block_.data() + i * erofs::kDirentBytes); }
  uint8_t type(size_t i) const {
    return FromDiskType(static_cast<uint8_t>(block_[i * erofs::kDirentBytes + erofs::kDirentType]));
  }

  Result<std::string_view> name(size_t i) const {
    const size_t begin = NameOffset(i);
    const size_t end = i + 1 < count_ ? NameOffset(i + 1) : block_.size();
    if (begin < count_ * erofs::kDirentBytes || end < begin || end > block_.size()) {
      return Fail(Code::kDataLoss, "directory entry whose name lies outside its block");
    }
    std::string_view text(reinterpret_cast<const char*>(block_.data()) + begin, end - begin);
    if (i + 1 == count_) text = text.substr(0, text.find('\0'));
    if (text.empty() || text.size() > 255 || text.find('/') != std::string_view::npos ||
        text.find('\0') != std::string_view::npos) {
      return Fail(Code::kDataLoss, "directory entry with a name that no file can have");
    }
    return text;
  }

 private:
  DirectoryBlockView(std::span<const std::byte> block, size_t count) : block_(block), count_(count) {}
  size_t NameOffset(size_t i) const {
    return Load<uint16_t>(block_.data() + i * erofs::kDirentBytes + erofs::kDirentNameOffset);
  }

  std::span<const std::byte> block_;
  size_t count_;
};

}  // namespace

struct ErofsReader::Inode {
  Nid nid = 0;
  erofs::ExtendedInode header{};
  uint64_t offset = 0;  // of the header
  uint64_t xattr_bytes = 0;
  erofs::Layout layout = erofs::kFlatPlain;

  uint64_t tail_offset() const { return offset + kInodeBytes + xattr_bytes; }
  bool Is(uint32_t type) const { return (header.mode & S_IFMT) == type; }
};

Result<std::span<const std::byte>> ErofsReader::Bytes(uint64_t offset, uint64_t length) const {
  if (offset > metadata_.size() || length > metadata_.size() - offset) {
    return Fail(Code::kDataLoss,
                fmt::format("EROFS metadata refer to bytes {}+{} of {}", offset, length, metadata_.size()));
  }
  return metadata_.subspan(offset, length);
}

Result<ErofsReader> ErofsReader::Open(std::span<const std::byte> metadata) {
  ErofsReader reader(metadata);
  BANYAN_TRY(reader.ReadSuperblock());
  return reader;
}

Status ErofsReader::ReadSuperblock() {
  const auto fail = [](std::string_view what) {
    return Fail(Code::kDataLoss, fmt::format("EROFS metadata: {}", what));
  };
  if (metadata_.empty() || metadata_.size() % kBlockBytes != 0) return fail("not a whole number of blocks");
  const auto super = Load<erofs::Superblock>(metadata_.data() + erofs::kSuperblockOffset);
  if (super.magic != erofs::kMagic) return fail("no superblock");
  if (super.checksum != erofs::SuperblockChecksum(metadata_.first(kBlockBytes)))
    return fail("wrong superblock checksum");
  if (super.block_bits != erofs::kBlockBits || super.extension_slots != 0 || super.compression != 0 ||
      super.feature_incompat != erofs::kIncompat || (super.feature_compat & erofs::kCompatChecksum) == 0) {
    return fail("features beyond our profile");
  }
  if (uint64_t{super.blocks} * kBlockBytes != metadata_.size()) return fail("length differs from the superblock's");
  root_ = super.root_nid;
  meta_offset_ = uint64_t{super.meta_block} * kBlockBytes;
  inode_count_ = super.inodes;
  const uint64_t table = uint64_t{super.device_slot_offset} * erofs::kDeviceSlotBytes;
  BANYAN_ASSIGN(const std::span<const std::byte> slots,
                Bytes(table, uint64_t{super.extra_devices} * erofs::kDeviceSlotBytes));
  uint64_t end = super.blocks;
  for (size_t i = 0; i < super.extra_devices; ++i) {
    const std::byte* at = slots.data() + i * erofs::kDeviceSlotBytes;
    const auto slot = Load<erofs::DeviceSlot>(at);
    if (slot.first_block < end) return fail("devices overlap or are out of order");
    end = uint64_t{slot.first_block} + slot.blocks;
    if (end > UINT32_MAX) return fail("devices beyond 2^32 blocks");
    const std::string_view tag(reinterpret_cast<const char*>(at), slot.tag.size());
    devices_.push_back({tag.substr(0, tag.find('\0')), slot.blocks, slot.first_block});
  }
  return {};
}

Result<ErofsReader::Inode> ErofsReader::ReadInode(Nid nid) const {
  const auto fail = [nid](std::string_view what) {
    return Fail(Code::kDataLoss, fmt::format("EROFS inode at nid {}: {}", nid, what));
  };
  if (nid > metadata_.size() / erofs::kSlotBytes) return fail("outside the metadata");
  Inode inode;
  inode.nid = nid;
  inode.offset = meta_offset_ + nid * erofs::kSlotBytes;
  BANYAN_ASSIGN(const std::span<const std::byte> bytes, Bytes(inode.offset, kInodeBytes));
  inode.header = Load<erofs::ExtendedInode>(bytes.data());
  const uint16_t layout = inode.header.format >> 1;
  if ((inode.header.format & 1) == 0 ||
      (layout != erofs::kFlatPlain && layout != erofs::kFlatInline && layout != erofs::kChunkBased)) {
    return fail("no extended inode of a known layout");
  }
  inode.layout = static_cast<erofs::Layout>(layout);
  inode.xattr_bytes = erofs::XattrAreaBytes(inode.header.xattr_count);
  BANYAN_TRY(Bytes(inode.offset + kInodeBytes, inode.xattr_bytes));
  if (layout == erofs::kChunkBased && !inode.Is(S_IFREG)) return fail("chunks of what is no regular file");
  if (inode.header.mtime_nanoseconds >= 1'000'000'000) return fail("more than a second of nanoseconds");
  switch (inode.header.mode & S_IFMT) {
    case S_IFREG:
      if (inode.layout != (inode.header.size == 0 ? erofs::kFlatPlain : erofs::kChunkBased)) {
        return fail("a regular file with data in the metadata");
      }
      if (inode.header.size > uint64_t{UINT32_MAX} * kBlockBytes) return fail("absurd size");
      break;
    case S_IFDIR:
      if (inode.header.size == 0 || inode.header.size > metadata_.size()) return fail("a directory of absurd size");
      break;
    case S_IFLNK:
      if (inode.header.size == 0 || inode.header.size > kMaxSymlinkBytes) return fail("a symlink of absurd size");
      break;
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
      if (inode.header.size != 0) return fail("a device node or FIFO with a size");
      break;
    default:
      return fail("unknown type of file");
  }
  return inode;
}

// Block `block` of contents that are stored in the metadata: a directory's or a symlink's.
Result<std::span<const std::byte>> ErofsReader::DirectoryBlock(const Inode& inode, uint64_t block) const {
  const uint64_t length = std::min<uint64_t>(kBlockBytes, inode.header.size - block * kBlockBytes);
  const bool inlined = inode.layout == erofs::kFlatInline && block == inode.header.size / kBlockBytes;
  if (!inlined) return Bytes((uint64_t{inode.header.start} + block) * kBlockBytes, length);
  if (inode.tail_offset() % kBlockBytes + length > kBlockBytes) {
    return Fail(Code::kDataLoss, fmt::format("EROFS inode at nid {}: its tail crosses a block", inode.nid));
  }
  return Bytes(inode.tail_offset(), length);
}

Result<ErofsReader::Nid> ErofsReader::Lookup(Nid directory, std::string_view name) const {
  BANYAN_ASSIGN(const Inode inode, ReadInode(directory));
  if (!inode.Is(S_IFDIR)) {
    return Fail(Code::kFailedPrecondition, fmt::format("EROFS inode at nid {} is no directory", directory));
  }
  // The last block whose first name is not above `name`, then the same within it.
  uint64_t low = 0;
  uint64_t high = BlocksFor(inode.header.size);
  while (high - low > 1) {
    const uint64_t middle = low + (high - low) / 2;
    BANYAN_ASSIGN(const auto bytes, DirectoryBlock(inode, middle));
    BANYAN_ASSIGN(const auto view, DirectoryBlockView::Parse(bytes));
    BANYAN_ASSIGN(const std::string_view first, view.name(0));
    (first <= name ? low : high) = middle;
  }
  BANYAN_ASSIGN(const auto bytes, DirectoryBlock(inode, low));
  BANYAN_ASSIGN(const auto view, DirectoryBlockView::Parse(bytes));
  size_t begin = 0;
  size_t end = view.size();
  while (begin < end) {
    const size_t middle = begin + (end - begin) / 2;
    BANYAN_ASSIGN(const std::string_view candidate, view.name(middle));
    if (candidate == name) return view.nid(middle);
    if (candidate < name) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return Fail(Code::kNotFound, fmt::format("no '{}' in the directory at nid {}", name, directory));
}

Result<ErofsReader::Nid> ErofsReader::LookupPath(std::string_view path) const {
  Nid nid = root_;
  while (!path.empty()) {
    const size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    path = slash == std::string_view::npos ? std::string_view() : path.substr(slash + 1);
    if (part.empty()) continue;
    BANYAN_ASSIGN(nid, Lookup(nid, part));
  }
  return nid;
}

Result<std::vector<ErofsReader::DirectoryEntry>> ErofsReader::ReadDirectory(Nid directory) const {
  BANYAN_ASSIGN(const Inode inode, ReadInode(directory));
  if (!inode.Is(S_IFDIR)) {
    return Fail(Code::kFailedPrecondition, fmt::format("EROFS inode at nid {} is no directory", directory));
  }
  std::vector<DirectoryEntry> entries;
  for (uint64_t block = 0; block < BlocksFor(inode.header.size); ++block) {
    BANYAN_ASSIGN(const auto bytes, DirectoryBlock(inode, block));
    BANYAN_ASSIGN(const auto view, DirectoryBlockView::Parse(bytes));
    for (size_t i = 0; i < view.size(); ++i) {
      BANYAN_ASSIGN(const std::string_view name, view.name(i));
      entries.push_back({name, view.nid(i), view.type(i)});
    }
  }
  return entries;
}

Result<ErofsReader::Stat> ErofsReader::GetStat(Nid nid) const {
  BANYAN_ASSIGN(const Inode inode, ReadInode(nid));
  const erofs::ExtendedInode& header = inode.header;
  Stat stat;
  stat.mode = header.mode;
  stat.uid = header.uid;
  stat.gid = header.gid;
  stat.link_count = header.link_count;
  stat.size = header.size;
  stat.mtime_seconds = static_cast<int64_t>(header.mtime);
  stat.mtime_nanoseconds = header.mtime_nanoseconds;
  stat.inode_number = header.inode_number;
  if (inode.Is(S_IFCHR) || inode.Is(S_IFBLK)) {
    stat.device_major = erofs::DeviceMajor(header.start);
    stat.device_minor = erofs::DeviceMinor(header.start);
  }
  return stat;
}

Result<std::string> ErofsReader::ReadLink(Nid nid) const {
  BANYAN_ASSIGN(const Inode inode, ReadInode(nid));
  if (!inode.Is(S_IFLNK)) {
    return Fail(Code::kFailedPrecondition, fmt::format("EROFS inode at nid {} is no symlink", nid));
  }
  BANYAN_ASSIGN(const std::span<const std::byte> target, DirectoryBlock(inode, 0));
  return std::string(reinterpret_cast<const char*>(target.data()), target.size());
}

Result<std::vector<Xattr>> ErofsReader::Xattrs(Nid nid) const {
  BANYAN_ASSIGN(const Inode inode, ReadInode(nid));
  const auto fail = [nid](std::string_view what) {
    return Fail(Code::kDataLoss, fmt::format("EROFS inode at nid {}: {}", nid, what));
  };
  std::vector<Xattr> xattrs;
  if (inode.xattr_bytes == 0) return xattrs;
  BANYAN_ASSIGN(std::span<const std::byte> area, Bytes(inode.offset + kInodeBytes, inode.xattr_bytes));
  if (static_cast<uint8_t>(area[4]) != 0) return fail("shared extended attributes, which our profile lacks");
  area = area.subspan(erofs::kXattrHeaderBytes);
  while (!area.empty()) {
    const auto entry = Load<erofs::XattrEntry>(area.data());  // the area's length is a multiple of 4
    const size_t length = sizeof(entry) + entry.name_length + entry.value_bytes;
    const size_t padded = (length + 3) / 4 * 4;
    if (padded > area.size()) return fail("an extended attribute beyond its area");
    const auto prefix = std::find_if(erofs::kXattrPrefixes.begin(), erofs::kXattrPrefixes.end(),
                                     [&entry](const auto& known) { return known.index == entry.name_index; });
    if (prefix == erofs::kXattrPrefixes.end() || prefix->whole != (entry.name_length == 0)) {
      return fail("an extended attribute of unknown kind");
    }
    const char* text = reinterpret_cast<const char*>(area.data()) + sizeof(entry);
    xattrs.push_back({std::string(prefix->prefix) + std::string(text, entry.name_length),
                      std::string(text + entry.name_length, entry.value_bytes)});
    area = area.subspan(padded);
  }
  std::sort(xattrs.begin(), xattrs.end());
  return xattrs;
}

Result<ErofsReader::Extent> ErofsReader::FileExtent(Nid nid) const {
  BANYAN_ASSIGN(const Inode inode, ReadInode(nid));
  if (!inode.Is(S_IFREG)) {
    return Fail(Code::kFailedPrecondition, fmt::format("EROFS inode at nid {} is no regular file", nid));
  }
  if (inode.header.size == 0) return Extent{};
  const auto fail = [nid](std::string_view what) {
    return Fail(Code::kDataLoss, fmt::format("EROFS inode at nid {}: {}", nid, what));
  };
  const uint64_t blocks = BlocksFor(inode.header.size);
  const uint32_t chunk_bits = erofs::ChunkBits(blocks);
  if (inode.header.start != (chunk_bits | erofs::kChunkFormatIndexes)) return fail("chunks of another length");
  const uint64_t count = erofs::ChunkCount(blocks);
  BANYAN_ASSIGN(const std::span<const std::byte> indexes,
                Bytes(inode.offset + erofs::ChunkIndexOffset(inode.xattr_bytes), count * sizeof(ChunkIndex)));
  const auto first = Load<ChunkIndex>(indexes.data());
  for (uint64_t i = 0; i < count; ++i) {
    const auto index = Load<ChunkIndex>(indexes.data() + i * sizeof(ChunkIndex));
    if (index.reserved != 0 || index.device_id != first.device_id || index.block != first.block + (i << chunk_bits)) {
      return fail("chunks that are not one extent");
    }
  }
  if (first.device_id == 0 || first.device_id > devices_.size()) return fail("contents in no device");
  const uint32_t device = first.device_id - 1U;
  if (first.block + blocks > devices_[device].blocks) return fail("contents beyond the device's end");
  return Extent{device, first.block, inode.header.size};
}

}  // namespace banyan::image_format
