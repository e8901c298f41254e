// The agent's HTTP side: the registry mirror for this node's containerd, and /metrics, /healthz, /readyz.
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

// Internally synchronised.
class NodeHttp {
 public:
  struct Options {
    std::string address;  // "host:port"
    std::map<std::string, RegistryConfig> registries;
    std::function<void(MetricsPage& page)> add_metrics;  // on an HTTP thread; must not block for long
  };

  // Listens when it returns. `store` is borrowed.
  static Result<std::unique_ptr<NodeHttp>> Listen(Options options, store::NodeStore& store);
  // Ends connections.
  ~NodeHttp();

  // "127.0.0.1:5065": with the port that was taken, if the configuration said 0.
  const std::string& address() const { return address_; }

 private:
  explicit NodeHttp(Options options) : options_(std::move(options)) {}
  void Handle(net::HttpRequest request, const std::shared_ptr<net::HttpReply>& reply);
  void AddMirrorMetrics(MetricsPage& page) const;

  const Options options_;
  std::string address_;
  std::unique_ptr<mirror::Mirror> mirror_;
  std::unique_ptr<net::HttpServer> server_;  // last: its threads use what is above
};

}  // namespace banyan::peer_agent
