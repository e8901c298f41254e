// What a node does with a function: metadata first, then the whole image, or the reads of a start one after another
// with the profile prefetched beside them.
#include <algorithm>

#include "sim/agents.h"

namespace banyan::sim {

namespace {

constexpr fetch::ReadId kOwnReader = 1;  // those of children are even

fetch::LayerId LayerOf(FunctionId function) { return fetch::LayerId{function} + 1; }

}  // namespace

void Agents::OnRoutes(PeerId node, FunctionId function, const Routes& routes) {
  Member* member = agents_[node].alive ? Find(node, function) : nullptr;
  if (member == nullptr) return;
  if (member->has_routes) {
    for (uint8_t stripe = 0; stripe < routes.stripes; ++stripe) {
      if (routes.parent[stripe] == member->routes.parent[stripe]) continue;
      ++member->moves;
      ++route_changes_;
    }
    member->routes = routes;
    return;
  }
  member->routes = routes;
  member->has_routes = true;
  for (ChunkIndex chunk = 0; chunk < image_.metadata_chunks; ++chunk) {
    if (!member->have[chunk]) Want(node, function, chunk, fetch::Priority::kDemand, kOwnReader);
  }
  if (image_.metadata_chunks == 0) Begin(node, *member);
  Pump(node);
}

void Agents::Begin(PeerId node, Member& member) {
  member.begun = true;
  member.next_queued = image_.metadata_chunks;
  if (scenario_.workload == Workload::kPreheat) return Feed(node, member);
  if (scenario_.profile) {
    for (ChunkIndex chunk : image_.start) {
      if (!member.have[chunk]) Want(node, member.function, chunk, fetch::Priority::kPrefetch, 0);
    }
  }
  events_.In(0, EventKind::kNextRead, node, member.function);
}

void Agents::Feed(PeerId node, Member& member) {
  const uint32_t most = scenario_.queue_chunks == 0 ? UINT32_MAX : scenario_.queue_chunks;
  while (member.next_queued < image_.table.size() && member.queued < most) {
    const ChunkIndex chunk = member.next_queued++;
    if (member.have[chunk]) continue;
    ++member.queued;
    Want(node, member.function, chunk, fetch::Priority::kPrefetch, 0);
  }
}

void Agents::TakeChunk(PeerId node, Member& member, ChunkIndex chunk) {
  const Nanos now = events_.now();
  agents_[node].table->Finish({LayerOf(member.function), chunk});
  member.have[chunk] = true;
  ++member.have_count;
  Wake(node, member, chunk);
  if (node == proxy()) return;
  if (!member.begun) {
    if (member.have_count >= image_.metadata_chunks) {
      const auto metadata_end = member.have.begin() + image_.metadata_chunks;
      if (std::find(member.have.begin(), metadata_end, false) == metadata_end) Begin(node, member);
    }
    return;
  }
  if (scenario_.workload != Workload::kPreheat) {
    if (member.reading == chunk) ReadNext(node, member);
    return;
  }
  if (chunk < member.next_queued && member.queued > 0) --member.queued;
  Nanos& last = member.last_of[image_.stripe_of[chunk]];
  if (last != 0) member.longest_stall = std::max(member.longest_stall, now - last);
  last = now;
  Feed(node, member);
  if (member.have_count == image_.table.size() && member.ready < 0) {
    member.ready = now;
    observer_.OnReady(node, member.function);
  }
}

// The read that waited has its chunk.
void Agents::ReadNext(PeerId node, Member& member) {
  member.longest_stall = std::max(member.longest_stall, events_.now() - member.reading_since);
  member.reading = UINT32_MAX;
  ++member.reads;
  events_.In(scenario_.think, EventKind::kNextRead, node, member.function);
}

void Agents::OnNextRead(PeerId node, FunctionId function) {
  Member* member = agents_[node].alive ? Find(node, function) : nullptr;
  if (member == nullptr || member->ready >= 0) return;
  if (member->reads == image_.start.size()) {
    member->ready = events_.now();
    observer_.OnReady(node, function);
    return;
  }
  const ChunkIndex chunk = ReadOf(image_, scenario_, node, function, member->reads);
  member->reading_since = events_.now();
  if (member->have[chunk]) {
    ++member->reads;
    events_.In(scenario_.think, EventKind::kNextRead, node, function);
    return;
  }
  member->reading = chunk;
  Want(node, function, chunk, fetch::Priority::kDemand, kOwnReader);
  Pump(node);
}

}  // namespace banyan::sim
