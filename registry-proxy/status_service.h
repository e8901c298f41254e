// The proxy's gRPC face (proto/proxy.proto).
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include <grpcpp/server.h>

#include "common/result.h"
#include "proto/proxy.grpc.pb.h"
#include "registry-proxy/conversions.h"

namespace banyan::registry_proxy {

class StatusService final : public proto::proxy::RegistryProxy::Service {
 public:
  // `address` is gRPC's: "unix:/path", "127.0.0.1:5051". Listens when it returns; a socket is its owner's alone.
  static Result<std::unique_ptr<StatusService>> Listen(const registry_proxy::Conversions& conversions,
                                                       const std::string& address);
  // Ends the calls under way.
  ~StatusService() override;

  grpc::Status Conversions(grpc::ServerContext* context, const proto::proxy::ConversionsRequest* request,
                           grpc::ServerWriter<proto::proxy::ConversionsReply>* writer) override;

 private:
  explicit StatusService(const registry_proxy::Conversions& conversions) : conversions_(conversions) {}

  const registry_proxy::Conversions& conversions_;
  std::atomic<bool> stopping_{false};
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace banyan::registry_proxy
