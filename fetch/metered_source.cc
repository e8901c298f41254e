#include "fetch/metered_source.h"

#include <utility>

namespace banyan::fetch {

void MeteredSource::Fetch(ChunkRequest request, OnChunk on_chunk) {
  counters_->AddRequest(name());
  auto count = [counters = counters_, name = name(), priority = request.priority, on_chunk = std::move(on_chunk)](
                   ChunkIndex chunk, Result<ChunkBytes> answer) {
    if (answer) {
      counters->AddChunk(name, priority, answer->size());
    } else {
      counters->AddFailure(name, answer.error().code == Code::kDataLoss);
    }
    on_chunk(chunk, std::move(answer));
  };
  inner_->Fetch(std::move(request), std::move(count));
}

}  // namespace banyan::fetch
