// How wide output may be, and how it is made to fit.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace banyan::cli {

// Columns of the terminal at `fd`; 0 when it is none (then nothing is cut).
size_t TerminalWidth(int fd);

// At most `width` bytes, the middle left out as "..": both ends of an image's name say something. 0: as it is.
std::string Shorten(std::string_view text, size_t width);

// A table as cli/text.h renders it. When it is wider than `width` (0: any width), cells of the column `flexible` are
// shortened until it fits, to 12 at least; when that is not enough, columns are left out, the last first, and a line
// below names them.
using Rows = std::vector<std::vector<std::string>>;  // the first is the header
std::string FitTable(Rows rows, size_t flexible, size_t width);

}  // namespace banyan::cli
