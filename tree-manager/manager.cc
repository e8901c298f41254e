#include "tree-manager/manager.h"

#include <algorithm>
#include <set>
#include <utility>

#include "common/log.h"

namespace banyan::tree_manager {
namespace {

// Of changes that could not be stored: beyond it the database would no longer be the trees of one instant anyway, and
// the manager ends rather than keep a false state.
constexpr size_t kMaxUnwritten = 8'000'000;
constexpr std::chrono::seconds kStoreRetry{1};

Time Now() { return std::chrono::steady_clock::now(); }

uint64_t UnixSeconds() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::max<int64_t>(std::chrono::duration_cast<std::chrono::seconds>(now).count(), 1));
}

uint64_t UnixMicros() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<uint64_t>(
      std::max<int64_t>(std::chrono::duration_cast<std::chrono::microseconds>(now).count(), 0));
}

bool Concerns(const proto::tree::WatchEvent& event, const std::string& function) {
  if (function.empty()) return true;
  if (event.has_tree()) return event.tree().function().function() == function;
  if (event.event_case() == proto::tree::WatchEvent::kFunctionGone) return event.function_gone() == function;
  return true;
}

}  // namespace

Manager::Manager(Options options)
    : options_(std::move(options)), membership_(options_.membership, UnixSeconds(), Now()) {}

Result<std::unique_ptr<Manager>> Manager::Start(Options options) {
  std::unique_ptr<Manager> manager(new Manager(std::move(options)));
  if (!manager->options_.state_path.empty()) {
    BANYAN_ASSIGN(manager->store_, StateStore::Open(manager->options_.state_path));
    BANYAN_ASSIGN(const StoredState state, manager->store_->Read());
    MutexLock lock(manager->mutex_);
    manager->membership_.Restore(state, Now());
    spdlog::info("{} nodes and {} functions restored; epoch {}", state.nodes.size(), state.functions.size(),
                 manager->membership_.epoch());
  }
  manager->ticker_ = std::thread([self = manager.get()] { self->Tick(); });
  if (manager->store_) manager->storer_ = std::thread([self = manager.get()] { self->Store(); });
  return manager;
}

Manager::~Manager() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  wake_ticker_.notify_all();
  wake_storer_.notify_all();
  if (ticker_.joinable()) ticker_.join();
  if (storer_.joinable()) storer_.join();
}

Manager::Work Manager::TakeWork() {
  Work work;
  for (auto& [session, reason] : membership_.TakeEnded()) {
    const auto sink = sinks_.find(session);
    if (sink == sinks_.end()) continue;
    work.ended.emplace_back(std::move(sink->second), std::move(reason));
    sinks_.erase(sink);
  }
  for (const SessionId session : membership_.TakeReady()) {
    const auto sink = sinks_.find(session);
    if (sink != sinks_.end()) work.ready.push_back(sink->second);
  }
  if (membership_.NextDeadline() < ticker_wakes_) wake_ticker_.notify_one();
  return work;
}

// Only Membership::Tick() makes events, and only the ticker hands them out: watchers get them in order.
void Manager::TakeEvents(Work& work) {
  std::vector<proto::tree::WatchEvent> events = membership_.TakeEvents();
  if (!events.empty()) work.watchers = watchers_;
  for (proto::tree::WatchEvent& event : events) {
    event.set_unix_micros(UnixMicros());
    work.events.push_back(std::make_shared<const proto::tree::WatchEvent>(std::move(event)));
  }
}

void Manager::Do(const Work& work) {
  for (const auto& [sink, reason] : work.ended) sink->End(reason);
  for (const auto& sink : work.ready) sink->Poke();
  for (const Watcher& watcher : work.watchers) {
    for (const SharedEvent& event : work.events) {
      if (Concerns(*event, watcher.function)) watcher.sink->Offer(event);
    }
  }
}

