#include "sim/simulation.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>

#include "sim/agents.h"
#include "sim/bound.h"
#include "sim/image.h"
#include "sim/manager.h"
#include "sim/random.h"
#include "sim/user_requests.h"

namespace banyan::sim {
namespace {

constexpr PeerId kMostEdgeNodes = 256;
constexpr Nanos kDrainBeforeLeaving = kSecond;

Links::Options LinkOptions(const Scenario& scenario, uint64_t largest_chunk) {
  Links::Options options;
  options.slice_bytes = scenario.slice_bytes;
  options.whole_chunks = scenario.coarse;
  options.window_bytes = scenario.coarse ? std::max(scenario.window_bytes, largest_chunk) : scenario.window_bytes;
  options.burst_bytes = scenario.burst_bytes;
  options.backlog = scenario.backlog;
  options.latency = scenario.latency;
  options.zone_latency = scenario.zone_latency;
  options.unfairness = scenario.unfairness;
  options.seed = scenario.seed;
  options.count_edges = scenario.nodes <= kMostEdgeNodes;
  return options;
}

std::vector<tree_manager::NodeTraits> TraitsOf(const Scenario& scenario, const std::vector<double>& uplinks) {
  std::vector<tree_manager::NodeTraits> traits(scenario.nodes);
  std::vector<double> sorted = uplinks;
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2), sorted.end());
  const double usual = sorted[sorted.size() / 2];
  uint32_t zone = 0;
  uint32_t left = scenario.zones.empty() ? scenario.nodes : scenario.zones[0];
  for (uint32_t node = 0; node < scenario.nodes; ++node) {
    if (left == 0) left = scenario.zones[++zone];
    --left;
    traits[node].zone = zone;
    if (scenario.knows_links) traits[node].weight = std::max(1, static_cast<int>(100 * uplinks[node] / usual + 0.5));
    Random random(Mix(scenario.seed + 3) + node);
    traits[node].leaf_only = random.Uniform() < scenario.leaf_only;
  }
  return traits;
}

class Simulation final : public AgentsObserver {
 public:
  explicit Simulation(const Scenario& scenario);
  Outcome Run();

  void OnReady(PeerId node, FunctionId function) override;
  void OnUnreachable(PeerId peer) override;

 private:
  void AddPeers();
  void ScheduleStarts();
  void Start(PeerId node, FunctionId function);
  void GiveBack(PeerId node);
  void Prefetch(const Event& event) const;
  void Handle(const Event& event);
  void HandleOther(const Event& event);
  bool Done() const;
  void Script(const ScriptedEvent& event);
  std::vector<PeerId> Chosen(const ScriptedEvent& event);
  bool Fits(PeerId node, ScriptedEvent::Who who) const;
  std::optional<PeerId> RandomNode(bool alive);
  void Act(const ScriptedEvent& event, PeerId node);
  void EndNode(PeerId node, bool noticed);
  void LeaveAll(PeerId node);
  void Rejoin(PeerId node);
  void Churn();
  void Beat(PeerId node);
  Outcome Collect() const;
  void CollectTimes(Outcome& outcome) const;

  const Scenario scenario_;
  const Image image_;
  const std::vector<double> uplinks_;
  EventQueue events_;
  std::optional<Manager> manager_;
  Agents agents_;
  Links links_;
  std::optional<UserRequests> requests_;
  Random random_;
  size_t pending_ = 0;  // starts that live and have not ended
  size_t to_come_ = 0;  // starts and scripted events not yet begun
  bool churning_ = false;
  std::vector<bool> slowed_;
  std::vector<bool> leaving_;
  struct Counted {
    uint64_t sent = 0;
    uint64_t received = 0;
  };
  std::vector<Counted> at_beat_;  // of each node
  uint64_t joins_ = 0;
  uint64_t deaths_ = 0;
  uint64_t leaves_ = 0;
  bool timed_out_ = false;
};

uint64_t LargestChunk(const Image& image) {
  uint64_t largest = 0;
  for (const auto& chunk : image.table.chunks()) largest = std::max<uint64_t>(largest, chunk.compressed_bytes);
  return largest;
}

