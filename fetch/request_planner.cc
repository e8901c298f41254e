#include "fetch/request_planner.h"

#include <algorithm>
#include <utility>

namespace banyan::fetch {
namespace {

size_t IndexOf(Priority priority) { return static_cast<size_t>(priority); }

}  // namespace

void RequestPlanner::AddLayer(LayerId layer, const image_format::ChunkTable& table, LanePlan lanes) {
  LayerQueue& queue = layers_[layer];
  queue.table = &table;
  queue.lanes.resize(std::max<size_t>(lanes.lanes, 1));
  queue.plan = std::move(lanes);
}

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

uint8_t RequestPlanner::LaneOf(const LayerQueue& queue, ChunkIndex chunk) {
  if (chunk >= queue.plan.of.size() || queue.plan.of[chunk] >= queue.lanes.size()) return 0;
  return queue.plan.of[chunk];
}

void RequestPlanner::Enqueue(LayerId layer, ChunkIndex chunk, Priority priority) {
  LayerQueue& queue = layers_.at(layer);
  const uint64_t sequence = next_sequence_++;
  auto& order = queue.lanes[LaneOf(queue, chunk)].order[IndexOf(priority)];
  order.emplace_hint(order.end(), sequence, chunk);
  queue.places.insert_or_assign(chunk, Place{priority, sequence});
  if (++queue.queued[IndexOf(priority)] == 1) waiting_[IndexOf(priority)].insert(layer);
}

void RequestPlanner::Remove(LayerId layer, ChunkIndex chunk) {
  LayerQueue& queue = layers_.at(layer);
  const auto place = queue.places.find(chunk);
  if (place == queue.places.end()) return;
  const size_t index = IndexOf(place->second.priority);
  queue.lanes[LaneOf(queue, chunk)].order[index].erase(place->second.sequence);
  queue.places.erase(place);
  if (--queue.queued[index] == 0) waiting_[index].erase(layer);
}

size_t RequestPlanner::queued(Priority priority) const {
  size_t chunks = 0;
  for (LayerId layer : waiting_[IndexOf(priority)]) chunks += layers_.at(layer).queued[IndexOf(priority)];
  return chunks;
}

bool RequestPlanner::MayStart(Priority priority) const {
  if (priority == Priority::kDemand) return true;
  // Demand that could be sent has been sent by now (Next() asks in order): what is left waits for its layer's window.
  const auto demand_waits = [this](LayerId layer) { return layers_.at(layer).moving_demand_requests > 0; };
  if (std::ranges::any_of(waiting_[IndexOf(Priority::kDemand)], demand_waits)) return false;
  if (priority == Priority::kPrefetch) return true;
  return !fill_paused_ && moving_[IndexOf(Priority::kDemand)] == 0 && moving_[IndexOf(Priority::kPrefetch)] == 0;
}

uint64_t RequestPlanner::Room(const LayerQueue& queue, uint8_t lane, Priority priority, uint64_t chunk_bytes) const {
  const ClassLimits& limits = limits_[IndexOf(priority)];
  Usage used = queue.lanes[lane].demand;
  if (priority != Priority::kDemand) {
    const auto window = windows_.find({queue.plan.group, lane});
    used = window == windows_.end() ? Usage() : window->second[IndexOf(priority)];
  }
  if (used.requests >= std::max(limits.requests, 2U)) return 0;
  const uint64_t room = limits.window_bytes - std::min(limits.window_bytes, used.bytes);
  return used.requests < 2 ? std::max(room, chunk_bytes) : room;
}

bool RequestPlanner::MaySend(const LayerQueue& queue, uint8_t lane, Priority priority, ChunkIndex chunk) const {
  if (priority != Priority::kDemand && queue.lanes[lane].stalled_requests > 0) return false;
  const uint64_t chunk_bytes = (*queue.table)[chunk].compressed_bytes;
  return Room(queue, lane, priority, chunk_bytes) >= chunk_bytes;
}

RequestPlanner::Choice RequestPlanner::PickOwn(Priority priority) const {
  Choice best;
  uint64_t best_sequence = UINT64_MAX;
  for (LayerId layer : waiting_[IndexOf(priority)]) {
    const LayerQueue& queue = layers_.at(layer);
    for (uint8_t lane = 0; lane < queue.lanes.size(); ++lane) {
      const auto& order = queue.lanes[lane].order[IndexOf(priority)];
      if (order.empty() || order.begin()->first >= best_sequence) continue;
      if (!MaySend(queue, lane, priority, order.begin()->second)) continue;
      best = {layer, lane, lane};
      best_sequence = order.begin()->first;
    }
  }
  return best;
}

bool RequestPlanner::MayTakeTail(const LayerQueue& queue, uint8_t from, Priority priority) const {
  const LaneQueue& owner = queue.lanes[from];
  if (priority == Priority::kDemand || owner.stalled_requests > 0) return !owner.order[IndexOf(priority)].empty();
  uint64_t bytes = 0;
  for (const auto& [sequence, chunk] : owner.order[IndexOf(priority)]) {
    bytes += (*queue.table)[chunk].compressed_bytes;
    if (bytes > limits_[IndexOf(priority)].window_bytes) return true;
  }
  return false;
}

// After PickOwn() found nothing: a lane that has room now has nothing of its own.
RequestPlanner::Choice RequestPlanner::PickStolen(Priority priority) const {
  for (LayerId layer : waiting_[IndexOf(priority)]) {
    const LayerQueue& queue = layers_.at(layer);
    if (queue.lanes.size() == 1) continue;
    for (uint8_t from = 0; from < queue.lanes.size(); ++from) {
      if (!MayTakeTail(queue, from, priority)) continue;
      const auto& order = queue.lanes[from].order[IndexOf(priority)];
      for (uint8_t lane = 0; lane < queue.lanes.size(); ++lane) {
        const bool idle = lane != from && queue.lanes[lane].order[IndexOf(priority)].empty();
        if (idle && MaySend(queue, lane, priority, order.rbegin()->second)) return {layer, from, lane};
      }
    }
  }
  return {};
}

bool RequestPlanner::IsQueued(const LayerQueue& queue, ChunkIndex chunk, uint8_t lane, Priority priority) const {
  if (LaneOf(queue, chunk) != lane) return false;
  const auto place = queue.places.find(chunk);
  return place != queue.places.end() && place->second.priority == priority;
}

PlannedRequest RequestPlanner::Take(const Choice& choice, Priority priority) {
  const LayerQueue& queue = layers_.at(choice.layer);
  const auto& table = *queue.table;
  const auto& order = queue.lanes[choice.from].order[IndexOf(priority)];
  const ChunkIndex first = choice.from == choice.lane ? order.begin()->second : order.rbegin()->second;
  uint64_t bytes = table[first].compressed_bytes;
  const uint64_t most = std::min(limits_[IndexOf(priority)].request_bytes, Room(queue, choice.lane, priority, bytes));
  ChunkRange chunks{first, first + 1};
  while (chunks.end < table.size() && IsQueued(queue, chunks.end, choice.from, priority) &&
         bytes + table[chunks.end].compressed_bytes <= most) {
    bytes += table[chunks.end++].compressed_bytes;
  }
  while (chunks.begin > 0 && IsQueued(queue, chunks.begin - 1, choice.from, priority) &&
         bytes + table[chunks.begin - 1].compressed_bytes <= most) {
    bytes += table[--chunks.begin].compressed_bytes;
  }
  for (ChunkIndex chunk = chunks.begin; chunk < chunks.end; ++chunk) Remove(choice.layer, chunk);
  const RequestId id = next_request_++;
  const InFlight request{choice.layer, choice.lane, priority, bytes, chunks.size(), false};
  Account(request, true);
  in_flight_.emplace(id, request);
  return {id, choice.layer, choice.lane, choice.from, chunks, priority, bytes};
}

std::optional<PlannedRequest> RequestPlanner::Next() {
  for (Priority priority : {Priority::kDemand, Priority::kPrefetch, Priority::kFill}) {
    if (waiting_[IndexOf(priority)].empty()) continue;
    if (!MayStart(priority)) return std::nullopt;
    if (const Choice own = PickOwn(priority); own.layer != 0) return Take(own, priority);
    if (const Choice stolen = PickStolen(priority); stolen.layer != 0) return Take(stolen, priority);
  }
  return std::nullopt;
}

void RequestPlanner::Account(const InFlight& request, bool add) {
  const auto apply = [&](Usage& usage) {
    usage.bytes = add ? usage.bytes + request.bytes : usage.bytes - request.bytes;
    usage.requests = add ? usage.requests + 1 : usage.requests - 1;
  };
  LayerQueue& queue = layers_.at(request.layer);
  LaneQueue& lane = queue.lanes[request.lane];
  const bool demand = request.priority == Priority::kDemand;
  if (demand) apply(lane.demand);
  if (request.stalled) {
    lane.stalled_requests += add ? 1 : -1;
    return;
  }
  moving_[IndexOf(request.priority)] += add ? 1 : -1;
  if (demand) {
    queue.moving_demand_requests += add ? 1 : -1;
    return;
  }
  const auto window = windows_.try_emplace({queue.plan.group, request.lane}).first;
  apply(window->second[IndexOf(request.priority)]);
  const auto unused = [](const Usage& usage) { return usage.requests == 0; };
  if (std::ranges::all_of(window->second, unused)) windows_.erase(window);
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
