// Whole blobs by tree: image maps, metadata, and raw layers of images that are not converted.
//
// Problem: such blobs have no chunk table, so they pass as they are. Idea: the agent's mirror already fetches a blob
// once and passes it on while it arrives; this makes the function's parent the first place it asks
// (mirror::Hooks::open_blob_first). Parent, then spares, then, by an error, the mirror's upstream. A parent that waits
// itself says so (102); one that is silent, or waits for this node in a circle, is left for the next.
// Bytes are checked by the mirror, at the blob's end. What peers do wrong is remembered where their chunks' faults are:
// who lies in one is avoided in the other.
//
// Who sends slowly, or falls silent in the middle of a body, is avoided but not reported: a blob is passed on while it
// arrives, so the fault may be of one further up. Wrong bytes are reported: the manager demotes nobody before three
// nodes have, and a relay has two children.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "common/digest.h"
#include "common/result.h"
#include "fetch/peer_health.h"
#include "fetch/routes.h"
#include "fetch/wait_table.h"
#include "mirror/hooks.h"
#include "net/http_server.h"
#include "net/repository.h"

namespace banyan::peer_agent {

// Which function a whole blob belongs to: what is known of images that were asked for lately. Internally synchronised.
class BlobFunctions {
 public:
  explicit BlobFunctions(size_t capacity = 4096) : capacity_(capacity) {}
  void Add(const Digest& blob, const std::string& function);
  // Fits mirror::Hooks::on_manifest: the blobs of an image manifest belong to the manifest's digest, unless they are
  // known as another function's already. Indexes and what is no manifest are ignored.
  void OnManifest(const mirror::ResolvedManifest& resolved);
  // The latest. Counts as a use.
  std::optional<std::string> Find(const Digest& blob);

 private:
  using Uses = std::list<std::pair<Digest, std::string>>;  // the latest first
  void AddLocked(const Digest& blob, const std::string& function, bool replace);

  const size_t capacity_;
  std::mutex mutex_;
  Uses uses_;                                             // guarded by mutex_
  std::unordered_map<Digest, Uses::iterator> by_digest_;  // guarded by mutex_
};

struct PeerBlobsOptions {
  std::string node;   // this one's name
  std::string token;  // of the cluster; may be empty
  // The function's routes now; null: it has no peers.
  std::function<std::shared_ptr<const fetch::Routes>(const std::string& function)> routes;
  fetch::PeerHealth* health = nullptr;    // not null
  fetch::WaitTable* waits = nullptr;      // told whom a blob is waited for, as its chunk 0; may be null
  fetch::PeerReports* reports = nullptr;  // may be null
  std::chrono::milliseconds connect_timeout{800};
  std::chrono::milliseconds stall_timeout{1'200};  // without a byte, 102s included
  std::chrono::milliseconds longest_wait{60'000};  // for an answer, however alive the peer is
};

// Internally synchronised; what `options` points to must outlive it and the blobs it opened.
class PeerBlobs {
 public:
  explicit PeerBlobs(PeerBlobsOptions options);
  ~PeerBlobs();

  // Blocks. The blob's bytes from `offset` on, not checked, from the first peer that has or gets them; goes on with the
  // next peer when one fails in the middle. kNotFound: there is no peer to ask, or none has it; kUnavailable: none
  // answered. The source's Read blocks for at most the stall timeout of each peer that is left.
  Result<net::OpenedBlob> Open(const std::string& function, const mirror::BlobAsk& ask, uint64_t offset);
  // For mirror::Hooks::on_bad_blob: the bytes hash to something else. The peers they came from are avoided and
  // reported.
  void OnBadBlob(const Digest& blob);

  struct State;  // the .cc's own

 private:
  const std::shared_ptr<State> state_;  // shared with opened blobs
};

// Asks a handler (mirror::Mirror::Handle) for a blob as a client would, and blocks until it is here and checked against
// its digest: whoever else asks the handler for it meanwhile shares the one transfer. Wrong bytes, and a cut answer
// (which is how the mirror ends one), are asked for once more: whoever sent them is avoided by then. kResourceExhausted
// beyond `limit_bytes`; kDeadlineExceeded; else what the answer's status means.
Result<std::string> GetBlobFrom(const net::HttpHandler& handler, const mirror::BlobAsk& ask, uint64_t limit_bytes,
                                std::chrono::milliseconds timeout);

}  // namespace banyan::peer_agent
