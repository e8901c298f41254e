#include "sim/fetch_table.h"

namespace banyan::sim {

using fetch::ChunkKey;
using fetch::Clock;
using fetch::Priority;

void FetchTable::AddLayer(fetch::LayerId layer, const image_format::ChunkTable& table, fetch::LanePlan lanes) {
  if (flights_) return flights_->AddLayer(layer, table, std::move(lanes));
  layers_[layer] = {&table, std::vector<Chunk>(table.size())};
  planner_->AddLayer(layer, table, std::move(lanes));
}

void FetchTable::RemoveLayer(fetch::LayerId layer) {
  if (flights_) return flights_->RemoveLayer(layer);
  for (const Chunk& chunk : layers_.at(layer).chunks) {
    if (chunk.state != State::kNone) --wanted_[static_cast<size_t>(chunk.priority)];
  }
  layers_.erase(layer);
  recent_ = nullptr;
  planner_->RemoveLayer(layer);
}

void FetchTable::SetPriority(Chunk& chunk, Priority priority) {
  if (chunk.state != State::kNone) --wanted_[static_cast<size_t>(chunk.priority)];
  chunk.priority = priority;
  ++wanted_[static_cast<size_t>(priority)];
}

void FetchTable::Want(const ChunkKey& key, Priority priority, fetch::ReadId reader) {
  if (flights_) return flights_->Want(key, priority, reader);
  Chunk& chunk = Of(key);
  if (chunk.state != State::kNone && chunk.priority <= priority) return;
  SetPriority(chunk, priority);
  if (chunk.state == State::kSent || chunk.state == State::kHere) return;
  if (chunk.state == State::kQueued) planner_->Remove(key.layer, key.chunk);
  chunk.state = State::kQueued;
  planner_->Enqueue(key.layer, key.chunk, priority);
}

void FetchTable::Leave(const ChunkKey& key, fetch::ReadId reader) {
  if (flights_) flights_->Leave(key, reader);
}

std::optional<fetch::PlannedRequest> FetchTable::Next(Clock::time_point now) {
  if (flights_) return flights_->Next(now);
  auto planned = planner_->Next();
  if (!planned) return std::nullopt;
  std::vector<Chunk>& chunks = At(planned->layer).chunks;
  for (ChunkIndex chunk = planned->chunks.begin; chunk < planned->chunks.end; ++chunk)
    chunks[chunk].state = State::kSent;
  return planned;
}

Clock::time_point FetchTable::DeadlineOf(const fetch::PlannedRequest& request, Clock::time_point now) const {
  return flights_ ? flights_->DeadlineOf(request, now) : Clock::time_point::max();
}

bool FetchTable::Arrived(fetch::RequestId request, const ChunkKey& key, Clock::time_point now) {
  if (flights_) return flights_->Arrived(request, key, now);
  Chunk& chunk = Of(key);
  planner_->ChunkDone(request, (*At(key.layer).table)[key.chunk].compressed_bytes);
  if (chunk.state == State::kNone || chunk.state == State::kHere) return false;
  if (chunk.state == State::kQueued) planner_->Remove(key.layer, key.chunk);
  chunk.state = State::kHere;
  return true;
}

void FetchTable::Finish(const ChunkKey& key) {
  if (flights_) {
    flights_->Finish(key);
    return;
  }
  Chunk& chunk = Of(key);
  if (chunk.state != State::kNone) --wanted_[static_cast<size_t>(chunk.priority)];
  chunk.state = State::kNone;
}

void FetchTable::Failed(fetch::RequestId request, const ChunkKey& key, Clock::time_point now) {
  if (flights_) return flights_->Failed(request, key, Error{Code::kUnavailable, "no rung is left"}, now);
  Chunk& chunk = Of(key);
  if (chunk.state != State::kSent) return;
  planner_->ChunkDone(request, (*At(key.layer).table)[key.chunk].compressed_bytes);
  chunk.state = State::kQueued;
  planner_->Enqueue(key.layer, key.chunk, chunk.priority);
}

void FetchTable::Tick(Clock::time_point now) {
  if (flights_) flights_->Tick(now);
}

Clock::time_point FetchTable::next_event() const {
  return flights_ ? flights_->next_event() : Clock::time_point::max();
}

bool FetchTable::WantedAs(const ChunkKey& key, Priority priority) const {
  if (flights_) return flights_->Wanted(key) && flights_->PriorityOf(key) <= priority;
  const Chunk& chunk = At(key.layer).chunks[key.chunk];
  return chunk.state != State::kNone && chunk.priority <= priority;
}

size_t FetchTable::flights(Priority priority) const {
  return flights_ ? flights_->flights(priority) : wanted_[static_cast<size_t>(priority)];
}

}  // namespace banyan::sim
