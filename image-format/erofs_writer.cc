// Two passes over the tree: the first decides how long each inode is and where it goes, the second writes it there. The
// passes agree because both take their sizes from the same functions (XattrArea, DirectoryItems, Shape).
#include "image-format/erofs_writer.h"

#include <sys/stat.h>

#include <algorithm>
#include <limits>
#include <string_view>

#include <fmt/format.h>

#include "common/digest.h"
#include "image-format/erofs_layout.h"

namespace banyan::image_format {
namespace {

using erofs::ChunkIndex;
using erofs::kSlotBytes;
using erofs::Store;

constexpr uint64_t kInodeBytes = sizeof(erofs::ExtendedInode);
constexpr uint64_t kMaxSymlinkBytes = 4095;
constexpr uint64_t kMaxXattrAreaBytes = erofs::XattrAreaBytes(std::numeric_limits<uint16_t>::max());
constexpr uint64_t kMaxBlocks = std::numeric_limits<uint32_t>::max();

constexpr uint64_t AlignUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

// Where an inode goes: its header in 32-byte slots from the metadata's start, its full blocks (if any) in blocks from
// the start of the zone behind the inodes.
struct Placement {
  uint32_t slot = 0;
  uint32_t block = 0;
};

// What follows an inode header: `inline_bytes` behind the xattrs, `blocks` elsewhere.
struct Shape {
  uint64_t size = 0;
  uint64_t inline_bytes = 0;
  uint64_t blocks = 0;
  erofs::Layout layout = erofs::kFlatPlain;
};

// Bytes that are stored with the metadata (a directory's entries, a symlink's target): the last partial block goes
// behind the inode if header, xattrs and tail fit one block together, as kernels before 6.12 want it for symlinks.
Shape ShapeOf(uint64_t size, uint64_t xattr_bytes, bool whole_only) {
  const uint64_t tail = size % kBlockBytes;
  const bool fits = tail != 0 && kInodeBytes + xattr_bytes + tail <= kBlockBytes;
  if (fits && !(whole_only && size > tail)) return {size, tail, size / kBlockBytes, erofs::kFlatInline};
  return {size, 0, BlocksFor(size), erofs::kFlatPlain};
}

// A file's contents are in a device; its chunk indexes (one, but for files above 8 TiB) are behind the xattrs.
Shape FileShape(uint64_t size, uint64_t xattr_bytes) {
  if (size == 0) return {};
  const uint64_t end = erofs::ChunkIndexOffset(xattr_bytes) + erofs::ChunkCount(BlocksFor(size)) * sizeof(ChunkIndex);
  return {size, end - kInodeBytes - xattr_bytes, 0, erofs::kChunkBased};
}

struct DirectoryItem {
  std::string_view name;
  uint32_t inode;
};

uint16_t TypeBits(EntryKind kind) {
  switch (kind) {
    case EntryKind::kDirectory:
      return S_IFDIR;
    case EntryKind::kRegular:
      return S_IFREG;
    case EntryKind::kSymlink:
      return S_IFLNK;
    case EntryKind::kBlockDevice:
      return S_IFBLK;
    case EntryKind::kFifo:
      return S_IFIFO;
    default:
      return S_IFCHR;
  }
}

// The file types of directory entries.
uint8_t DirentType(uint16_t type_bits) {
  switch (type_bits) {
    case S_IFREG:
      return 1;
    case S_IFDIR:
      return 2;
    case S_IFCHR:
      return 3;
    case S_IFBLK:
      return 4;
    case S_IFIFO:
      return 5;
    default:
      return 7;
  }
}

class Writer {
 public:
  Writer(const MergedTree& tree, std::span<const ErofsDevice> devices) : tree_(tree), devices_(devices) {}

  Result<ErofsMetadata> Run() && {
    BANYAN_TRY(PlaceDevices());
    BANYAN_TRY(PlaceInodes());
    BANYAN_TRY(StartDevices());
    out_.bytes.resize(metadata_blocks_ * kBlockBytes);
    WriteDeviceTable();
    for (uint32_t i = 0; i < tree_.inode_count(); ++i) BANYAN_TRY(WriteInode(i));
    WriteSuperblock();
    return std::move(out_);
  }

