// What this node has seen of its peers lately: how soon they answer, and which to leave alone for a while.
//
// First-byte times are kept as the last 64 a peer; the hedging deadline is their 95th percentile. Faults double the
// time for which a peer is avoided; a good answer makes up for having been unreachable, wrong bytes are remembered.
// Pure: time is passed in.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>

#include "fetch/chunk_source.h"
#include "fetch/routes.h"

namespace banyan::fetch {

// Internally synchronised. As large as the number of peers ever asked and not forgotten for an hour.
class PeerHealth {
 public:
  bool Avoided(const std::string& node, Clock::time_point now) const;
  // Whether what it claims to hold is worth an ask: false for a while after kLied, which is no reason to avoid it for
  // what the trees carry (it may have evicted a chunk).
  bool Believed(const std::string& node, Clock::time_point now) const;
  // True: it is to be reported (not when the same fault of the peer was, in the last second).
  bool NoteFault(const std::string& node, PeerFault fault, Clock::time_point now);
  // It said for as long as it was given that it waits for others. The second time in a row it is avoided for 10 s: it
  // may be stuck or pretend. No fault, since those above it may be to blame. True: it is avoided from now on.
  bool NoteWaitedInVain(const std::string& node, Clock::time_point now);
  // It does not know the function (404). A node that has just joined soon will: it is avoided, for 10 s, when it has
  // said nothing else for more than 5 s.
  void NoteUnknownThere(const std::string& node, Clock::time_point now);
  // The peer asked to be left alone.
  void NoteBusy(const std::string& node, Clock::duration how_long, Clock::time_point now);
  // The first byte of an answer came so long after the ask.
  void NoteFirstByte(const std::string& node, Clock::duration first_byte, Clock::time_point now);
  // An ask ended well.
  void NoteGood(const std::string& node, Clock::time_point now);
  void NoteOrigins(Clock::duration first_chunk, Clock::time_point now);
  void NoteOriginsFailed(Clock::time_point now);

  // Mean first-byte time, later ones weigh more; zero when unknown.
  Clock::duration LatencyOf(const std::string& node) const;
  // After how long without a first byte a demand ask is hedged.
  Clock::duration HedgeAfter(const std::string& node) const;
  // Whether another hedge is within 5 % of the asks; if so it is counted.
  void CountAsk();
  bool TakeHedge();
  // They failed in the last 5 s, and have not answered since.
  bool OriginsDown(Clock::time_point now) const;
  // Whether the origins are down, or answer so late that the tree by way of `parent` is better for rare chunks too.
  // False when they have not been asked for 5 s.
  bool OriginsCongested(const std::string& parent, Clock::time_point now) const;

 private:
  static constexpr size_t kSamples = 64;
  struct Peer {
    std::array<uint32_t, kSamples> first_byte_us{};
    uint32_t samples = 0;  // ever
    double latency_us = 0;
    uint32_t waits_in_vain = 0;  // since its last good answer
    Clock::time_point avoided_until{};
    Clock::time_point disbelieved_until{};
    Clock::time_point unknown_there_since{};  // epoch: its last answer was another
    std::array<uint32_t, 4> faults{};         // by PeerFault
    std::array<Clock::time_point, 4> reported{};
    Clock::time_point used{};
  };
  Peer& Use(const std::string& node, Clock::time_point now);

  mutable std::mutex mutex_;
  std::unordered_map<std::string, Peer> peers_;  // guarded by mutex_
  double origins_us_ = 0;                        // guarded by mutex_
  Clock::time_point origins_seen_{};             // guarded by mutex_
  Clock::time_point origins_down_until_{};       // guarded by mutex_
  uint64_t asks_ = 0;                            // guarded by mutex_
  uint64_t hedges_ = 0;                          // guarded by mutex_
};

}  // namespace banyan::fetch
