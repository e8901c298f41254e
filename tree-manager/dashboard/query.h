// The query of a request's target: "?function=sha256%3A12&nodes=1". Bytes from outside.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "common/result.h"

namespace banyan::tree_manager {

using Query = std::map<std::string, std::string>;

// Names and values are percent-decoded, '+' is a space; of a name that comes twice the last counts. kInvalidArgument:
// a malformed escape, or more than 16 parameters.
Result<Query> ParseQuery(std::string_view target);

// The number, or `otherwise` when the parameter is missing or no number; at most `most`.
size_t NumberOf(const Query& query, const std::string& name, size_t otherwise, size_t most);
// Empty when it is missing.
std::string TextOf(const Query& query, const std::string& name);

}  // namespace banyan::tree_manager
