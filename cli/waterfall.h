// A cold start as text: one line a stage, its bar at the place and of the length that it had. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "proto/agent.pb.h"

namespace banyan::cli {

struct Stage {
  std::string name;
  uint64_t begin = 0;  // microseconds since the start began
  uint64_t end = 0;
};

// The stages that were reached, in the order of a start. Each begins where the latest earlier one ended, but never
// after its own end: stages may overlap, as when the mount is made before containerd asks for it.
std::vector<Stage> StagesOf(const proto::agent::Start& start);

// The whole block of one start, `width` columns at most (at least 60); each line ends with a line feed.
std::string RenderStart(const proto::agent::Start& start, size_t width);

// "12.3 ms", "4.21 s".
std::string HumanMicros(uint64_t micros);

}  // namespace banyan::cli
