// Which stripe carries which chunk. Normative (docs/protocol.md): all nodes must agree. Pure.
//
// Runs of adjacent chunks go to the stripe that has fewer compressed bytes of the device so far, so that both carry
// the same whatever the sizes of chunks, and a request for adjacent chunks rarely meets two stripes. A tie goes to a
// stripe that the device's digest chooses, so that many small layers do not all take the first.
#pragma once

#include <cstdint>
#include <vector>

#include "common/digest.h"
#include "image-format/chunk_table.h"

namespace banyan::fetch {

// A run ends with the chunk that brings it to so many compressed bytes.
inline constexpr uint64_t kStripeRunBytes = 1 << 20;

// The stripe of each chunk; `stripes` is 1 or 2.
std::vector<uint8_t> AssignStripes(const image_format::ChunkTable& chunks, const Digest& blob_digest, uint8_t stripes);

}  // namespace banyan::fetch
