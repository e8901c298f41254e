// Where those who embed the mirror put in what is theirs. All are optional. Those marked "server thread" must not
// block.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/digest.h"
#include "mirror/route.h"
#include "mirror/upstreams.h"
#include "net/http_server.h"

namespace banyan::mirror {

struct ResolvedManifest {
  std::string upstream;    // its name
  std::string repository;  // there
  std::string reference;   // the tag, or the digest's text
  std::shared_ptr<const net::RawManifest> manifest;
  bool fetched = false;  // from the upstream just now; else it was known
};

struct BlobAsk {
  std::string upstream;
  std::string repository;
  Digest digest;
};

struct Hooks {
  // Server thread, for every request, before anything else. True: the hook has taken the reply and answers (own
  // repositories, pushes, other paths). `reply` and `request` may then be moved from.
  std::function<bool(net::HttpRequest& request, std::shared_ptr<net::HttpReply>& reply)> answer_first;
  // Server thread, before anything of a repository is served, from the store as well. Calls `proceed` once, now or
  // later, on any thread, with the identity that upstream requests are to be made with; or answers `reply` itself
  // (a challenge, a refusal) and drops `proceed`.
  using Proceed = std::function<void(Identity)>;
  std::function<void(const net::HttpRequest& request, const std::string& upstream, const Route& route,
                     std::shared_ptr<net::HttpReply> reply, Proceed proceed)>
      authorise;
  // Any thread, must not block: a manifest was answered, to a GET or a HEAD. One that was fetched can be had from the
  // mirror by its digest from now on.
  std::function<void(const ResolvedManifest&)> on_manifest;
  // A worker's thread: descriptors (JSON objects as text) to put before the upstream's referrers of `subject`; filtered
  // by artifact type and rid of duplicates by the mirror.
  std::function<std::vector<std::string>(const std::string& upstream, const std::string& repository,
                                         const Digest& subject)>
      extra_referrers;
  // A worker's thread, may block: another place to get a blob from, before the upstream; bytes from `offset` on. An
  // error sends the mirror to the upstream.
  std::function<Result<net::OpenedBlob>(const BlobAsk&, uint64_t offset)> open_blob_first;
  // A worker's thread: a blob of which that other place sent bytes was not what its digest says. Nothing of it is kept,
  // and who asks again begins anew.
  std::function<void(const BlobAsk&)> on_bad_blob;
};

}  // namespace banyan::mirror
