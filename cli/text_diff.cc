#include "cli/text_diff.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include <fmt/format.h>

namespace banyan::cli {

namespace {

constexpr size_t kContext = 3;
constexpr size_t kMaxLines = 4000;

struct Line {
  char kind;  // ' ', '-', '+'
  std::string_view text;
};

std::vector<std::string_view> Split(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    lines.push_back(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return lines;
}

// The longest common subsequence, by dynamic programming from the end.
std::vector<Line> Compare(const std::vector<std::string_view>& before, const std::vector<std::string_view>& after) {
  std::vector<Line> lines;
  if (before.size() > kMaxLines || after.size() > kMaxLines) {
    for (const auto text : before) lines.push_back({'-', text});
    for (const auto text : after) lines.push_back({'+', text});
    return lines;
  }
  const size_t width = after.size() + 1;
  std::vector<uint16_t> common((before.size() + 1) * width, 0);
  for (size_t i = before.size(); i-- > 0;) {
    for (size_t j = after.size(); j-- > 0;) {
      common[i * width + j] = before[i] == after[j] ? static_cast<uint16_t>(common[(i + 1) * width + j + 1] + 1)
                                                    : std::max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  size_t i = 0;
  size_t j = 0;
  while (i < before.size() || j < after.size()) {
    if (i < before.size() && j < after.size() && before[i] == after[j]) {
      lines.push_back({' ', before[i]});
      ++i, ++j;
    } else if (j == after.size() || (i < before.size() && common[(i + 1) * width + j] >= common[i * width + j + 1])) {
      lines.push_back({'-', before[i++]});
    } else {
      lines.push_back({'+', after[j++]});
    }
  }
  return lines;
}

bool IsNearChange(const std::vector<Line>& lines, size_t index) {
  const size_t first = index >= kContext ? index - kContext : 0;
  const size_t last = std::min(lines.size(), index + kContext + 1);
  return std::any_of(lines.begin() + static_cast<ptrdiff_t>(first), lines.begin() + static_cast<ptrdiff_t>(last),
                     [](const Line& line) { return line.kind != ' '; });
}

}  // namespace

std::string UnifiedDiff(std::string_view name, std::string_view before, std::string_view after) {
  if (before == after) return {};
  const std::vector<Line> lines = Compare(Split(before), Split(after));
  std::string out = fmt::format("--- {}{}\n+++ {}{}\n", name, before.empty() ? " (absent or empty)" : "", name,
                                after.empty() ? " (removed or empty)" : "");
  size_t old_line = 1;
  bool shown = false;
  for (size_t i = 0; i < lines.size(); ++i) {
    const bool near = IsNearChange(lines, i);
    if (near && !shown) out += fmt::format("@@ line {} @@\n", old_line);
    if (near) out += fmt::format("{}{}\n", lines[i].kind, lines[i].text);
    shown = near;
    if (lines[i].kind != '+') ++old_line;
  }
  return out;
}

}  // namespace banyan::cli