void Manager::Tick() {
  MutexLock lock(mutex_);
  while (!stopping_) {
    membership_.Tick(Now());
    Work work = TakeWork();
    TakeEvents(work);
    lock.Unlock();
    Do(work);
    lock.Lock();
    if (stopping_) return;
    ticker_wakes_ = std::min(membership_.NextDeadline(), Now() + Membership::kTick);
    lock.WaitUntil(wake_ticker_, ticker_wakes_);
    ticker_wakes_ = Time::min();  // awake: nobody needs to wake it
  }
}

void Manager::Store() {
  MutexLock lock(mutex_);
  for (bool last = false; !last;) {
    const Time next = Now() + (unwritten_.changes.empty() ? options_.store_interval : kStoreRetry);
    while (!stopping_ && Now() < next) lock.WaitUntil(wake_storer_, next);
    last = stopping_;
    RecordChanges changes = membership_.TakeRecords();
    if (changes.changes.empty() && unwritten_.changes.empty()) continue;
    lock.Unlock();
    const size_t count = changes.changes.size();
    WriteRecords(std::move(changes));
    lock.Lock();
    records_stored_ += count;
    if (!unwritten_.changes.empty()) ++store_failures_;
  }
}

void Manager::WriteRecords(RecordChanges changes) {
  const bool failing = !unwritten_.changes.empty();
  if (failing) {
    std::move(changes.changes.begin(), changes.changes.end(), std::back_inserter(unwritten_.changes));
    std::swap(changes, unwritten_);
    unwritten_.changes.clear();
  }
  const Status written = store_->Write(changes, true);
  if (written) {
    if (failing) spdlog::info("state: stored again");
    return;
  }
  if (!failing) spdlog::error("{}; kept in memory, and tried again", written.error().message);
  if (changes.changes.size() > kMaxUnwritten) {
    spdlog::error("state: {} changes that could not be stored are given up: a restart begins with older trees",
                  changes.changes.size());
    return;
  }
  unwritten_ = std::move(changes);
}

SessionId Manager::Open(const std::shared_ptr<SessionSink>& sink, std::string peer_ip) {
  MutexLock lock(mutex_);
  const SessionId id = membership_.Open(peer_ip, Now());
  sinks_[id] = sink;
  callers_[id].address = std::move(peer_ip);
  return id;
}

Status Manager::OnMessage(SessionId session, const proto::tree::NodeMessage& message) {
  if (message.has_swarms()) {
    OnAnnounce(session, message.swarms());
    return {};
  }
  Work work;
  Status status;
  {
    MutexLock lock(mutex_);
    if (message.has_preheat()) {
      if (const auto caller = callers_.find(session); caller != callers_.end() && !caller->second.node.empty()) {
        preheats_.Report(caller->second.node, message.preheat(), Now());
      }
      return {};
    }
    status = membership_.OnMessage(session, message, Now());
    if (!status) sinks_.erase(session);
    if (status && message.has_hello()) {
      Caller& caller = callers_[session];
      caller.node = message.hello().node();
      caller.zone = message.hello().zone();
      if (!message.hello().address().empty()) caller.address = message.hello().address();
      preheats_.Tell(caller.node);
    }
    work = TakeWork();
  }
  Do(work);
  return status;
}

void Manager::OnAnnounce(SessionId session, const proto::tree::SwarmAnnounce& announce) {
  if (!options_.announce) return;
  std::string zone;
  std::string address;
  {
    MutexLock lock(mutex_);
    const auto caller = callers_.find(session);
    if (caller == callers_.end() || caller->second.node.empty()) return;
    zone = caller->second.zone;
    address = caller->second.address;
  }
  auto message = std::make_shared<proto::tree::ManagerMessage>();
  *message->mutable_swarm_peers() = options_.announce(announce, zone, address);
  std::shared_ptr<SessionSink> sink;
  {
    MutexLock lock(mutex_);
    const auto caller = callers_.find(session);
    const auto found = sinks_.find(session);
    if (caller == callers_.end() || found == sinks_.end() || caller->second.answers.size() == kMaxAnswers) return;
    caller->second.answers.push_back(std::move(message));
    sink = found->second;
  }
  sink->Poke();
}

