// Some chunks of a layer are asked of another source than the rest, as long as nobody waits for them.
//
// For what a node brings into a swarm (peer-agent/swarms.h): by tree each such piece would go through the uplinks of
// all nodes above this one, which the swarm has filled already: with 8 nodes on 100 Mbit/s a layer of 64 MiB took 1.7
// times as long as with the origins asked straight.
#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <utility>

#include "fetch/chunk_source.h"

namespace banyan::fetch {

// Internally synchronised.
class ForkedSource final : public ChunkSource {
 public:
  // `is_other`: any thread, cheap; asked of each chunk of prefetch and fill when it is to be fetched.
  ForkedSource(std::shared_ptr<ChunkSource> usual, std::shared_ptr<ChunkSource> other,
               std::function<bool(ChunkIndex)> is_other)
      : usual_(std::move(usual)), is_other_(std::move(is_other)), other_(std::move(other)) {}

  void Fetch(ChunkRequest request, OnChunk on_chunk) override;
  std::string_view name() const override { return usual_->name(); }

 private:
  const std::shared_ptr<ChunkSource> usual_;
  const std::function<bool(ChunkIndex)> is_other_;
  const std::shared_ptr<ChunkSource> other_;  // may stand on the usual one: goes first
};

}  // namespace banyan::fetch
