// Counts what a source gives, under its name: for the rungs of a ladder, which the scheduler sees as one source.
#pragma once

#include <memory>
#include <string_view>

#include "fetch/chunk_source.h"
#include "fetch/counters.h"

namespace banyan::fetch {

// Internally synchronised.
class MeteredSource final : public ChunkSource {
 public:
  MeteredSource(std::shared_ptr<ChunkSource> inner, std::shared_ptr<CounterTable> counters)
      : inner_(std::move(inner)), counters_(std::move(counters)) {}

  void Fetch(ChunkRequest request, OnChunk on_chunk) override;
  std::string_view name() const override { return inner_->name(); }

 private:
  const std::shared_ptr<ChunkSource> inner_;
  const std::shared_ptr<CounterTable> counters_;
};

}  // namespace banyan::fetch
