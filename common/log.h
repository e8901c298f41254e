// Logging: spdlog to standard error, with the level from $BANYAN_LOG (trace, debug, info, warn, error, off; default
// warn for the command line, info for daemons).
#pragma once

#include <string_view>

#include <spdlog/spdlog.h>

#include "common/result.h"

namespace banyan {

// Call once, first thing in main(). A $BANYAN_LOG that is no level counts as absent, with a warning.
void InitLogging(std::string_view program, spdlog::level::level_enum default_level);

// One of the words above; kInvalidArgument for any other (spdlog's own parser takes those for "off").
Result<spdlog::level::level_enum> ParseLogLevel(std::string_view text);

// The level of a configuration that has been checked. $BANYAN_LOG outdoes it, also when the configuration is read
// again.
void SetLogLevel(std::string_view level);

}  // namespace banyan
