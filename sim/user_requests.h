// Users' requests of a function: one at a time in a node, a cold start where no node is free, a node given back when it
// has been idle for long. The workload of FaaSNet's bursts (ATC'21 §5).
#pragma once

#include <deque>
#include <functional>
#include <vector>

#include "sim/event_queue.h"
#include "sim/random.h"
#include "sim/scenario.h"

namespace banyan::sim {

// Externally synchronised.
class UserRequests {
 public:
  // Starts the function on a node; gives a node back.
  using NodeAction = std::function<void(uint32_t node)>;

  UserRequests(const Scenario& scenario, EventQueue& events, NodeAction start, NodeAction give_back);

  void OnRequest();
  void OnRateChange();
  void OnReady(uint32_t node);
  void OnServed(uint32_t node);
  void OnReclaim(uint32_t node, Nanos idle_since);

  bool done() const { return ended_ && waiting_.empty() && busy_ == 0; }
  // From the request to the end of its service.
  const std::vector<Nanos>& responses() const { return responses_; }
  uint64_t cold_starts() const { return cold_starts_; }
  uint64_t reclaimed() const { return reclaimed_; }
  uint32_t most_nodes() const { return most_nodes_; }

 private:
  void ScheduleNext();
  void Serve(uint32_t node);

  const Scenario& scenario_;
  EventQueue& events_;
  NodeAction start_;
  NodeAction give_back_;
  Random random_;
  std::deque<Nanos> waiting_;         // when they came
  std::vector<uint32_t> idle_;        // the last one used is the next one used
  std::vector<Nanos> idle_since_;     // of a node; -1: not idle
  std::vector<Nanos> serving_since_;  // when the request that a node serves came
  std::vector<uint32_t> free_;        // without the function
  std::vector<Nanos> responses_;
  uint32_t busy_ = 0;  // starting or serving
  uint32_t most_nodes_ = 0;
  uint64_t cold_starts_ = 0;
  uint64_t reclaimed_ = 0;
  bool ended_ = false;
};

}  // namespace banyan::sim
