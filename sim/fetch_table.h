// What one node wants and has asked for: fetch::FlightTable, or in coarse runs only the fetch::RequestPlanner in it,
// at half the cost. Without the flight table there are no deadlines, no stalled requests and no backoff: what fails is
// queued again at once.
#pragma once

#include <array>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "fetch/flight_table.h"

namespace banyan::sim {

// Externally synchronised. Methods as those of fetch::FlightTable.
class FetchTable {
 public:
  FetchTable(const fetch::FlightTable::Options& options, bool coarse) {
    if (coarse) {
      planner_.emplace(options.limits);
    } else {
      flights_.emplace(options);
    }
  }

  void AddLayer(fetch::LayerId layer, const image_format::ChunkTable& table, fetch::LanePlan lanes);
  void RemoveLayer(fetch::LayerId layer);
  void Want(const fetch::ChunkKey& key, fetch::Priority priority, fetch::ReadId reader);
  void Leave(const fetch::ChunkKey& key, fetch::ReadId reader);
  std::optional<fetch::PlannedRequest> Next(fetch::Clock::time_point now);
  fetch::Clock::time_point DeadlineOf(const fetch::PlannedRequest& request, fetch::Clock::time_point now) const;
  bool Arrived(fetch::RequestId request, const fetch::ChunkKey& key, fetch::Clock::time_point now);
  void Finish(const fetch::ChunkKey& key);
  void Failed(fetch::RequestId request, const fetch::ChunkKey& key, fetch::Clock::time_point now);
  void Tick(fetch::Clock::time_point now);
  fetch::Clock::time_point next_event() const;
  // Wanted at this priority or a more urgent one.
  bool WantedAs(const fetch::ChunkKey& key, fetch::Priority priority) const;
  size_t flights(fetch::Priority priority) const;

 private:
  enum class State : uint8_t { kNone, kQueued, kSent, kHere };
  struct Chunk {
    State state = State::kNone;
    fetch::Priority priority = fetch::Priority::kFill;
  };
  struct Layer {
    const image_format::ChunkTable* table = nullptr;
    std::vector<Chunk> chunks;
  };

  // The last one is remembered: most nodes have but one.
  Layer& At(fetch::LayerId layer) const {
    if (recent_ == nullptr || recent_id_ != layer) {
      recent_ = &layers_.at(layer);
      recent_id_ = layer;
    }
    return *recent_;
  }
  Chunk& Of(const fetch::ChunkKey& key) { return At(key.layer).chunks[key.chunk]; }
  void SetPriority(Chunk& chunk, fetch::Priority priority);

  std::optional<fetch::FlightTable> flights_;
  // The coarse form.
  std::optional<fetch::RequestPlanner> planner_;
  mutable std::unordered_map<fetch::LayerId, Layer> layers_;
  mutable Layer* recent_ = nullptr;
  mutable fetch::LayerId recent_id_ = 0;
  std::array<size_t, fetch::kClasses> wanted_{};
};

}  // namespace banyan::sim
