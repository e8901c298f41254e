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
#include "net/repository.h"

namespace banyan::net {

// The blob's bytes from `offset` on. Blocks until the registry has answered. Not checked against the digest.
// kOutOfRange: the blob ends at `offset` or before.
Result<OpenedBlob> OpenBlobReader(std::shared_ptr<RegistrySession> session, const std::string& path,
                                  const Digest& digest, uint32_t attempts, uint64_t offset);

}  // namespace banyan::net
