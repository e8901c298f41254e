#include "fetch/stripes.h"

#include <algorithm>

namespace banyan::fetch {

std::vector<uint8_t> AssignStripes(const image_format::ChunkTable& chunks, const Digest& blob_digest, uint8_t stripes) {
  std::vector<uint8_t> stripe_of(chunks.size(), 0);
  if (stripes <= 1) return stripe_of;
  const auto tie = static_cast<uint8_t>(blob_digest.bytes()[0] % stripes);
  std::vector<uint64_t> carried(stripes, 0);
  uint8_t stripe = tie;
  uint64_t run = 0;
  for (ChunkIndex chunk = 0; chunk < chunks.size(); ++chunk) {
    if (run == 0) {
      stripe = tie;
      for (uint8_t i = 0; i < stripes; ++i) {
        if (carried[i] < carried[stripe]) stripe = i;
      }
    }
    stripe_of[chunk] = stripe;
    carried[stripe] += chunks[chunk].compressed_bytes;
    run += chunks[chunk].compressed_bytes;
    if (run >= kStripeRunBytes) run = 0;
  }
  return stripe_of;
}

}  // namespace banyan::fetch
