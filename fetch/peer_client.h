// Asks one peer for chunks: the client's side of the wire between agents (docs/protocol.md).
//
// One ask is for adjacent chunks. The peer answers with those that it has from the beginning on, perhaps fewer than
// asked, and is then asked for the rest, until all are here or the peer fails. While it waits itself it says so (102),
// with the names of those it waits for. Each chunk is checked before it is handed on; the first wrong byte ends the
// ask. What a peer does is remembered (PeerHealth) and, where it is a fault, reported.
//
//   no connection, a cut, 1.2 s without a byte or 102      kUnreachable   avoided for 3 s, doubling to 30 s
//   wrong digest, length or range                          kBadBytes      avoided for 60 s, doubling to 10 min
//   a body that moves less than 32 KiB/s after 2 s         kSlow          avoided for 10 s
//   only 102s until patience ends, twice in a row          no report      avoided for 10 s
//   503                                                    no report      avoided for Retry-After, at most 10 s
//   404 for more than 5 s                                  no report      avoided for 10 s
//   a miss, or 404, of what the peer claims to hold        kLied          its claims: disbelieved for 60 s, doubling
//   401, 403, others                                       no report      avoided for 10 s
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "fetch/chunk_source.h"
#include "fetch/peer_health.h"
#include "fetch/routes.h"
#include "fetch/timer.h"
#include "fetch/wait_table.h"
#include "net/http_client.h"

namespace banyan::fetch {

struct PeerAsk {
  PeerAddress peer;
  std::string_view rung;  // "parent", "spare", …: ChunkBytes::from; static storage
  std::string function;
  std::shared_ptr<const image_format::Device> device;
  ChunkRange chunks;  // not empty
  Priority priority = Priority::kDemand;
  bool only_if_cached = false;
  bool claimed = false;  // the peer has said that it holds all of this: a miss is a lie
  // Given up (kTimeout) about then, if the peer still waits for its own peers.
  Clock::time_point patience = Clock::time_point::max();
  // Given up (kTimeout) about then.
  Clock::time_point deadline = Clock::time_point::max();
};

// How an ask ended. kMiss: the peer does not hold it (only_if_cached); kLoop: it waits for this node; kTimeout: it
// waited too long for others; kRefused: it said no; kCancelled: by Cancel() or the end of the HTTP client.
enum class PeerResult : uint8_t { kGood, kMiss, kLoop, kTimeout, kRefused, kUnreachable, kBadBytes, kSlow, kCancelled };

// Called on the HTTP client's thread; must not block.
struct PeerHandlers {
  std::function<void()> on_waiting;                      // it says that it waits itself (102); may be null
  std::function<void()> on_head;                         // its first answer with bytes begins
  std::function<void(ChunkIndex, ChunkBytes)> on_chunk;  // in order, checked
  // Once, last. `error`: what happened, to which chunk, at which peer; without one when kGood.
  std::function<void(PeerResult, Error error)> on_done;
};

// Internally synchronised.
class PeerClient {
 public:
  struct Options {
    net::HttpClient* http = nullptr;  // these must outlive the client
    Timer* timer = nullptr;
    WaitTable* waits = nullptr;
    PeerReports* reports = nullptr;
    std::string node;   // this one's name
    std::string token;  // the cluster's
    std::chrono::milliseconds connect_timeout{1'000};
    std::chrono::milliseconds stall_timeout{1'200};  // without a byte or a 102
    std::chrono::milliseconds slow_after{2'000};
    uint64_t slow_bytes_per_second = 32 * kKiB;
  };
  explicit PeerClient(Options options);
  // Asks that are under way go on as long as the HTTP client, which must be ended before.
  ~PeerClient();
  PeerClient(const PeerClient&) = delete;
  PeerClient& operator=(const PeerClient&) = delete;

  // Names one ask, for Cancel().
  class Ask;
  // Handlers are called later, never out of this call.
  std::shared_ptr<Ask> Start(PeerAsk ask, PeerHandlers handlers);
  // No more chunks come; on_done comes with kCancelled, unless it has come.
  void Cancel(Ask& ask);

  PeerHealth& health() { return health_; }
  Timer& timer() { return *options_.timer; }
  const std::string& node() const { return options_.node; }

 private:
  const Options options_;
  PeerHealth health_;
};

}  // namespace banyan::fetch
