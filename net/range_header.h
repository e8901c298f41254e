// Range and Content-Range of RFC 9110 §14, bytes unit only, one range only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/result.h"
#include "common/units.h"

namespace banyan::net {

// The bytes of a `size_bytes` long representation that a Range header asks for: "bytes=a-b", "bytes=a-" or "bytes=-n".
// nullopt: ignore the header and answer 200 (another unit, several ranges, or a syntax error, as RFC 9110 §14.2
// allows). kOutOfRange: answer 416. The range returned is never empty and lies within the representation.
Result<std::optional<ByteRange>> ParseRange(std::string_view header, uint64_t size_bytes);

struct ContentRange {
  ByteRange range;
  std::optional<uint64_t> complete_bytes;  // nullopt: "*"
};

// "bytes a-b/n" of a 206 answer; kInvalidArgument for all else ("bytes */n" included).
Result<ContentRange> ParseContentRange(std::string_view header);

// "bytes=a-b" for a range that is not empty.
std::string FormatRange(ByteRange range);
// "bytes a-b/n" for a range that is not empty.
std::string FormatContentRange(ByteRange range, uint64_t size_bytes);

// Decimal digits only, at least one; nullopt on overflow.
std::optional<uint64_t> ParseDecimal(std::string_view text);

}  // namespace banyan::net
