#include "net/range_header.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

namespace banyan::net {

namespace {

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// Whether `text` begins with "bytes" in any case; removes it.
bool TakeBytesUnit(std::string_view& text) {
  constexpr std::string_view kUnit = "bytes";
  if (text.size() < kUnit.size()) return false;
  for (size_t i = 0; i < kUnit.size(); ++i) {
    if ((text[i] | 0x20) != kUnit[i]) return false;
  }
  text.remove_prefix(kUnit.size());
  return true;
}

}  // namespace

std::optional<uint64_t> ParseDecimal(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

Result<std::optional<ByteRange>> ParseRange(std::string_view header, uint64_t size_bytes) {
  std::string_view text = Trim(header);
  if (!TakeBytesUnit(text) || !text.starts_with('=')) return std::nullopt;
  text = Trim(text.substr(1));
  const size_t dash = text.find('-');
  if (dash == std::string_view::npos || text.find(',') != std::string_view::npos) return std::nullopt;
  const std::string_view first = text.substr(0, dash);
  const std::string_view last = text.substr(dash + 1);
  const auto unsatisfiable = [&] {
    return Fail(Code::kOutOfRange, fmt::format("range '{}' of {} bytes", text.substr(0, 60), size_bytes));
  };
  if (first.empty()) {
    const std::optional<uint64_t> suffix = ParseDecimal(last);
    if (!suffix) return std::nullopt;
    if (*suffix == 0 || size_bytes == 0) return unsatisfiable();
    return ByteRange{size_bytes - std::min(*suffix, size_bytes), size_bytes};
  }
  const std::optional<uint64_t> begin = ParseDecimal(first);
  if (!begin) return std::nullopt;
  uint64_t end = size_bytes;
  if (!last.empty()) {
    const std::optional<uint64_t> inclusive = ParseDecimal(last);
    if (!inclusive || *inclusive < *begin) return std::nullopt;
    if (*inclusive < size_bytes) end = *inclusive + 1;
  }
  if (*begin >= size_bytes) return unsatisfiable();
  return ByteRange{*begin, end};
}

Result<ContentRange> ParseContentRange(std::string_view header) {
  const auto bad = [&] {
    std::string shown(header.substr(0, 60));
    for (char& c : shown) {
      if (c < ' ' || c == '\x7f') c = '?';
    }
    return Fail(Code::kInvalidArgument, fmt::format("Content-Range '{}'", shown));
  };
  std::string_view text = Trim(header);
  if (!TakeBytesUnit(text) || !text.starts_with(' ')) return bad();
  text = Trim(text);
  const size_t dash = text.find('-');
  const size_t slash = text.find('/');
  if (dash == std::string_view::npos || slash == std::string_view::npos || slash < dash) return bad();
  const std::optional<uint64_t> begin = ParseDecimal(text.substr(0, dash));
  const std::optional<uint64_t> inclusive = ParseDecimal(text.substr(dash + 1, slash - dash - 1));
  if (!begin || !inclusive || *inclusive < *begin || *inclusive == UINT64_MAX) return bad();
  ContentRange result{ByteRange{*begin, *inclusive + 1}, std::nullopt};
  const std::string_view complete = text.substr(slash + 1);
  if (complete != "*") {
    result.complete_bytes = ParseDecimal(complete);
    if (!result.complete_bytes || *result.complete_bytes < result.range.end) return bad();
  }
  return result;
}

std::string FormatRange(ByteRange range) { return fmt::format("bytes={}-{}", range.begin, range.end - 1); }

std::string FormatContentRange(ByteRange range, uint64_t size_bytes) {
  return fmt::format("bytes {}-{}/{}", range.begin, range.end - 1, size_bytes);
}

}  // namespace banyan::net
