// What must hold in every layer index, whoever made it: the merger and the EROFS writer rely on it without looking
// again. docs/format.md §"Layer index" lists the same rules.
#pragma once

#include <cstdint>
#include <vector>

#include "common/result.h"
#include "common/units.h"
#include "image-format/layer_index.h"

namespace banyan::image_format {

inline constexpr uint64_t kMaxEntries = 1U << 24;
inline constexpr size_t kMaxNameBytes = 255;
inline constexpr size_t kMaxPathBytes = 4095;  // PATH_MAX without the NUL
inline constexpr size_t kMaxXattrNameBytes = 255;
inline constexpr size_t kMaxXattrValueBytes = 65535;
inline constexpr size_t kMaxXattrTotalBytes = 192 * 1024;  // names and values of one inode; EROFS holds 256 KiB
inline constexpr uint32_t kMaxDeviceMajor = 0xfff;
inline constexpr uint32_t kMaxDeviceMinor = 0xfffff;

// One path component: 1 to 255 bytes, neither "." nor "..", no '/' and no NUL.
bool IsValidName(std::string_view name);
// Whether EROFS can hold an attribute of this name, and it may act: "user.", "trusted.", "security." and the two POSIX
// ACLs, but not overlayfs's own ("trusted.overlay.", "user.overlay."), which would act wherever the image is stacked.
bool IsKeptXattr(std::string_view name);

// Checks entries in the order of the table while the caller fills index.entries. Externally synchronised.
class IndexChecker {
 public:
  // `index` must outlive the checker.
  explicit IndexChecker(const LayerIndex& index) : index_(index) {}

  Status CheckHeader() const;
  // `entry` is the one that follows index.entries; the caller appends it when it passes.
  Status CheckNext(const Entry& entry);
  // After the last entry: links to entries.
  Status CheckLinks() const;

 private:
  Status CheckPlace(const Entry& entry) const;

  const LayerIndex& index_;
  std::vector<uint32_t> last_child_;  // of each entry, 0: none yet
  std::vector<uint16_t> path_bytes_;
};

}  // namespace banyan::image_format
