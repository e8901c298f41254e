#include "cli/waterfall.h"

#include <algorithm>
#include <ctime>
#include <optional>

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "cli/terminal.h"
#include "cli/text.h"

namespace banyan::cli {

namespace {

constexpr size_t kNameWidth = 16;
constexpr size_t kTimesWidth = 24;

std::string Bar(const Stage& stage, uint64_t total, size_t width) {
  if (total == 0) return std::string(width, ' ');
  const auto column = [&](uint64_t at) { return static_cast<size_t>(at * width / total); };
  const size_t begin = std::min(column(stage.begin), width - 1);
  const size_t end = std::clamp(column(stage.end), begin + 1, width);  // an instant is one column
  return std::string(begin, ' ') + std::string(end - begin, '=') + std::string(width - end, ' ');
}

std::string SourcesLine(const proto::agent::Start& start) {
  std::string line;
  for (const auto& source : start.sources()) {
    if (source.chunks() == 0 && source.requests() == 0) continue;
    line += fmt::format("{}{}: {} in {} chunks, {} requests", line.empty() ? "" : "; ", source.source(),
                        HumanBytes(source.compressed_bytes()), source.chunks(), source.requests());
  }
  return line.empty() ? "nothing was read" : line;
}

}  // namespace

std::string HumanMicros(uint64_t micros) {
  const double milliseconds = static_cast<double>(micros) / 1000;
  return milliseconds < 1000 ? fmt::format("{:.1f} ms", milliseconds) : fmt::format("{:.2f} s", milliseconds / 1000);
}

std::vector<Stage> StagesOf(const proto::agent::Start& start) {
  std::vector<Stage> stages;
  uint64_t latest = 0;
  const auto add = [&](const char* name, bool reached, uint64_t end) {
    if (!reached) return;
    stages.push_back({name, std::min(latest, end), end});
    latest = std::max(latest, end);
  };
  add("resolve", start.has_resolved(), start.resolved());
  add("map", start.has_map(), start.map());
  add("metadata", start.has_metadata(), start.metadata());
  add("mount", start.has_mounted(), start.mounted());
  add("container", start.has_prepared(), start.prepared());
  add("first read", start.has_first_read(), start.first_read());
  add("last cold read", start.has_last_cold_read(), start.last_cold_read());
  return stages;
}

std::string RenderStart(const proto::agent::Start& start, size_t width) {
  width = std::max<size_t>(width, 60);
  const std::vector<Stage> stages = StagesOf(start);
  uint64_t total = 0;
  for (const Stage& stage : stages) total = std::max(total, stage.end);
  const auto began = static_cast<std::time_t>(start.began_unix_micros() / 1'000'000);
  std::tm local{};
  ::localtime_r(&began, &local);
  std::string out = fmt::format("{}\n", Shorten(Printable(start.reference()), width));
  out += fmt::format("  {:%Y-%m-%d %H:%M:%S}, {}\n", local,
                     !start.has_first_read() ? "nothing read yet"
                     : start.quiet()         ? fmt::format("quiet after {}", HumanMicros(total))
                                             : "still reading for the first time");
  const size_t bar_width = width - kNameWidth - kTimesWidth - 4;
  for (const Stage& stage : stages) {
    out += fmt::format("  {:<{}}|{}|{:>10} {:>10}\n", stage.name, kNameWidth - 1, Bar(stage, total, bar_width),
                       HumanMicros(stage.end), fmt::format("+{}", HumanMicros(stage.end - stage.begin)));
  }
  out += fmt::format("  {}\n", SourcesLine(start));
  out += fmt::format("  touched {} chunks, {} compressed\n", start.touched_chunks(),
                     HumanBytes(start.touched_compressed_bytes()));
  return out;
}

}  // namespace banyan::cli
