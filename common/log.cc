#include "common/log.h"

#include <cstdlib>
#include <optional>
#include <string>

#include <fmt/format.h>
#include <spdlog/sinks/stdout_sinks.h>

namespace banyan {
namespace {

// What $BANYAN_LOG says; nothing when it is not set.
std::optional<Result<spdlog::level::level_enum>> LevelOfEnvironment() {
  const char* const text = std::getenv("BANYAN_LOG");
  if (text == nullptr) return std::nullopt;
  return ParseLogLevel(text);
}

}  // namespace

Result<spdlog::level::level_enum> ParseLogLevel(std::string_view text) {
  struct Level {
    std::string_view name;
    spdlog::level::level_enum level;
  };
  constexpr Level kLevels[] = {{"trace", spdlog::level::trace}, {"debug", spdlog::level::debug},
                               {"info", spdlog::level::info},   {"warn", spdlog::level::warn},
                               {"error", spdlog::level::err},   {"off", spdlog::level::off}};
  for (const Level& level : kLevels) {
    if (level.name == text) return level.level;
  }
  return Fail(Code::kInvalidArgument, fmt::format("'{}' is no level (trace, debug, info, warn, error, off)", text));
}

void InitLogging(std::string_view program, spdlog::level::level_enum default_level) {
  auto logger = spdlog::stderr_logger_mt(std::string(program));
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %l %n: %v", spdlog::pattern_time_type::utc);
  const auto level = LevelOfEnvironment();
  logger->set_level(level && *level ? **level : default_level);
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
  if (level && !*level) spdlog::warn("BANYAN_LOG: {}", level->error().message);
}

void SetLogLevel(std::string_view level) {
  if (const auto outdone = LevelOfEnvironment(); outdone && *outdone) return;
  if (const auto parsed = ParseLogLevel(level)) spdlog::set_level(*parsed);
}

}  // namespace banyan
