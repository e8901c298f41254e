// The agent's gRPC face (proto/agent.proto) on a unix socket that only its owner may use.
#pragma once

#include <memory>
#include <string>

#include <grpcpp/server.h>

#include "common/result.h"
#include "peer-agent/agent.h"
#include "proto/agent.grpc.pb.h"

namespace banyan::peer_agent {

class Service final : public proto::agent::Agent::Service {
 public:
  // Listens when it returns. `agent` must outlive the service. Destruction ends calls under way that stream, and
  // waits for the others.
  static Result<std::unique_ptr<Service>> Listen(Agent& agent, const std::string& socket_path);
  ~Service() override;

  grpc::Status Mount(grpc::ServerContext* context, const proto::agent::MountRequest* request,
                     proto::agent::MountReply* reply) override;
  grpc::Status Umount(grpc::ServerContext* context, const proto::agent::UmountRequest* request,
                      proto::agent::UmountReply* reply) override;
  grpc::Status List(grpc::ServerContext* context, const proto::agent::ListRequest* request,
                    proto::agent::ListReply* reply) override;
  grpc::Status Stats(grpc::ServerContext* context, const proto::agent::StatsRequest* request,
                     proto::agent::StatsReply* reply) override;
  grpc::Status Scrub(grpc::ServerContext* context, const proto::agent::ScrubRequest* request,
                     proto::agent::ScrubReply* reply) override;
  grpc::Status Info(grpc::ServerContext* context, const proto::agent::InfoRequest* request,
                    proto::agent::InfoReply* reply) override;
  grpc::Status Images(grpc::ServerContext* context, const proto::agent::ImagesRequest* request,
                      proto::agent::ImagesReply* reply) override;
  grpc::Status Starts(grpc::ServerContext* context, const proto::agent::StartsRequest* request,
                      proto::agent::StartsReply* reply) override;
  grpc::Status Prefetch(grpc::ServerContext* context, const proto::agent::PrefetchRequest* request,
                        grpc::ServerWriter<proto::agent::PrefetchProgress>* writer) override;
  grpc::Status Pin(grpc::ServerContext* context, const proto::agent::PinRequest* request,
                   proto::agent::PinReply* reply) override;
  grpc::Status Drop(grpc::ServerContext* context, const proto::agent::DropRequest* request,
                    proto::agent::DropReply* reply) override;

 private:
  explicit Service(Agent& agent) : agent_(agent) {}

  Agent& agent_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace banyan::peer_agent
