#include "fetch/forked_source.h"

#include <utility>

namespace banyan::fetch {

void ForkedSource::Fetch(ChunkRequest request, OnChunk on_chunk) {
  if (request.priority == Priority::kDemand) return usual_->Fetch(std::move(request), std::move(on_chunk));
  const ChunkIndex end = request.chunks.end;
  for (ChunkRange run{request.chunks.begin, request.chunks.begin}; run.end < end; run.begin = run.end) {
    const bool other = is_other_(run.begin);
    do {
      ++run.end;
    } while (run.end < end && is_other_(run.end) == other);
    ChunkRequest part = request;
    part.chunks = run;
    (other ? other_ : usual_)->Fetch(std::move(part), on_chunk);
  }
}

}  // namespace banyan::fetch
