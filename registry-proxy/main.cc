// banyan-registry-proxy: the cluster's mirror of registries.
#include <chrono>
#include <optional>
#include <string>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <CLI/CLI.hpp>

#include "common/daemon.h"
#include "common/log.h"
#include "registry-proxy/config.h"
#include "registry-proxy/proxy.h"

namespace banyan::registry_proxy {
namespace {

constexpr std::chrono::hours kGarbageInterval{1};

struct Flags {
  std::string config_file;
  std::optional<std::string> data_root;
  std::optional<std::string> listen;
  bool check = false;
  bool print_config = false;
};

Result<Config> Configure(const Flags& flags) {
  Config config;
  if (!flags.config_file.empty()) {
    BANYAN_ASSIGN(config, LoadConfig(flags.config_file));
  }
  if (flags.data_root) config.data_root = *flags.data_root;
  if (flags.listen) config.listen = *flags.listen;
  BANYAN_TRY(CheckConfig(config));
  return config;
}

int Run(const Flags& flags) {
  if (flags.print_config) {
    fmt::print("{}", ConfigReference());
    return 0;
  }
  const DaemonSignals signals;
  auto config = Configure(flags);
  if (!config) {
    spdlog::error("{}", config.error().message);
    return 2;
  }
  if (flags.check) return 0;
  SetLogLevel(config->log_level);
  const std::string listen = config->listen;
  auto proxy = Proxy::Start(std::move(*config), BANYAN_VERSION);
  if (!proxy) {
    spdlog::error("{}", proxy.error().message);
    return 1;
  }
  spdlog::info("listening on {} (port {})", listen, (*proxy)->port());
  do {
    (*proxy)->CollectGarbage();
  } while (signals.Wait(kGarbageInterval) != DaemonSignal::kEnd);
  proxy->reset();
  return 0;
}

int Main(int argc, char** argv) {
  InitLogging("banyan-registry-proxy", spdlog::level::info);
  Flags flags;
  CLI::App app("A mirror of registries for a cluster that converts images on their first pull.",
               "banyan-registry-proxy");
  app.set_version_flag("--version", "banyan-registry-proxy " BANYAN_VERSION);
  app.footer("--print-config shows every key of the configuration with its meaning and default.");
  app.add_option("-c,--config", flags.config_file, "Configuration (TOML); without it there are no upstreams");
  app.add_option("--data-root", flags.data_root, "Instead of data_root");
  app.add_option("--listen", flags.listen, "Instead of listen: host:port");
  app.add_flag("--check", flags.check, "Read the configuration and end");
  app.add_flag("--print-config", flags.print_config, "Print the documented configuration and end");
  CLI11_PARSE(app, argc, argv);
  return Run(flags);
}

}  // namespace
}  // namespace banyan::registry_proxy

int main(int argc, char** argv) { return banyan::registry_proxy::Main(argc, argv); }
