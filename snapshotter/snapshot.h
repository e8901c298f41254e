// What containerd knows of a snapshot, as values.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "snapshotter/lazy_images.h"

namespace banyan::snapshotter {

// By containerd's numbers.
enum class Kind : uint8_t { kView = 1, kActive = 2, kCommitted = 3 };

// "view", "active", "committed": as filters write it.
std::string_view KindName(Kind kind);

using Labels = std::map<std::string, std::string>;
using Time = std::chrono::time_point<std::chrono::system_clock, std::chrono::nanoseconds>;

struct SnapshotInfo {
  std::string name;    // a committed one's name, another's key
  std::string parent;  // empty: none
  Kind kind = Kind::kActive;
  Labels labels;
  Time created;
  Time updated;
  friend bool operator==(const SnapshotInfo&, const SnapshotInfo&) = default;
};

// What containerd mounts: "bind" or "overlay".
struct Mount {
  std::string type;
  std::string source;
  std::vector<std::string> options;
  friend bool operator==(const Mount&, const Mount&) = default;
};

// The label by which containerd names the chain ID of the layer it is about to unpack.
inline constexpr std::string_view kReferenceLabel = "containerd.io/snapshot.ref";

}  // namespace banyan::snapshotter