 private:
  tl::unexpected<Error> TooMuch(uint32_t inode, std::string_view what) const {
    return Fail(Code::kResourceExhausted, Describe(inode) + ": " + std::string(what));
  }

  std::string Describe(uint32_t inode) const {
    const MergedTree::Inode& of = tree_.inode(inode);
    return fmt::format("layer {}, entry {} ('{}')", of.layer, of.entry, tree_.entry(inode).name);
  }

  Status PlaceDevices() {
    if (devices_.size() < tree_.layer_count()) return Fail(Code::kInvalidArgument, "fewer devices than layers");
    if (devices_.size() > erofs::kMaxDevices) return Fail(Code::kResourceExhausted, "more than 65,535 devices");
    for (const ErofsDevice& device : devices_) {
      if (device.tag.empty() || device.tag.find('\0') != std::string::npos) {
        return Fail(Code::kInvalidArgument, "a device's tag is empty or has a NUL");
      }
    }
    const bool inline_table = devices_.size() <= erofs::kMaxInlineDevices;
    const uint64_t table_blocks = inline_table ? 0 : BlocksFor(devices_.size() * erofs::kDeviceSlotBytes);
    first_inode_block_ = 1 + table_blocks;
    return {};
  }

  // ---- Pass 1 ----

  // Inodes go one behind the other; one that would cross a block starts at the next, and the gap it leaves takes
  // later ones that are small enough.
  Status PlaceInodes() {
    placements_.resize(tree_.inode_count());
    uint64_t next =
        erofs::kSlotsPerBlock;  // slots from meta_block, which is the block before the first inode's: no nid is 0
    uint64_t gap = 0;
    uint64_t gap_end = 0;
    uint64_t blocks = 0;
    for (uint32_t i = 0; i < tree_.inode_count(); ++i) {
      BANYAN_ASSIGN(const Shape shape, MeasureInode(i));
      const uint64_t slots = AlignUp(kInodeBytes + xattr_bytes_ + shape.inline_bytes, kSlotBytes) / kSlotBytes;
      placements_[i].block = static_cast<uint32_t>(blocks);
      blocks += shape.blocks;
      if (gap_end - gap >= slots) {
        placements_[i].slot = static_cast<uint32_t>(gap);
        gap += slots;
      } else {
        const uint64_t room = erofs::kSlotsPerBlock - next % erofs::kSlotsPerBlock;
        if (slots > room && room < erofs::kSlotsPerBlock) {
          gap = next;
          gap_end = next + room;
          next = gap_end;
        }
        placements_[i].slot = static_cast<uint32_t>(next);
        next += slots;
      }
      if (next > kMaxBlocks || blocks > kMaxBlocks) return Fail(Code::kResourceExhausted, "too many inodes for EROFS");
    }
    directory_block_ = first_inode_block_ - 1 + BlocksFor(next * kSlotBytes);
    metadata_blocks_ = directory_block_ + blocks;
    return {};
  }

  // Also sets xattr_bytes_.
  Result<Shape> MeasureInode(uint32_t inode) {
    BANYAN_TRY(MeasureXattrs(inode));
    if (tree_.inode(inode).whiteout) return Shape{};
    const Entry& entry = tree_.entry(inode);
    switch (entry.kind) {
      case EntryKind::kDirectory:
        return ShapeOf(ListDirectory(inode), xattr_bytes_, false);
      case EntryKind::kSymlink:
        if (entry.target.empty() || entry.target.size() > kMaxSymlinkBytes) {
          return Fail(Code::kInvalidArgument, Describe(inode) + ": a symlink's target must have 1 to 4,095 bytes");
        }
        return ShapeOf(entry.target.size(), xattr_bytes_, true);
      case EntryKind::kCharacterDevice:
      case EntryKind::kBlockDevice:
        if (entry.device_major > erofs::kMaxDeviceMajor || entry.device_minor > erofs::kMaxDeviceMinor) {
          return TooMuch(inode, "the device number is beyond Linux's range");
        }
        return Shape{};
      case EntryKind::kRegular:
        BANYAN_TRY(CheckExtent(inode, entry));
        return FileShape(entry.size, xattr_bytes_);
      default:
        return Shape{};
    }
  }

