// Preheating over HTTP, for programs that have no gRPC (CI systems, registries' webhooks), on the manager's HTTP port.
//
//   POST /api/v1/preheats     {"reference": "hub/app:1", "nodes": ["a"], "zone": "z", "count": 3, "plain_http": true}
//                             → 202 {"id": 7, "nodes": ["a"]}: who was told; all but the reference may be left out
//   GET  /api/v1/preheats/7   → 200, how far they are, as `banyan --json preheat`
//
// Errors are {"error": "…"}. This changes what nodes do, so unlike the dashboard it wants the cluster's token
// (`Authorization: Bearer …`), and a manager without one takes nothing. A body must say that it is JSON, which keeps
// other sites' forms in a browser from sending one.
#pragma once

#include <string>
#include <string_view>

#include "common/result.h"
#include "net/http_server.h"
#include "proto/tree.pb.h"
#include "tree-manager/manager.h"

namespace banyan::tree_manager {

// kInvalidArgument: not such an object; members that it does not know are refused too. "docker://" may be left out of
// the reference.
Result<proto::tree::PreheatRequest> ParsePreheat(std::string_view json);

// Internally synchronised.
class PreheatApi {
 public:
  // The manager must outlive it.
  PreheatApi(Manager& manager, const std::string& token);

  // Whether the request is for it, by its path.
  static bool Knows(const net::HttpRequest& request);
  // Of a request that it knows. Waits for no node.
  net::HttpResponse Answer(const net::HttpRequest& request);

 private:
  net::HttpResponse Begin(const net::HttpRequest& request);
  net::HttpResponse Progress(std::string_view id);

  Manager& manager_;
  const std::string expected_;  // of Authorization; empty: there is no token, and nothing is taken
};

}  // namespace banyan::tree_manager
