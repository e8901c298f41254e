// The snapshotter as containerd calls it: containerd.services.snapshots.v1 on a unix socket.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include <grpcpp/server.h>

#include "common/result.h"
#include "proto/containerd_snapshots.grpc.pb.h"
#include "snapshotter/snapshotter.h"

namespace banyan::snapshotter {

namespace wire = containerd::services::snapshots::v1;

// Internally synchronised. A call that waits for a mount keeps a thread; more are made as they are needed.
class SnapshotService final : public wire::Snapshots::Service {
 public:
  // Listens when it returns; the socket is only its owner's, and one that is there already is replaced. `snapshotter`
  // outlives the service.
  static Result<std::unique_ptr<SnapshotService>> Listen(Snapshotter& snapshotter, const std::string& socket_path);
  // Waits for calls under way: LazyImages must let them end.
  ~SnapshotService() override;

  grpc::Status Prepare(grpc::ServerContext* context, const wire::PrepareSnapshotRequest* request,
                       wire::PrepareSnapshotResponse* reply) override;
  grpc::Status View(grpc::ServerContext* context, const wire::ViewSnapshotRequest* request,
                    wire::ViewSnapshotResponse* reply) override;
  grpc::Status Mounts(grpc::ServerContext* context, const wire::MountsRequest* request,
                      wire::MountsResponse* reply) override;
  grpc::Status Commit(grpc::ServerContext* context, const wire::CommitSnapshotRequest* request,
                      google::protobuf::Empty* reply) override;
  grpc::Status Remove(grpc::ServerContext* context, const wire::RemoveSnapshotRequest* request,
                      google::protobuf::Empty* reply) override;
  grpc::Status Stat(grpc::ServerContext* context, const wire::StatSnapshotRequest* request,
                    wire::StatSnapshotResponse* reply) override;
  grpc::Status Update(grpc::ServerContext* context, const wire::UpdateSnapshotRequest* request,
                      wire::UpdateSnapshotResponse* reply) override;
  grpc::Status List(grpc::ServerContext* context, const wire::ListSnapshotsRequest* request,
                    grpc::ServerWriter<wire::ListSnapshotsResponse>* writer) override;
  grpc::Status Usage(grpc::ServerContext* context, const wire::UsageRequest* request,
                     wire::UsageResponse* reply) override;
  grpc::Status Cleanup(grpc::ServerContext* context, const wire::CleanupRequest* request,
                       google::protobuf::Empty* reply) override;

 private:
  SnapshotService(Snapshotter& snapshotter, std::string socket_path)
      : snapshotter_(snapshotter), socket_path_(std::move(socket_path)) {}

  Snapshotter& snapshotter_;
  const std::string socket_path_;
  bool listening_ = false;  // the socket is there, and ours
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace banyan::snapshotter