  Status CheckExtent(uint32_t inode, const Entry& entry) const {
    const uint64_t device_blocks = devices_[tree_.inode(inode).layer].blocks;
    const uint64_t blocks = BlocksFor(entry.size);
    if (blocks <= device_blocks && (blocks == 0 || entry.first_block <= device_blocks - blocks)) return {};
    return Fail(Code::kInvalidArgument, Describe(inode) + ": the contents lie outside the layer's device");
  }

  Status MeasureXattrs(uint32_t inode) {
    xattr_bytes_ = 0;
    if (tree_.inode(inode).whiteout) return {};
    if (tree_.entry(inode).xattrs.empty() && !tree_.inode(inode).opaque) return {};
    for (const Xattr& xattr : tree_.Xattrs(inode)) {
      const std::string_view suffix = Suffix(xattr.name);
      if (suffix.size() > 255 || xattr.value.size() > std::numeric_limits<uint16_t>::max()) {
        return TooMuch(inode, "extended attribute too long");
      }
      if (xattr_bytes_ == 0) xattr_bytes_ = erofs::kXattrHeaderBytes;
      xattr_bytes_ += AlignUp(sizeof(erofs::XattrEntry) + suffix.size() + xattr.value.size(), 4);
      if (xattr_bytes_ > kMaxXattrAreaBytes) return TooMuch(inode, "too many extended attributes");
    }
    return {};
  }

  static const erofs::XattrPrefix& PrefixOf(std::string_view name) {
    // MergedTree::Xattrs lets only these pass.
    return *std::find_if(erofs::kXattrPrefixes.begin(), erofs::kXattrPrefixes.end(),
                         [name](const erofs::XattrPrefix& prefix) { return name.starts_with(prefix.prefix); });
  }
  static std::string_view Suffix(std::string_view name) { return name.substr(PrefixOf(name).prefix.size()); }

  // Fills items_ with a directory's names, "." and ".." in their place, and returns the bytes they take (the last
  // block's as far as it is used).
  uint64_t ListDirectory(uint32_t inode) {
    items_.clear();
    items_.push_back({".", inode});
    items_.push_back({"..", tree_.inode(inode).parent});
    for (const MergedTree::Name& name : tree_.children(inode)) items_.push_back({tree_.name(name), name.inode});
    // The children are sorted; the two names in front belong behind those that begin with a lower byte.
    const auto by_name = [](const DirectoryItem& a, const DirectoryItem& b) { return a.name < b.name; };
    std::inplace_merge(items_.begin(), items_.begin() + 2, items_.end(), by_name);
    uint64_t full = 0;
    uint64_t used = 0;
    for (const DirectoryItem& item : items_) {
      const uint64_t bytes = erofs::kDirentBytes + item.name.size();
      if (used + bytes > kBlockBytes) {
        ++full;
        used = 0;
      }
      used += bytes;
    }
    return full * kBlockBytes + used;
  }

  // ---- Between the passes ----

  Status StartDevices() {
    uint64_t next = metadata_blocks_;
    for (const ErofsDevice& device : devices_) {
      out_.device_first_blocks.push_back(static_cast<uint32_t>(next));
      next += device.blocks;
      if (next > kMaxBlocks) {
        return Fail(Code::kResourceExhausted, "metadata and devices together exceed 2^32 blocks (16 TiB)");
      }
    }
    return {};
  }

  // ---- Pass 2 ----

  std::byte* At(uint64_t offset) { return out_.bytes.data() + offset; }

