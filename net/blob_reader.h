// A blob as a blocking stream: one GET whose bytes wait in a bounded buffer (the transfer is paused while it is full),
// taken up again by Range when the connection is cut. Gives up after `attempts` tries in a row that bring no byte.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/byte_stream.h"
#include "common/digest.h"
#include "common/result.h"
#include "net/registry_session.h"

namespace banyan::net {

// Blocks until the registry has answered. Not checked against the digest.
Result<std::unique_ptr<ByteSource>> OpenBlobReader(std::shared_ptr<RegistrySession> session, const std::string& path,
                                                   const Digest& digest, uint32_t attempts);

}  // namespace banyan::net
