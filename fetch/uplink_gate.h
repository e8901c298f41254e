// Puts every answer that leaves this node for a peer through one fetch::Uplink, whoever makes the answer.
//
// Idea: a decorator of net::HttpReply. What is written to it waits in a queue of its own; the uplink says who may send
// how much now, and that much is passed on, files by sendfile(2) as before. The head goes out with the first bytes, so
// that an answer which has begun is never silent; until then the peer is told "102" again and again, so that it knows
// this node alive, and for whom it waits (`Via`).
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "fetch/timer.h"
#include "fetch/uplink.h"
#include "net/http_server.h"

namespace banyan::fetch {

// One answer on its way to a peer. Internally synchronised.
class GatedReply : public net::HttpReply {
 public:
  // Call once the handler has returned: unless the head is out already, 102 is sent now and again and again, soon at
  // first and then at the gate's interval, and the peer's end is noticed at once.
  virtual void TellWaiting() = 0;
};

struct GateOptions {
  UplinkOptions uplink;
  std::chrono::milliseconds interim_interval{300};  // at most, between two 102
};

struct GateStats {
  std::array<uint64_t, 3> sent_bytes{};  // by class
  uint64_t waited = 0;                   // answers that were told to wait
  uint64_t interims = 0;                 // how often: 102 answers
  uint64_t cut = 0;                      // answers whose peer went before the end
  uint64_t open = 0;                     // answers now
  uint64_t bytes_per_second = 0;         // over the last second
  bool full = false;
};

// Internally synchronised. Answers may outlive it: they end as the connections do.
class UplinkGate {
 public:
  struct Answer {
    std::string child;
    std::string function;
    Priority priority = Priority::kPrefetch;
    bool head_only = false;  // the request is a HEAD
    // Whom this node waits for; may be null. Any thread, under the gate's lock; not called after Close().
    std::function<std::string()> via;
    std::function<void(bool gone)> over;  // once, any thread: all is sent or refused, or the peer has gone; may be null
  };

  // `timer` must outlive the gate and the answers.
  UplinkGate(const GateOptions& options, Timer& timer);
  ~UplinkGate();
  UplinkGate(const UplinkGate&) = delete;
  UplinkGate& operator=(const UplinkGate&) = delete;

  std::shared_ptr<GatedReply> Wrap(std::shared_ptr<net::HttpReply> reply, Answer answer);
  // Nothing happens by time any more. Also by the destructor.
  void Close();
  GateStats stats() const;

  class Impl;  // the .cc's own

 private:
  const std::shared_ptr<Impl> impl_;  // shared with answers
};

}  // namespace banyan::fetch
