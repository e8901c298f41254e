// Whom this node waits for, chunk by chunk: what it tells children who wait for the same (`Via` of a 102 answer).
//
// While trees change, two nodes may for a moment be each other's parents and wait for each other. A node that waits for
// a peer learns from the peer's 102 whom that one waits for, and so on up; one that finds itself in the chain has found
// a loop and asks elsewhere.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>

#include "common/digest.h"
#include "common/units.h"

namespace banyan::fetch {

// Internally synchronised. As large as what is under way.
class WaitTable {
 public:
  // `via`: the peer that was asked, then whom it waits for, comma-separated as in `Via`.
  void Set(const Digest& blob, ChunkRange chunks, const std::string& via) {
    const std::lock_guard lock(mutex_);
    auto& layer = waits_[blob];
    for (ChunkIndex chunk = chunks.begin; chunk < chunks.end; ++chunk) layer[chunk] = via;
  }
  void Clear(const Digest& blob, ChunkIndex chunk) {
    const std::lock_guard lock(mutex_);
    const auto layer = waits_.find(blob);
    if (layer == waits_.end()) return;
    layer->second.erase(chunk);
    if (layer->second.empty()) waits_.erase(layer);
  }
  // Empty: for no peer.
  std::string Find(const Digest& blob, ChunkIndex chunk) const {
    const std::lock_guard lock(mutex_);
    const auto layer = waits_.find(blob);
    if (layer == waits_.end()) return {};
    const auto found = layer->second.find(chunk);
    return found == layer->second.end() ? std::string() : found->second;
  }

 private:
  mutable std::mutex mutex_;
  std::unordered_map<Digest, std::unordered_map<ChunkIndex, std::string>> waits_;  // guarded by mutex_
};

}  // namespace banyan::fetch
