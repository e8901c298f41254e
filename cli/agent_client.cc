#include "cli/agent_client.h"

#include <fcntl.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include "common/file_io.h"

namespace banyan::cli {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::system_clock;

constexpr int kMaxMessageBytes = 64 << 20;
constexpr seconds kStartTimeout{10};

Result<std::string> SocketPath(const std::string& data_root) {
  std::string path = data_root + "/agent.sock";
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    return Fail(Code::kInvalidArgument,
                fmt::format("data root {} is too long for a unix socket below it: choose a shorter one", data_root));
  }
  return path;
}

std::string ProgramBesideThisOne(const std::string& name) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? name : (self.parent_path() / name).string();
}

// Starts the keeper with the agent below it, detached from this terminal, logging to <data-root>/agent.log.
Status StartAgent(const std::string& data_root) {
  const std::string log_path = data_root + "/agent.log";
  BANYAN_ASSIGN(const UniqueFd log, OpenFile(log_path, O_WRONLY | O_CREAT | O_APPEND, 0600));
  BANYAN_ASSIGN(const UniqueFd null, OpenFile("/dev/null", O_RDWR));
  const std::string keeper_socket = data_root + "/keeper.sock";
  std::vector<std::string> words = {ProgramBesideThisOne("banyan-keeper"),
                                    "--socket",
                                    keeper_socket,
                                    "--supervise",
                                    "--",
                                    ProgramBesideThisOne("banyan-peer-agent"),
                                    "--data-root",
                                    data_root,
                                    "--keeper",
                                    keeper_socket,
                                    "--exit-when-idle"};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);

  const pid_t child = ::fork();
  if (child < 0) return FailErrno("fork", errno);
  if (child == 0) {
    // Twice, so that init inherits the keeper and this process has no child to wait for.
    ::setsid();
    if (::fork() != 0) ::_exit(0);
    ::dup2(null.get(), 0);
    ::dup2(log.get(), 1);
    ::dup2(log.get(), 2);
    ::execv(arguments[0], arguments.data());
    ::dprintf(2, "start %s: %s\n", arguments[0], std::strerror(errno));
    ::_exit(127);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return {};
}

}  // namespace

Error AgentClient::Failed(const grpc::ClientContext& context, const grpc::Status& status) {
  const auto silence = Silence(context, status, "the agent at " + path_);
  asked_ = silence ? Asked::kAgent : Asked::kRegistry;
  return silence ? *silence : Error{static_cast<Code>(status.error_code()), status.error_message()};
}

template <typename Reply, typename Request, typename Method>
Result<Reply> AgentClient::Call(Method method, const Request& request) {
  grpc::ClientContext context;
  Reply reply;
  const grpc::Status status = (stub_.get()->*method)(&context, request, &reply);
  if (!status.ok()) return Fail(Failed(context, status));
  return reply;
}

Result<AgentClient> AgentClient::Connect(const std::string& data_root) {
  BANYAN_ASSIGN(const std::string path, SocketPath(data_root));
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  const auto channel = grpc::CreateCustomChannel("unix:" + path, grpc::InsecureChannelCredentials(), arguments);
  if (::access(path.c_str(), R_OK | W_OK) != 0 && errno == EACCES) return FailErrno("ask the agent at " + path, errno);
  if (::access(path.c_str(), F_OK) != 0 || !channel->WaitForConnected(system_clock::now() + milliseconds(500))) {
    return Fail(Code::kUnavailable, fmt::format("no agent answers at {}", path));
  }
  return AgentClient(channel, path);
}

Result<AgentClient> AgentClient::ConnectOrStart(const std::string& data_root) {
  if (auto client = Connect(data_root); client || client.error().code != Code::kUnavailable) return client;
  if (::geteuid() != 0) {
    return Fail(Code::kPermissionDenied, "no agent answers, and starting one needs root");
  }
  BANYAN_TRY(MakeDirectories(data_root, 0755));
  BANYAN_TRY(StartAgent(data_root));
  const auto deadline = std::chrono::steady_clock::now() + kStartTimeout;
  while (true) {
    auto client = Connect(data_root);
    if (client) return client;
    if (std::chrono::steady_clock::now() > deadline) {
      return Fail(Code::kUnavailable, fmt::format("the agent did not start within {} s: see {}/agent.log",
                                                  kStartTimeout.count(), data_root));
    }
    std::this_thread::sleep_for(milliseconds(5));
  }
}

Result<proto::agent::MountReply> AgentClient::Mount(const proto::agent::MountRequest& request) {
  return Call<proto::agent::MountReply>(&proto::agent::Agent::Stub::Mount, request);
}

Status AgentClient::Umount(const std::string& directory, bool force) {
  proto::agent::UmountRequest request;
  request.set_directory(directory);
  request.set_force(force);
  BANYAN_TRY(Call<proto::agent::UmountReply>(&proto::agent::Agent::Stub::Umount, request));
  return {};
}

Result<proto::agent::ListReply> AgentClient::List() {
  return Call<proto::agent::ListReply>(&proto::agent::Agent::Stub::List, proto::agent::ListRequest());
}

Result<proto::agent::StatsReply> AgentClient::Stats(const std::string& directory) {
  proto::agent::StatsRequest request;
  request.set_directory(directory);
  return Call<proto::agent::StatsReply>(&proto::agent::Agent::Stub::Stats, request);
}

Result<proto::agent::ScrubReply> AgentClient::Scrub() {
  return Call<proto::agent::ScrubReply>(&proto::agent::Agent::Stub::Scrub, proto::agent::ScrubRequest());
}

Result<proto::agent::InfoReply> AgentClient::Info() {
  return Call<proto::agent::InfoReply>(&proto::agent::Agent::Stub::Info, proto::agent::InfoRequest());
}

Result<proto::agent::ImagesReply> AgentClient::Images() {
  return Call<proto::agent::ImagesReply>(&proto::agent::Agent::Stub::Images, proto::agent::ImagesRequest());
}

Result<proto::agent::StartsReply> AgentClient::Starts(uint32_t limit) {
  proto::agent::StartsRequest request;
  request.set_limit(limit);
  return Call<proto::agent::StartsReply>(&proto::agent::Agent::Stub::Starts, request);
}

Status AgentClient::Prefetch(const proto::agent::PrefetchRequest& request,
                             const std::function<void(const proto::agent::PrefetchProgress&)>& progress) {
  grpc::ClientContext context;
  const auto reader = stub_->Prefetch(&context, request);
  proto::agent::PrefetchProgress message;
  while (reader->Read(&message)) progress(message);
  const grpc::Status status = reader->Finish();
  if (!status.ok()) return Fail(Failed(context, status));
  return {};
}

Status AgentClient::Pin(const std::string& reference, bool pinned) {
  proto::agent::PinRequest request;
  request.set_reference(reference);
  request.set_pinned(pinned);
  BANYAN_TRY(Call<proto::agent::PinReply>(&proto::agent::Agent::Stub::Pin, request));
  return {};
}

Result<proto::agent::DropReply> AgentClient::Drop(const std::string& reference) {
  proto::agent::DropRequest request;
  request.set_reference(reference);
  return Call<proto::agent::DropReply>(&proto::agent::Agent::Stub::Drop, request);
}

}  // namespace banyan::cli
