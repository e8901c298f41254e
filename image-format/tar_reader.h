// Reads a tar as a stream: V7, ustar, GNU and PAX headers, sparse files of every kind.
//
// It follows Go's archive/tar, which containerd unpacks with, wherever readers disagree: PAX global headers are checked
// but do not apply to later entries; of a long name given twice, GNU's wins; links, directories and devices have no
// body whatever their size field says; a '0' entry with a trailing slash is a file, a NUL ("V7") one a directory; the
// end blocks, and the padding of the last body, may be missing. Nothing is allocated beyond the limits below.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/byte_stream.h"
#include "common/result.h"

namespace banyan::image_format {

inline constexpr uint64_t kMaxTarExtensionBytes = 1 << 20;  // of one PAX or GNU long-name header, or one sparse map
inline constexpr size_t kMaxTarNameBytes = 4096;            // of a name or link target

enum class TarType : uint8_t { kFile, kHardLink, kSymlink, kCharacterDevice, kBlockDevice, kDirectory, kFifo };

struct TarHeader {
  std::string name;
  std::string linkname;
  TarType type = TarType::kFile;
  uint16_t mode = 0;  // 07777
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint64_t size = 0;  // of the contents, holes included; 0 for what has no body
  int64_t mtime_seconds = 0;
  uint32_t mtime_nanoseconds = 0;
  uint32_t device_major = 0;
  uint32_t device_minor = 0;
  std::map<std::string, std::string> xattrs;  // names without "SCHILY.xattr.", unfiltered
  uint64_t offset = 0;                        // in the tar, of the header block itself
};

// A stretch of a file's contents: bytes, or a hole (zeros) where `data` is empty. Both empty: the end.
struct TarBody {
  std::span<const std::byte> data;
  uint64_t hole_bytes = 0;
};

// Externally synchronised.
class TarReader {
 public:
  // `source` must outlive the reader.
  explicit TarReader(ByteSource& source);

  // Skips what is left of the current body and reads the next entry; false at the end of the archive.
  // kInvalidArgument (names the offset, and the entry where known) for a malformed header, kDataLoss for a truncated
  // one.
  Result<bool> Next(TarHeader& header);
  // The next stretch of the current entry's contents; its data is valid until the next call.
  Result<TarBody> ReadBody();
  // Reads what follows the end of the archive, to the end of the source, and drops it.
  Status Drain();

 private:
  struct Segment {
    uint64_t offset = 0;  // in the contents
    uint64_t bytes = 0;
  };
  struct Pending;  // what the extension headers before an entry said

  Status Fill();
  Result<std::span<const std::byte>> Buffered(uint64_t limit);
  Result<size_t> ReadBlock(std::string& block);
  Status SkipBody();
  Result<bool> ReadHeaderBlock(std::string& block);
  Result<std::string> ReadExtension(std::string_view block, std::string_view what);
  Status Assemble(const std::string& block, Pending& pending, TarHeader& header);
  Status ReadOldSparseMap(const std::string& block, TarHeader& header);
  Status ReadPaxSparseMap(const std::map<std::string, std::string>& records, TarHeader& header);
  Status ReadSparseMap10(TarHeader& header);
  Status SetSegments(std::vector<Segment> segments, const TarHeader& header);
  tl::unexpected<Error> Bad(std::string_view what) const;
  tl::unexpected<Error> Truncated(std::string_view what) const;

  ByteSource& source_;
  std::vector<std::byte> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
  bool at_source_end_ = false;
  uint64_t position_ = 0;  // in the tar, of buffer_[begin_]

  // The current entry.
  uint64_t header_offset_ = 0;
  std::string entry_name_;
  uint64_t stored_left_ = 0;  // body bytes not yet read
  uint64_t padding_ = 0;
  std::vector<Segment> segments_;  // the data of the contents, in order; holes are between and behind them
  size_t segment_ = 0;
  uint64_t contents_bytes_ = 0;
  uint64_t contents_position_ = 0;
  bool ended_ = false;
};

}  // namespace banyan::image_format
