// JSON from outside, made safe to read: size, nesting and duplicate keys are checked before a tree is built, and fields
// are taken out with errors that name them. Included by oci.cc and artifact.cc only.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "common/result.h"

namespace banyan::image_format::oci_json {

using nlohmann::json;

// kInvalidArgument: not JSON, not an object, nested deeper than 32, a key twice in one object. kResourceExhausted: over
// `limit_bytes`.
Result<json> Parse(std::string_view text, uint64_t limit_bytes, std::string_view what);

// Fields of an object. Absent and null are the same: the default. A wrong type is kInvalidArgument.
Result<std::string> String(const json& object, const char* key);
Result<uint64_t> Unsigned(const json& object, const char* key);
// The array or object under `key`; null when absent.
Result<const json*> Array(const json& object, const char* key);
Result<const json*> Object(const json& object, const char* key);

}  // namespace banyan::image_format::oci_json
