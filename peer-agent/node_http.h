// The agent's HTTP side: the registry mirror for this node's containerd, and /metrics, /healthz, /readyz. Whoever
// reaches the mirror may read images, so a Prometheus on another machine gets an address of its own, without it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "common/metrics.h"
#include "common/result.h"
#include "mirror/mirror.h"
#include "net/http_server.h"
#include "peer-agent/config.h"
#include "store/node_store.h"

namespace banyan::peer_agent {

// The mirror in front of the configured registries. `any_registry`: of all others too, which is right where only this
// node can ask. `store` is borrowed.
Result<std::unique_ptr<mirror::Mirror>> OpenMirror(const std::map<std::string, RegistryConfig>& registries,
                                                   bool any_registry, store::NodeStore& store, mirror::Hooks hooks);

// Internally synchronised.
class NodeHttp {
 public:
  struct Options {
    std::string address;                                 // "host:port"
    bool metrics_only = false;                           // no mirror at this address: all else is 404
    std::function<void(MetricsPage& page)> add_metrics;  // on an HTTP thread; must not block for long
  };

  // Listens when it returns. `mirror` is borrowed.
  static Result<std::unique_ptr<NodeHttp>> Listen(Options options, mirror::Mirror& mirror);
  // Ends connections.
  ~NodeHttp();

  // "127.0.0.1:5065": with the port that was taken, if the configuration said 0.
  const std::string& address() const { return address_; }

 private:
  NodeHttp(Options options, mirror::Mirror& mirror) : options_(std::move(options)), mirror_(mirror) {}
  void Handle(net::HttpRequest request, const std::shared_ptr<net::HttpReply>& reply);

  const Options options_;
  std::string address_;
  mirror::Mirror& mirror_;
  std::unique_ptr<net::HttpServer> server_;  // last: its threads use what is above
};

}  // namespace banyan::peer_agent
