#include "sim/user_requests.h"

#include <algorithm>

namespace banyan::sim {

UserRequests::UserRequests(const Scenario& scenario, EventQueue& events, NodeAction start, NodeAction give_back)
    : scenario_(scenario),
      events_(events),
      start_(std::move(start)),
      give_back_(std::move(give_back)),
      random_(Mix(scenario.seed + 7)),
      idle_since_(scenario.nodes, -1),
      serving_since_(scenario.nodes, 0) {
  for (uint32_t node = scenario.nodes; node > 0; --node) free_.push_back(node - 1);
  ScheduleNext();
}

void UserRequests::ScheduleNext() {
  const Nanos now = events_.now();
  double rate = 0;
  Nanos until = scenario_.requests_end;
  for (const auto& [from, a_second] : scenario_.rate) {
    if (from > now) {
      until = std::min(until, from);
      break;
    }
    rate = a_second;
  }
  if (now >= scenario_.requests_end) {
    ended_ = true;
    return;
  }
  const double wait = rate > 0 ? random_.Exponential() / rate * 1e9 : 1e18;
  // No request in what is left of this rate: look again with the next one (the waits have no memory).
  if (wait > static_cast<double>(until - now)) {
    events_.At(until, EventKind::kRequest, 0, 1);
  } else {
    events_.In(static_cast<Nanos>(wait), EventKind::kRequest, 0, 0);
  }
}

void UserRequests::OnRequest() {
  waiting_.push_back(events_.now());
  if (!idle_.empty()) {
    const uint32_t node = idle_.back();
    idle_.pop_back();
    idle_since_[node] = -1;
    ++busy_;
    Serve(node);
  } else if (!free_.empty()) {
    const uint32_t node = free_.back();
    free_.pop_back();
    ++busy_;
    ++cold_starts_;
    start_(node);
  }
  most_nodes_ = std::max(most_nodes_, scenario_.nodes - static_cast<uint32_t>(free_.size()));
  ScheduleNext();
}

void UserRequests::OnRateChange() { ScheduleNext(); }

void UserRequests::OnReady(uint32_t node) { Serve(node); }

// The node is busy and may serve the one that has waited longest.
void UserRequests::Serve(uint32_t node) {
  if (waiting_.empty()) {
    --busy_;
    idle_.push_back(node);
    idle_since_[node] = events_.now();
    events_.In(scenario_.reclaim, EventKind::kReclaim, node, static_cast<uint64_t>(events_.now()));
    return;
  }
  serving_since_[node] = waiting_.front();
  waiting_.pop_front();
  events_.In(scenario_.service, EventKind::kServed, node);
}

void UserRequests::OnServed(uint32_t node) {
  responses_.push_back(events_.now() - serving_since_[node]);
  Serve(node);
}

void UserRequests::OnReclaim(uint32_t node, Nanos idle_since) {
  if (idle_since_[node] != idle_since) return;
  idle_since_[node] = -1;
  std::erase(idle_, node);
  free_.push_back(node);
  ++reclaimed_;
  give_back_(node);
}

}  // namespace banyan::sim
