#include "image-format/tar_header.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

namespace banyan::image_format {

namespace {

constexpr size_t kChecksumOffset = 148;
constexpr size_t kChecksumBytes = 8;

std::string_view Trim(std::string_view text, std::string_view blanks) {
  const size_t begin = text.find_first_not_of(blanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(blanks) - begin + 1);
}

std::optional<int64_t> Base256(std::string_view field) {
  const bool negative = (static_cast<uint8_t>(field[0]) & 0x40) != 0;
  const uint8_t invert = negative ? 0xff : 0;
  uint64_t value = 0;
  for (size_t i = 0; i < field.size(); ++i) {
    uint8_t byte = static_cast<uint8_t>(field[i]) ^ invert;
    if (i == 0) byte &= 0x7f;  // the marker
    if (value >> 56 != 0) return std::nullopt;
    value = value << 8 | byte;
  }
  if (value >> 63 != 0) return std::nullopt;
  return negative ? ~static_cast<int64_t>(value) : static_cast<int64_t>(value);
}

bool IsSparseList(std::string_view key) { return key == "GNU.sparse.offset" || key == "GNU.sparse.numbytes"; }

}  // namespace

std::string PrintableName(std::string_view name) {
  std::string text;
  for (const char c : name.substr(0, 200)) {
    if (c >= ' ' && c != 0x7f) {
      text += c;
    } else {
      text += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  return text;
}

bool IsZeroBlock(std::string_view block) {
  return std::all_of(block.begin(), block.end(), [](char c) { return c == '\0'; });
}

bool HasValidChecksum(std::string_view block) {
  const std::optional<int64_t> stored = TarNumber(block.substr(kChecksumOffset, kChecksumBytes));
  int64_t as_unsigned = 0;
  int64_t as_signed = 0;
  for (size_t i = 0; i < block.size(); ++i) {
    const bool own = i >= kChecksumOffset && i < kChecksumOffset + kChecksumBytes;
    const char c = own ? ' ' : block[i];
    as_unsigned += static_cast<unsigned char>(c);
    as_signed += static_cast<signed char>(c);
  }
  return stored == as_unsigned || stored == as_signed;
}

TarDialect DialectOf(std::string_view block) {
  if (block.substr(257, 8) == std::string_view("ustar  \0", 8)) return TarDialect::kGnu;
  if (block.substr(257, 6) != std::string_view("ustar\0", 6)) return TarDialect::kV7;
  return block.substr(508, 4) == std::string_view("tar\0", 4) ? TarDialect::kStar : TarDialect::kUstar;
}

std::string_view TarText(std::string_view field) { return field.substr(0, field.find('\0')); }

std::optional<int64_t> TarNumber(std::string_view field) {
  if ((static_cast<uint8_t>(field[0]) & 0x80) != 0) return Base256(field);
  const std::string_view digits = TarText(Trim(field, std::string_view(" \0", 2)));
  int64_t value = 0;
  if (digits.empty()) return value;
  const auto [end, error] = std::from_chars(digits.begin(), digits.end(), value, 8);
  if (error != std::errc() || end != digits.end() || value < 0) return std::nullopt;
  return value;
}

std::optional<int64_t> DecimalNumber(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.begin(), text.end(), value);
  if (error != std::errc() || end != text.end()) return std::nullopt;
  return value;
}

std::optional<TarTime> PaxTime(std::string_view text) {
  const size_t point = text.find('.');
  const std::optional<int64_t> seconds = DecimalNumber(text.substr(0, point));
  if (!seconds) return std::nullopt;
  if (point == std::string_view::npos) return TarTime{*seconds, 0};
  const std::string_view fraction = text.substr(point + 1);
  uint32_t nanoseconds = 0;
  for (size_t i = 0; i < std::max<size_t>(fraction.size(), 9); ++i) {
    const char digit = i < fraction.size() ? fraction[i] : '0';
    if (digit < '0' || digit > '9') return std::nullopt;
    if (i < 9) nanoseconds = nanoseconds * 10 + static_cast<uint32_t>(digit - '0');
  }
  if (!text.starts_with('-') || nanoseconds == 0) return TarTime{*seconds, nanoseconds};
  if (*seconds == INT64_MIN) return std::nullopt;
  return TarTime{*seconds - 1, 1'000'000'000 - nanoseconds};
}

Result<std::map<std::string, std::string>> ParsePaxRecords(std::string_view text) {
  const auto bad = [](std::string_view what) {
    return Fail(Code::kInvalidArgument, fmt::format("PAX header: {}", what));
  };
  std::map<std::string, std::string> records;
  std::string sparse_map;
  size_t sparse_numbers = 0;
  while (!text.empty()) {
    const size_t space = text.find(' ');
    const std::optional<int64_t> length = DecimalNumber(text.substr(0, space));
    if (space == std::string_view::npos || !length || *length < 5 || static_cast<uint64_t>(*length) > text.size() ||
        static_cast<size_t>(*length) < space + 2 || text[static_cast<size_t>(*length) - 1] != '\n') {
      return bad("a record's length is wrong");
    }
    const std::string_view record = text.substr(space + 1, static_cast<size_t>(*length) - space - 2);
    text.remove_prefix(static_cast<size_t>(*length));
    const size_t equals = record.find('=');
    if (equals == 0 || equals == std::string_view::npos) return bad("a record without a key");
    const std::string_view key = record.substr(0, equals);
    const std::string_view value = record.substr(equals + 1);
    if (key.find('\0') != std::string_view::npos) return bad("NUL in a key");
    if ((key == "path" || key == "linkpath") && value.find('\0') != std::string_view::npos) return bad("NUL in a path");
    if (!IsSparseList(key)) {
      records[std::string(key)] = value;
      continue;
    }
    if ((key == "GNU.sparse.offset") != (sparse_numbers % 2 == 0) || value.find(',') != std::string_view::npos) {
      return bad("sparse map out of order");
    }
    if (sparse_numbers++ > 0) sparse_map += ',';
    sparse_map += value;
  }
  if (sparse_numbers > 0) records["GNU.sparse.map"] = std::move(sparse_map);
  return records;
}

}  // namespace banyan::image_format
