#include "fetch/request_planner.h"

#include <algorithm>

namespace banyan::fetch {
namespace {

size_t IndexOf(Priority priority) { return static_cast<size_t>(priority); }

}  // namespace

void RequestPlanner::AddLayer(LayerId layer, const image_format::ChunkTable& table) { layers_[layer].table = &table; }

void RequestPlanner::RemoveLayer(LayerId layer) {
  for (auto it = in_flight_.begin(); it != in_flight_.end();) {
    if (it->second.layer != layer) {
      ++it;
      continue;
    }
    Account(it->second, false);
    it = in_flight_.erase(it);
  }
  for (auto& waiting : waiting_) waiting.erase(layer);
  layers_.erase(layer);
}

void RequestPlanner::Enqueue(LayerId layer, ChunkIndex chunk, Priority priority) {
  LayerQueue& queue = layers_.at(layer);
  const uint64_t sequence = next_sequence_++;
  queue.order[IndexOf(priority)].emplace(sequence, chunk);
  queue.places.insert_or_assign(chunk, Place{priority, sequence});
  waiting_[IndexOf(priority)].insert(layer);
}

void RequestPlanner::Remove(LayerId layer, ChunkIndex chunk) {
  LayerQueue& queue = layers_.at(layer);
  const auto place = queue.places.find(chunk);
  if (place == queue.places.end()) return;
  const size_t index = IndexOf(place->second.priority);
  queue.order[index].erase(place->second.sequence);
  queue.places.erase(place);
  if (queue.order[index].empty()) waiting_[index].erase(layer);
}

size_t RequestPlanner::queued(Priority priority) const {
  size_t chunks = 0;
  for (LayerId layer : waiting_[IndexOf(priority)]) chunks += layers_.at(layer).order[IndexOf(priority)].size();
  return chunks;
}

bool RequestPlanner::MayStart(Priority priority) const {
  if (priority == Priority::kDemand) return true;
  // Demand that could be sent has been sent by now (Next() asks in order): what is left waits for its layer's window.
  const auto demand_waits = [this](LayerId layer) { return layers_.at(layer).moving_demand_requests > 0; };
  if (std::ranges::any_of(waiting_[IndexOf(Priority::kDemand)], demand_waits)) return false;
  if (priority == Priority::kPrefetch) return true;
  return !fill_paused_ && moving_[IndexOf(Priority::kDemand)].requests == 0 &&
         moving_[IndexOf(Priority::kPrefetch)].requests == 0;
}

uint64_t RequestPlanner::Room(const LayerQueue& queue, Priority priority, uint64_t chunk_bytes) const {
  const ClassLimits& limits = limits_[IndexOf(priority)];
  const Usage& used = priority == Priority::kDemand ? queue.demand : moving_[IndexOf(priority)];
  if (used.requests >= std::max(limits.requests, 2U)) return 0;
  const uint64_t room = limits.window_bytes - std::min(limits.window_bytes, used.bytes);
  return used.requests < 2 ? std::max(room, chunk_bytes) : room;
}

LayerId RequestPlanner::PickLayer(Priority priority) const {
  LayerId best = 0;
  uint64_t best_sequence = UINT64_MAX;
  for (LayerId layer : waiting_[IndexOf(priority)]) {
    const LayerQueue& queue = layers_.at(layer);
    if (priority != Priority::kDemand && queue.stalled_requests > 0) continue;
    const auto& [sequence, chunk] = *queue.order[IndexOf(priority)].begin();
    const uint64_t chunk_bytes = (*queue.table)[chunk].compressed_bytes;
    if (sequence >= best_sequence || Room(queue, priority, chunk_bytes) < chunk_bytes) continue;
    best = layer;
    best_sequence = sequence;
  }
  return best;
}

bool RequestPlanner::IsQueued(const LayerQueue& queue, ChunkIndex chunk, Priority priority) const {
  const auto place = queue.places.find(chunk);
  return place != queue.places.end() && place->second.priority == priority;
}

PlannedRequest RequestPlanner::Take(LayerId layer, Priority priority) {
  const LayerQueue& queue = layers_.at(layer);
  const auto& table = *queue.table;
  const ChunkIndex first = queue.order[IndexOf(priority)].begin()->second;
  uint64_t bytes = table[first].compressed_bytes;
  const uint64_t most = std::min(limits_[IndexOf(priority)].request_bytes, Room(queue, priority, bytes));
  ChunkRange chunks{first, first + 1};
  while (chunks.end < table.size() && IsQueued(queue, chunks.end, priority) &&
         bytes + table[chunks.end].compressed_bytes <= most) {
    bytes += table[chunks.end++].compressed_bytes;
  }
  while (chunks.begin > 0 && IsQueued(queue, chunks.begin - 1, priority) &&
         bytes + table[chunks.begin - 1].compressed_bytes <= most) {
    bytes += table[--chunks.begin].compressed_bytes;
  }
  for (ChunkIndex chunk = chunks.begin; chunk < chunks.end; ++chunk) Remove(layer, chunk);
  const RequestId id = next_request_++;
  const InFlight request{layer, priority, bytes, chunks.size(), false};
  Account(request, true);
  in_flight_.emplace(id, request);
  return {id, layer, chunks, priority, bytes};
}

std::optional<PlannedRequest> RequestPlanner::Next() {
  for (Priority priority : {Priority::kDemand, Priority::kPrefetch, Priority::kFill}) {
    if (waiting_[IndexOf(priority)].empty()) continue;
    if (!MayStart(priority)) return std::nullopt;
    if (LayerId layer = PickLayer(priority); layer != 0) return Take(layer, priority);
  }
  return std::nullopt;
}

void RequestPlanner::Account(const InFlight& request, bool add) {
  const auto apply = [&](Usage& usage) {
    usage.bytes = add ? usage.bytes + request.bytes : usage.bytes - request.bytes;
    usage.requests = add ? usage.requests + 1 : usage.requests - 1;
  };
  LayerQueue& queue = layers_.at(request.layer);
  const bool demand = request.priority == Priority::kDemand;
  if (demand) apply(queue.demand);
  if (request.stalled) {
    queue.stalled_requests += add ? 1 : -1;
    return;
  }
  apply(moving_[IndexOf(request.priority)]);
  if (demand) queue.moving_demand_requests += add ? 1 : -1;
}

void RequestPlanner::ChunkDone(RequestId request, uint64_t bytes) {
  const auto it = in_flight_.find(request);
  if (it == in_flight_.end()) return;
  Account(it->second, false);
  it->second.bytes -= bytes;
  if (--it->second.chunks == 0) {
    in_flight_.erase(it);
    return;
  }
  Account(it->second, true);
}

void RequestPlanner::Forget(RequestId request) {
  const auto it = in_flight_.find(request);
  if (it == in_flight_.end()) return;
  Account(it->second, false);
  in_flight_.erase(it);
}

void RequestPlanner::SetStalled(RequestId request, bool stalled) {
  const auto it = in_flight_.find(request);
  if (it == in_flight_.end() || it->second.stalled == stalled) return;
  Account(it->second, false);
  it->second.stalled = stalled;
  Account(it->second, true);
}

}  // namespace banyan::fetch
