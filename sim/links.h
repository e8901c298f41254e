// The network: who sends what to whom, when the bytes are there.
//
// Model. Every peer has an uplink and a downlink, each with a rate; the core between them is not a bottleneck. An
// uplink sends one slice at a time, of the connection that has had the least so far by its weight (that is how TCP
// shares a link among greedy connections, unfairly when weights differ). A connection has at most `window` bytes
// between the sender and the receiver's downlink; a slice takes its time on both links (cut through), those that meet
// at a downlink wait for each other. So a receiver that is fed by two parents holds each back to its share, and their
// other children get what it leaves. O(log connections of the sender) a slice.
//
// What is put on the wire is decided by the sender's policy: an agent's and the proxy's by fetch/uplink.h, in grants;
// the registry's answers go at once. docs/simulator.md: what that leaves out.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "common/units.h"
#include "fetch/chunk_source.h"
#include "fetch/uplink.h"
#include "image-format/chunk_table.h"
#include "sim/event_queue.h"

namespace banyan::sim {

// Nodes from 0, then the proxy, then the registry.
using PeerId = uint32_t;
inline constexpr PeerId kNobody = UINT32_MAX;
using FunctionId = uint32_t;
using TransferId = uint32_t;

enum class UplinkPolicy : uint8_t {
  kTcp,     // answers go at once, connections share
  kAgent,   // fetch::Uplink
  kCoarse,  // strictly by class, within it the child that is furthest behind; a rough fetch::Uplink, at a tenth of its
            // cost
};

// What the links tell.
class TransferObserver {
 public:
  virtual ~TransferObserver() = default;
  // A whole chunk has arrived. `last`: the transfer is over, its id void.
  virtual void OnChunkArrived(uint32_t cookie, ChunkIndex chunk, bool last) = 0;
};

// Externally synchronised.
class Links {
 public:
  struct Options {
    uint64_t slice_bytes = 64 * kKiB;    // of a link's time
    bool whole_chunks = false;           // a slice is a chunk: fewer events
    uint64_t window_bytes = 256 * kKiB;  // of a connection
    uint64_t burst_bytes = 0;            // what a link that was idle passes at once: a shaper's bucket
    Nanos backlog = 0;                   // what waits in front of a busy uplink, by its time: kernel's and shaper's
    Nanos latency = 100 * kMicrosecond;  // one way
    Nanos zone_latency = 0;              // and so much more between zones
    double unfairness = 0;               // deviation of the logarithm of connections' weights
    uint64_t seed = 1;
    fetch::UplinkOptions uplink;
    bool count_edges = false;
  };
  struct Rates {
    double up = 0;  // bytes per second, of payload
    double down = 0;
  };
  struct Answer {
    PeerId server = 0;
    PeerId client = 0;
    FunctionId function = 0;
    fetch::Priority priority = fetch::Priority::kFill;
    ChunkRange chunks;
    uint32_t cookie = 0;  // for the observer
  };

  // All must outlive the links.
  Links(const Options& options, EventQueue& events, const image_format::ChunkTable& table, TransferObserver& observer);

  PeerId AddPeer(const Rates& rates, uint32_t zone, UplinkPolicy policy);
  void SetRates(PeerId peer, const Rates& rates);
  const Rates& RatesOf(PeerId peer) const { return peers_[peer].rates; }
  Nanos LatencyBetween(PeerId a, PeerId b) const;

  TransferId Send(const Answer& answer);
  // The client has closed the connection: what is on its way is lost.
  void Cancel(TransferId transfer);
  // Nothing of it leaves or arrives any more; its transfers, both ways, are over without a word.
  void Silence(PeerId peer);
  // It is back, empty.
  void Revive(PeerId peer);
  bool silent(PeerId peer) const { return peers_[peer].silent; }

  void OnSliceSent(PeerId server);
  void OnSliceArrives(TransferId transfer, uint64_t bytes);
  void OnUplinkAsks(PeerId server);

