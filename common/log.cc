#include "common/log.h"

#include <cstdlib>
#include <string>

#include <spdlog/sinks/stdout_sinks.h>

namespace banyan {

void InitLogging(std::string_view program, spdlog::level::level_enum default_level) {
  auto logger = spdlog::stderr_logger_mt(std::string(program));
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %l %n: %v", spdlog::pattern_time_type::utc);
  const char* level = std::getenv("BANYAN_LOG");
  logger->set_level(level != nullptr ? spdlog::level::from_str(level) : default_level);
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace banyan
