#include "snapshotter/mount_shape.h"

#include <unistd.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace banyan::snapshotter {

std::vector<Mount> ShapeMounts(const MountParts& parts) {
  const bool active = parts.kind == Kind::kActive;
  if (parts.lowers.empty()) return {{"bind", parts.directory + "/fs", {active ? "rw" : "ro", "rbind"}}};
  if (!active && parts.lowers.size() == 1) return {{"bind", parts.lowers.front(), {"ro", "rbind"}}};

  std::vector<std::string> options;
  if (parts.index_off) options.emplace_back("index=off");
  if (active) {
    options.push_back(fmt::format("workdir={}/work", parts.directory));
    options.push_back(fmt::format("upperdir={}/fs", parts.directory));
  }
  options.push_back(fmt::format("lowerdir={}", fmt::join(parts.lowers, ":")));
  return {{"overlay", "overlay", std::move(options)}};
}

bool KernelHasOverlayIndex() { return ::access("/sys/module/overlay/parameters/index", F_OK) == 0; }

}  // namespace banyan::snapshotter
