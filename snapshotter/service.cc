#include "snapshotter/service.h"

#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include <fmt/format.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include "common/file_io.h"

namespace banyan::snapshotter {

namespace {

constexpr int kMaxMessageBytes = 16 << 20;  // containerd's own limit
constexpr int kMaxThreads = 1024;           // as many calls may wait for mounts at once
constexpr size_t kInfosPerMessage = 32;     // of labels at their limit: 8 MiB

// A message travels as a header, whose size is limited, and may hold a name of any length.
constexpr size_t kMaxErrorBytes = 1024;

grpc::Status ToGrpc(const Error& error) {
  return {static_cast<grpc::StatusCode>(error.code), error.message.substr(0, kMaxErrorBytes)};
}
grpc::Status ToGrpc(const Status& status) { return status ? grpc::Status::OK : ToGrpc(status.error()); }

Labels FromWire(const google::protobuf::Map<std::string, std::string>& labels) {
  return {labels.begin(), labels.end()};
}

void ToWire(Time time, google::protobuf::Timestamp* timestamp) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(time);
  timestamp->set_seconds(seconds.time_since_epoch().count());
  timestamp->set_nanos(static_cast<int32_t>((time - seconds).count()));
}

void ToWire(const SnapshotInfo& info, wire::Info* out) {
  out->set_name(info.name);
  out->set_parent(info.parent);
  out->set_kind(static_cast<wire::Kind>(info.kind));
  ToWire(info.created, out->mutable_created_at());
  ToWire(info.updated, out->mutable_updated_at());
  out->mutable_labels()->insert(info.labels.begin(), info.labels.end());
}

template <typename Reply>
grpc::Status AnswerMounts(const Result<std::vector<Mount>>& mounts, Reply* reply) {
  if (!mounts) return ToGrpc(mounts.error());
  for (const Mount& mount : *mounts) {
    auto* out = reply->add_mounts();
    out->set_type(mount.type);
    out->set_source(mount.source);
    for (const std::string& option : mount.options) out->add_options(option);
  }
  return grpc::Status::OK;
}

template <typename Reply>
grpc::Status AnswerInfo(const Result<SnapshotInfo>& info, Reply* reply) {
  if (!info) return ToGrpc(info.error());
  ToWire(*info, reply->mutable_info());
  return grpc::Status::OK;
}

Status CheckSocketPath(const std::string& path) {
  if (path.size() < sizeof(sockaddr_un::sun_path)) return {};
  return Fail(Code::kInvalidArgument, fmt::format("{}: too long for a unix socket", path));
}

}  // namespace

Result<std::unique_ptr<SnapshotService>> SnapshotService::Listen(Snapshotter& snapshotter,
                                                                 const std::string& socket_path) {
  BANYAN_TRY(CheckSocketPath(socket_path));
  const std::string parent = std::filesystem::path(socket_path).parent_path().string();
  BANYAN_TRY(MakeDirectories(parent, 0755));
  // gRPC makes the socket with the process' umask. So it is made where only its owner comes, and moved when its mode is
  // right; that replaces a dead process' socket as well.
  std::string nursery = parent + "/.XXXXXX";
  if (::mkdtemp(nursery.data()) == nullptr) return FailErrno("make " + nursery, errno);
  const std::string born = nursery + "/s";

  std::unique_ptr<SnapshotService> service(new SnapshotService(snapshotter, socket_path));
  const auto listen = [&]() -> Status {
    BANYAN_TRY(CheckSocketPath(born));
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + born, grpc::InsecureServerCredentials());
    builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
    builder.SetMaxSendMessageSize(kMaxMessageBytes);
    grpc::ResourceQuota quota("snapshots");
    quota.SetMaxThreads(kMaxThreads);
    builder.SetResourceQuota(quota);
    builder.RegisterService(service.get());
    service->server_ = builder.BuildAndStart();
    if (!service->server_) return Fail(Code::kUnavailable, "cannot listen on " + born);
    if (::chmod(born.c_str(), 0600) != 0) return FailErrno("chmod " + born, errno);
    if (::rename(born.c_str(), socket_path.c_str()) != 0) return FailErrno("rename to " + socket_path, errno);
    return {};
  };
  const Status status = listen();
  ::unlink(born.c_str());
  ::rmdir(nursery.c_str());
  if (!status) return Fail(status.error());
  service->listening_ = true;
  return service;
}

