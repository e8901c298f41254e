// A SHA-256 that is computed beside the thread that has the bytes, on an executor, in bounded memory. One lane is
// serial; several lanes run side by side. Where the executor has fewer than three threads, copying costs more than it
// wins, and the bytes are hashed at once.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "common/digest.h"
#include "common/executor.h"

namespace banyan::image_format {

// Externally synchronised. The executor must outlive the lane; the lane may be destroyed at any time.
class HashLane {
 public:
  explicit HashLane(Executor& executor);
  ~HashLane();

  // Copies `data`, or hashes it at once. Waits only while another thread hashes for this lane.
  void Update(std::span<const std::byte> data);
  Digest Finish();

 private:
  struct Shared;

  void Flush();

  Executor& executor_;
  const std::shared_ptr<Shared> shared_;  // tasks may outlive the lane
  const bool at_once_;
  std::vector<std::byte> pending_;
};

}  // namespace banyan::image_format
