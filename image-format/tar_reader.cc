#include "image-format/tar_reader.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include <fmt/format.h>

#include "common/units.h"
#include "image-format/tar_header.h"

namespace banyan::image_format {

namespace {

constexpr size_t kBufferBytes = 256 * kKiB;
constexpr size_t kMaxSegments = 1 << 17;
constexpr std::string_view kXattrPrefix = "SCHILY.xattr.";

std::string_view Find(const std::map<std::string, std::string>& records, const std::string& key) {
  const auto it = records.find(key);
  return it == records.end() ? std::string_view() : std::string_view(it->second);
}

std::optional<TarType> TypeOf(char flag) {
  switch (flag) {
    case '0':
    case '\0':
    case '7':  // contiguous, a hint to the file system
    case 'S':  // GNU sparse
      return TarType::kFile;
    case '1':
      return TarType::kHardLink;
    case '2':
      return TarType::kSymlink;
    case '3':
      return TarType::kCharacterDevice;
    case '4':
      return TarType::kBlockDevice;
    case '5':
      return TarType::kDirectory;
    case '6':
      return TarType::kFifo;
    default:
      return std::nullopt;
  }
}

bool IsDevice(TarType type) { return type == TarType::kCharacterDevice || type == TarType::kBlockDevice; }

// The ustar prefix field, or what stands in its place in the other dialects.
std::string_view PrefixOf(std::string_view block) {
  switch (DialectOf(block)) {
    case TarDialect::kUstar:
      return TarText(block.substr(345, 155));
    case TarDialect::kStar:
      return TarText(block.substr(345, 131));
    case TarDialect::kGnu: {
      // GNU keeps times here; Go's writer before 1.9 put a prefix into headers with GNU's magic.
      const bool times = TarNumber(block.substr(345, 12)) && TarNumber(block.substr(357, 12));
      return times ? std::string_view() : TarText(block.substr(345, 155));
    }
    case TarDialect::kV7:
      break;
  }
  return {};
}

}  // namespace

struct TarReader::Pending {
  std::map<std::string, std::string> pax;
  std::string long_name;
  std::string long_linkname;
  bool any = false;
};

TarReader::TarReader(ByteSource& source) : source_(source), buffer_(kBufferBytes) {}

tl::unexpected<Error> TarReader::Bad(std::string_view what) const {
  const std::string entry = entry_name_.empty() ? "" : fmt::format(" ('{}')", PrintableName(entry_name_));
  return Fail(Code::kInvalidArgument, fmt::format("tar: entry at byte {}{}: {}", header_offset_, entry, what));
}

tl::unexpected<Error> TarReader::Truncated(std::string_view what) const {
  const std::string entry = entry_name_.empty() ? "" : fmt::format(" ('{}')", PrintableName(entry_name_));
  return Fail(Code::kDataLoss,
              fmt::format("tar: entry at byte {}{}: archive ends in its {}", header_offset_, entry, what));
}

Status TarReader::Fill() {
  if (begin_ < end_ || at_source_end_) return {};
  begin_ = 0;
  end_ = 0;
  BANYAN_ASSIGN(end_, source_.Read(buffer_));
  at_source_end_ = end_ == 0;
  return {};
}

// The next bytes, at most `limit` and at least one but at the end; consumed at once.
Result<std::span<const std::byte>> TarReader::Buffered(uint64_t limit) {
  BANYAN_TRY(Fill());
  const size_t count = std::min<uint64_t>(limit, end_ - begin_);
  const std::span<const std::byte> view(buffer_.data() + begin_, count);
  begin_ += count;
  position_ += count;
  return view;
}

// The bytes read: kTarBlockBytes unless the source ends.
Result<size_t> TarReader::ReadBlock(std::string& block) {
  block.clear();
  while (block.size() < kTarBlockBytes) {
    BANYAN_ASSIGN(const std::span<const std::byte> piece, Buffered(kTarBlockBytes - block.size()));
    if (piece.empty()) break;
    block.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  }
  return block.size();
}

Status TarReader::SkipBody() {
  while (stored_left_ > 0) {
    BANYAN_ASSIGN(const std::span<const std::byte> piece, Buffered(stored_left_));
    if (piece.empty()) return Truncated("contents");
    stored_left_ -= piece.size();
  }
  while (padding_ > 0) {
    BANYAN_ASSIGN(const std::span<const std::byte> piece, Buffered(padding_));
    if (piece.empty()) break;  // Some writers leave out the last padding.
    padding_ -= piece.size();
  }
  padding_ = 0;
  return {};
}

// False at the end of the archive.
Result<bool> TarReader::ReadHeaderBlock(std::string& block) {
  header_offset_ = position_;
  entry_name_.clear();
  BANYAN_ASSIGN(size_t size, ReadBlock(block));
  if (size == 0) return false;
  if (size < kTarBlockBytes) return Truncated("header");
  if (IsZeroBlock(block)) {
    BANYAN_ASSIGN(size, ReadBlock(block));
    if (size == 0) return false;
    if (size < kTarBlockBytes) return Truncated("end blocks");
    if (!IsZeroBlock(block)) return Bad("a lone zero block");
    return false;
  }
  if (!HasValidChecksum(block)) return Bad("not a tar header (wrong checksum)");
  return true;
}

// The contents of a PAX or GNU long-name header.
Result<std::string> TarReader::ReadExtension(std::string_view block, std::string_view what) {
  const std::optional<int64_t> size = TarNumber(block.substr(124, 12));
  if (!size || *size < 0) return Bad(fmt::format("{} with a bad size", what));
  if (static_cast<uint64_t>(*size) > kMaxTarExtensionBytes) {
    return Bad(fmt::format("{} of {} bytes, at most {} are allowed", what, *size, kMaxTarExtensionBytes));
  }
  std::string text;
  const auto wanted = static_cast<size_t>(*size);
  while (text.size() < wanted) {
    BANYAN_ASSIGN(const std::span<const std::byte> piece, Buffered(wanted - text.size()));
    if (piece.empty()) return Truncated(what);
    text.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  }
  padding_ = (kTarBlockBytes - wanted % kTarBlockBytes) % kTarBlockBytes;
  BANYAN_TRY(SkipBody());
  return text;
}

Result<bool> TarReader::Next(TarHeader& header) {
  if (ended_) return false;
  BANYAN_TRY(SkipBody());
  std::string block;
  Pending pending;
  while (true) {
    BANYAN_ASSIGN(const bool more, ReadHeaderBlock(block));
    if (!more) {
      ended_ = true;
      if (pending.any) return Bad("extension header without an entry behind it");
      return false;
    }
    switch (block[156]) {
      case 'x':
      case 'g': {
        BANYAN_ASSIGN(const std::string text, ReadExtension(block, "PAX header"));
        auto records = ParsePaxRecords(text);
        if (!records) return Bad(records.error().message);
        if (block[156] == 'g') continue;
        pending.pax = std::move(*records);
        break;
      }
      case 'L': {
        BANYAN_ASSIGN(const std::string text, ReadExtension(block, "long name"));
        pending.long_name = TarText(text);
        break;
      }
      case 'K': {
        BANYAN_ASSIGN(const std::string text, ReadExtension(block, "long link name"));
        pending.long_linkname = TarText(text);
        break;
      }
      default:
        BANYAN_TRY(Assemble(block, pending, header));
        return true;
    }
    pending.any = true;
  }
}

Status TarReader::Assemble(const std::string& block, Pending& pending, TarHeader& header) {
  const std::string_view view = block;
  header = TarHeader();
  header.offset = header_offset_;
  header.name = TarText(view.substr(0, 100));
  header.linkname = TarText(view.substr(157, 100));
  if (const std::string_view prefix = PrefixOf(view); !prefix.empty()) {
    header.name = std::string(prefix) + '/' + header.name;
  }
  if (const auto path = Find(pending.pax, "path"); !path.empty()) header.name = path;
  if (const auto path = Find(pending.pax, "linkpath"); !path.empty()) header.linkname = path;
  if (const auto path = Find(pending.pax, "GNU.sparse.name"); !path.empty()) header.name = path;
  if (!pending.long_name.empty()) header.name = pending.long_name;
  if (!pending.long_linkname.empty()) header.linkname = pending.long_linkname;
  entry_name_ = header.name.substr(0, kMaxTarNameBytes);
  if (header.name.size() > kMaxTarNameBytes || header.linkname.size() > kMaxTarNameBytes) {
    return Bad(fmt::format("a name of more than {} bytes", kMaxTarNameBytes));
  }

  const char flag = block[156];
  const std::optional<TarType> type = TypeOf(flag);
  if (!type) return Bad(fmt::format("type '{}' is not supported", PrintableName({&flag, 1})));
  header.type = *type;
  if (flag == '\0' && header.name.ends_with('/')) header.type = TarType::kDirectory;

  // The header's number, unless a PAX record says otherwise.
  const auto number = [&](size_t offset, size_t size, const char* key) -> std::optional<int64_t> {
    const std::string_view text = key == nullptr ? std::string_view() : Find(pending.pax, key);
    return text.empty() ? TarNumber(view.substr(offset, size)) : DecimalNumber(text);
  };
  const auto mode = number(100, 8, nullptr);
  const auto uid = number(108, 8, "uid");
  const auto gid = number(116, 8, "gid");
  const auto size = number(124, 12, "size");
  if (!mode || !uid || !gid || !size || *size < 0) return Bad("a malformed mode, owner or size");
  // The last id means "leave as is" to chown(2) and can own nothing.
  constexpr int64_t kMaxId = std::numeric_limits<uint32_t>::max() - 1;
  if (*uid < 0 || *uid > kMaxId || *gid < 0 || *gid > kMaxId) {
    return Bad(fmt::format("owner {}:{} does not fit 32 bits", *uid, *gid));
  }
  header.mode = static_cast<uint16_t>(*mode & 07777);
  header.uid = static_cast<uint32_t>(*uid);
  header.gid = static_cast<uint32_t>(*gid);

  if (const std::string_view text = Find(pending.pax, "mtime"); !text.empty()) {
    const std::optional<TarTime> time = PaxTime(text);
    if (!time) return Bad("a malformed mtime");
    header.mtime_seconds = time->seconds;
    header.mtime_nanoseconds = time->nanoseconds;
  } else {
    const auto seconds = number(136, 12, nullptr);
    if (!seconds) return Bad("a malformed mtime");
    header.mtime_seconds = *seconds;
  }
  if (IsDevice(header.type)) {
    const auto major = number(329, 8, nullptr);
    const auto minor = number(337, 8, nullptr);
    constexpr int64_t kMaxNumber = std::numeric_limits<uint32_t>::max();
    if (!major || !minor || *major < 0 || *major > kMaxNumber || *minor < 0 || *minor > kMaxNumber) {
      return Bad("a malformed device number");
    }
    header.device_major = static_cast<uint32_t>(*major);
    header.device_minor = static_cast<uint32_t>(*minor);
  }
  for (auto& [key, value] : pending.pax) {
    if (key.starts_with(kXattrPrefix)) header.xattrs.emplace(key.substr(kXattrPrefix.size()), std::move(value));
  }

  stored_left_ = 0;
  padding_ = 0;
  segments_.clear();
  segment_ = 0;
  contents_position_ = 0;
  contents_bytes_ = 0;
  if (header.type != TarType::kFile) return {};
  stored_left_ = static_cast<uint64_t>(*size);
  padding_ = (kTarBlockBytes - stored_left_ % kTarBlockBytes) % kTarBlockBytes;
  header.size = stored_left_;
  if (flag == 'S') return ReadOldSparseMap(block, header);
  return ReadPaxSparseMap(pending.pax, header);
}

// GNU's first sparse form: four segments in the header, 21 in each block that follows.
Status TarReader::ReadOldSparseMap(const std::string& block, TarHeader& header) {
  const std::optional<int64_t> real_size = TarNumber(std::string_view(block).substr(483, 12));
  if (DialectOf(block) != TarDialect::kGnu || !real_size || *real_size < 0) return Bad("a malformed sparse header");
  header.size = static_cast<uint64_t>(*real_size);
  std::vector<Segment> segments;
  std::string extension;
  std::string_view map = std::string_view(block).substr(386, 4 * 24);
  bool extended = block[482] != 0;
  while (true) {
    for (; !map.empty() && map[0] != '\0'; map.remove_prefix(24)) {
      const std::optional<int64_t> offset = TarNumber(map.substr(0, 12));
      const std::optional<int64_t> bytes = TarNumber(map.substr(12, 12));
      if (!offset || !bytes || *offset < 0 || *bytes < 0) return Bad("a malformed sparse map");
      segments.push_back({static_cast<uint64_t>(*offset), static_cast<uint64_t>(*bytes)});
    }
    if (!extended) break;
    if (segments.size() > kMaxSegments) return Bad("too long a sparse map");
    BANYAN_ASSIGN(const size_t size, ReadBlock(extension));
    if (size < kTarBlockBytes) return Truncated("sparse map");
    map = std::string_view(extension).substr(0, 21 * 24);
    if (map[0] == '\0') return Bad("an empty block of the sparse map");
    extended = extension[504] != 0;
  }
  return SetSegments(std::move(segments), header);
}

Status TarReader::ReadPaxSparseMap(const std::map<std::string, std::string>& records, TarHeader& header) {
  const std::string_view major = Find(records, "GNU.sparse.major");
  const std::string_view minor = Find(records, "GNU.sparse.minor");
  const std::string_view map = Find(records, "GNU.sparse.map");
  const bool version_1 = major == "1" && minor == "0";
  const bool version_0 = (major == "0" && (minor == "0" || minor == "1")) ||
                         (major.empty() && minor.empty() && records.contains("GNU.sparse.map"));
  if (!version_0 && !version_1) return SetSegments({{0, header.size}}, header);

  std::string_view size_text = Find(records, "GNU.sparse.size");
  if (size_text.empty()) size_text = Find(records, "GNU.sparse.realsize");
  if (!size_text.empty()) {
    const std::optional<int64_t> size = DecimalNumber(size_text);
    if (!size || *size < 0) return Bad("a malformed sparse size");
    header.size = static_cast<uint64_t>(*size);
  }
  if (version_1) return ReadSparseMap10(header);

  std::vector<Segment> segments;
  for (std::string_view rest = map; !rest.empty();) {
    uint64_t pair[2];
    for (uint64_t& value : pair) {
      const size_t comma = std::min(rest.find(','), rest.size());
      const std::optional<int64_t> number = DecimalNumber(rest.substr(0, comma));
      if (!number || *number < 0) return Bad("a malformed sparse map");
      value = static_cast<uint64_t>(*number);
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
    segments.push_back({pair[0], pair[1]});
  }
  const std::string_view count = Find(records, "GNU.sparse.numblocks");
  if (DecimalNumber(count) != static_cast<int64_t>(segments.size())) return Bad("a sparse map of the wrong length");
  return SetSegments(std::move(segments), header);
}

// PAX sparse 1.0: the map is text at the start of the body, padded to a block.
Status TarReader::ReadSparseMap10(TarHeader& header) {
  std::string block;
  size_t used = 0;
  uint64_t read = 0;
  const auto next_number = [&]() -> Result<uint64_t> {
    uint64_t value = 0;
    for (size_t digits = 0;; ++used) {
      if (used == block.size()) {
        if (stored_left_ < kTarBlockBytes || read >= kMaxTarExtensionBytes) return Bad("a malformed sparse map");
        BANYAN_ASSIGN(const size_t size, ReadBlock(block));
        if (size < kTarBlockBytes) return Truncated("sparse map");
        stored_left_ -= kTarBlockBytes;
        read += kTarBlockBytes;
        used = 0;
      }
      if (block[used] == '\n' && digits > 0) break;
      if (block[used] < '0' || block[used] > '9' || ++digits > 18) return Bad("a malformed sparse map");
      value = value * 10 + static_cast<uint64_t>(block[used] - '0');
    }
    ++used;
    return value;
  };
  BANYAN_ASSIGN(const uint64_t count, next_number());
  if (count > kMaxSegments) return Bad("too long a sparse map");
  std::vector<Segment> segments;
  for (uint64_t i = 0; i < count; ++i) {
    Segment segment;
    BANYAN_ASSIGN(segment.offset, next_number());
    BANYAN_ASSIGN(segment.bytes, next_number());
    segments.push_back(segment);
  }
  return SetSegments(std::move(segments), header);
}

// Segments must lie in order, without overlap, within the contents, and use the whole body.
Status TarReader::SetSegments(std::vector<Segment> segments, const TarHeader& header) {
  uint64_t end = 0;
  uint64_t stored = 0;
  for (const Segment& segment : segments) {
    if (segment.offset < end || segment.offset > header.size || segment.bytes > header.size - segment.offset) {
      return Bad("a sparse map whose parts overlap or lie outside the file");
    }
    end = segment.offset + segment.bytes;
    stored += segment.bytes;
  }
  if (stored != stored_left_) {
    return Bad(fmt::format("a sparse map of {} bytes for a body of {}", stored, stored_left_));
  }
  segments_ = std::move(segments);
  contents_bytes_ = header.size;
  return {};
}

Result<TarBody> TarReader::ReadBody() {
  while (segment_ < segments_.size() && contents_position_ == segments_[segment_].offset + segments_[segment_].bytes) {
    ++segment_;
  }
  const bool in_hole = segment_ == segments_.size() || contents_position_ < segments_[segment_].offset;
  if (in_hole) {
    const uint64_t end = segment_ == segments_.size() ? contents_bytes_ : segments_[segment_].offset;
    const uint64_t hole = end - contents_position_;
    contents_position_ = end;
    return TarBody{{}, hole};
  }
  const Segment& segment = segments_[segment_];
  BANYAN_ASSIGN(const std::span<const std::byte> data, Buffered(segment.offset + segment.bytes - contents_position_));
  if (data.empty()) return Truncated("contents");
  contents_position_ += data.size();
  stored_left_ -= data.size();
  return TarBody{data, 0};
}

Status TarReader::Drain() {
  while (true) {
    BANYAN_ASSIGN(const std::span<const std::byte> piece, Buffered(kBufferBytes));
    if (piece.empty()) return {};
  }
}

}  // namespace banyan::image_format
