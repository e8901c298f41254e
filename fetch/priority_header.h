// The Priority header of HTTP (RFC 9218) as Banyan's nodes use it: its urgency says who waits for the bytes.
#pragma once

#include <string_view>

#include "fetch/chunk_source.h"

namespace banyan::fetch {

// "u=1" demand, "u=3" prefetch (also what a request without the header is), "u=6" fill.
std::string_view FormatPriority(Priority priority);
// Below 3 a reader waits, above 4 it is fill. Any text has a meaning.
Priority ParsePriority(std::string_view header);

}  // namespace banyan::fetch