Simulation::Simulation(const Scenario& scenario)
    : scenario_(scenario),
      image_(MakeImage(scenario_)),
      uplinks_(UplinksOf(scenario_)),
      agents_(scenario_, image_, events_, *this),
      links_(LinkOptions(scenario_, LargestChunk(image_)), events_, image_.table, agents_),
      random_(Mix(scenario.seed + 1)),
      slowed_(scenario.nodes),
      leaving_(scenario.nodes),
      at_beat_(scenario.nodes) {
  agents_.SetLinks(links_);
  manager_.emplace(scenario_, TraitsOf(scenario_, uplinks_), events_, agents_);
  AddPeers();
  ScheduleStarts();
  for (PeerId node = 0; node < scenario_.nodes; ++node) {
    events_.At(manager_->FirstBeat(node), EventKind::kBeat, node);
  }
  for (const auto& [node, uplink] : scenario_.uplink_of) slowed_[node] = uplink < scenario_.up;
}

void Simulation::AddPeers() {
  const double goodput = scenario_.goodput;
  const auto traits = TraitsOf(scenario_, uplinks_);
  const UplinkPolicy policy = scenario_.coarse ? UplinkPolicy::kCoarse : UplinkPolicy::kAgent;
  for (PeerId node = 0; node < scenario_.nodes; ++node) {
    links_.AddPeer({uplinks_[node] * goodput, scenario_.down * goodput}, traits[node].zone, policy);
  }
  const double proxy_down = scenario_.proxy_down > 0 ? scenario_.proxy_down : scenario_.proxy_up;
  links_.AddPeer({scenario_.proxy_up * goodput, proxy_down * goodput}, UINT32_MAX, policy);
  links_.AddPeer({scenario_.registry_up * goodput, scenario_.registry_up * goodput}, UINT32_MAX, UplinkPolicy::kTcp);
  if (scenario_.proxy_warm) return;
  for (FunctionId function = 0; function < scenario_.functions; ++function) agents_.Join(scenario_.nodes, function);
}

void Simulation::ScheduleStarts() {
  for (uint32_t i = 0; i < scenario_.events.size(); ++i) {
    events_.At(scenario_.events[i].at, EventKind::kScripted, i);
    ++to_come_;
  }
  if (scenario_.churn > 0) {
    churning_ = true;
    events_.In(0, EventKind::kChurn);
  }
  if (scenario_.workload == Workload::kRequests) {
    requests_.emplace(
        scenario_, events_, [this](PeerId node) { Start(node, 0); }, [this](PeerId node) { GiveBack(node); });
    return;
  }
  const auto at = [this](uint64_t) {
    return static_cast<Nanos>(random_.Uniform() * static_cast<double>(scenario_.arrival));
  };
  const uint64_t all = uint64_t{scenario_.nodes} * scenario_.functions;
  const uint64_t starts = scenario_.starts == 0 ? all : scenario_.starts;
  // Rounds over the nodes; a node's functions differ.
  for (uint64_t i = 0; i < starts; ++i) {
    const auto node = static_cast<PeerId>(i % scenario_.nodes);
    const uint64_t round = i / scenario_.nodes;
    const uint64_t number = scenario_.functions < scenario_.nodes ? node + round : i;
    const auto function = static_cast<FunctionId>(starts == all ? round : number % scenario_.functions);
    events_.At(at(i), EventKind::kStart, node, function);
    ++to_come_;
  }
}

void Simulation::Start(PeerId node, FunctionId function) {
  if (!agents_.alive(node) || agents_.Find(node, function) != nullptr) return;
  agents_.Join(node, function);
  ++pending_;
  ++joins_;
  if (scenario_.startup == 0) return manager_->SendJoin(node, function);
  events_.In(scenario_.startup, EventKind::kJoins, node, function);
}

void Simulation::GiveBack(PeerId node) {
  manager_->SendLeave(node, 0);
  agents_.Leave(node, 0);
  ++leaves_;
}

void Simulation::OnReady(PeerId node, FunctionId) {
  --pending_;
  if (requests_) requests_->OnReady(node);
}

void Simulation::OnUnreachable(PeerId peer) { manager_->SendReport(peer); }

bool Simulation::Done() const {
  if (to_come_ > 0 || churning_ || pending_ > 0) return false;
  return !requests_ || requests_->done();
}

Outcome Simulation::Run() {
  while (!Done() && !events_.empty()) {
    if (events_.now() > scenario_.limit) {
      timed_out_ = true;
      break;
    }
    const Event event = events_.Pop();
    if (!events_.empty()) Prefetch(events_.top());
    Handle(event);
  }
  const Nanos end = events_.now() + 60 * kSecond;
  while (!timed_out_ && links_.transfers() > 0 && !events_.empty() && events_.now() < end) Handle(events_.Pop());
  return Collect();
}

