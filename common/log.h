// Logging: spdlog to standard error, with the level from $BANYAN_LOG (trace, debug, info, warn, error, off; default
// warn for the command line, info for daemons).
#pragma once

#include <string_view>

#include <spdlog/spdlog.h>

namespace banyan {

// Call once, first thing in main().
void InitLogging(std::string_view program, spdlog::level::level_enum default_level);

}  // namespace banyan
