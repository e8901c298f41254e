// The OCI distribution 1.1 read API in front of any number of registries, over the node store.
//
// A request names its upstream by `ns=<registry>` (what containerd sends to a mirror), else by a path prefix
// (/v2/<registry>/<name>/…), else it means the default one; content that the store has is served by its digest in any
// case. What is not in the store is fetched once, however many ask, and passed on while it arrives; it counts as stored
// only after its digest was checked. Answers to failures send containerd on to its next host: 404 for what is not here
// to be had, 5xx when an upstream failed, never 408 or 429, which it would retry here.
//
//   GET, HEAD  /v2/  /v2/<name>/manifests/<tag|digest>  /v2/<name>/blobs/<digest>
//   with `Cache-Control: only-if-cached`, a blob that is neither in the store nor on its way is 504
//   GET        /v2/<name>/referrers/<digest>[?artifactType=]  /v2/<name>/tags/list[?n=&last=]
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/result.h"
#include "mirror/hooks.h"
#include "mirror/stats.h"
#include "mirror/upstreams.h"
#include "net/http_server.h"
#include "store/node_store.h"

namespace banyan::mirror {

struct MirrorOptions {
  std::vector<UpstreamOptions> upstreams;
  std::string default_upstream;  // the name of one; empty: none
  // Registries that are not listed are asked as well, with `other_upstreams` (its name and endpoints are not used), as
  // far as a host may be named by whoever can reach the mirror. Right on loopback, a danger elsewhere.
  bool any_upstream = false;
  UpstreamOptions other_upstreams;
  bool host_prefix = true;  // take /v2/<registry>/<name>/… as well

  std::chrono::milliseconds tag_lifetime{30'000};  // a tag is looked up again after this time
  std::chrono::milliseconds referrers_lifetime{10'000};
  // When the upstream has not answered after this time, what it said last is, if that is known: a tag's manifest, a
  // list of referrers.
  std::chrono::milliseconds stale_after{2'000};
  // The same, when the hook has referrers of the type that is asked for: they are answered without the upstream's.
  std::chrono::milliseconds referrers_budget{300};
  uint32_t max_orphans = 8;                   // fills that go on though nobody reads them any more
  uint32_t max_repositories = 64;             // connections kept open, of each upstream
  uint64_t manifest_cache_bytes = 16 * kMiB;  // in memory
};

// Internally synchronised. The store must outlive it, and so must whatever the hooks use.
class Mirror {
 public:
  // kInvalidArgument: two upstreams of one name, a default that is not among them, a malformed host.
  static Result<std::unique_ptr<Mirror>> Create(MirrorOptions options, store::NodeStore& store, Hooks hooks = {});
  // Breaks off what is under way. Stop the HttpServer before.
  ~Mirror();
  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;

  // An HttpHandler: `[&](auto request, auto reply) { mirror->Handle(std::move(request), std::move(reply)); }`.
  // Paths outside /v2/ get a 404.
  void Handle(net::HttpRequest request, std::shared_ptr<net::HttpReply> reply);

  Stats stats() const;

  class Impl;  // the .cc's own

 private:
  explicit Mirror(std::shared_ptr<Impl> impl);
  const std::shared_ptr<Impl> impl_;  // shared with requests under way
};

}  // namespace banyan::mirror
