#include "image-format/layer_index_check.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace banyan::image_format {

namespace {

tl::unexpected<Error> Bad(size_t entry, std::string_view what) {
  return Fail(Code::kInvalidArgument, fmt::format("layer index: entry {}: {}", entry, what));
}

bool IsInode(EntryKind kind) { return kind <= EntryKind::kFifo; }

// A cleaned relative path: valid names joined by single slashes.
bool IsCleanPath(std::string_view path) {
  if (path.size() > kMaxPathBytes) return false;
  while (true) {
    const size_t slash = path.find('/');
    if (!IsValidName(path.substr(0, slash))) return false;
    if (slash == std::string_view::npos) return true;
    path.remove_prefix(slash + 1);
  }
}

std::string_view XattrFault(const std::vector<Xattr>& xattrs) {
  size_t total = 0;
  for (size_t i = 0; i < xattrs.size(); ++i) {
    const Xattr& xattr = xattrs[i];
    if (!IsKeptXattr(xattr.name)) return "xattr of a name that is not kept";
    if (xattr.value.size() > kMaxXattrValueBytes) return "xattr value too long";
    if (i > 0 && xattrs[i - 1].name >= xattr.name) return "xattrs are not sorted";
    total += xattr.name.size() + xattr.value.size();
  }
  return total > kMaxXattrTotalBytes ? "too many bytes of xattrs" : "";
}

std::string_view TargetFault(const Entry& entry) {
  switch (entry.kind) {
    case EntryKind::kSymlink:
      if (entry.target.empty() || entry.target.size() > kMaxPathBytes) return "symlink target of a wrong length";
      return entry.target.find('\0') != std::string::npos ? "NUL in a symlink target" : "";
    case EntryKind::kLinkToLower:
      return IsCleanPath(entry.target) ? "" : "link target is not a clean path";
    default:
      return entry.target.empty() ? "" : "target on an entry that takes none";
  }
}

// Fields that an entry of this kind must leave empty.
std::string_view StrayField(const Entry& entry) {
  const bool device = entry.kind == EntryKind::kCharacterDevice || entry.kind == EntryKind::kBlockDevice;
  if (entry.kind != EntryKind::kRegular && (entry.size != 0 || entry.first_block != 0)) return "size without a file";
  if (!device && (entry.device_major != 0 || entry.device_minor != 0)) return "device number without a device";
  if (entry.device_major > kMaxDeviceMajor || entry.device_minor > kMaxDeviceMinor) return "device number too large";
  if (entry.kind != EntryKind::kDirectory && (entry.opaque || entry.implied)) return "mark of a directory";
  if (entry.kind != EntryKind::kLinkToEntry && entry.link_entry != 0) return "link number without a link";
  if (!IsInode(entry.kind) && !entry.xattrs.empty()) return "xattrs without an inode";
  return "";
}

}  // namespace

bool IsValidName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes && name != "." && name != ".." &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

bool IsKeptXattr(std::string_view name) {
  if (name.size() > kMaxXattrNameBytes || name.find('\0') != std::string_view::npos) return false;
  if (name == "system.posix_acl_access" || name == "system.posix_acl_default") return true;
  for (const std::string_view refused : {"trusted.overlay.", "user.overlay."}) {
    if (name.starts_with(refused)) return false;
  }
  for (const std::string_view kept : {"user.", "trusted.", "security."}) {
    if (name.starts_with(kept)) return name.size() > kept.size();
  }
  return false;
}

Status IndexChecker::CheckHeader() const {
  const auto bad = [](std::string message) {
    return Fail(Code::kInvalidArgument, "layer index: " + std::move(message));
  };
  const Chunking& chunking = index_.chunking;
  if (chunking.min_blocks == 0 || chunking.min_blocks > chunking.average_blocks ||
      chunking.average_blocks > chunking.max_blocks || chunking.max_blocks > kMaxChunkBlocks) {
    return bad(fmt::format("chunking of {}, {} and {} blocks", chunking.min_blocks, chunking.average_blocks,
                           chunking.max_blocks));
  }
  if (index_.device_blocks != index_.chunks.device_blocks()) {
    return bad(fmt::format("device of {} blocks, but its chunks have {}", index_.device_blocks,
                           index_.chunks.device_blocks()));
  }
  if (index_.blob_bytes != index_.chunks.blob_bytes()) {
    return bad(fmt::format("blob of {} bytes, but its chunks have {}", index_.blob_bytes, index_.chunks.blob_bytes()));
  }
  return {};
}

Status IndexChecker::CheckPlace(const Entry& entry) const {
  const size_t number = index_.entries.size();
  if (number == 0) {
    if (entry.kind != EntryKind::kDirectory || !entry.name.empty() || entry.parent != 0) {
      return Bad(number, "is not a root directory");
    }
    return {};
  }
  if (!IsValidName(entry.name)) return Bad(number, "name is not a path component");
  if (entry.parent >= number) return Bad(number, "stands before its parent");
  if (index_.entries[entry.parent].kind != EntryKind::kDirectory) return Bad(number, "parent is not a directory");
  const uint32_t sibling = last_child_[entry.parent];
  if (sibling != 0 && index_.entries[sibling].name >= entry.name) return Bad(number, "names are not sorted");
  if (path_bytes_[entry.parent] + 1 + entry.name.size() > kMaxPathBytes + 1) return Bad(number, "path too long");
  return {};
}

Status IndexChecker::CheckNext(const Entry& entry) {
  const size_t number = index_.entries.size();
  BANYAN_TRY(CheckPlace(entry));
  if (entry.mtime_nanoseconds > 999'999'999) return Bad(number, "nanoseconds beyond a second");
  if (const std::string_view fault = StrayField(entry); !fault.empty()) return Bad(number, fault);
  if (const std::string_view fault = TargetFault(entry); !fault.empty()) return Bad(number, fault);
  if (const std::string_view fault = XattrFault(entry.xattrs); !fault.empty()) return Bad(number, fault);
  if (entry.kind == EntryKind::kRegular) {
    const uint64_t blocks = BlocksFor(entry.size);
    if (blocks > index_.device_blocks || entry.first_block > index_.device_blocks - blocks) {
      return Bad(number, "contents beyond the device");
    }
  }
  path_bytes_.push_back(static_cast<uint16_t>(number == 0 ? 0 : path_bytes_[entry.parent] + 1 + entry.name.size()));
  last_child_.push_back(0);
  if (number > 0) last_child_[entry.parent] = static_cast<uint32_t>(number);
  return {};
}

Status IndexChecker::CheckLinks() const {
  for (size_t i = 0; i < index_.entries.size(); ++i) {
    const Entry& entry = index_.entries[i];
    if (entry.kind != EntryKind::kLinkToEntry) continue;
    if (entry.link_entry >= index_.entries.size()) return Bad(i, "link to an entry that does not exist");
    const EntryKind kind = index_.entries[entry.link_entry].kind;
    if (!IsInode(kind) || kind == EntryKind::kDirectory) return Bad(i, "link to what cannot be linked");
  }
  return {};
}

}  // namespace banyan::image_format
