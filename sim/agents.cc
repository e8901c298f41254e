#include "sim/agents.h"

#include <algorithm>

#include "fetch/routes.h"

namespace banyan::sim {

namespace {

constexpr Nanos kSilence = 1'200 * kMillisecond;
constexpr Nanos kFirstPenalty = 3 * kSecond;
constexpr Nanos kMostPenalty = 30 * kSecond;
constexpr double kCongestedNanos = 200e6;
constexpr double kCongestedTimes = 4;

// As the agent sets them: windows a lane for trees, wider ones for the proxy alone.
fetch::FlightTable::Options TableOptions(const Scenario& scenario, PeerId node) {
  fetch::FlightTable::Options options;
  const fetch::ClassLimits demand{64 * kMiB, 4 * kMiB, 64};
  const fetch::ClassLimits prefetch{8 * kMiB, 4 * kMiB, 4};
  const bool trees = scenario.trees != Trees::kStar;
  options.limits = {demand, trees ? fetch::kTreeLimits : prefetch, trees ? fetch::kTreeLimits : prefetch};
  options.attempt_timeout = std::chrono::seconds(10);
  options.stalled_after = std::chrono::seconds(2);
  options.salt = scenario.seed + node;
  return options;
}

fetch::LayerId LayerOf(FunctionId function) { return fetch::LayerId{function} + 1; }

}  // namespace

Agents::Agents(const Scenario& scenario, const Image& image, EventQueue& events, AgentsObserver& observer)
    : scenario_(scenario), image_(image), events_(events), observer_(observer), agents_(scenario.nodes + 1) {}

Member* Agents::Find(PeerId node, FunctionId function) {
  Agent& agent = agents_[node];
  if (agent.recent != nullptr && agent.recent->function == function) return agent.recent;
  // The proxy joins all functions, in order.
  if (function < agent.members.size() && agent.members[function]->function == function) {
    return agent.recent = agent.members[function].get();
  }
  for (const auto& member : agent.members) {
    if (member->function == function) return agent.recent = member.get();
  }
  return nullptr;
}

Member& Agents::Join(PeerId node, FunctionId function) {
  Agent& agent = agents_[node];
  if (!agent.table) agent.table.emplace(TableOptions(scenario_, node), scenario_.coarse);
  auto& member = agent.members.emplace_back(std::make_unique<Member>());
  member->function = function;
  member->have.assign(image_.table.size(), false);
  member->started = events_.now();
  fetch::LanePlan lanes;
  if (scenario_.trees == Trees::kForest && scenario_.stripes == 2) {
    lanes.lanes = 2;
    lanes.of = image_.stripe_of;
    lanes.group = LayerOf(function);
  }
  agent.table->AddLayer(LayerOf(function), image_.table, std::move(lanes));
  return *member;
}

void Agents::Leave(PeerId node, FunctionId function) {
  Agent& agent = agents_[node];
  const auto found = std::find_if(agent.members.begin(), agent.members.end(),
                                  [function](const auto& member) { return member->function == function; });
  if (found == agent.members.end()) return;
  const std::vector<uint32_t> requests = agent.requests;
  for (uint32_t request : requests) {
    if (requests_[request].function == function) Forget(request);
  }
  const auto waiting = (*found)->waiting;
  agent.table->RemoveLayer(LayerOf(function));
  agent.members.erase(found);
  agent.recent = nullptr;
  for (const Member::Waiting& each : waiting) {
    if (requests_[each.request].generation == each.generation) Refuse(each.request, Failure::kRefused);
  }
}

void Agents::Die(PeerId node, bool noticed) {
  Agent& agent = agents_[node];
  agent.alive = false;
  links_->Silence(node);
  for (uint32_t request : agent.requests) requests_[request].transfer = kNoTransfer;  // the links have dropped it
  while (!agent.requests.empty()) Forget(agent.requests.back());
  agent.members.clear();
  agent.recent = nullptr;
  agent.table.reset();
  agent.avoided.clear();
  agent.alarm = kNever;
  for (uint32_t id = 0; id < requests_.size(); ++id) {
    Request& request = requests_[id];
    if (!request.live || request.target != node || request.failure != Failure::kNone) continue;
    request.transfer = kNoTransfer;
    request.failure = Failure::kUnreachable;
    events_.In(noticed ? scenario_.latency : kSilence, EventKind::kAskFails, id, request.generation);
  }
}

void Agents::Revive(PeerId node) {
  agents_[node] = Agent();
  links_->Revive(node);
}

void Agents::Want(PeerId node, FunctionId function, ChunkIndex chunk, fetch::Priority priority, fetch::ReadId reader) {
  agents_[node].table->Want({LayerOf(function), chunk}, priority, reader);
}

void Agents::Pump(PeerId node) {
  Agent& agent = agents_[node];
  while (const auto planned = agent.table->Next(Time())) {
    uint32_t id = 0;
    if (free_requests_.empty()) {
      id = static_cast<uint32_t>(requests_.size());
      requests_.emplace_back();
    } else {
      id = free_requests_.back();
      free_requests_.pop_back();
      requests_[id] = {};
    }
    Request& request = requests_[id];
    request.generation = ++generation_;
    request.client = node;
    request.function = static_cast<FunctionId>(planned->layer - 1);
    request.planned = planned->id;
    request.rest = planned->chunks;
    request.priority = planned->priority;
    request.lane = planned->lane;
    request.home = planned->home;
    counters_.stolen += request.home == request.lane ? 0 : 1;
    request.live = true;
    request.deadline = std::chrono::nanoseconds(agent.table->DeadlineOf(*planned, Time()).time_since_epoch()).count();
    agent.requests.push_back(id);
    Ask(id);
  }
  SetAlarm(node);
}

void Agents::SetAlarm(PeerId node) {
  Agent& agent = agents_[node];
  const auto next = agent.table->next_event();
  if (next == fetch::Clock::time_point::max()) return;
  const Nanos at = std::chrono::nanoseconds(next.time_since_epoch()).count();
  if (at >= agent.alarm) return;
  agent.alarm = at;
  events_.At(at, EventKind::kAlarm, node);
}

void Agents::OnAlarm(PeerId node) {
  Agent& agent = agents_[node];
  if (!agent.table || events_.now() < agent.alarm) return;
  agent.alarm = kNever;
  GiveUpLate(node);
  agent.table->Tick(Time());
  WantAgain(node);
  Pump(node);
}

// What was given up for want of a reader is wanted all the same.
void Agents::WantAgain(PeerId node) {
  if (scenario_.workload != Workload::kPreheat || node == proxy()) return;
  Agent& agent = agents_[node];
  if (agent.table->flights(fetch::Priority::kPrefetch) + agent.table->flights(fetch::Priority::kDemand) != 0) return;
  for (const auto& member : agent.members) {
    if (!member->begun || member->have_count == image_.table.size()) continue;
    member->next_queued = image_.metadata_chunks;
    member->queued = 0;
    Feed(node, *member);
  }
}

// The flight table gives such a request up by itself; its connection ends with it.
void Agents::GiveUpLate(PeerId node) {
  const std::vector<uint32_t> requests = agents_[node].requests;
  for (uint32_t id : requests) {
    if (requests_[id].deadline > events_.now()) continue;
    ++counters_.failures;
    Forget(id);
  }
}

bool Agents::IsAvoided(const Agent& agent, PeerId peer) const {
  return std::any_of(agent.avoided.begin(), agent.avoided.end(),
                     [&](const Avoided& avoided) { return avoided.peer == peer && avoided.until > events_.now(); });
}

void Agents::Avoid(Agent& agent, PeerId peer) {
  auto found = std::find_if(agent.avoided.begin(), agent.avoided.end(),
                            [peer](const Avoided& avoided) { return avoided.peer == peer; });
  if (found == agent.avoided.end()) found = agent.avoided.insert(found, {peer, 0, 0});
  if (found->until > events_.now()) return;
  found->penalty = found->penalty == 0 ? kFirstPenalty : std::min(found->penalty * 2, kMostPenalty);
  found->until = events_.now() + found->penalty;
  observer_.OnUnreachable(peer);
}

// A demand read that the profile does not know; when the proxy is congested, it takes the tree like any other.
bool Agents::IsRare(const Request& request) const {
  if (request.priority != fetch::Priority::kDemand || scenario_.workload == Workload::kPreheat) return false;
  if (!scenario_.profile || image_.in_start[request.rest.begin] || request.rest.begin < image_.metadata_chunks) {
    return false;
  }
  const Agent& agent = agents_[request.client];
  return agent.proxy_latency <= kCongestedNanos || agent.proxy_latency <= kCongestedTimes * agent.parent_latency;
}

PeerId Agents::PickTarget(Request& request) {
  if (request.client == proxy()) return registry();
  const Agent& agent = agents_[request.client];
  const Member& member = *Find(request.client, request.function);
  const auto may_ask = [&](PeerId peer) {
    if (request.tried_count == kMostRungs || IsAvoided(agent, peer)) return false;
    return std::find(request.tried.begin(), request.tried.begin() + request.tried_count, peer) ==
           request.tried.begin() + request.tried_count;
  };
  const auto has_parent = [&member](size_t stripe) { return member.routes.parent[stripe] != kNobody; };
  const auto has_children = [&member](size_t stripe) { return member.routes.children[stripe] > 0; };
  const size_t lane = fetch::StripeToAsk(member.routes.stripes, request.lane, request.home, has_parent, has_children);
  const PeerId parent = member.has_routes ? member.routes.parent[lane] : kNobody;
  request.only_if_held = IsRare(request);
  if (parent != kNobody) {
    if (may_ask(parent)) return parent;
    const uint8_t spares = request.only_if_held ? 1 : 2;
    for (uint8_t i = 0; i < std::min(member.routes.spares[lane], spares); ++i) {
      if (may_ask(member.routes.spare[lane][i])) return member.routes.spare[lane][i];
    }
  }
  request.only_if_held = false;
  if (may_ask(proxy())) return proxy();
  return may_ask(registry()) ? registry() : kNobody;
}

void Agents::Ask(uint32_t id) {
  Request& request = requests_[id];
  request.failure = Failure::kNone;
  request.waits = false;
  request.target = PickTarget(request);
  if (request.target == kNobody) return FailAll(id);
  request.asked = events_.now();
  ++counters_.asks;
  events_.In(links_->LatencyBetween(request.client, request.target), EventKind::kAskArrives, id, request.generation);
}

void Agents::OnAskFails(uint32_t id, uint64_t generation) {
  Request& request = requests_[id];
  if (!request.live || request.generation != generation || request.failure == Failure::kNone) return;
  if (request.failure == Failure::kUnreachable) Avoid(agents_[request.client], request.target);
  counters_.loops += request.failure == Failure::kLoop ? 1 : 0;
  counters_.misses += request.failure == Failure::kMiss ? 1 : 0;
  ++counters_.climbs;
  if (request.tried_count < kMostRungs) request.tried[request.tried_count++] = request.target;
  const PeerId client = request.client;
  Ask(id);
  WantAgain(client);
  Pump(client);
}

void Agents::FailAll(uint32_t id) {
  const Request request = requests_[id];
  Forget(id);
  ++counters_.failures;
  auto& table = *agents_[request.client].table;
  for (ChunkIndex chunk = request.rest.begin; chunk < request.rest.end; ++chunk) {
    table.Failed(request.planned, {LayerOf(request.function), chunk}, Time());
  }
}

// The request is over, whatever it was waiting for.
void Agents::Forget(uint32_t id) {
  Request& request = requests_[id];
  if (request.transfer != kNoTransfer) links_->Cancel(request.transfer);
  LeaveQueue(id);
  std::erase(agents_[request.client].requests, id);
  request.live = false;
  request.transfer = kNoTransfer;
  request.generation = 0;
  free_requests_.push_back(id);
}

void Agents::NoteLatency(Request& request) {
  if (!request.first_answer || request.priority != fetch::Priority::kDemand || request.client == proxy()) return;
  request.first_answer = false;
  Agent& agent = agents_[request.client];
  double& recent = request.target == proxy() ? agent.proxy_latency : agent.parent_latency;
  const auto took = static_cast<double>(events_.now() - request.asked);
  recent = recent == 0 ? took : recent * 0.75 + took * 0.25;
}

void Agents::OnChunkArrived(uint32_t id, ChunkIndex chunk, bool last) {
  Request& request = requests_[id];
  NoteLatency(request);
  const PeerId node = request.client;
  const FunctionId function = request.function;
  request.rest.begin = chunk + 1;
  const bool wanted = agents_[node].table->Arrived(request.planned, {LayerOf(function), chunk}, Time());
  if (last) {
    request.transfer = kNoTransfer;
    if (request.rest.empty()) {
      Forget(id);
    } else {
      Ask(id);
    }
  }
  if (!wanted) {
    counters_.wasted_bytes += BytesOf(chunk);
  } else if (scenario_.relay_delay > 0) {
    events_.In(scenario_.relay_delay, EventKind::kStored, node, uint64_t{function} << 32 | chunk);
  } else {
    TakeChunk(node, *Find(node, function), chunk);
  }
  Pump(node);
}

void Agents::OnStored(PeerId node, FunctionId function, ChunkIndex chunk) {
  Member* member = agents_[node].alive ? Find(node, function) : nullptr;
  if (member == nullptr || !agents_[node].table->WantedAs({LayerOf(function), chunk}, fetch::Priority::kFill)) return;
  TakeChunk(node, *member, chunk);
  Pump(node);
}

}  // namespace banyan::sim
