// The grammars of the OCI distribution specification that names, tags and references in URLs must obey.
#pragma once

#include <string_view>

namespace banyan::net {

// [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}
bool IsValidTag(std::string_view tag);
// Path components of [a-z0-9]+ separated inside by '.', '_', '__' or dashes; at most 255 characters.
bool IsValidRepositoryName(std::string_view name);

}  // namespace banyan::net
