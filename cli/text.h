// Numbers, sizes and tables as people read them.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace banyan::cli {

// "512 B", "1.4 kB", "62.9 MB": powers of 1000, three significant digits.
std::string HumanBytes(uint64_t bytes);
// "0.4 s", "12 s", "3 min 20 s", "2 h 5 min".
std::string HumanTime(std::chrono::milliseconds time);
// "12.3 %"; "-" when `whole` is 0.
std::string Percent(uint64_t part, uint64_t whole);
// "2.91"; "-" when `after` is 0.
std::string Ratio(uint64_t before, uint64_t after);
// `bytes` with whatever could upset a terminal or a line-based reader (controls, backslash, bytes beyond ASCII that are
// not valid UTF-8) written as \n, \t or \xHH.
std::string Printable(std::string_view bytes);

// Columns padded to their widest cell; the first is left-aligned, the others right-aligned. Externally synchronised.
class Table {
 public:
  explicit Table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
  void Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  // Each line ends with a line feed.
  std::string Render() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace banyan::cli
