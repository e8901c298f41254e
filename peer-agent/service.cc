#include "peer-agent/service.h"

#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <utility>

#include <fmt/format.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

namespace banyan::peer_agent {

namespace {

grpc::Status ToGrpc(const Error& error) { return {static_cast<grpc::StatusCode>(error.code), error.message}; }

template <typename Reply>
grpc::Status Answer(Result<Reply> result, Reply* reply) {
  if (!result) return ToGrpc(result.error());
  *reply = std::move(*result);
  return grpc::Status::OK;
}

}  // namespace

Result<std::unique_ptr<Service>> Service::Listen(Agent& agent, const std::string& socket_path) {
  if (socket_path.size() >= sizeof(sockaddr_un::sun_path)) {
    return Fail(Code::kInvalidArgument, fmt::format("{}: too long for a unix socket", socket_path));
  }
  ::unlink(socket_path.c_str());  // A dead agent's; the store's lock has shown that no other is alive.
  std::unique_ptr<Service> service(new Service(agent));
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + socket_path, grpc::InsecureServerCredentials());
  builder.RegisterService(service.get());
  const mode_t mask = ::umask(0177);
  service->server_ = builder.BuildAndStart();
  ::umask(mask);
  if (!service->server_) return Fail(Code::kUnavailable, fmt::format("cannot listen on {}", socket_path));
  return service;
}

Service::~Service() {
  if (server_) server_->Shutdown(std::chrono::system_clock::now());
}

grpc::Status Service::Mount(grpc::ServerContext* /*context*/, const proto::agent::MountRequest* request,
                            proto::agent::MountReply* reply) {
  return Answer(agent_.Mount(*request), reply);
}

grpc::Status Service::Umount(grpc::ServerContext* /*context*/, const proto::agent::UmountRequest* request,
                             proto::agent::UmountReply* /*reply*/) {
  const Status status = agent_.Umount(request->directory(), request->force());
  return status ? grpc::Status::OK : ToGrpc(status.error());
}

grpc::Status Service::List(grpc::ServerContext* /*context*/, const proto::agent::ListRequest* /*request*/,
                           proto::agent::ListReply* reply) {
  *reply = agent_.List();
  return grpc::Status::OK;
}

grpc::Status Service::Stats(grpc::ServerContext* /*context*/, const proto::agent::StatsRequest* request,
                            proto::agent::StatsReply* reply) {
  return Answer(agent_.Stats(request->directory()), reply);
}

grpc::Status Service::Scrub(grpc::ServerContext* /*context*/, const proto::agent::ScrubRequest* /*request*/,
                            proto::agent::ScrubReply* reply) {
  return Answer(agent_.Scrub(), reply);
}

grpc::Status Service::Info(grpc::ServerContext* /*context*/, const proto::agent::InfoRequest* /*request*/,
                           proto::agent::InfoReply* reply) {
  *reply = agent_.Info();
  return grpc::Status::OK;
}

grpc::Status Service::Images(grpc::ServerContext* /*context*/, const proto::agent::ImagesRequest* /*request*/,
                             proto::agent::ImagesReply* reply) {
  *reply = agent_.ListImages();
  return grpc::Status::OK;
}

grpc::Status Service::Starts(grpc::ServerContext* /*context*/, const proto::agent::StartsRequest* request,
                             proto::agent::StartsReply* reply) {
  *reply = agent_.Starts(request->limit());
  return grpc::Status::OK;
}

grpc::Status Service::Prefetch(grpc::ServerContext* context, const proto::agent::PrefetchRequest* request,
                               grpc::ServerWriter<proto::agent::PrefetchProgress>* writer) {
  proto::agent::PrefetchProgress message;
  const Status status = agent_.Prefetch(*request, [&](uint64_t present, uint64_t device_bytes) {
    message.set_present_bytes(present);
    message.set_device_bytes(device_bytes);
    return !context->IsCancelled() && writer->Write(message);
  });
  if (!status) return ToGrpc(status.error());
  message.set_done(true);
  writer->Write(message);
  return grpc::Status::OK;
}

grpc::Status Service::Pin(grpc::ServerContext* /*context*/, const proto::agent::PinRequest* request,
                          proto::agent::PinReply* /*reply*/) {
  const Status status = agent_.Pin(request->reference(), request->pinned());
  return status ? grpc::Status::OK : ToGrpc(status.error());
}

grpc::Status Service::Drop(grpc::ServerContext* /*context*/, const proto::agent::DropRequest* request,
                           proto::agent::DropReply* reply) {
  return Answer(agent_.Drop(request->reference()), reply);
}

}  // namespace banyan::peer_agent