void Manager::Close(SessionId session) {
  MutexLock lock(mutex_);
  sinks_.erase(session);
  callers_.erase(session);
  membership_.Close(session, Now());
}

std::shared_ptr<const proto::tree::ManagerMessage> Manager::Next(SessionId session) {
  MutexLock lock(mutex_);
  auto message = membership_.Next(session);
  if (message != nullptr) return message;
  const auto found = callers_.find(session);
  if (found == callers_.end() || found->second.node.empty() || !sinks_.contains(session)) return nullptr;
  Caller& caller = found->second;
  if (caller.answers.empty()) return preheats_.Next(caller.node);
  message = std::move(caller.answers.front());
  caller.answers.pop_front();
  return message;
}

Result<proto::tree::PreheatReply> Manager::Preheat(const proto::tree::PreheatRequest& request) {
  std::vector<std::shared_ptr<SessionSink>> told;
  Result<proto::tree::PreheatReply> reply;
  {
    MutexLock lock(mutex_);
    reply = preheats_.Begin(request, membership_.Nodes(Now()), Now());
    if (!reply) return reply;
    const std::set<std::string> nodes(reply->nodes().begin(), reply->nodes().end());
    for (const auto& [session, caller] : callers_) {
      const auto sink = sinks_.find(session);
      if (nodes.contains(caller.node) && sink != sinks_.end()) told.push_back(sink->second);
    }
  }
  for (const auto& sink : told) sink->Poke();
  return reply;
}

Result<proto::tree::PreheatProgressReply> Manager::PreheatProgress(uint64_t id) {
  MutexLock lock(mutex_);
  std::set<std::string> here;
  for (const auto& [session, caller] : callers_) {
    if (!caller.node.empty()) here.insert(caller.node);
  }
  return preheats_.Progress(id, here, Now());
}

proto::tree::FunctionsReply Manager::Functions() {
  MutexLock lock(mutex_);
  return membership_.Functions();
}

Result<proto::tree::TreeReply> Manager::Tree(const std::string& function) {
  MutexLock lock(mutex_);
  return membership_.Tree(function);
}

proto::tree::NodesReply Manager::Nodes() {
  MutexLock lock(mutex_);
  return membership_.Nodes(Now());
}

std::vector<proto::tree::StartReport> Manager::Starts() {
  MutexLock lock(mutex_);
  const auto& starts = membership_.starts().starts();
  return {starts.begin(), starts.end()};
}

Manager::Summary Manager::Summarise() {
  MutexLock lock(mutex_);
  return {membership_.gauges(Now()), membership_.epoch(), membership_.peer_to_peer()};
}

Result<proto::tree::DrainReply> Manager::Drain(const std::string& node, bool undo) {
  MutexLock lock(mutex_);
  auto reply = membership_.Drain(node, undo, Now());
  wake_ticker_.notify_one();
  return reply;
}

void Manager::SetPeerToPeer(bool on) {
  Work work;
  {
    MutexLock lock(mutex_);
    membership_.SetPeerToPeer(on);
    work = TakeWork();
  }
  Do(work);
}

Result<std::vector<SharedEvent>> Manager::Watch(const std::shared_ptr<WatchSink>& sink, const std::string& function) {
  MutexLock lock(mutex_);
  if (watchers_.size() >= kMaxWatchers) return Fail(Code::kResourceExhausted, "too many watch already");
  watchers_.push_back({sink, function});
  membership_.Watch(true);
  std::vector<SharedEvent> events;
  for (proto::tree::WatchEvent& event : membership_.Snapshot(function, Now())) {
    event.set_unix_micros(UnixMicros());
    events.push_back(std::make_shared<const proto::tree::WatchEvent>(std::move(event)));
  }
  return events;
}

