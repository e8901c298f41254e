// The layer index: what one OCI layer says, in a form that merging needs not parse a tar for.
//
// A layer is a set of names, each with its final state after the whole tar has been read (a path given twice: the later
// one), and of marks that act on lower layers (whiteouts, opaque directories). Hard links within the layer share an
// inode by entry number; a link whose target the layer does not have names a path of the lower layers. docs/format.md
// §"Layer index".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/byte_stream.h"
#include "common/digest.h"
#include "common/result.h"
#include "image-format/chunk_table.h"

namespace banyan::image_format {

inline constexpr uint32_t kFormatVersion = 1;
inline constexpr std::string_view kLayerBlobMediaType = "application/vnd.banyan.layer.v1";
inline constexpr std::string_view kLayerIndexMediaType = "application/vnd.banyan.layer.index.v1+zstd";

struct Xattr {
  std::string name;  // with its prefix
  std::string value;
  friend auto operator<=>(const Xattr&, const Xattr&) = default;
};

enum class EntryKind : uint8_t {
  kDirectory = 0,
  kRegular = 1,
  kSymlink = 2,
  kCharacterDevice = 3,
  kBlockDevice = 4,
  kFifo = 5,
  kLinkToEntry = 6,
  kLinkToLower = 7,
  kWhiteout = 8,
};

// See the Entry message of proto/image_format.proto for the meaning of each field.
struct Entry {
  uint32_t parent = 0;
  std::string name;
  EntryKind kind = EntryKind::kDirectory;
  uint16_t mode = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  int64_t mtime_seconds = 0;
  uint32_t mtime_nanoseconds = 0;
  uint64_t size = 0;
  uint64_t first_block = 0;
  uint32_t device_major = 0;
  uint32_t device_minor = 0;
  std::string target;
  uint32_t link_entry = 0;
  std::vector<Xattr> xattrs;
  bool opaque = false;
  bool implied = false;
  friend bool operator==(const Entry&, const Entry&) = default;
};

struct Chunking {
  uint32_t min_blocks = 16;      // 64 KiB
  uint32_t average_blocks = 64;  // 256 KiB
  uint32_t max_blocks = 128;     // 512 KiB
  friend bool operator==(const Chunking&, const Chunking&) = default;
};

struct LayerIndex {
  std::string converter_version;
  Digest source_digest;
  Digest diff_id;
  Digest blob_digest;
  uint64_t blob_bytes = 0;
  uint64_t device_blocks = 0;
  Chunking chunking;
  ChunkTable chunks;
  std::vector<Entry>
      entries;  // [0] is the root; parents before children, children of one directory sorted by name bytes
};

// The path of an entry from the root, without a leading slash; empty for the root.
std::string PathOf(const LayerIndex& index, uint32_t entry);

// Writes the index as the blob that is stored (zstd). The same index gives the same bytes.
Status EncodeLayerIndex(const LayerIndex& index, ByteSink& out);
// Parses and checks everything that can be checked without the data: framing, limits, order, parents, links, extents.
// Any bytes give an index or an error, in memory proportional to what was read.
Result<LayerIndex> DecodeLayerIndex(ByteSource& in);

}  // namespace banyan::image_format
