// The order in which a layer's chunks were first asked for: what a start-up profile is made of. Pure.
#pragma once

#include <vector>

#include "common/units.h"
#include "fetch/chunk_source.h"

namespace banyan::fetch {

struct FirstTouch {
  ChunkIndex chunk = 0;
  Clock::time_point when;
};

// Externally synchronised.
class TouchLog {
 public:
  explicit TouchLog(uint32_t chunks) : touched_(chunks, false) {}

  void Touch(ChunkRange chunks, Clock::time_point now) {
    for (ChunkIndex chunk = chunks.begin; chunk < chunks.end; ++chunk) {
      if (touched_[chunk]) continue;
      touched_[chunk] = true;
      order_.push_back({chunk, now});
    }
  }
  const std::vector<FirstTouch>& order() const { return order_; }

 private:
  std::vector<bool> touched_;
  std::vector<FirstTouch> order_;
};

}  // namespace banyan::fetch
