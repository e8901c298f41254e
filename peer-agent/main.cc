// banyan-peer-agent: the node's daemon.
#include <fcntl.h>
#include <malloc.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <span>
#include <string>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <CLI/CLI.hpp>

#include "common/daemon.h"
#include "common/file_io.h"
#include "common/log.h"
#include "lazyfs/keeper.h"
#include "peer-agent/agent.h"
#include "peer-agent/config.h"
#include "peer-agent/service.h"

namespace banyan::peer_agent {
namespace {

using std::chrono::seconds;

// Mounts remain and want a successor; banyan-keeper starts one on any exit code but 0.
constexpr int kExitMountsRemain = 75;
// Of malloc: one a thread, which is the default, would keep what a burst of pulls has freed in dozens of places.
constexpr int kArenas = 2;
constexpr const char* kDefaultConfigFile = "/etc/banyan/peer-agent.toml";

struct Flags {
  std::string config_file;
  std::optional<std::string> data_root;
  std::optional<std::string> keeper_socket;
  std::optional<uint64_t> budget_mib;
  std::optional<uint64_t> read_timeout_seconds;
  bool exit_when_idle = false;
  uint64_t idle_seconds = 10;
  bool no_resend = false;
  bool check = false;
  bool print_config = false;
};

// The file, if there is one, and what the command line says over it.
Result<Config> Configure(const Flags& flags) {
  Config config;
  if (!flags.config_file.empty()) {
    BANYAN_ASSIGN(config, LoadConfig(flags.config_file));
  }
  if (flags.data_root) config.data_root = *flags.data_root;
  if (flags.keeper_socket) config.keeper_socket = *flags.keeper_socket;
  if (flags.budget_mib) config.store_budget.bytes = *flags.budget_mib * kMiB;
  if (flags.read_timeout_seconds) config.read_timeout = seconds(*flags.read_timeout_seconds);
  if (const char* keeper = std::getenv(lazyfs::KeeperClient::kSocketVariable);
      config.keeper_socket.empty() && keeper != nullptr) {
    config.keeper_socket = keeper;
  }
  return config;
}

void Reload(Agent& agent, const Flags& flags) {
  const auto config = Configure(flags);
  if (!config) {
    spdlog::error("SIGHUP: the configuration stays as it is: {}", config.error().message);
    return;
  }
  agent.Reload(*config);
  spdlog::info("SIGHUP: configuration read again");
}

// Until a termination signal comes, or nothing has been mounted for long enough.
void WaitForEnd(Agent& agent, const Flags& flags, const DaemonSignals& signals) {
  while (true) {
    const DaemonSignal signal = signals.Wait(seconds(1));
    if (signal == DaemonSignal::kEnd) return;
    if (signal == DaemonSignal::kReload) Reload(agent, flags);
    agent.ReapOrphans();
    if (flags.exit_when_idle && agent.idle_for() >= seconds(flags.idle_seconds)) {
      spdlog::info("nothing has been mounted for {} s: ending", flags.idle_seconds);
      return;
    }
  }
}

// Every container on a lazy image reads through this process: the workload goes first when memory is short. Needs
// CAP_SYS_RESOURCE, which the service's unit does not depend on.
void ProtectFromOomKiller() {
  const auto file = OpenFile("/proc/self/oom_score_adj", O_WRONLY);
  if (file) (void)WriteFull(file->get(), std::as_bytes(std::span("-999", 4)), "oom_score_adj");
}

int Run(const Flags& flags) {
  const DaemonSignals signals(DaemonSignals::Hangup::kIsReload);
  ProtectFromOomKiller();
  ::mallopt(M_ARENA_MAX, kArenas);
  Agent::Options options;
  auto config = Configure(flags);
  if (!config) {
    spdlog::error("{}", config.error().message);
    return 1;
  }
  options.config = std::move(*config);
  options.config_file = flags.config_file;
  options.resend = !flags.no_resend;
  SetLogLevel(options.config.log_level);
  auto agent = Agent::Start(std::move(options));
  if (!agent) {
    spdlog::error("{}", agent.error().message);
    return 1;
  }
  auto service = Service::Listen(**agent, (*agent)->control_socket());
  if (!service) {
    spdlog::error("{}", service.error().message);
    return 1;
  }
  spdlog::info("listening on {}", (*agent)->control_socket());
  ::sd_notify(0, "READY=1");
  WaitForEnd(**agent, flags, signals);
  ::sd_notify(0, "STOPPING=1");
  service->reset();
  const bool mounts_remain = (*agent)->mount_count() > 0;
  agent->reset();
  return mounts_remain ? kExitMountsRemain : 0;
}

int Main(int argc, char** argv) {
  InitLogging("banyan-peer-agent", spdlog::level::info);
  Flags flags;
  CLI::App app(
      "Banyan's node daemon: the node store, the lazy mounts, containerd's snapshotter and its registry mirror.",
      "banyan-peer-agent");
  app.set_version_flag("--version", "banyan-peer-agent " BANYAN_VERSION);
  app.footer(R"(
Usually a service (deploy/), or started by `banyan mount` and `banyan run`, under banyan-keeper. By hand:
  banyan-keeper --socket /run/banyan/keeper.sock --supervise -- \
    banyan-peer-agent --config /etc/banyan/peer-agent.toml

SIGHUP reads the configuration again. SIGTERM ends the agent; mounts stay for the next one if there is a keeper (exit code 75,
which makes the keeper start it).)");
  app.add_option("--config", flags.config_file,
                 fmt::format("Configuration file (TOML); default: {}, if it is there", kDefaultConfigFile));
  app.add_flag("--check", flags.check, "Read the configuration and end");
  app.add_flag("--print-config", flags.print_config, "Print a configuration file with every key and its default");
  app.add_option("--data-root", flags.data_root, "Directory for the node store, mount records and sockets");
  app.add_option("--keeper", flags.keeper_socket, "Socket of the banyan-keeper that makes mounts survive this process");
  app.add_option("--budget-mib", flags.budget_mib, "Disk budget of the node store, in MiB");
  app.add_option("--read-timeout", flags.read_timeout_seconds, "Seconds until a read that no source answers fails");
  app.add_flag("--exit-when-idle", flags.exit_when_idle, "End once nothing has been mounted for --idle-seconds");
  app.add_option("--idle-seconds", flags.idle_seconds, "See --exit-when-idle")->capture_default_str();
  app.add_flag("--no-resend", flags.no_resend,
               "At a takeover, do not ask the kernel to send requests again (FUSE_NOTIFY_RESEND)");
  CLI11_PARSE(app, argc, argv);
  if (flags.print_config) {
    fmt::print("{}", ConfigReference());
    return 0;
  }
  // An agent that a command starts for a data root of its own is not the service that the file configures.
  if (flags.config_file.empty() && !flags.data_root && ::access(kDefaultConfigFile, F_OK) == 0) {
    flags.config_file = kDefaultConfigFile;
  }
  if (flags.check) {
    const auto config = Configure(flags);
    if (!config) fmt::print(stderr, "banyan-peer-agent: {}\n", config.error().message);
    return config ? 0 : 2;
  }
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
