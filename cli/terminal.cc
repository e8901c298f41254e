#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "cli/text.h"

namespace banyan::cli {

namespace {

constexpr size_t kLeastCell = 12;

std::string Render(const Rows& rows, size_t flexible, size_t cell_width) {
  const auto cut = [&](std::vector<std::string> row) {
    if (flexible < row.size()) row[flexible] = Shorten(row[flexible], cell_width);
    return row;
  };
  Table table(cut(rows.front()));
  for (size_t i = 1; i < rows.size(); ++i) table.Add(cut(rows[i]));
  return table.Render();
}

size_t Width(const std::string& text) {
  size_t widest = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    widest = std::max(widest, end - begin);
    begin = end + 1;
  }
  return widest;
}

// With cells of `flexible` as short as `width` wants, and as kLeastCell lets them be.
std::string RenderShortened(const Rows& rows, size_t flexible, size_t width) {
  std::string text = Render(rows, flexible, 0);
  const size_t present = Width(text);
  if (present <= width) return text;
  size_t cell = 0;
  for (const auto& row : rows) {
    if (flexible < row.size()) cell = std::max(cell, row[flexible].size());
  }
  const size_t excess = present - width;
  return Render(rows, flexible, std::max(kLeastCell, cell > excess ? cell - excess : 0));
}

}  // namespace

size_t TerminalWidth(int fd) {
  winsize size{};
  return ::isatty(fd) == 1 && ::ioctl(fd, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

std::string Shorten(std::string_view text, size_t width) {
  if (width == 0 || text.size() <= width) return std::string(text);
  if (width <= 2) return std::string(text.substr(0, width));
  const size_t tail = (width - 2) / 2;
  const size_t head = width - 2 - tail;
  return std::string(text.substr(0, head)) + ".." + std::string(text.substr(text.size() - tail));
}

std::string FitTable(Rows rows, size_t flexible, size_t width) {
  if (rows.empty()) return {};
  if (width == 0) return Render(rows, flexible, 0);
  std::string left_out;
  while (true) {
    std::string text = RenderShortened(rows, flexible, width);
    const size_t columns = rows.front().size();
    if (Width(text) <= width || columns <= 2) {
      return left_out.empty() ? text : text + "No room for: " + left_out + " (--json has all)\n";
    }
    const size_t last = flexible + 1 == columns ? columns - 2 : columns - 1;
    if (flexible > last) --flexible;
    const std::string& name = rows.front()[last];
    if (!name.empty()) left_out = name + (left_out.empty() ? "" : ", ") + left_out;
    for (auto& row : rows) {
      if (last < row.size()) row.erase(row.begin() + static_cast<std::ptrdiff_t>(last));
    }
  }
}

}  // namespace banyan::cli
