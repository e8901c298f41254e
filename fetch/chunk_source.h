// Where chunks come from: one small interface, and decorators that each add one behaviour (DESIGN.md §5).
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "common/result.h"
#include "common/units.h"
#include "image-format/image_map.h"

namespace banyan::fetch {

// Demand: a reader waits. Prefetch: the profile or read-ahead expects a reader. Fill: the rest, when nothing else wants
// the link.
enum class Priority : uint8_t { kDemand = 0, kPrefetch = 1, kFill = 2 };

using Clock = std::chrono::steady_clock;

// A way of a source that has several failed to give a chunk, and another is tried (or the request fails). `way`: static
// storage. Called as OnChunk is.
using OnWayFailed = std::function<void(std::string_view way, bool bad_bytes)>;

struct ChunkRequest {
  std::shared_ptr<const image_format::Device> device;
  ChunkRange chunks;  // not empty; adjacent chunks travel as one range
  Priority priority = Priority::kDemand;
  uint8_t home = 0;  // the lane that the chunks belong to
  uint8_t lane = 0;  // which of the source's ways to take, where it has several (a stripe's parent)
  Clock::time_point deadline = Clock::time_point::max();
  OnWayFailed on_way_failed;  // may be null
};

// A chunk's compressed bytes.
struct ChunkBytes : std::vector<std::byte> {
  ChunkBytes() = default;
  ChunkBytes(std::vector<std::byte> bytes) : vector(std::move(bytes)) {}  // NOLINT: they are the same thing
  std::string_view from;  // which source gave them, if not the one that was asked; static storage
  bool checked = false;   // against the compressed digest
};

// Called exactly once for each chunk of a request, in order, on a thread of the source's choosing; never while the
// source holds a lock. It must not block.
using OnChunk = std::function<void(ChunkIndex, Result<ChunkBytes>)>;

// Internally synchronised.
class ChunkSource {
 public:
  virtual ~ChunkSource() = default;
  // Starts the fetch and returns at once. Errors: kUnavailable and kDeadlineExceeded are worth another try elsewhere,
  // kNotFound, kPermissionDenied and kUnauthenticated are this source's final word, kDataLoss means that wrong bytes
  // came. A source that is destroyed first answers what is outstanding with kCancelled.
  virtual void Fetch(ChunkRequest request, OnChunk on_chunk) = 0;
  // For counters and messages: "registry", "parent", …. Static storage.
  virtual std::string_view name() const = 0;
};

}  // namespace banyan::fetch
