// The fields of one tar header block and of PAX records: pure parsing, no streams.
// POSIX.1-2017 "pax", GNU tar's manual ("Basic Tar Format"), star(4).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "common/result.h"

namespace banyan::image_format {

inline constexpr size_t kTarBlockBytes = 512;

enum class TarDialect { kV7, kUstar, kStar, kGnu };

// A name of any bytes, cut and escaped so that it is fit for a message.
std::string PrintableName(std::string_view name);

// `block` has kTarBlockBytes bytes throughout.
bool IsZeroBlock(std::string_view block);
// Whether the stored checksum is the sum of the bytes, taken as unsigned or (old Sun tars) as signed ones.
bool HasValidChecksum(std::string_view block);
TarDialect DialectOf(std::string_view block);
// Up to the first NUL.
std::string_view TarText(std::string_view field);
// Octal digits between blanks or NULs (none: 0), or base-256 in two's complement. Empty: neither, or beyond 63 bits.
std::optional<int64_t> TarNumber(std::string_view field);
// The whole text as a decimal number, with an optional '-'.
std::optional<int64_t> DecimalNumber(std::string_view text);

struct TarTime {
  int64_t seconds = 0;
  uint32_t nanoseconds = 0;
};
// "-1.5" is half a second before second -1; digits behind the ninth of the fraction are dropped.
std::optional<TarTime> PaxTime(std::string_view text);

// The records of an 'x' or 'g' header; of a key given twice, the last. GNU.sparse.offset and .numbytes, which repeat,
// come back joined as GNU.sparse.map. kInvalidArgument says what is wrong.
Result<std::map<std::string, std::string>> ParsePaxRecords(std::string_view text);

}  // namespace banyan::image_format