  // An agent's uplink policy has more to send than it can.
  bool UplinkFull(PeerId peer) const { return peers_[peer].uplink != nullptr && peers_[peer].uplink->full(Time()); }

  uint64_t sent_bytes(PeerId peer) const { return peers_[peer].sent; }
  uint64_t received_bytes(PeerId peer) const { return peers_[peer].received; }
  uint64_t lost_bytes() const { return lost_; }
  size_t transfers() const { return live_; }
  // Brings into the processor's cache what the event after this one will need.
  void Prefetch(TransferId transfer) const;
  void PrefetchPeer(PeerId peer) const;
  // (server, client) → bytes sent, if counted.
  const std::unordered_map<uint64_t, uint64_t>& edges() const { return edges_; }

 private:
  struct Transfer {
    Answer answer;
    uint32_t connection = 0;
    ChunkIndex sending = 0;  // the chunk that goes next
    uint64_t sent_of_chunk = 0;
    ChunkIndex arriving = 0;
    uint64_t arrived_of_chunk = 0;
    uint64_t ungranted = 0;
    uint64_t granted = 0;  // to be sent now
    uint64_t ticket = 0;   // of fetch::Uplink; 0: none
    uint32_t slices_out = 0;
    bool live = false;
    bool cancelled = false;
  };
  struct Connection {
    PeerId server = 0;
    PeerId client = 0;
    uint8_t level = 0;
    uint64_t out = 0;   // bytes on their way
    double served = 0;  // bytes by weight
    double weight = 1;
    Nanos weighed = -1;  // the draw of its weight
    bool listed = false;
    std::vector<TransferId> queue;  // with granted bytes, in order
  };
  static constexpr Nanos kBefore = 1'000 * kSecond;  // a bucket was filled long ago
  // A connection that may send: level, served, connection.
  using Ready = std::tuple<uint8_t, double, uint32_t>;
  // What each slice needs comes first, within two cache lines: with thousands of peers time is cache misses.
  struct alignas(64) Peer {
    double up_nanos = 0;  // a byte
    double down_nanos = 0;
    Nanos up_free = -kBefore;  // when all it has passed would have been passed at its rate
    Nanos down_free = -kBefore;
    double clock = 0;  // of `served`
    TransferId sending = UINT32_MAX;
    uint32_t zone = 0;
    UplinkPolicy policy = UplinkPolicy::kTcp;
    bool silent = false;
    uint64_t sent = 0;
    uint64_t received = 0;
    std::vector<Ready> ready;                                // descending: the last one is the next
    std::vector<std::pair<uint64_t, uint32_t>> connections;  // to it: server and class → connection
    std::unique_ptr<fetch::Uplink> uplink;
    uint64_t backlog = 0;            // granted, and not yet sent
    uint64_t slice = 0;              // of that, what is being sent
    std::deque<TransferId> granted;  // their grants are not done: older first
    Rates rates;
    std::unordered_map<uint64_t, TransferId> tickets;
    Nanos asks_at = kNever;
  };

  fetch::Clock::time_point Time() const { return fetch::Clock::time_point(std::chrono::nanoseconds(events_.now())); }
  uint32_t ConnectionOf(const Answer& answer);
  void Weigh(Connection& connection) const;
  void Grant(TransferId id, uint64_t bytes);
  void EndGrants(PeerId server);
  void List(uint32_t connection);
  void Unlist(uint32_t connection);
  void TakeGrants(PeerId server);
  void SendNext(PeerId server);
  void EndSlice(PeerId server, TransferId id);
  void Drop(TransferId id);
  void Free(TransferId id);

  const Options options_;
  EventQueue& events_;
  const image_format::ChunkTable& table_;
  TransferObserver& observer_;
  std::vector<Peer> peers_;
  std::vector<Transfer> transfers_;
  std::vector<TransferId> free_;
  std::vector<Connection> connections_;
  std::vector<std::string> names_;
  std::unordered_map<uint64_t, uint64_t> edges_;
  uint64_t lost_ = 0;
  size_t live_ = 0;
};

}  // namespace banyan::sim
