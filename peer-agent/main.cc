// banyan-peer-agent: the node's daemon.
#include <signal.h>

#include <chrono>
#include <cstdio>
#include <ctime>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <CLI/CLI.hpp>

#include "common/log.h"
#include "peer-agent/agent.h"
#include "peer-agent/service.h"

namespace banyan::peer_agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Mounts remain and want a successor; banyan-keeper starts one on any exit code but 0.
constexpr int kExitMountsRemain = 75;

struct Flags {
  Agent::Options agent;
  uint64_t budget_mib = 64 * 1024;
  uint64_t read_timeout_seconds = 300;
  bool exit_when_idle = false;
  uint64_t idle_seconds = 10;
  bool no_resend = false;
};

sigset_t TerminationSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

// Until a termination signal comes, or nothing has been mounted for long enough.
void WaitForEnd(Agent& agent, const Flags& flags) {
  const sigset_t signals = TerminationSignals();
  while (true) {
    const timespec second{1, 0};
    const int signal = ::sigtimedwait(&signals, nullptr, &second);
    if (signal > 0) {
      spdlog::info("{}: ending", signal == SIGTERM ? "SIGTERM" : "SIGINT");
      return;
    }
    agent.ReapOrphans();
    if (flags.exit_when_idle && agent.idle_for() >= seconds(flags.idle_seconds)) {
      spdlog::info("nothing has been mounted for {} s: ending", flags.idle_seconds);
      return;
    }
  }
}

int Run(Flags& flags) {
  // Before any thread starts, so that all inherit the mask and only sigtimedwait sees them.
  const sigset_t signals = TerminationSignals();
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);

  flags.agent.budget_bytes = flags.budget_mib * kMiB;
  flags.agent.read_timeout = seconds(flags.read_timeout_seconds);
  flags.agent.resend = !flags.no_resend;
  const std::string socket = flags.agent.data_root + "/agent.sock";
  auto agent = Agent::Start(flags.agent);
  if (!agent) {
    spdlog::error("{}", agent.error().message);
    return 1;
  }
  auto service = Service::Listen(**agent, socket);
  if (!service) {
    spdlog::error("{}", service.error().message);
    return 1;
  }
  spdlog::info("listening on {}", socket);
  WaitForEnd(**agent, flags);
  service->reset();
  const bool mounts_remain = (*agent)->mount_count() > 0;
  agent->reset();
  return mounts_remain ? kExitMountsRemain : 0;
}

int Main(int argc, char** argv) {
  InitLogging("banyan-peer-agent", spdlog::level::info);
  Flags flags;
  CLI::App app("Banyan's node daemon: the node store and the lazy mounts.", "banyan-peer-agent");
  app.set_version_flag("--version", "banyan-peer-agent " BANYAN_VERSION);
  app.footer(R"(
Usually started by `banyan mount` or `banyan run`, under banyan-keeper. By hand:
  banyan-keeper --socket /run/banyan/keeper.sock --supervise -- \
    banyan-peer-agent --data-root /var/lib/banyan --keeper /run/banyan/keeper.sock

SIGTERM ends the agent; mounts stay for the next one if there is a keeper (exit code 75, which makes the keeper start it).)");
  app.add_option("--data-root", flags.agent.data_root, "Directory for the node store, mount records and sockets")
      ->required();
  app.add_option("--keeper", flags.agent.keeper_socket,
                 "Socket of the banyan-keeper that makes mounts survive this process");
  app.add_option("--budget-mib", flags.budget_mib, "Disk budget of the node store, in MiB")->capture_default_str();
  app.add_option("--read-timeout", flags.read_timeout_seconds, "Seconds until a read that no source answers fails")
      ->capture_default_str();
  app.add_flag("--exit-when-idle", flags.exit_when_idle, "End once nothing has been mounted for --idle-seconds");
  app.add_option("--idle-seconds", flags.idle_seconds, "See --exit-when-idle")->capture_default_str();
  app.add_flag("--no-resend", flags.no_resend,
               "At a takeover, do not ask the kernel to send requests again (FUSE_NOTIFY_RESEND)");
  CLI11_PARSE(app, argc, argv);
  return Run(flags);
}

}  // namespace
}  // namespace banyan::peer_agent

int main(int argc, char** argv) {
  try {
    return banyan::peer_agent::Main(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "banyan-peer-agent: internal error: {}\n", error.what());
    return 1;
  }
}
