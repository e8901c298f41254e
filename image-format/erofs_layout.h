// The on-disk structures of EROFS that our profile uses, as in the Linux kernel's documentation of the format.
// All fields are little-endian and so are the hosts we build for; structures are copied to and from bytes with memcpy.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "common/units.h"

namespace banyan::image_format::erofs {

static_assert(std::endian::native == std::endian::little, "EROFS structures are copied as they are");

inline constexpr uint32_t kMagic = 0xE0F5E1E2;
inline constexpr uint64_t kSuperblockOffset = 1024;
inline constexpr uint8_t kBlockBits = 12;
inline constexpr uint32_t kSlotBytes = 32;  // nids count in these
inline constexpr uint32_t kSlotsPerBlock = kBlockBytes / kSlotBytes;

inline constexpr uint32_t kCompatChecksum = 1;
inline constexpr uint32_t kCompatMtime = 2;
inline constexpr uint32_t kIncompatChunked = 4;
inline constexpr uint32_t kIncompatDeviceTable = 8;
inline constexpr uint32_t kIncompat = kIncompatChunked | kIncompatDeviceTable;  // of our profile

inline constexpr uint32_t kDeviceSlotBytes = 128;
inline constexpr uint32_t kInlineDeviceSlotOffset = 9;     // × 128 bytes: right behind the superblock
inline constexpr uint32_t kExternalDeviceSlotOffset = 32;  // × 128 bytes: block 1
inline constexpr uint32_t kMaxInlineDevices = kBlockBytes / kDeviceSlotBytes - kInlineDeviceSlotOffset;
inline constexpr uint32_t kMaxDevices = 65535;

enum Layout : uint16_t { kFlatPlain = 0, kFlatInline = 2, kChunkBased = 4 };

struct Superblock {
  uint32_t magic;
  uint32_t checksum;
  uint32_t feature_compat;
  uint8_t block_bits;
  uint8_t extension_slots;
  uint16_t root_nid;
  uint64_t inodes;
  uint64_t epoch;
  uint32_t epoch_nanoseconds;
  uint32_t blocks;
  uint32_t meta_block;
  uint32_t xattr_block;
  std::array<uint8_t, 16> uuid;
  std::array<char, 16> volume_name;
  uint32_t feature_incompat;
  uint16_t compression;
  uint16_t extra_devices;
  uint16_t device_slot_offset;
  std::array<uint8_t, 38> reserved;
};
static_assert(sizeof(Superblock) == 128 && offsetof(Superblock, feature_incompat) == 80);

struct DeviceSlot {
  std::array<char, 64> tag;
  uint32_t blocks;
  uint32_t first_block;
  std::array<uint8_t, 56> reserved;
};
static_assert(sizeof(DeviceSlot) == kDeviceSlotBytes);

struct ExtendedInode {
  uint16_t format;  // 1 | layout << 1
  uint16_t xattr_count;
  uint16_t mode;
  uint16_t reserved0;
  uint64_t size;
  uint32_t start;  // first block, device number, or chunk format
  uint32_t inode_number;
  uint32_t uid;
  uint32_t gid;
  uint64_t mtime;
  uint32_t mtime_nanoseconds;
  uint32_t link_count;
  std::array<uint8_t, 16> reserved;
};
static_assert(sizeof(ExtendedInode) == 64 && offsetof(ExtendedInode, mtime) == 32);

// Where a chunk of a file lies. Indexes follow the xattrs at the next multiple of their size.
struct ChunkIndex {
  uint16_t reserved;
  uint16_t device_id;  // place in the device table + 1
  uint32_t block;      // of the device
};
static_assert(sizeof(ChunkIndex) == 8);

inline constexpr uint32_t kChunkFormatIndexes = 0x20;
inline constexpr uint32_t kMaxChunkBits = 31;  // of the format's five bits
// Chunks of a file of `blocks` > 0 blocks are 2^bits blocks long: one chunk holds it all, up to 8 TiB.
constexpr uint32_t ChunkBits(uint64_t blocks) {
  return std::min(static_cast<uint32_t>(std::bit_width(blocks - 1)), kMaxChunkBits);
}
constexpr uint64_t ChunkCount(uint64_t blocks) { return ((blocks - 1) >> ChunkBits(blocks)) + 1; }
// From the inode's start.
constexpr uint64_t ChunkIndexOffset(uint64_t xattr_bytes) {
  const uint64_t end = sizeof(ExtendedInode) + xattr_bytes;
  return (end + sizeof(ChunkIndex) - 1) / sizeof(ChunkIndex) * sizeof(ChunkIndex);
}

inline constexpr uint32_t kDirentBytes = 12;
// nid, nameoff, file type; not a struct because it would have padding.
inline constexpr size_t kDirentNameOffset = 8;
inline constexpr size_t kDirentType = 10;

inline constexpr uint32_t kXattrHeaderBytes = 12;
struct XattrEntry {
  uint8_t name_length;
  uint8_t name_index;
  uint16_t value_bytes;
};
static_assert(sizeof(XattrEntry) == 4);

struct XattrPrefix {
  uint8_t index;
  std::string_view prefix;
  bool whole;  // the prefix is the whole name
};
inline constexpr std::array<XattrPrefix, 5> kXattrPrefixes{{{1, "user.", false},
                                                            {2, "system.posix_acl_access", true},
                                                            {3, "system.posix_acl_default", true},
                                                            {4, "trusted.", false},
                                                            {6, "security.", false}}};

// Bytes of the xattr area of an inode whose header says `count`.
constexpr uint64_t XattrAreaBytes(uint16_t count) { return count == 0 ? 0 : kXattrHeaderBytes + (count - 1) * 4ULL; }

// How Linux packs a device number into 32 bits.
inline constexpr uint32_t kMaxDeviceMajor = 0xFFF;
inline constexpr uint32_t kMaxDeviceMinor = 0xFFFFF;
constexpr uint32_t PackDeviceNumber(uint32_t major, uint32_t minor) {
  return (minor & 0xFF) | (major << 8) | ((minor & ~0xFFU) << 12);
}
constexpr uint32_t DeviceMajor(uint32_t packed) { return packed >> 8 & 0xFFF; }
constexpr uint32_t DeviceMinor(uint32_t packed) { return (packed & 0xFF) | (packed >> 12 & 0xFFF00); }

// CRC-32C over the rest of the superblock's block with the checksum field zero; seed ~0, no final inversion.
uint32_t SuperblockChecksum(std::span<const std::byte> first_block);

template <typename T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}
template <typename T>
void Store(std::byte* to, const T& value) {
  std::memcpy(to, &value, sizeof(T));
}

}  // namespace banyan::image_format::erofs
