// Which request goes out next: the order of classes and layers, lanes, windows, and the joining of adjacent chunks.
//
// A layer has one or more lanes: ways to fetch its chunks, such as the parents of two stripes. Each lane has one queue
// a class. A request takes the chunk that has waited longest among the lanes that may send, and whatever queued chunks
// of its class and lane lie next to it. A lane that has room and nothing more to ask for takes from the tail of another
// lane's queue in the same layer, so that the faster way carries more and both end together. Of prefetch and fill it
// leaves the owner a window's worth, unless that has stalled: between lanes of about the same pace a chunk that changes
// them comes later, as its new way leads through nodes that themselves are only about to get it.
//
// Demand has a window a layer and lane, so that a source that hangs fills only its own; prefetch and fill share one
// window a class, group of layers and lane. Prefetch waits while demand is queued, in whatever lane; fill waits until
// nothing else is queued or in flight. What has stalled counts for neither: its lane sends no more prefetch or fill of
// its layer, and the others go on. Pure: no threads, no clock. A chunk costs O(log n).
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/units.h"
#include "fetch/chunk_source.h"
#include "image-format/chunk_table.h"

namespace banyan::fetch {

using LayerId = uint64_t;
using RequestId = uint64_t;

inline constexpr size_t kClasses = 3;

// In compressed bytes. Whatever they are, two requests of one chunk may always be in flight.
struct ClassLimits {
  uint64_t window_bytes = 0;   // at most so many in flight, from the request until the chunk is decoded and stored
  uint64_t request_bytes = 0;  // adjacent chunks go into one request up to so many
  uint32_t requests = 0;       // at most so many in flight
};

// For layers that are fetched from peers: windows a lane. A request is as long as a stripe's run, and while one is
// answered the next waits at the parent. More at once come by turns and all late, and what is late here is late for all
// nodes below (docs/decisions/0007).
inline constexpr ClassLimits kTreeLimits{2 * kMiB, 1 * kMiB, 2};

// How a layer's chunks are spread over the ways to fetch them.
struct LanePlan {
  uint8_t lanes = 1;        // at least 1
  std::vector<uint8_t> of;  // the lane of each chunk, below `lanes`; empty: all are lane 0's
  uint64_t group = 0;       // layers of one group go the same ways: they share the windows of prefetch and fill
};

struct PlannedRequest {
  RequestId id = 0;
  LayerId layer = 0;
  uint8_t lane = 0;
  uint8_t home = 0;  // the lane that the chunks belong to; another than `lane` when its tail was taken
  ChunkRange chunks;
  Priority priority = Priority::kDemand;
  uint64_t bytes = 0;
};

// Externally synchronised.
class RequestPlanner {
 public:
  explicit RequestPlanner(const std::array<ClassLimits, kClasses>& limits) : limits_(limits) {}

  // `table` must live until RemoveLayer().
  void AddLayer(LayerId layer, const image_format::ChunkTable& table, LanePlan lanes = {});
  // Forgets what the layer has queued and in flight.
  void RemoveLayer(LayerId layer);

  // Queues a chunk that is not queued, behind the others of its class.
  void Enqueue(LayerId layer, ChunkIndex chunk, Priority priority);
  // Takes a chunk out of its queue, if it is in one.
  void Remove(LayerId layer, ChunkIndex chunk);

  // The next request that may go now; its chunks are no longer queued and its bytes are in flight.
  std::optional<PlannedRequest> Next();

  // One chunk of a request has been dealt with: its bytes leave the window. With the last one the request is forgotten.
  void ChunkDone(RequestId request, uint64_t bytes);
  // The request was given up. Unknown ids are ignored, here and above.
  void Forget(RequestId request);
  void SetStalled(RequestId request, bool stalled);

  void set_fill_paused(bool paused) { fill_paused_ = paused; }
  size_t requests_in_flight() const { return in_flight_.size(); }
  size_t queued(Priority priority) const;

 private:
  struct Usage {
    uint64_t bytes = 0;
    uint32_t requests = 0;
  };
  struct Place {
    Priority priority;
    uint64_t sequence;
  };
  struct LaneQueue {
    std::array<std::map<uint64_t, ChunkIndex>, kClasses> order;  // sequence → chunk
    Usage demand;                                                // stalled requests included
    uint32_t stalled_requests = 0;
  };
  struct LayerQueue {
    const image_format::ChunkTable* table = nullptr;
    LanePlan plan;
    std::vector<LaneQueue> lanes;
    std::unordered_map<ChunkIndex, Place> places;
    std::array<size_t, kClasses> queued{};
    uint32_t moving_demand_requests = 0;
  };
  struct InFlight {
    LayerId layer;
    uint8_t lane;
    Priority priority;
    uint64_t bytes;
    uint32_t chunks;
    bool stalled;
  };
  // What goes next: the first or (stolen) last queued chunk of lane `from`, by way of `lane`. No layer: nothing.
  struct Choice {
    LayerId layer = 0;
    uint8_t from = 0;
    uint8_t lane = 0;
  };
  using Window = std::pair<uint64_t, uint8_t>;  // group, lane

  static uint8_t LaneOf(const LayerQueue& queue, ChunkIndex chunk);
  bool MayStart(Priority priority) const;
  bool MaySend(const LayerQueue& queue, uint8_t lane, Priority priority, ChunkIndex chunk) const;
  // Whether other lanes may help `from` out.
  bool MayTakeTail(const LayerQueue& queue, uint8_t from, Priority priority) const;
  // Of the lanes that may send, the one whose first queued chunk of the class has waited longest.
  Choice PickOwn(Priority priority) const;
  Choice PickStolen(Priority priority) const;
  uint64_t Room(const LayerQueue& queue, uint8_t lane, Priority priority, uint64_t chunk_bytes) const;
  PlannedRequest Take(const Choice& choice, Priority priority);
  bool IsQueued(const LayerQueue& queue, ChunkIndex chunk, uint8_t lane, Priority priority) const;
  void Account(const InFlight& request, bool add);

  std::array<ClassLimits, kClasses> limits_;
  std::map<LayerId, LayerQueue> layers_;
  std::array<std::set<LayerId>, kClasses> waiting_;  // layers that have chunks queued, by class
  std::unordered_map<RequestId, InFlight> in_flight_;
  std::array<uint32_t, kClasses> moving_{};                // requests of all layers, without what has stalled
  std::map<Window, std::array<Usage, kClasses>> windows_;  // of prefetch and fill, likewise; those in use
  uint64_t next_sequence_ = 1;
  RequestId next_request_ = 1;
  bool fill_paused_ = false;
};

}  // namespace banyan::fetch