void Manager::Unwatch(const WatchSink* sink) {
  MutexLock lock(mutex_);
  std::erase_if(watchers_, [sink](const Watcher& watcher) { return watcher.sink.get() == sink; });
  membership_.Watch(!watchers_.empty());
}

void Manager::AddMetrics(MetricsPage& page) {
  MembershipCounters counters;
  MembershipGauges gauges;
  uint64_t store_failures = 0;
  uint64_t records = 0;
  size_t watchers = 0;
  {
    MutexLock lock(mutex_);
    counters = membership_.counters();
    gauges = membership_.gauges(Now());
    store_failures = store_failures_;
    records = records_stored_;
    watchers = watchers_.size();
  }
  const auto counter = [&](const char* name, const char* help, uint64_t value) {
    page.Counter(name, help, static_cast<double>(value));
  };
  const auto gauge = [&](const char* name, const char* help, uint64_t value) {
    page.Gauge(name, help, static_cast<double>(value));
  };
  const auto nodes = [&](const char* state, uint64_t value) {
    page.Gauge("banyan_tree_nodes", "Nodes, by state.", {{"state", state}}, static_cast<double>(value));
  };
  nodes("live", gauges.live);
  nodes("suspect", gauges.suspect);
  nodes("away", gauges.away);
  nodes("draining", gauges.draining);
  gauge("banyan_tree_nodes_avoided", "Nodes that others have complained of: leaves for a while.", gauges.avoided);
  gauge("banyan_tree_sessions", "Sessions of nodes.", gauges.sessions);
  gauge("banyan_tree_functions", "Functions that nodes run.", gauges.functions);
  gauge("banyan_tree_members", "Nodes of all functions together.", gauges.members);
  gauge("banyan_tree_height", "Of the tallest tree.", gauges.height);
  gauge("banyan_tree_profile_chunks", "Chunks in provisional and kept profiles.", gauges.profile_chunks);
  gauge("banyan_tree_doubting", "1 while silence convicts nobody.", gauges.doubting ? 1 : 0);
  gauge("banyan_tree_watchers", "Watch calls.", watchers);
  counter("banyan_tree_joins_total", "Nodes that joined a function.", counters.joins);
  counter("banyan_tree_leaves_total", "Nodes that left a function.", counters.leaves);
  counter("banyan_tree_reclaimed_total", "Members taken out for want of use.", counters.reclaimed);
  counter("banyan_tree_removed_nodes_total", "Nodes taken out as dead.", counters.removed);
  counter("banyan_tree_reparentings_total", "Edges of members that changed.", counters.reparentings);
  counter("banyan_tree_assignments_total", "Assignments sent.", counters.assignments);
  counter("banyan_tree_beats_total", "Heartbeats received.", counters.beats);
  counter("banyan_tree_beats_missed_total", "Heartbeats missed.", counters.beats_missed);
  counter("banyan_tree_doubts_total", "Times that many nodes went silent at once.", counters.doubts);
  counter("banyan_tree_refused_total", "Hellos and joins refused by a limit, or malformed.", counters.refused);
  counter("banyan_tree_touches_total", "Reports of first touches.", counters.touches);
  counter("banyan_tree_records_total", "Records handed to the database.", records);
  counter("banyan_tree_store_failures_total", "Writes of the state that failed.", store_failures);
  constexpr const char* kKinds[] = {"unknown", "unreachable", "bad_bytes", "slow", "lied"};
  for (size_t kind = 1; kind < counters.reports.size(); ++kind) {
    page.Counter("banyan_tree_peer_reports_total", "Reports of nodes about their peers.", {{"kind", kKinds[kind]}},
                 static_cast<double>(counters.reports[kind]));
  }
}

}  // namespace banyan::tree_manager
