// FetchRange for tests that may block.
#pragma once

#include <string>

#include "common/digest.h"
#include "common/result.h"
#include "net/repository.h"

namespace banyan::net::testing {

// The range's bytes; an error also when on_done came with another number of bytes than asked for.
Result<std::string> FetchAndWait(Repository& repository, const Digest& digest, ByteRange range);

}  // namespace banyan::net::testing
