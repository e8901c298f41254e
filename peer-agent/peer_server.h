// Serves this node's children in the trees: chunks out of the store or as they arrive, and whole blobs.
//
//   GET, HEAD  /v2/<name>/blobs/<digest>    docs/protocol.md says which headers mean what
//
// A chunk ask (`Range: bytes=a-b`, chunk-aligned) of a layer that this node reads itself goes to its RelayLayer: what
// is here is answered at once, what is missing is asked for as for an own read, in single flight with those, while the
// child is told "102". The answer ends with the last chunk that was here when the first one was: a body never waits.
// All else, and what no chunk table is known for, is a whole blob and goes to a handler (the mirror). Every byte goes
// through one UplinkGate. Nothing a peer sends is trusted: limits on asks, in all and a child, and no thread waits.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "common/digest.h"
#include "common/executor.h"
#include "common/metrics.h"
#include "common/result.h"
#include "fetch/relay_layer.h"
#include "fetch/timer.h"
#include "fetch/uplink.h"
#include "fetch/wait_table.h"
#include "net/http_server.h"

namespace banyan::peer_agent {

// What of this node's peers may see. Called on server threads for every request: cheap, never blocking. Internally
// synchronised.
class PeerCatalog {
 public:
  struct Found {
    enum class Kind : uint8_t {
      kNone,     // not of this function
      kPending,  // the function's manifest or map is on its way: it may become known
      kLayer,    // `layer` has its chunks
      kWhole,    // a blob of the function without chunks: a map, metadata, a raw layer
    };
    Kind kind = Kind::kNone;
    std::shared_ptr<fetch::RelayLayer> layer;
  };

  virtual ~PeerCatalog() = default;
  // Whether peers may have the function's blobs from this node.
  virtual bool IsJoined(const std::string& function) = 0;
  // kNone also when it is not joined. Peers are given nothing else: a digest that is of no joined function stays here.
  virtual Found Find(const std::string& function, const Digest& blob) = 0;
  // The chunk's compressed bytes on this node's disk are not what they should be: to be forgotten and fetched again.
  // On the executor; may block on the disk.
  virtual void DropChunk(const std::string& function, const Digest& blob, ChunkIndex chunk) = 0;
};

struct PeerServerOptions {
  std::string address = "0.0.0.0";
  uint16_t port = 0;  // 0: a free one
  std::string token;  // of the cluster; empty: none is asked for
  uint32_t threads = 2;
  uint32_t max_connections = 2048;
  uint32_t max_asks = 1024;           // unanswered, or being answered
  uint32_t max_asks_per_child = 128;  // by what the child calls itself
  uint64_t max_answer_bytes = 8 * kMiB;
  std::chrono::milliseconds interim_interval{300};
  std::chrono::milliseconds layer_wait{10'000};  // for an image map that is on its way
  uint32_t notsent_bytes = 128 * kKiB;           // TCP_NOTSENT_LOWAT
  std::chrono::milliseconds backlog{4};          // what the kernel holds for a child, by time: net::HttpServerOptions
  fetch::UplinkOptions uplink;
  // Whole blobs; the request is the peer's without its token. Null: 404.
  net::HttpHandler whole_blobs;
  // For `Via`: whom this node waits for. Null: nobody is named. They must outlive the server.
  const fetch::WaitTable* chunk_waits = nullptr;
  const fetch::WaitTable* blob_waits = nullptr;  // whole blobs, as chunk 0
};

struct PeerServerStats {
  std::array<uint64_t, 3> asks{};        // by class: demand, prefetch, fill
  std::array<uint64_t, 3> sent_bytes{};  // by class
  uint64_t waited = 0;                   // asks that were told to wait
  uint64_t interims = 0;                 // 102 answers
  uint64_t partial = 0;                  // answers with fewer chunks than were asked for
  uint64_t missed = 0;                   // 504 to only-if-cached
  uint64_t refused_busy = 0;             // 503: too many asks
  uint64_t refused_token = 0;            // 401
  uint64_t not_found = 0;                // 404
  uint64_t failed = 0;                   // 503: this node could not get it either
  uint64_t cut = 0;                      // the child went before the end
  uint64_t rechecks = 0;
  uint64_t dropped_chunks = 0;  // by a recheck
  uint64_t open_asks = 0;       // now
  uint64_t connections = 0;     // now
  uint64_t bytes_per_second = 0;
  bool full = false;  // no more demand is welcome (fetch::Uplink::full)
};

// Internally synchronised.
class PeerServer {
 public:
  // `catalog`, `timer` and `executor` must outlive it. Errors: the address cannot be bound.
  static Result<std::unique_ptr<PeerServer>> Start(PeerServerOptions options, PeerCatalog& catalog, fetch::Timer& timer,
                                                   Executor& executor);
  // Ends connections and lets go of what was asked for them. Not from one of its callbacks.
  ~PeerServer();
  PeerServer(const PeerServer&) = delete;
  PeerServer& operator=(const PeerServer&) = delete;

  uint16_t port() const;
  // Off: everything is 404, from the next request on. On at first.
  void SetServing(bool serving);
  // A map has come, or an image is gone: asks that wait for a layer look again.
  void LayersChanged();
  PeerServerStats stats() const;
  void AddMetrics(MetricsPage& page) const;

  class Impl;  // the .cc's own

 private:
  explicit PeerServer(std::shared_ptr<Impl> impl);
  const std::shared_ptr<Impl> impl_;  // shared with requests under way
};

}  // namespace banyan::peer_agent