  Status WriteInode(uint32_t inode) {
    BANYAN_ASSIGN(const Shape shape, MeasureInode(inode));
    const MergedTree::Inode& node = tree_.inode(inode);
    const uint64_t offset = (first_inode_block_ - 1) * kBlockBytes + uint64_t{placements_[inode].slot} * kSlotBytes;
    const uint64_t blocks_at = (directory_block_ + placements_[inode].block) * kBlockBytes;

    erofs::ExtendedInode header{};
    header.format = static_cast<uint16_t>(1 | shape.layout << 1);
    if (xattr_bytes_ > 0) header.xattr_count = static_cast<uint16_t>((xattr_bytes_ - erofs::kXattrHeaderBytes) / 4 + 1);
    header.mode = S_IFCHR;
    header.inode_number = inode + 1;
    header.link_count = node.link_count;
    header.size = shape.size;
    if (shape.blocks > 0) header.start = static_cast<uint32_t>(blocks_at / kBlockBytes);
    if (!node.whiteout) Describe(inode, header);
    Store(At(offset), header);
    if (xattr_bytes_ > 0) WriteXattrs(inode, offset + kInodeBytes);
    if (node.whiteout) return {};

    const Entry& entry = tree_.entry(inode);
    std::byte* tail = At(offset + kInodeBytes + xattr_bytes_);
    if (entry.kind == EntryKind::kSymlink) {
      std::memcpy(shape.blocks > 0 ? At(blocks_at) : tail, entry.target.data(), entry.target.size());
    } else if (entry.kind == EntryKind::kDirectory) {
      WriteDirectory(blocks_at, shape, tail);
    } else if (shape.layout == erofs::kChunkBased) {
      WriteChunkIndexes(node.layer, entry, offset + erofs::ChunkIndexOffset(xattr_bytes_));
    }
    return {};
  }

  void Describe(uint32_t inode, erofs::ExtendedInode& header) const {
    const Entry& entry = tree_.entry(inode);
    header.mode = static_cast<uint16_t>(TypeBits(entry.kind) | (entry.mode & 07777));
    header.uid = entry.uid;
    header.gid = entry.gid;
    header.mtime = static_cast<uint64_t>(entry.mtime_seconds);
    header.mtime_nanoseconds = entry.mtime_nanoseconds;
    if (entry.kind == EntryKind::kRegular) {
      if (entry.size > 0) header.start = erofs::ChunkBits(BlocksFor(entry.size)) | erofs::kChunkFormatIndexes;
    } else if (entry.kind == EntryKind::kCharacterDevice || entry.kind == EntryKind::kBlockDevice) {
      header.start = erofs::PackDeviceNumber(entry.device_major, entry.device_minor);
    }
  }

  void WriteChunkIndexes(uint32_t device, const Entry& entry, uint64_t offset) {
    const uint64_t blocks = BlocksFor(entry.size);
    for (uint64_t i = 0; i < erofs::ChunkCount(blocks); ++i) {
      const uint64_t block = entry.first_block + (i << erofs::ChunkBits(blocks));
      Store(At(offset + i * sizeof(ChunkIndex)),
            ChunkIndex{0, static_cast<uint16_t>(device + 1), static_cast<uint32_t>(block)});
    }
  }

  void WriteXattrs(uint32_t inode, uint64_t offset) {
    offset += erofs::kXattrHeaderBytes;  // name filter, shared count, reserved: zeros
    for (const Xattr& xattr : tree_.Xattrs(inode)) {
      const std::string_view suffix = Suffix(xattr.name);
      Store(At(offset), erofs::XattrEntry{static_cast<uint8_t>(suffix.size()), PrefixOf(xattr.name).index,
                                          static_cast<uint16_t>(xattr.value.size())});
      std::byte* to = At(offset + sizeof(erofs::XattrEntry));
      std::copy_n(reinterpret_cast<const std::byte*>(suffix.data()), suffix.size(), to);
      std::copy_n(reinterpret_cast<const std::byte*>(xattr.value.data()), xattr.value.size(), to + suffix.size());
      offset += AlignUp(sizeof(erofs::XattrEntry) + suffix.size() + xattr.value.size(), 4);
    }
  }

  uint64_t Nid(uint32_t inode) const { return placements_[inode].slot; }

  // From items_, which MeasureInode filled.
  void WriteDirectory(uint64_t blocks_at, const Shape& shape, std::byte* tail) {
    size_t begin = 0;
    for (uint64_t block = 0; begin < items_.size(); ++block) {
      size_t end = begin;
      uint64_t used = 0;
      while (end < items_.size() && used + erofs::kDirentBytes + items_[end].name.size() <= kBlockBytes) {
        used += erofs::kDirentBytes + items_[end++].name.size();
      }
      std::byte* to = block < shape.blocks ? At(blocks_at + block * kBlockBytes) : tail;
      size_t name_offset = (end - begin) * erofs::kDirentBytes;
      for (size_t i = begin; i < end; ++i) {
        const DirectoryItem& item = items_[i];
        std::byte* dirent = to + (i - begin) * erofs::kDirentBytes;
        Store(dirent, Nid(item.inode));
        Store(dirent + erofs::kDirentNameOffset, static_cast<uint16_t>(name_offset));
        Store(dirent + erofs::kDirentType, DirentType(ModeType(item.inode)));
        std::memcpy(to + name_offset, item.name.data(), item.name.size());
        name_offset += item.name.size();
      }
      begin = end;
    }
  }

