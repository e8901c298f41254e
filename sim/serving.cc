// What an agent does with what it is asked: answer from what is here, wait for what is not, refuse what it must not
// give.
#include <algorithm>

#include "sim/agents.h"

namespace banyan::sim {

namespace {

constexpr Nanos kSilence = 1'200 * kMillisecond;
constexpr uint64_t kMostAnswerBytes = 8 * kMiB;
constexpr uint32_t kLongestChain = 64;

fetch::LayerId LayerOf(FunctionId function) { return fetch::LayerId{function} + 1; }

// The asker as a reader of the server's flight table.
fetch::ReadId ReaderOf(uint64_t generation) { return generation << 1; }

}  // namespace

void Agents::OnAskArrives(uint32_t id, uint64_t generation) {
  Request& request = requests_[id];
  if (!request.live || request.generation != generation || request.failure != Failure::kNone) return;
  const PeerId server = request.target;
  if (server == registry() || (server == proxy() && scenario_.proxy_warm)) return SendRun(id, request.rest.end);
  if (!agents_[server].alive) {
    request.failure = Failure::kUnreachable;
    events_.At(std::max(request.asked + kSilence, events_.now()), EventKind::kAskFails, id, generation);
    return;
  }
  Member* member = Find(server, request.function);
  if (member == nullptr) return Refuse(id, Failure::kRefused);
  Answer(id, member);
}

void Agents::Refuse(uint32_t id, Failure failure) {
  Request& request = requests_[id];
  request.failure = failure;
  events_.In(links_->LatencyBetween(request.target, request.client), EventKind::kAskFails, id, request.generation);
}

void Agents::Answer(uint32_t id, Member* member) {
  Request& request = requests_[id];
  const PeerId server = request.target;
  const ChunkRange asked = request.rest;
  ChunkIndex end = asked.begin;
  uint64_t bytes = 0;
  while (end < asked.end && member->have[end] && bytes < kMostAnswerBytes) bytes += BytesOf(end++);
  if (end > asked.begin) return SendRun(id, end);
  auto& table = *agents_[server].table;
  if (request.only_if_held && !table.WantedAs({LayerOf(request.function), asked.begin}, fetch::Priority::kFill)) {
    return Refuse(id, Failure::kMiss);
  }
  // Loops come of trees that change, of rungs, and of lanes that take each other's tail.
  const bool may_loop = route_changes_ > 0 || counters_.climbs > 0 || counters_.stolen > 0;
  if (may_loop && WaitsFor(server, request.function, asked.begin, request.client)) return Refuse(id, Failure::kLoop);
  const uint64_t generation = request.generation;
  const fetch::Priority priority = request.priority;
  for (ChunkIndex chunk = asked.begin; chunk < asked.end; ++chunk) {
    if (member->have[chunk]) continue;
    // A reader more changes nothing for what is wanted as urgently already, but for failures and time.
    const fetch::ChunkKey key{LayerOf(member->function), chunk};
    if (scenario_.coarse && table.WantedAs(key, priority)) continue;
    Want(server, member->function, chunk, priority, ReaderOf(generation));
  }
  member->waiting.push_back({asked.begin, id, generation});
  requests_[id].waits = true;
  Pump(server);
}

void Agents::SendRun(uint32_t id, ChunkIndex end) {
  Request& request = requests_[id];
  Links::Answer answer;
  answer.server = request.target;
  answer.client = request.client;
  answer.function = request.function;
  answer.priority = request.priority;
  answer.chunks = {request.rest.begin, end};
  answer.cookie = id;
  request.transfer = links_->Send(answer);
}

// Whether `node` waits for the chunk, through whomever, from `whom`: the chain of Via.
bool Agents::WaitsFor(PeerId node, FunctionId function, ChunkIndex chunk, PeerId whom) const {
  for (uint32_t hops = 0; hops < kLongestChain; ++hops) {
    if (node == whom) return true;
    if (node >= proxy()) return false;
    PeerId next = kNobody;
    for (uint32_t id : agents_[node].requests) {
      const Request& request = requests_[id];
      if (request.function == function && request.rest.begin <= chunk && chunk < request.rest.end)
        next = request.target;
    }
    if (next == kNobody) return false;
    node = next;
  }
  return true;
}

// Those who waited for this chunk get what is here now.
void Agents::Wake(PeerId node, Member& member, ChunkIndex chunk) {
  for (size_t i = 0; i < member.waiting.size();) {
    const Member::Waiting waiting = member.waiting[i];
    if (waiting.chunk != chunk) {
      ++i;
      continue;
    }
    member.waiting.erase(member.waiting.begin() + static_cast<std::ptrdiff_t>(i));
    Request& request = requests_[waiting.request];
    if (request.generation != waiting.generation || request.target != node) continue;  // it has gone
    request.waits = false;
    ChunkIndex end = chunk;
    while (end < request.rest.end && member.have[end]) ++end;
    SendRun(waiting.request, end);
  }
}

// The asker has gone: it no longer waits anywhere.
void Agents::LeaveQueue(uint32_t id) {
  const Request& request = requests_[id];
  if (!request.waits || request.target >= proxy() || !agents_[request.target].alive) return;
  Member* member = Find(request.target, request.function);
  if (member == nullptr) return;
  std::erase_if(member->waiting, [id, &request](const Member::Waiting& waiting) {
    return waiting.request == id && waiting.generation == request.generation;
  });
  for (ChunkIndex chunk = request.rest.begin; chunk < request.rest.end; ++chunk) {
    agents_[request.target].table->Leave({LayerOf(request.function), chunk}, ReaderOf(request.generation));
  }
}

}  // namespace banyan::sim
