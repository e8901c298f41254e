// A tree-manager under many sessions: memory and processor time of 5,000 live ones at one heartbeat a second, and how
// many joins a second it takes with the state on disk.
//
//   manager_sessions [--sessions 5000] [--seconds 20] [--manager build/…/banyan-tree-manager]
//
// The manager is a process of its own, so that its figures are its own; the clients share this one's.
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>

#include "common/file_io.h"
#include "common/mutex.h"
#include "proto/tree.grpc.pb.h"

extern char** environ;

namespace banyan::bench {
namespace {

using namespace std::chrono_literals;
using namespace proto::tree;
using Clock = std::chrono::steady_clock;

struct Flags {
  int sessions = 5'000;
  int seconds = 20;
  std::string manager;
};

// One agent's session, on gRPC's callback API.
class Agent final : public grpc::ClientBidiReactor<NodeMessage, ManagerMessage> {
 public:
  Agent(TreeManager::Stub& stub, int number, std::atomic<int>& assigned) : assigned_(assigned) {
    Hello& hello = *outgoing_.mutable_hello();
    hello.set_node(fmt::format("node-{}", number));
    hello.set_port(7000);
    hello.set_protocol(1);
    hello.add_functions()->set_function(fmt::format("function-{}", number % 10));
    stub.async()->Session(&context_, this);
    StartRead(&incoming_);
    StartWrite(&outgoing_);
    AddHold();
    StartCall();
  }
  void Beat() {
    if (writing_.exchange(true)) return;
    outgoing_.Clear();
    outgoing_.mutable_heartbeat()->set_uplink_bytes_per_second(12'345);
    StartWrite(&outgoing_);
  }
  void Cancel() {
    context_.TryCancel();
    RemoveHold();
  }
  void Wait() {
    MutexLock lock(mutex_);
    while (!done_) lock.Wait(ended_);
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (incoming_.has_assignments() && !told_.exchange(true)) ++assigned_;
    StartRead(&incoming_);
  }
  void OnWriteDone(bool ok) override { writing_ = !ok; }
  void OnDone(const grpc::Status& /*status*/) override {
    MutexLock lock(mutex_);
    done_ = true;
    ended_.notify_all();
  }

 private:
  std::atomic<int>& assigned_;
  grpc::ClientContext context_;
  NodeMessage outgoing_;
  ManagerMessage incoming_;
  std::atomic<bool> writing_{true};
  std::atomic<bool> told_{false};
  Mutex mutex_;
  std::condition_variable ended_;
  bool done_ = false;
};

double CpuSeconds(pid_t process) {
  std::ifstream stat(fmt::format("/proc/{}/stat", process));
  std::string text((std::istreambuf_iterator<char>(stat)), {});
  unsigned long user = 0;
  unsigned long system = 0;
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::sscanf(text.c_str() + name_end + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
  return static_cast<double>(user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

long ResidentMib(pid_t process) {
  std::ifstream status(fmt::format("/proc/{}/status", process));
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) return std::stol(line.substr(6)) / 1024;
  }
  return 0;
}

// One session each, then rounds of join and leave; a client waits for nothing.
double JoinsPerSecond(TreeManager::Stub& stub, int joins) {
  grpc::ClientContext context;
  const auto stream = stub.Session(&context);
  NodeMessage message;
  message.mutable_hello()->set_node("joiner");
  message.mutable_hello()->set_port(7000);
  stream->Write(message);
  const auto begin = Clock::now();
  for (int i = 0; i < joins; ++i) {
    message.Clear();
    message.mutable_join()->set_function(fmt::format("function-{}", i % 10));
    stream->Write(message);
    message.Clear();
    message.mutable_leave()->set_function(fmt::format("function-{}", i % 10));
    stream->Write(message);
  }
  // The manager has taken all when the last function shows the joiner again.
  message.Clear();
  message.mutable_join()->set_function("the-end");
  stream->Write(message);
  while (true) {
    grpc::ClientContext question;
    TreeRequest request;
    request.set_function("the-end");
    TreeReply reply;
    if (stub.Tree(&question, request, &reply).ok()) break;
    std::this_thread::sleep_for(5ms);
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  context.TryCancel();
  return joins / seconds;
}

std::unique_ptr<TreeManager::Stub> StubFor(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection each, as nodes have
  return TreeManager::NewStub(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

int Run(const Flags& flags) {
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  const TempDir directory = TempDir::Make("manager-sessions").value();
  const std::string port = std::to_string(20'000 + ::getpid() % 20'000);
  const std::string address = "127.0.0.1:" + port;
  std::vector<std::string> words{flags.manager, "--data-root", directory.path(), "--listen",
                                 address,       "--http",      "127.0.0.1:0"};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t manager = 0;
  if (::posix_spawn(&manager, flags.manager.c_str(), nullptr, nullptr, arguments.data(), environ) != 0) {
    fmt::print(stderr, "cannot start {}\n", flags.manager);
    return 1;
  }
  std::this_thread::sleep_for(500ms);
  const long empty_mib = ResidentMib(manager);

  std::atomic<int> assigned{0};
  std::vector<std::unique_ptr<TreeManager::Stub>> stubs;
  std::vector<std::unique_ptr<Agent>> agents;
  const auto connecting = Clock::now();
  for (int i = 0; i < flags.sessions; ++i) {
    stubs.push_back(StubFor(address));
    agents.push_back(std::make_unique<Agent>(*stubs.back(), i, assigned));
    if (i % 50 == 49) std::this_thread::sleep_for(5ms);
  }
  while (assigned < flags.sessions && Clock::now() - connecting < 60s) std::this_thread::sleep_for(10ms);
  fmt::print("{} of {} sessions assigned after {:.1f} s\n", assigned.load(), flags.sessions,
             std::chrono::duration<double>(Clock::now() - connecting).count());

  const double cpu_begin = CpuSeconds(manager);
  const auto begin = Clock::now();
  const auto slice = 1'000'000us / flags.sessions;
  for (auto now = begin; now < begin + std::chrono::seconds(flags.seconds);) {
    for (const auto& agent : agents) {
      agent->Beat();
      now += slice;
      std::this_thread::sleep_until(now);
    }
  }
  const double wall = std::chrono::duration<double>(Clock::now() - begin).count();
  fmt::print("heartbeats: {:.0f}/s; manager: {:.3f} cores, {} MiB resident ({} MiB without sessions)\n",
             flags.sessions * std::floor(wall + 0.5) / wall, (CpuSeconds(manager) - cpu_begin) / wall,
             ResidentMib(manager), empty_mib);
  fmt::print("durable: {:.0f} joins and as many leaves a second, on one session\n",
             JoinsPerSecond(*stubs.front(), 20'000));
  for (const auto& agent : agents) agent->Cancel();
  for (const auto& agent : agents) agent->Wait();
  ::kill(manager, SIGTERM);
  ::waitpid(manager, nullptr, 0);
  return 0;
}

}  // namespace
}  // namespace banyan::bench

int main(int argc, char** argv) {
  banyan::bench::Flags flags;
  flags.manager = std::string(argv[0]).substr(0, std::string(argv[0]).rfind('/') + 1) + "../bin/banyan-tree-manager";
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--sessions") flags.sessions = std::stoi(argv[i + 1]);
    if (flag == "--seconds") flags.seconds = std::stoi(argv[i + 1]);
    if (flag == "--manager") flags.manager = argv[i + 1];
  }
  return banyan::bench::Run(flags);
}
