// Several sources as one: what the first cannot give is asked of the next.
//
// Each rung gets an equal share of the time that is left before the request's deadline. A rung that gave wrong bytes
// (kDataLoss; wrap rungs in VerifyingSource so that they say so) stands last for a while. The error of a chunk is that
// of the rung that was asked last.
#pragma once

#include <chrono>
#include <memory>
#include <string_view>
#include <vector>

#include "fetch/chunk_source.h"
#include "fetch/timer.h"

namespace banyan::fetch {

// Internally synchronised. The destructor waits for calls of the rungs' Fetch() that are under way.
class LadderSource final : public ChunkSource {
 public:
  struct Options {
    std::chrono::milliseconds avoid_after_bad_bytes{60'000};
  };

  // `rungs`: at least one, the best first. `timer` must outlive the ladder.
  LadderSource(std::vector<std::shared_ptr<ChunkSource>> rungs, Timer& timer, Options options);
  LadderSource(std::vector<std::shared_ptr<ChunkSource>> rungs, Timer& timer)
      : LadderSource(std::move(rungs), timer, Options()) {}
  ~LadderSource() override;

  void Fetch(ChunkRequest request, OnChunk on_chunk) override;
  std::string_view name() const override { return "ladder"; }

 private:
  struct State;
  struct Climb;
  struct Step;

  const std::shared_ptr<State> state_;  // shared with callbacks; they leave the rungs alone once the ladder is gone
};

}  // namespace banyan::fetch
