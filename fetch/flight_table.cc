#include "fetch/flight_table.h"

#include <utility>

#include "fetch/backoff.h"

namespace banyan::fetch {
namespace {

constexpr uint32_t kPrefetchAttempts = 3;
constexpr uint64_t kLeastBytesPerSecond = 128 * kKiB;
// Retries happen on a grid, so that chunks which failed together are asked for together again.
constexpr std::chrono::milliseconds kRetryGrid{10};

Clock::time_point RoundUp(Clock::time_point when) {
  const auto since = std::chrono::ceil<std::chrono::milliseconds>(when.time_since_epoch());
  return Clock::time_point((since / kRetryGrid + 1) * kRetryGrid);
}

}  // namespace

void FlightTable::AddLayer(LayerId layer, const image_format::ChunkTable& table, LanePlan lanes) {
  layers_[layer].table = &table;
  planner_.AddLayer(layer, table, std::move(lanes));
}

void FlightTable::RemoveLayer(LayerId id) {
  const auto layer = layers_.find(id);
  if (layer == layers_.end()) return;
  for (auto& [chunk, flight] : layer->second.flights) {
    events_.Remove(flight.retry);
    by_class_[static_cast<size_t>(flight.priority)]--;
  }
  while (!layer->second.requests.empty()) EndRequest(*layer->second.requests.begin());
  planner_.RemoveLayer(id);
  layers_.erase(layer);
}

FlightTable::Flight* FlightTable::Find(const ChunkKey& key) {
  return const_cast<Flight*>(std::as_const(*this).Find(key));
}

const FlightTable::Flight* FlightTable::Find(const ChunkKey& key) const {
  const auto layer = layers_.find(key.layer);
  if (layer == layers_.end()) return nullptr;
  const auto flight = layer->second.flights.find(key.chunk);
  return flight == layer->second.flights.end() ? nullptr : &flight->second;
}

uint64_t FlightTable::BytesOf(const ChunkKey& key) const {
  return (*layers_.at(key.layer).table)[key.chunk].compressed_bytes;
}

void FlightTable::Count(LayerId layer, Priority priority, int change) {
  by_class_[static_cast<size_t>(priority)] += change;
  if (priority == Priority::kFill) layers_.at(layer).fill_flights += change;
}

size_t FlightTable::fill_flights(LayerId layer) const {
  const auto found = layers_.find(layer);
  return found == layers_.end() ? 0 : found->second.fill_flights;
}

void FlightTable::Want(const ChunkKey& key, Priority priority, ReadId reader, Forms forms) {
  const auto layer = layers_.find(key.layer);
  if (layer == layers_.end()) return;
  const auto [it, made] = layer->second.flights.try_emplace(key.chunk);
  Flight& flight = it->second;
  if (made) {
    flight.priority = priority;
    Count(key.layer, priority, 1);
    planner_.Enqueue(key.layer, key.chunk, priority);
  } else if (priority < flight.priority) {
    Raise(key, flight, priority);
  }
  if (reader != 0) {
    flight.readers.push_back({reader, forms});
    return;
  }
  if (priority == Priority::kFill) flight.fill = true;
  flight.background = true;
  flight.forms |= forms;
}

Forms FlightTable::FormsOf(const Flight& flight) {
  Forms forms = flight.forms;
  for (const Reader& reader : flight.readers) forms |= reader.forms;
  return forms;
}

void FlightTable::SetPriority(const ChunkKey& key, Flight& flight, Priority priority) {
  Count(key.layer, flight.priority, -1);
  flight.priority = priority;
  Count(key.layer, priority, 1);
}

void FlightTable::Raise(const ChunkKey& key, Flight& flight, Priority priority) {
  SetPriority(key, flight, priority);
  if (flight.state == State::kBackoff) {
    // Its failures were nobody's loss so far: the reader gets an attempt now.
    events_.Remove(flight.retry);
    flight.failures = 0;
    flight.state = State::kQueued;
    planner_.Enqueue(key.layer, key.chunk, priority);
  } else if (flight.state == State::kQueued) {
    planner_.Remove(key.layer, key.chunk);
    planner_.Enqueue(key.layer, key.chunk, priority);
  }
}

void FlightTable::Leave(const ChunkKey& key, ReadId reader) {
  Flight* flight = Find(key);
  if (flight == nullptr) return;
  std::erase_if(flight->readers, [reader](const Reader& other) { return other.id == reader; });
  const bool waits = flight->state == State::kQueued || flight->state == State::kBackoff;
  if (waits && flight->readers.empty() && !flight->background) Erase(key);
}

void FlightTable::Erase(const ChunkKey& key) {
  Layer& layer = layers_.at(key.layer);
  const auto it = layer.flights.find(key.chunk);
  const Flight& flight = it->second;
  if (flight.state == State::kQueued) planner_.Remove(key.layer, key.chunk);
  if (flight.state == State::kBackoff) events_.Remove(flight.retry);
  Count(key.layer, flight.priority, -1);
  layer.flights.erase(it);
}

Clock::time_point FlightTable::DeadlineOf(const PlannedRequest& request, Clock::time_point now) const {
  return now + options_.attempt_timeout + std::chrono::milliseconds(request.bytes * 1000 / kLeastBytesPerSecond);
}

std::optional<PlannedRequest> FlightTable::Next(Clock::time_point now) {
  auto planned = planner_.Next();
  if (!planned) return std::nullopt;
  Layer& layer = layers_.at(planned->layer);
  for (ChunkIndex chunk = planned->chunks.begin; chunk < planned->chunks.end; ++chunk) {
    Flight& flight = layer.flights.at(chunk);
    flight.state = State::kSent;
    flight.request = planned->id;
  }
  Request& request = requests_[planned->id];
  request.planned = *planned;
  request.unanswered = planned->chunks.size();
  request.deadline = events_.Add(DeadlineOf(*planned, now), {EventKind::kDeadline, planned->layer, planned->id});
  request.stall = events_.Add(now + options_.stalled_after, {EventKind::kStall, planned->layer, planned->id});
  layer.requests.insert(planned->id);
  return planned;
}

void FlightTable::Answered(RequestId id, Clock::time_point now) {
  const auto it = requests_.find(id);
  if (it == requests_.end()) return;
  Request& request = it->second;
  planner_.SetStalled(id, false);
  if (--request.unanswered == 0) {
    EndRequest(id);
    return;
  }
  events_.Remove(request.stall);
  request.stall = events_.Add(now + options_.stalled_after, {EventKind::kStall, request.planned.layer, id});
}

void FlightTable::EndRequest(RequestId id) {
  const auto it = requests_.find(id);
  if (it == requests_.end()) return;
  events_.Remove(it->second.deadline);
  events_.Remove(it->second.stall);
  layers_.at(it->second.planned.layer).requests.erase(id);
  requests_.erase(it);
}

bool FlightTable::Arrived(RequestId request, const ChunkKey& key, Clock::time_point now) {
  Answered(request, now);
  Flight* flight = Find(key);
  if (flight == nullptr || flight->state == State::kDecoding) return false;
  if (flight->state == State::kQueued) planner_.Remove(key.layer, key.chunk);
  if (flight->state == State::kBackoff) events_.Remove(flight->retry);
  if (flight->state != State::kSent) flight->request = 0;
  flight->state = State::kDecoding;
  return true;
}

std::vector<ReadId> FlightTable::TakeReaders(const ChunkKey& key, Forms here) {
  std::vector<ReadId> taken;
  Flight* flight = Find(key);
  if (flight == nullptr) return taken;
  std::erase_if(flight->readers, [&](const Reader& reader) {
    if ((reader.forms & ~here) != 0) return false;
    taken.push_back(reader.id);
    return true;
  });
  return taken;
}

std::vector<ReadId> FlightTable::Finish(const ChunkKey& key, Forms here) {
  std::vector<ReadId> readers = TakeReaders(key, here);
  Flight* flight = Find(key);
  if (flight == nullptr) return readers;
  planner_.ChunkDone(flight->request, BytesOf(key));
  flight->forms &= static_cast<Forms>(~here);
  if (FormsOf(*flight) == kAnyForm) {
    Erase(key);
    return readers;
  }
  if (flight->state == State::kQueued) planner_.Remove(key.layer, key.chunk);
  if (flight->state == State::kBackoff) events_.Remove(flight->retry);
  flight->state = State::kQueued;
  flight->request = 0;
  planner_.Enqueue(key.layer, key.chunk, flight->priority);
  return readers;
}

void FlightTable::Failed(RequestId request, const ChunkKey& key, Error error, Clock::time_point now) {
  Answered(request, now);
  Flight* flight = Find(key);
  if (flight == nullptr || flight->state != State::kSent || flight->request != request) return;
  BackOff(key, *flight, std::move(error), now);
}

void FlightTable::Rejected(const ChunkKey& key, Error error, Clock::time_point now) {
  if (Flight* flight = Find(key)) BackOff(key, *flight, std::move(error), now);
}

void FlightTable::BackOff(const ChunkKey& key, Flight& flight, Error error, Clock::time_point now) {
  planner_.ChunkDone(flight.request, BytesOf(key));
  ++flight.failures;
  const bool give_up =
      flight.readers.empty() && (flight.priority != Priority::kPrefetch || flight.failures >= kPrefetchAttempts);
  if (give_up && !flight.fill) {
    Erase(key);
    return;
  }
  if (give_up) SetPriority(key, flight, Priority::kFill);
  ++retries_;
  const auto delay = BackoffDelay(flight.failures, error.code, options_.salt + flight.request);
  flight.last_error = std::move(error);
  flight.state = State::kBackoff;
  flight.retry = events_.Add(RoundUp(now + delay), {EventKind::kRetry, key.layer, key.chunk});
}

void FlightTable::GiveUp(RequestId id, Clock::time_point now) {
  const auto it = requests_.find(id);
  if (it == requests_.end()) return;
  const PlannedRequest planned = it->second.planned;
  EndRequest(id);
  planner_.Forget(id);
  for (ChunkIndex chunk = planned.chunks.begin; chunk < planned.chunks.end; ++chunk) {
    const ChunkKey key{planned.layer, chunk};
    Flight* flight = Find(key);
    if (flight == nullptr || flight->state != State::kSent || flight->request != id) continue;
    BackOff(key, *flight, Error{Code::kDeadlineExceeded, "no answer in time"}, now);
  }
}

void FlightTable::Tick(Clock::time_point now) {
  while (const auto event = events_.PopDue(now)) {
    switch (event->kind) {
      case EventKind::kStall:
        planner_.SetStalled(event->id, true);
        break;
      case EventKind::kDeadline:
        GiveUp(event->id, now);
        break;
      case EventKind::kRetry:
        Flight& flight = layers_.at(event->layer).flights.at(static_cast<ChunkIndex>(event->id));
        flight.state = State::kQueued;
        planner_.Enqueue(event->layer, static_cast<ChunkIndex>(event->id), flight.priority);
        break;
    }
  }
}

const Error* FlightTable::LastError(const ChunkKey& key) const {
  const Flight* flight = Find(key);
  return flight == nullptr || !flight->last_error ? nullptr : &*flight->last_error;
}

Forms FlightTable::FormsOf(const ChunkKey& key) const {
  const Flight* flight = Find(key);
  return flight == nullptr ? kAnyForm : FormsOf(*flight);
}

Priority FlightTable::PriorityOf(const ChunkKey& key) const {
  const Flight* flight = Find(key);
  return flight == nullptr ? Priority::kFill : flight->priority;
}

}  // namespace banyan::fetch
