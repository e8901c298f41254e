#include "cli/containerd_client.h"

#include <unistd.h>

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <nlohmann/json.hpp>

#include "proto/cri.grpc.pb.h"

namespace banyan::cli {

namespace {

namespace cri = runtime::v1;
using std::chrono::seconds;
using std::chrono::system_clock;

constexpr seconds kConnectTimeout{3};
constexpr seconds kCallTimeout{10};

bool Mentions(const std::string& text, std::initializer_list<const char*> words) {
  for (const char* word : words) {
    if (text.find(word) != std::string::npos) return true;
  }
  return false;
}

// CRI answers most failures with UNKNOWN and the cause in words.
Error FromAnswer(const grpc::Status& status) {
  const std::string& message = status.error_message();
  if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED) {
    return {Code::kFailedPrecondition,
            message + ": containerd's CRI plugin is off (disabled_plugins in config.toml) or older than 1.6"};
  }
  if (status.error_code() != grpc::StatusCode::UNKNOWN) return {static_cast<Code>(status.error_code()), message};
  if (Mentions(message, {"401 Unauthorized", "authorization failed", "no basic auth"})) {
    return {Code::kUnauthenticated, message};
  }
  if (Mentions(message, {"403 Forbidden", "pull access denied"})) return {Code::kPermissionDenied, message};
  if (Mentions(message, {"connection refused", "i/o timeout", "no such host", "503 Service"})) {
    return {Code::kUnavailable, message};
  }
  if (Mentions(message, {"no space left"})) return {Code::kResourceExhausted, message};
  return {Code::kUnknown, message};
}

}  // namespace

template <typename Stub, typename Request, typename Reply>
Result<Reply> ContainerdClient::Call(Stub& stub,
                                     grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Reply*),
                                     const Request& request, std::optional<seconds> timeout) {
  grpc::ClientContext context;
  if (timeout) context.set_deadline(system_clock::now() + *timeout);
  Reply reply;
  const grpc::Status status = (stub.*method)(&context, request, &reply);
  if (status.ok()) return reply;
  const auto silence = Silence(context, status, "containerd at " + socket_);
  asked_ = silence ? Asked::kContainerd : Asked::kRegistry;
  return Fail(silence ? *silence : FromAnswer(status));
}

Result<ContainerdClient> ContainerdClient::Connect(const std::string& socket) {
  if (::access(socket.c_str(), F_OK) != 0) {
    return Fail(Code::kUnavailable, fmt::format("containerd has no socket at {}", socket));
  }
  if (::access(socket.c_str(), R_OK | W_OK) != 0) return FailErrno("open " + socket, errno);
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(64 << 20);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  auto channel = grpc::CreateCustomChannel("unix:" + socket, grpc::InsecureChannelCredentials(), arguments);
  if (!channel->WaitForConnected(system_clock::now() + kConnectTimeout)) {
    return Fail(Code::kUnavailable, fmt::format("containerd does not answer at {}", socket));
  }
  return ContainerdClient(std::move(channel), socket);
}

Result<CriVersion> ContainerdClient::Version() {
  const auto stub = cri::RuntimeService::NewStub(channel_);
  BANYAN_ASSIGN(const auto reply,
                Call(*stub, &cri::RuntimeService::Stub::Version, cri::VersionRequest(), kCallTimeout));
  return CriVersion{reply.runtime_name(), reply.runtime_version()};
}

Result<CriConfig> ContainerdClient::Config() {
  const auto stub = cri::RuntimeService::NewStub(channel_);
  cri::StatusRequest request;
  request.set_verbose(true);
  BANYAN_ASSIGN(const auto reply, Call(*stub, &cri::RuntimeService::Stub::Status, request, kCallTimeout));
  const auto found = reply.info().find("config");
  CriConfig config = ParseCriConfig(found == reply.info().end() ? "" : found->second);
  for (const auto& condition : reply.status().conditions()) {
    if (condition.type() == "RuntimeReady") config.ready = condition.status();
  }
  return config;
}

Result<std::string> ContainerdClient::Pull(const std::string& reference, const net::Credentials& credentials) {
  const auto stub = cri::ImageService::NewStub(channel_);
  cri::PullImageRequest request;
  request.mutable_image()->set_image(reference);
  if (!credentials.empty()) {
    request.mutable_auth()->set_username(credentials.username);
    request.mutable_auth()->set_password(credentials.password);
    request.mutable_auth()->set_identity_token(credentials.identity_token);
  }
  BANYAN_ASSIGN(const auto reply, Call(*stub, &cri::ImageService::Stub::PullImage, request, std::nullopt));
  return reply.image_ref();
}

CriConfig ParseCriConfig(const std::string& text) {
  CriConfig config;
  const auto json = nlohmann::json::parse(text, nullptr, false);
  const auto string_at = [&json](const char* section, const char* key) -> std::string {
    if (!json.is_object() || !json.contains(section) || !json[section].is_object()) return {};
    const auto found = json[section].find(key);
    return found != json[section].end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  config.snapshotter = string_at("containerd", "snapshotter");
  config.config_path = string_at("registry", "configPath");
  if (json.is_object() && json.contains("containerd") && json["containerd"].is_object()) {
    const auto found = json["containerd"].find("disableSnapshotAnnotations");
    if (found != json["containerd"].end() && found->is_boolean())
      config.disable_snapshot_annotations = found->get<bool>();
  }
  return config;
}

}  // namespace banyan::cli
