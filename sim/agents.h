// The nodes' agents: what a node wants, whom it asks, what it answers. The proxy is one of them, above all others.
//
// Each node runs the agents' own fetch::FlightTable (with the request planner and its lanes; coarse runs the planner
// alone); who is asked is a short form of fetch/tree_source.h: the lane's parent, its spares, the proxy, the registry.
// An agent that lacks a chunk which it is asked for asks for it itself; the asker waits, and knows that it waits for a
// living node. agents.cc asks, serving.cc answers, starts.cc is what the node does with the bytes.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "sim/event_queue.h"
#include "sim/fetch_table.h"
#include "sim/image.h"
#include "sim/links.h"
#include "sim/manager.h"
#include "sim/scenario.h"

namespace banyan::sim {

class AgentsObserver {
 public:
  virtual ~AgentsObserver() = default;
  // The start has read all it wanted, or the whole image is here.
  virtual void OnReady(PeerId node, FunctionId function) = 0;
  virtual void OnUnreachable(PeerId peer) = 0;
};

// What one node has of one function.
struct Member {
  FunctionId function = 0;
  bool has_routes = false;
  bool begun = false;  // metadata are here
  Routes routes;
  std::vector<bool> have;
  uint32_t have_count = 0;
  struct Waiting {
    ChunkIndex chunk = 0;
    uint32_t request = 0;
    uint64_t generation = 0;
  };
  std::vector<Waiting> waiting;  // requests of children, for the chunk that they begin with
  ChunkIndex next_queued = 0;
  uint32_t queued = 0;  // of prefetch, not yet here

  uint32_t reads = 0;  // done
  ChunkIndex reading = UINT32_MAX;
  Nanos reading_since = 0;

  Nanos started = 0;
  Nanos ready = -1;
  Nanos longest_stall = 0;
  std::array<Nanos, kStripes> last_of{};  // when a chunk of the stripe came; 0: none yet
  uint32_t moves = 0;                     // a parent was replaced by another
};

// Externally synchronised.
class Agents final : public TransferObserver, public RoutesObserver {
 public:
  struct Counters {
    uint64_t asks = 0;
    uint64_t climbs = 0;  // to the next rung
    uint64_t loops = 0;
    uint64_t stolen = 0;  // requests by another lane than the chunks' own
    uint64_t misses = 0;
    uint64_t failures = 0;      // of all rungs
    uint64_t wasted_bytes = 0;  // chunks that were here already
  };

  // All must outlive it. The peers of `links` are the nodes, then the proxy, then the registry.
  Agents(const Scenario& scenario, const Image& image, EventQueue& events, AgentsObserver& observer);
  void SetLinks(Links& links) { links_ = &links; }

  // The node becomes a member; it fetches when it has routes.
  Member& Join(PeerId node, FunctionId function);
  void Leave(PeerId node, FunctionId function);
  // `noticed`: its connections are reset; else they fall silent.
  void Die(PeerId node, bool noticed);
  void Revive(PeerId node);

  void OnChunkArrived(uint32_t cookie, ChunkIndex chunk, bool last) override;
  void OnRoutes(PeerId node, FunctionId function, const Routes& routes) override;
  void OnAskArrives(uint32_t request, uint64_t generation);
  void OnAskFails(uint32_t request, uint64_t generation);
  // It has been checked and stored.
  void OnStored(PeerId node, FunctionId function, ChunkIndex chunk);
  void OnAlarm(PeerId node);
  void OnNextRead(PeerId node, FunctionId function);

  // Brings into the processor's cache what the event after this one will need.
  void Prefetch(uint32_t request) const {
    const Request& next = requests_[request];
    PrefetchAgent(next.target);
    PrefetchAgent(next.client);
  }

  bool alive(PeerId node) const { return agents_[node].alive; }
  Member* Find(PeerId node, FunctionId function);
  const std::vector<std::unique_ptr<Member>>& members(PeerId node) const { return agents_[node].members; }
  const Counters& counters() const { return counters_; }

