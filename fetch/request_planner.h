// Which request goes out next: the order of classes and layers, windows, and the joining of adjacent chunks.
//
// Each layer has one queue a class. A request takes the chunk that has waited longest among the layers that may send,
// and whatever queued chunks of its class lie next to it. Demand has a window a layer, so that a layer whose source
// hangs fills only its own; prefetch and fill share one window a class among all layers. Prefetch waits while demand is
// queued; fill waits until nothing else is queued or in flight. What has stalled counts for neither: its layer sends no
// more prefetch or fill, and the others go on. Pure: no threads, no clock.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>

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

struct PlannedRequest {
  RequestId id = 0;
  LayerId layer = 0;
  ChunkRange chunks;
  Priority priority = Priority::kDemand;
  uint64_t bytes = 0;
};

// Externally synchronised.
class RequestPlanner {
 public:
  explicit RequestPlanner(const std::array<ClassLimits, kClasses>& limits) : limits_(limits) {}

  // `table` must live until RemoveLayer().
  void AddLayer(LayerId layer, const image_format::ChunkTable& table);
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
  struct LayerQueue {
    const image_format::ChunkTable* table = nullptr;
    std::array<std::map<uint64_t, ChunkIndex>, kClasses> order;  // sequence → chunk
    std::unordered_map<ChunkIndex, Place> places;
    Usage demand;  // stalled requests included
    uint32_t moving_demand_requests = 0;
    uint32_t stalled_requests = 0;
  };
  struct InFlight {
    LayerId layer;
    Priority priority;
    uint64_t bytes;
    uint32_t chunks;
    bool stalled;
  };

  bool MayStart(Priority priority) const;
  // The layer whose first queued chunk of the class has waited longest, of those that may send it; 0: none.
  LayerId PickLayer(Priority priority) const;
  uint64_t Room(const LayerQueue& queue, Priority priority, uint64_t chunk_bytes) const;
  PlannedRequest Take(LayerId layer, Priority priority);
  bool IsQueued(const LayerQueue& queue, ChunkIndex chunk, Priority priority) const;
  void Account(const InFlight& request, bool add);

  std::array<ClassLimits, kClasses> limits_;
  std::map<LayerId, LayerQueue> layers_;
  std::array<std::set<LayerId>, kClasses> waiting_;  // layers that have chunks queued, by class
  std::unordered_map<RequestId, InFlight> in_flight_;
  std::array<Usage, kClasses> moving_;  // of all layers, without what has stalled
  uint64_t next_sequence_ = 1;
  RequestId next_request_ = 1;
  bool fill_paused_ = false;
};

}  // namespace banyan::fetch
