// A source whose bytes have been checked against the chunk's compressed digest before they are passed on.
//
// For what does not decode at once: the rungs of a ladder, which must know a liar from an honest source, and relays.
// The scheduler itself needs none, since decoding checks both digests.
#pragma once

#include <memory>
#include <string_view>

#include "fetch/chunk_source.h"

namespace banyan::fetch {

// Internally synchronised. Wrong bytes become kDataLoss; the message names chunk, layer and source.
class VerifyingSource final : public ChunkSource {
 public:
  explicit VerifyingSource(std::shared_ptr<ChunkSource> inner) : inner_(std::move(inner)) {}

  void Fetch(ChunkRequest request, OnChunk on_chunk) override;
  std::string_view name() const override { return inner_->name(); }

 private:
  const std::shared_ptr<ChunkSource> inner_;
};

}  // namespace banyan::fetch