 private:
  enum class Failure : uint8_t { kNone, kUnreachable, kRefused, kMiss, kLoop };
  static constexpr size_t kMostRungs = 6;
  static constexpr TransferId kNoTransfer = UINT32_MAX;

  // One planned request, from the first ask to its last chunk.
  struct Request {
    uint64_t generation = 0;
    PeerId client = 0;
    FunctionId function = 0;
    fetch::RequestId planned = 0;
    ChunkRange rest;
    fetch::Priority priority = fetch::Priority::kFill;
    uint8_t lane = 0;
    uint8_t home = 0;
    bool only_if_held = false;
    bool live = false;
    bool waits = false;  // in the target's `waiting`
    Failure failure = Failure::kNone;
    uint8_t tried_count = 0;
    std::array<PeerId, kMostRungs> tried{};
    PeerId target = kNobody;
    TransferId transfer = kNoTransfer;
    Nanos asked = 0;
    Nanos deadline = 0;
    bool first_answer = true;
  };
  struct Avoided {
    PeerId peer = 0;
    Nanos until = 0;
    Nanos penalty = 0;
  };
  struct alignas(64) Agent {
    bool alive = true;
    Member* recent = nullptr;        // of the members, the one that was found last
    std::vector<uint32_t> requests;  // live
    std::optional<FetchTable> table;
    Nanos alarm = kNever;
    std::vector<std::unique_ptr<Member>> members;
    std::vector<Avoided> avoided;
    double proxy_latency = 0;  // of demand, until the first chunk; recent, in nanoseconds
    double parent_latency = 0;
  };

  PeerId proxy() const { return scenario_.nodes; }
  PeerId registry() const { return scenario_.nodes + 1; }
  fetch::Clock::time_point Time() const { return fetch::Clock::time_point(std::chrono::nanoseconds(events_.now())); }
  uint64_t BytesOf(ChunkIndex chunk) const { return image_.table[chunk].compressed_bytes; }

  void PrefetchAgent(PeerId peer) const {
    if (peer >= agents_.size()) return;
    __builtin_prefetch(&agents_[peer]);
    __builtin_prefetch(agents_[peer].recent);
  }

  // agents.cc
  void Want(PeerId node, FunctionId function, ChunkIndex chunk, fetch::Priority priority, fetch::ReadId reader);
  void Pump(PeerId node);
  void SetAlarm(PeerId node);
  void Ask(uint32_t request);
  PeerId PickTarget(Request& request);
  bool IsAvoided(const Agent& agent, PeerId peer) const;
  bool IsRare(const Request& request) const;
  void Avoid(Agent& agent, PeerId peer);
  void NoteLatency(Request& request);
  void GiveUpLate(PeerId node);
  void WantAgain(PeerId node);
  void FailAll(uint32_t request);
  void Forget(uint32_t request);
  // serving.cc
  void Answer(uint32_t request, Member* member);
  void SendRun(uint32_t request, ChunkIndex end);
  void Refuse(uint32_t request, Failure failure);
  bool WaitsFor(PeerId node, FunctionId function, ChunkIndex chunk, PeerId whom) const;
  void Wake(PeerId node, Member& member, ChunkIndex chunk);
  void LeaveQueue(uint32_t request);
  // starts.cc
  void Begin(PeerId node, Member& member);
  void Feed(PeerId node, Member& member);
  void TakeChunk(PeerId node, Member& member, ChunkIndex chunk);
  void ReadNext(PeerId node, Member& member);

  const Scenario& scenario_;
  const Image& image_;
  EventQueue& events_;
  AgentsObserver& observer_;
  Links* links_ = nullptr;
  std::vector<Agent> agents_;
  std::vector<Request> requests_;
  std::vector<uint32_t> free_requests_;
  uint64_t generation_ = 0;
  uint64_t route_changes_ = 0;
  Counters counters_;
};

}  // namespace banyan::sim