  uint16_t ModeType(uint32_t inode) const {
    return tree_.inode(inode).whiteout ? S_IFCHR : TypeBits(tree_.entry(inode).kind);
  }

  void WriteDeviceTable() {
    const bool inline_table = devices_.size() <= erofs::kMaxInlineDevices;
    table_slot_ = inline_table ? erofs::kInlineDeviceSlotOffset : erofs::kExternalDeviceSlotOffset;
    for (size_t i = 0; i < devices_.size(); ++i) {
      erofs::DeviceSlot slot{};
      const std::string& tag = devices_[i].tag;
      std::copy_n(tag.begin(), std::min(tag.size(), slot.tag.size() - 1), slot.tag.begin());
      slot.blocks = devices_[i].blocks;
      slot.first_block = out_.device_first_blocks[i];
      Store(At((table_slot_ + i) * erofs::kDeviceSlotBytes), slot);
    }
  }

  // Last, because the file system's UUID is made of everything else.
  void WriteSuperblock() {
    erofs::Superblock super{};
    super.magic = erofs::kMagic;
    super.feature_compat = erofs::kCompatChecksum | erofs::kCompatMtime;
    super.block_bits = erofs::kBlockBits;
    super.root_nid = static_cast<uint16_t>(Nid(MergedTree::kRoot));
    super.inodes = tree_.inode_count();
    super.blocks = static_cast<uint32_t>(metadata_blocks_);
    super.meta_block = static_cast<uint32_t>(first_inode_block_ - 1);
    super.feature_incompat = erofs::kIncompat;
    super.extra_devices = static_cast<uint16_t>(devices_.size());
    super.device_slot_offset = static_cast<uint16_t>(table_slot_);
    std::byte* at = At(erofs::kSuperblockOffset);
    Store(at, super);
    const Digest digest = Digest::Of(out_.bytes);
    std::copy_n(digest.bytes().begin(), super.uuid.size(), super.uuid.begin());
    super.uuid[6] = (super.uuid[6] & 0x0F) | 0x80;  // RFC 9562 version 8: made by the application's own rule
    super.uuid[8] = (super.uuid[8] & 0x3F) | 0x80;
    Store(at, super);
    super.checksum = erofs::SuperblockChecksum(std::span(out_.bytes).first(kBlockBytes));
    Store(at, super);
  }

  const MergedTree& tree_;
  const std::span<const ErofsDevice> devices_;
  ErofsMetadata out_;
  std::vector<Placement> placements_;
  uint64_t first_inode_block_ = 0;
  uint64_t directory_block_ = 0;  // where the zone of full directory blocks begins
  uint64_t metadata_blocks_ = 0;
  uint64_t table_slot_ = 0;
  // Of the inode that was measured last.
  uint64_t xattr_bytes_ = 0;
  std::vector<DirectoryItem> items_;
};

}  // namespace

uint32_t erofs::SuperblockChecksum(std::span<const std::byte> first_block) {
  constexpr uint32_t kPolynomial = 0x82F63B78;  // Castagnoli, reflected
  uint32_t crc = ~0U;
  for (size_t i = kSuperblockOffset; i < kBlockBytes; ++i) {
    const bool in_field = i >= kSuperblockOffset + offsetof(Superblock, checksum) &&
                          i < kSuperblockOffset + offsetof(Superblock, feature_compat);
    crc ^= in_field ? 0 : static_cast<uint8_t>(first_block[i]);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
  }
  return crc;
}

Result<ErofsMetadata> WriteErofs(const MergedTree& tree, std::span<const ErofsDevice> devices) {
  return Writer(tree, devices).Run();
}

}  // namespace banyan::image_format
