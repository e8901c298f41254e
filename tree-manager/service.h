// The tree-manager's gRPC face (proto/tree.proto), on gRPC's callback API: a session costs no thread.
//
// A session has one message on its way at most; the next is made when that is written, of what holds then. A watcher
// has a bounded queue, and is ended when that is full.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/metrics.h"
#include "common/result.h"
#include "tree-manager/manager.h"

namespace banyan::tree_manager {

// Internally synchronised.
class Service {
 public:
  // `address` is gRPC's "host:port"; `token` empty: open to all. Listens when it returns.
  static Result<std::unique_ptr<Service>> Listen(Manager& manager, const std::string& address, std::string token);
  // Ends the calls under way.
  ~Service();
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  uint16_t port() const;
  void AddMetrics(MetricsPage& page) const;

 private:
  struct Impl;
  explicit Service(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// "10.0.0.7" of gRPC's "ipv4:10.0.0.7:4711", "::1" of "ipv6:[::1]:4711"; empty for anything else.
std::string IpOfPeer(const std::string& peer);

}  // namespace banyan::tree_manager
