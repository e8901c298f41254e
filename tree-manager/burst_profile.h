// What the starts of a function touch first, gathered while a burst is under way: the nodes that are ahead report their
// first touches, and those behind them fetch the same as a stream.
//
// Chunks stand in the order in which they were first reported. A chunk counts when more than a quarter of the reporters
// touched it, with up to three reporters any: so a node's private reads stay out once there are enough nodes to tell.
// kQuiet after the last report the profile is settled; what is reported later begins a new burst, in which the settled
// list has one vote.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "proto/tree.pb.h"

namespace banyan::tree_manager {

// Externally synchronised. Memory: about 60 bytes a chunk while a burst is under way, 8 afterwards.
class BurstProfile {
 public:
  using Time = std::chrono::steady_clock::time_point;
  static constexpr std::chrono::seconds kQuiet{60};
  static constexpr size_t kMaxChunks = 65'536;
  static constexpr size_t kMaxBlobs = 256;
  static constexpr size_t kMaxReporters = 16;  // further ones are not asked for their opinion

  // One that was kept: settled.
  void Restore(const proto::tree::ChunkList& list);

  // Takes at most `room` new chunks; touches that are malformed, or beyond a limit, are left out. Whether the profile
  // may have changed.
  bool Add(const std::string& reporter, const proto::tree::ChunkList& touches, size_t room, Time now);
  // Whether it became settled by this call.
  bool Settle(Time now);

  bool provisional() const { return !reporters_.empty(); }
  bool empty() const { return chunks_.empty(); }
  // Chunks held, those that do not count included.
  size_t size() const { return chunks_.size(); }
  // The chunks that count.
  proto::tree::ChunkList List() const;

 private:
  struct Chunk {
    uint32_t blob = 0;
    uint32_t chunk = 0;
    uint32_t votes = 0;
  };

  bool Counts(const Chunk& chunk) const;
  // Of blobs_; its size when there is no room.
  uint32_t BlobIndex(const std::string& blob);

  std::vector<std::string> blobs_;
  std::vector<Chunk> chunks_;
  // While a burst is under way.
  std::unordered_map<uint64_t, uint32_t> index_;                  // blob and chunk → place in chunks_
  std::unordered_map<std::string, std::vector<bool>> reporters_;  // name → which of chunks_ it touched
  bool past_votes_ = false;                                       // the settled list is one more reporter
  Time last_report_{};
};

}  // namespace banyan::tree_manager