// Each event is of another node, whose state is in no cache: it is fetched while the event before is handled.
void Simulation::Prefetch(const Event& event) const {
  switch (event.kind) {
    case EventKind::kSliceSent:
      return links_.PrefetchPeer(event.a);
    case EventKind::kSliceArrives:
      return links_.Prefetch(event.a);
    case EventKind::kAskArrives:
      return agents_.Prefetch(event.a);
    default:
      return;
  }
}

void Simulation::Handle(const Event& event) {
  switch (event.kind) {
    case EventKind::kSliceSent:
      return links_.OnSliceSent(event.a);
    case EventKind::kSliceArrives:
      return links_.OnSliceArrives(event.a, event.b);
    case EventKind::kUplinkAsks:
      return links_.OnUplinkAsks(event.a);
    case EventKind::kAskArrives:
      return agents_.OnAskArrives(event.a, event.b);
    case EventKind::kAskFails:
      return agents_.OnAskFails(event.a, event.b);
    case EventKind::kStored:
      return agents_.OnStored(event.a, static_cast<FunctionId>(event.b >> 32), static_cast<ChunkIndex>(event.b));
    case EventKind::kAlarm:
      return agents_.OnAlarm(event.a);
    case EventKind::kNextRead:
      return agents_.OnNextRead(event.a, static_cast<FunctionId>(event.b));
    default:
      return HandleOther(event);
  }
}

void Simulation::HandleOther(const Event& event) {
  const auto function = static_cast<FunctionId>(event.b);
  switch (event.kind) {
    case EventKind::kStart:
      --to_come_;
      return Start(event.a, function);
    case EventKind::kJoins:
      if (agents_.alive(event.a) && agents_.Find(event.a, function) != nullptr) manager_->SendJoin(event.a, function);
      return;
    case EventKind::kRequest:
      return event.b == 0 ? requests_->OnRequest() : requests_->OnRateChange();
    case EventKind::kServed:
      return requests_->OnServed(event.a);
    case EventKind::kReclaim:
      return requests_->OnReclaim(event.a, static_cast<Nanos>(event.b));
    case EventKind::kJoinArrives:
      return manager_->OnJoin(event.a, function);
    case EventKind::kLeaveArrives:
      return manager_->OnLeave(event.a, function);
    case EventKind::kReportArrives:
      return manager_->OnReport(event.a);
    case EventKind::kFlush:
      return manager_->OnFlush(event.a);
    case EventKind::kAssignmentArrives:
      return manager_->OnAssignment(event.a, function);
    case EventKind::kJudge:
      return manager_->OnJudge(event.a);
    case EventKind::kBeat:
      return Beat(event.a);
    case EventKind::kVisit:
      return manager_->OnVisit();
    case EventKind::kScripted:
      --to_come_;
      return Script(scenario_.events[event.a]);
    case EventKind::kChurn:
      return Churn();
    case EventKind::kGone:
      return EndNode(event.a, true);
    default:
      return;
  }
}

// ---- What happens to nodes ----

bool Simulation::Fits(PeerId node, ScriptedEvent::Who who) const {
  const tree_manager::FunctionTree* tree = manager_->TreeOf(0);
  if (tree == nullptr) return true;
  if (!tree->Contains(node)) return false;
  uint32_t children = 0;
  bool is_root = false;
  for (tree_manager::Stripe stripe = 0; stripe < tree->stripes(); ++stripe) {
    children += tree->ChildCountOf(node, stripe);
    is_root = is_root || tree->DepthOf(node, stripe) == 1;
  }
  switch (who) {
    case ScriptedEvent::Who::kRoot:
      return is_root;
    case ScriptedEvent::Who::kInterior:
      return !is_root && children >= 2;
    case ScriptedEvent::Who::kLeaf:
      return children == 0;
    default:
      return true;
  }
}

