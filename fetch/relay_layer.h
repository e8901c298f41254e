// A layer's chunks in their compressed form, for passing on to peers: the seam between the scheduler and the server
// that answers this node's children.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "common/result.h"
#include "common/units.h"
#include "fetch/chunk_source.h"
#include "fetch/lazy_layer.h"
#include "image-format/image_map.h"
#include "store/node_store.h"

namespace banyan::fetch {

// One chunk in its compressed form, checked against its digest when it came: a range of the store's blob file, kept in
// place by the lease, or (when the disk is full) memory. Movable.
struct CompressedView {
  int fd = -1;  // -1: see memory; open as long as the lease
  uint64_t offset = 0;
  size_t length = 0;
  std::shared_ptr<const std::vector<std::byte>> memory;
  store::ChunkLease lease;
};
using OnCompressed = std::function<void(Result<CompressedView>)>;

// Of a chunk's compressed form. kComing: a request for it is queued or under way.
enum class ChunkState : uint8_t { kAbsent, kComing, kHere };

// Internally synchronised.
class RelayLayer {
 public:
  virtual ~RelayLayer() = default;
  virtual const image_format::Device& device() const = 0;
  // A guess: it may have changed when the call returns.
  virtual ChunkState StateOf(ChunkIndex chunk) const = 0;
  // Calls `done` once, possibly before returning, on any thread; it must not block. Joins whatever is under way for the
  // chunk, raises its priority if this one is more urgent, and counts as no touch. Fails as LazyLayer::Read;
  // kInvalidArgument: no such chunk.
  virtual ReadId ReadCompressed(ChunkIndex chunk, Priority priority, OnCompressed done) = 0;
  // Nobody waits for the read any more: its `done` is not called, unless that has begun. What is under way for it goes
  // on, what is queued only for it is dropped. Unknown ids are ignored.
  virtual void Forget(ReadId read) = 0;
};

}  // namespace banyan::fetch
