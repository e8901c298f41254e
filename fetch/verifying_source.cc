#include "fetch/verifying_source.h"

#include <span>
#include <utility>

#include <fmt/format.h>

namespace banyan::fetch {

void VerifyingSource::Fetch(ChunkRequest request, OnChunk on_chunk) {
  auto check = [device = request.device, name = inner_->name(), on_chunk = std::move(on_chunk)](
                   ChunkIndex chunk, Result<ChunkBytes> answer) {
    const bool wrong = answer && !answer->checked &&
                       Digest::Of(std::span<const std::byte>(*answer)) != device->chunks[chunk].compressed_digest;
    if (!wrong) {
      if (answer) answer->checked = true;
      return on_chunk(chunk, std::move(answer));
    }
    on_chunk(chunk, Fail(Code::kDataLoss, fmt::format("chunk {} of layer {} from {}: digest mismatch", chunk,
                                                      device->blob_digest.ToString(), name)));
  };
  inner_->Fetch(std::move(request), std::move(check));
}

}  // namespace banyan::fetch