std::vector<PeerId> Simulation::Chosen(const ScriptedEvent& event) {
  if (event.who == ScriptedEvent::Who::kNode) return {event.node};
  const bool wants_alive = event.action != ScriptedEvent::Action::kJoin;
  std::vector<PeerId> fitting;
  for (PeerId node = 0; node < scenario_.nodes; ++node) {
    if (agents_.alive(node) == wants_alive && Fits(node, event.who)) fitting.push_back(node);
  }
  for (size_t i = fitting.size(); i > 1; --i) std::swap(fitting[i - 1], fitting[random_.Below(i)]);
  size_t most = 1;
  if (event.who == ScriptedEvent::Who::kShare) {
    most = static_cast<size_t>(std::lround(event.share * static_cast<double>(scenario_.nodes)));
  }
  if (fitting.size() > most) fitting.resize(most);
  return fitting;
}

void Simulation::Script(const ScriptedEvent& event) {
  for (PeerId node : Chosen(event)) Act(event, node);
}

void Simulation::Act(const ScriptedEvent& event, PeerId node) {
  switch (event.action) {
    case ScriptedEvent::Action::kKill:
    case ScriptedEvent::Action::kSilence: {
      const bool noticed = event.action == ScriptedEvent::Action::kKill;
      if (!agents_.alive(node)) return;
      ++deaths_;
      manager_->NodeDied(node, noticed);
      return EndNode(node, noticed);
    }
    case ScriptedEvent::Action::kLeave:
      return LeaveAll(node);
    case ScriptedEvent::Action::kJoin:
      return Rejoin(node);
    case ScriptedEvent::Action::kSlow: {
      Links::Rates rates = links_.RatesOf(node);
      rates.up = event.bytes_per_second * scenario_.goodput;
      links_.SetRates(node, rates);
      slowed_[node] = true;
      return;
    }
  }
}

void Simulation::EndNode(PeerId node, bool noticed) {
  if (!agents_.alive(node)) return;
  for (const auto& member : agents_.members(node)) pending_ -= member->ready < 0 ? 1 : 0;
  leaving_[node] = false;
  agents_.Die(node, noticed);
}

// It says goodbye, serves for another second, and ends.
void Simulation::LeaveAll(PeerId node) {
  if (!agents_.alive(node) || leaving_[node]) return;
  leaving_[node] = true;
  ++leaves_;
  for (const auto& member : agents_.members(node)) manager_->SendLeave(node, member->function);
  events_.In(kDrainBeforeLeaving, EventKind::kGone, node);
}

void Simulation::Rejoin(PeerId node) {
  if (agents_.alive(node) || !manager_->Forgotten(node)) return;
  agents_.Revive(node);
  for (FunctionId function = 0; function < scenario_.functions; ++function) Start(node, function);
}

std::optional<PeerId> Simulation::RandomNode(bool alive) {
  for (int tries = 0; tries < 64; ++tries) {
    const auto node = static_cast<PeerId>(random_.Below(scenario_.nodes));
    if (agents_.alive(node) == alive && !leaving_[node]) return node;
  }
  return std::nullopt;
}

void Simulation::Churn() {
  if (events_.now() >= scenario_.churn_end) {
    churning_ = false;
    return;
  }
  if (const auto node = RandomNode(true)) {
    const uint64_t lot = random_.Below(6);
    ScriptedEvent event;
    event.action = lot == 0   ? ScriptedEvent::Action::kSilence
                   : lot == 1 ? ScriptedEvent::Action::kKill
                              : ScriptedEvent::Action::kLeave;
    Act(event, *node);
  }
  if (const auto node = RandomNode(false)) Rejoin(*node);
  events_.In(static_cast<Nanos>(random_.Exponential() / scenario_.churn * 1e9), EventKind::kChurn);
}

void Simulation::Beat(PeerId node) {
  const Counted now{links_.sent_bytes(node), links_.received_bytes(node)};
  const Counted before = std::exchange(at_beat_[node], now);
  if (agents_.alive(node)) {
    // Received bytes of a cancelled answer are taken back.
    const uint64_t down = now.received > before.received ? now.received - before.received : 0;
    manager_->OnBeat(node, {now.sent - before.sent, down, links_.UplinkFull(node)});
  }
  events_.In(kSecond, EventKind::kBeat, node);
}

// ---- The outcome ----

