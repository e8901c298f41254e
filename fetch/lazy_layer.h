// A layer that can be read as if it were all here: the seam between the fetch path and the file system.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "common/result.h"
#include "common/units.h"
#include "store/node_store.h"

namespace banyan::fetch {

// The bytes of one read: either a range of a file, kept in place by leases for as long as the view lives, or (when the
// disk is full) memory. Movable.
struct ReadView {
  int fd = -1;  // -1: the bytes are in `memory`
  uint64_t offset = 0;
  size_t length = 0;
  std::vector<std::byte> memory;
  store::ChunkLease lease;
};

using OnRead = std::function<void(Result<ReadView>)>;

// Identifies one outstanding read, for Cancel(); 0 is none.
using ReadId = uint64_t;

// Internally synchronised.
class LazyLayer {
 public:
  virtual ~LazyLayer() = default;
  virtual uint64_t size_bytes() const = 0;
  // Calls `done` once, possibly before returning, on any thread, when device bytes `range` (not empty, within the
  // device) can be given; it must not block. Fails only after every source has failed for the scheduler's read_timeout,
  // or when cancelled.
  virtual ReadId Read(ByteRange range, OnRead done) = 0;
  // Answers every outstanding read, and every later one, with kCancelled. For unmounting.
  virtual void CancelAll() = 0;
};

}  // namespace banyan::fetch