SnapshotService::~SnapshotService() {
  if (server_) server_->Shutdown();
  if (listening_) ::unlink(socket_path_.c_str());
}

grpc::Status SnapshotService::Prepare(grpc::ServerContext* /*context*/, const wire::PrepareSnapshotRequest* request,
                                      wire::PrepareSnapshotResponse* reply) {
  return AnswerMounts(snapshotter_.Prepare(request->key(), request->parent(), FromWire(request->labels())), reply);
}

grpc::Status SnapshotService::View(grpc::ServerContext* /*context*/, const wire::ViewSnapshotRequest* request,
                                   wire::ViewSnapshotResponse* reply) {
  return AnswerMounts(snapshotter_.View(request->key(), request->parent(), FromWire(request->labels())), reply);
}

grpc::Status SnapshotService::Mounts(grpc::ServerContext* /*context*/, const wire::MountsRequest* request,
                                     wire::MountsResponse* reply) {
  return AnswerMounts(snapshotter_.Mounts(request->key()), reply);
}

grpc::Status SnapshotService::Commit(grpc::ServerContext* /*context*/, const wire::CommitSnapshotRequest* request,
                                     google::protobuf::Empty* /*reply*/) {
  return ToGrpc(snapshotter_.Commit(request->name(), request->key(), FromWire(request->labels())));
}

grpc::Status SnapshotService::Remove(grpc::ServerContext* /*context*/, const wire::RemoveSnapshotRequest* request,
                                     google::protobuf::Empty* /*reply*/) {
  return ToGrpc(snapshotter_.Remove(request->key()));
}

grpc::Status SnapshotService::Stat(grpc::ServerContext* /*context*/, const wire::StatSnapshotRequest* request,
                                   wire::StatSnapshotResponse* reply) {
  return AnswerInfo(snapshotter_.Stat(request->key()), reply);
}

grpc::Status SnapshotService::Update(grpc::ServerContext* /*context*/, const wire::UpdateSnapshotRequest* request,
                                     wire::UpdateSnapshotResponse* reply) {
  const SnapshotInfo info{.name = request->info().name(), .labels = FromWire(request->info().labels())};
  const auto& paths = request->update_mask().paths();
  return AnswerInfo(snapshotter_.Update(info, {paths.begin(), paths.end()}), reply);
}

grpc::Status SnapshotService::List(grpc::ServerContext* /*context*/, const wire::ListSnapshotsRequest* request,
                                   grpc::ServerWriter<wire::ListSnapshotsResponse>* writer) {
  const auto infos = snapshotter_.List({request->filters().begin(), request->filters().end()});
  if (!infos) return ToGrpc(infos.error());
  for (size_t begin = 0; begin < infos->size(); begin += kInfosPerMessage) {
    wire::ListSnapshotsResponse reply;
    const size_t end = std::min(begin + kInfosPerMessage, infos->size());
    for (size_t i = begin; i < end; ++i) ToWire((*infos)[i], reply.add_info());
    if (!writer->Write(reply)) return {grpc::StatusCode::CANCELLED, "the caller has gone"};
  }
  return grpc::Status::OK;
}

grpc::Status SnapshotService::Usage(grpc::ServerContext* /*context*/, const wire::UsageRequest* request,
                                    wire::UsageResponse* reply) {
  const auto usage = snapshotter_.UsageOf(request->key());
  if (!usage) return ToGrpc(usage.error());
  reply->set_size(static_cast<int64_t>(usage->bytes));
  reply->set_inodes(static_cast<int64_t>(usage->inodes));
  return grpc::Status::OK;
}

grpc::Status SnapshotService::Cleanup(grpc::ServerContext* /*context*/, const wire::CleanupRequest* /*request*/,
                                      google::protobuf::Empty* /*reply*/) {
  return ToGrpc(snapshotter_.Cleanup());
}

}  // namespace banyan::snapshotter
