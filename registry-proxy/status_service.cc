#include "registry-proxy/status_service.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

namespace banyan::registry_proxy {
namespace {

constexpr std::chrono::milliseconds kLeastInterval{200};

uint64_t Micros(std::chrono::system_clock::time_point time) {
  const auto count = std::chrono::duration_cast<std::chrono::microseconds>(time.time_since_epoch()).count();
  return count > 0 ? static_cast<uint64_t>(count) : 0;
}

proto::proxy::Conversion::State StateOf(ConversionState state) {
  switch (state) {
    case ConversionState::kQueued:
      return proto::proxy::Conversion::QUEUED;
    case ConversionState::kRunning:
      return proto::proxy::Conversion::RUNNING;
    case ConversionState::kDone:
      return proto::proxy::Conversion::DONE;
    case ConversionState::kPresent:
      return proto::proxy::Conversion::PRESENT;
    case ConversionState::kFailed:
      return proto::proxy::Conversion::FAILED;
  }
  return proto::proxy::Conversion::UNKNOWN;
}

void Fill(const ConversionStatus& status, proto::proxy::Conversion& out) {
  out.set_registry(status.upstream);
  out.set_repository(status.repository);
  out.set_reference(status.reference);
  out.set_digest(status.digest.ToString());
  out.set_state(StateOf(status.state));
  out.set_asks(status.asks);
  out.set_layers(status.layers);
  out.set_layers_done(status.layers_done);
  out.set_bytes(status.bytes);
  out.set_bytes_done(status.bytes_done);
  out.set_message(status.message);
  out.set_layers_reused(status.layers_reused);
  out.set_blob_bytes(status.chunks.bytes);
  out.set_chunks(status.chunks.all);
  out.set_shared_chunks(status.chunks.shared);
  out.set_shared_bytes(status.chunks.shared_bytes);
  if (status.artifact) out.set_artifact(status.artifact->ToString());
  out.set_queued_unix_micros(Micros(status.queued));
  out.set_began_unix_micros(Micros(status.began));
  out.set_ended_unix_micros(Micros(status.ended));
}

}  // namespace

Result<std::unique_ptr<StatusService>> StatusService::Listen(const registry_proxy::Conversions& conversions,
                                                             const std::string& address) {
  constexpr std::string_view kUnix = "unix:";
  if (address.starts_with(kUnix)) ::unlink(address.c_str() + kUnix.size());
  std::unique_ptr<StatusService> service(new StatusService(conversions));
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials());
  builder.RegisterService(service.get());
  const mode_t mask = ::umask(0177);
  service->server_ = builder.BuildAndStart();
  ::umask(mask);
  if (!service->server_) return Fail(Code::kUnavailable, fmt::format("cannot listen on {}", address));
  return service;
}

StatusService::~StatusService() {
  stopping_ = true;
  if (server_) server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
}

grpc::Status StatusService::Conversions(grpc::ServerContext* context, const proto::proxy::ConversionsRequest* request,
                                        grpc::ServerWriter<proto::proxy::ConversionsReply>* writer) {
  uint64_t shown = 0;
  for (bool first = true; !context->IsCancelled() && !stopping_; first = false) {
    const uint64_t version = conversions_.version();
    if (first || version != shown) {
      shown = version;
      proto::proxy::ConversionsReply reply;
      const std::vector<ConversionStatus> list = conversions_.List();
      const size_t count = request->limit() > 0 ? std::min<size_t>(request->limit(), list.size()) : list.size();
      for (size_t i = 0; i < count; ++i) Fill(list[i], *reply.add_conversions());
      reply.set_left_out(list.size() - count);
      if (!writer->Write(reply)) break;
    }
    if (!request->watch()) break;
    std::this_thread::sleep_for(kLeastInterval);
  }
  return grpc::Status::OK;
}

}  // namespace banyan::registry_proxy