void Simulation::CollectTimes(Outcome& outcome) const {
  Nanos stall = 0;
  Nanos end = 0;
  double last_fast = 0;
  uint64_t moves = 0;
  uint64_t whole = 0;
  for (PeerId node = 0; node < scenario_.nodes; ++node) {
    for (const auto& member : agents_.members(node)) {
      moves += member->moves;
      whole += member->have_count == image_.table.size() ? 1 : 0;
      if (member->ready < 0) continue;
      stall = std::max(stall, member->longest_stall);
      end = std::max(end, member->ready);
      const double seconds = static_cast<double>(member->ready - member->started) / 1e9;
      outcome.seconds.push_back(seconds);
      if (!slowed_[node]) last_fast = std::max(last_fast, seconds);
    }
  }
  std::sort(outcome.seconds.begin(), outcome.seconds.end());
  auto& metrics = outcome.metrics;
  metrics["moves"] = static_cast<double>(moves);
  metrics["stall"] = static_cast<double>(stall) / 1e9;
  metrics["end"] = static_cast<double>(end) / 1e9;
  metrics["complete"] = static_cast<double>(whole);
  metrics["ready"] = static_cast<double>(outcome.seconds.size());
  if (outcome.seconds.empty()) return;
  metrics["first"] = outcome.seconds.front();
  metrics["median"] = outcome.seconds[(outcome.seconds.size() - 1) / 2];
  metrics["last"] = outcome.seconds.back();
  metrics["last_fast"] = last_fast;
}

Outcome Simulation::Collect() const {
  Outcome outcome;
  CollectTimes(outcome);
  auto& metrics = outcome.metrics;
  const PeerId proxy = scenario_.nodes;
  for (PeerId peer = 0; peer <= proxy + 1; ++peer) {
    outcome.sent.push_back(links_.sent_bytes(peer));
    outcome.received.push_back(links_.received_bytes(peer));
  }
  for (const auto& [edge, bytes] : links_.edges()) {
    outcome.edges.push_back({static_cast<PeerId>(edge >> 32), static_cast<PeerId>(edge), bytes});
  }
  std::sort(outcome.edges.begin(), outcome.edges.end(), [](const Outcome::Edge& a, const Outcome::Edge& b) {
    return std::pair(a.server, a.client) < std::pair(b.server, b.client);
  });
  const auto image = static_cast<double>(image_.bytes());
  metrics["image"] = image;
  metrics["chunks"] = image_.table.size();
  metrics["bound"] = LowerBoundSeconds(scenario_);
  metrics["proxy_bytes"] = static_cast<double>(links_.sent_bytes(proxy));
  metrics["registry_bytes"] = static_cast<double>(links_.sent_bytes(proxy + 1));
  metrics["served"] = (metrics["proxy_bytes"] + metrics["registry_bytes"]) / image;
  metrics["lost_bytes"] = static_cast<double>(links_.lost_bytes());
  metrics["unfinished"] = static_cast<double>(pending_);
  metrics["joins"] = static_cast<double>(joins_);
  metrics["deaths"] = static_cast<double>(deaths_);
  metrics["leaves"] = static_cast<double>(leaves_);
  metrics["tree_moves"] = static_cast<double>(manager_->moved_edges());
  metrics["spare_moves"] = static_cast<double>(manager_->changed_spares());
  metrics["height"] = manager_->height();
  const Agents::Counters& counters = agents_.counters();
  metrics["asks"] = static_cast<double>(counters.asks);
  metrics["climbs"] = static_cast<double>(counters.climbs);
  metrics["misses"] = static_cast<double>(counters.misses);
  metrics["stolen"] = static_cast<double>(counters.stolen);
  metrics["loops"] = static_cast<double>(counters.loops);
  metrics["failures"] = static_cast<double>(counters.failures);
  metrics["wasted_bytes"] = static_cast<double>(counters.wasted_bytes);
  if (requests_) {
    std::vector<Nanos> responses = requests_->responses();
    std::sort(responses.begin(), responses.end());
    const auto at = [&](double share) {
      if (responses.empty()) return 0.0;
      return static_cast<double>(responses[static_cast<size_t>(share * static_cast<double>(responses.size() - 1))]) /
             1e9;
    };
    metrics["requests"] = static_cast<double>(responses.size());
    metrics["response_median"] = at(0.5);
    metrics["response_p99"] = at(0.99);
    metrics["response_last"] = at(1);
    metrics["cold_starts"] = static_cast<double>(requests_->cold_starts());
    metrics["reclaimed"] = static_cast<double>(requests_->reclaimed());
    metrics["most_nodes"] = requests_->most_nodes();
  }
  outcome.events = events_.popped();
  return outcome;
}

}  // namespace

Outcome Simulate(const Scenario& scenario) { return Simulation(scenario).Run(); }

}  // namespace banyan::sim
