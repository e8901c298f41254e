// banyan-tree-manager: which node gets a function's bytes from which.
#include <systemd/sd-daemon.h>

#include <chrono>
#include <optional>
#include <string>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <CLI/CLI.hpp>

#include "common/daemon.h"
#include "common/file_io.h"
#include "common/log.h"
#include "common/settings.h"
#include "net/http_server.h"
#include "net/url.h"
#include "tree-manager/config.h"
#include "tree-manager/dashboard/dashboard_server.h"
#include "tree-manager/manager.h"
#include "tree-manager/preheat_api.h"
#include "tree-manager/service.h"
#include "tree-manager/tracker/session_announces.h"
#include "tree-manager/tracker/tracker.h"

namespace banyan::tree_manager {
namespace {

struct Flags {
  std::string config_file;
  std::optional<std::string> data_root;
  std::optional<std::string> listen;
  std::optional<std::string> http;
  std::optional<std::string> token_file;
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
  if (flags.http) config.http = *flags.http;
  if (flags.token_file) config.token_file = *flags.token_file;
  BANYAN_TRY(CheckConfig(config));
  return config;
}

net::HttpResponse Text(int status, std::string body) {
  return {status, {{"Content-Type", "text/plain; charset=utf-8"}}, std::move(body)};
}

// What the HTTP port shows.
struct Shown {
  Manager& manager;
  const Service& service;
  Tracker& tracker;
  PreheatApi& preheats;
  DashboardServer* dashboard;  // null: none
};

void Answer(const net::HttpRequest& request, const std::shared_ptr<net::HttpReply>& reply, const Shown& shown) {
  // It listens only once the trees are restored: alive and ready are the same here.
  if (request.path() == "/healthz") return reply->Send(Text(200, "ok\n"));
  if (request.path() == "/readyz") return reply->Send(Text(200, "ready\n"));
  if (shown.tracker.Knows(request)) return reply->Send(shown.tracker.Answer(request));
  if (PreheatApi::Knows(request)) return reply->Send(shown.preheats.Answer(request));
  if (request.path() != "/metrics") {
    if (shown.dashboard != nullptr) return shown.dashboard->Handle(request, reply);
    return reply->Send(Text(404, "/metrics, /healthz, /readyz\n"));
  }
  MetricsPage page;
  page.Process(BANYAN_VERSION);
  shown.manager.AddMetrics(page);
  shown.service.AddMetrics(page);
  shown.tracker.AddMetrics(page);
  if (shown.dashboard != nullptr) shown.dashboard->AddMetrics(page);
  reply->Send({200, {{"Content-Type", MetricsPage::kContentType}}, page.Text()});
}

Result<std::unique_ptr<net::HttpServer>> ServeHttp(const std::string& address, const Shown& shown) {
  BANYAN_ASSIGN(const HostPort listen, ParseHostPort(address));
  net::HttpServerOptions options;
  options.address = listen.host;
  options.port = listen.port;
  options.max_connections = 256;
  return net::HttpServer::Start(
      options, [shown](const net::HttpRequest& request, const auto& reply) { Answer(request, reply, shown); });
}

Status Serve(const Config& config, const DaemonSignals& signals) {
  std::string token;
  if (!config.token_file.empty()) {
    BANYAN_ASSIGN(token, ReadToken(config.token_file));
  } else if (!net::IsLoopbackHost(config.listen)) {
    spdlog::warn("no token_file: whoever reaches {} can steer the nodes' traffic", config.listen);
  }
  BANYAN_TRY(MakeDirectories(config.data_root, 0700));
  Manager::Options options;
  options.membership.tree.stripes = static_cast<Stripe>(config.stripes);
  options.membership.tree.spares = static_cast<uint32_t>(config.spares);
  options.membership.peer_to_peer = config.peer_to_peer;
  options.membership.idle_reclaim = config.idle_reclaim;
  options.state_path = config.data_root + "/state";
  Tracker tracker({.path = TrackerPath(token)});
  options.announce = [&tracker](const auto& announce, const std::string& zone, const std::string& address) {
    return AnnounceBySession(tracker, announce, zone, address);
  };
  BANYAN_ASSIGN(const auto manager, Manager::Start(std::move(options)));
  PreheatApi preheats(*manager, token);
  const bool has_token = !token.empty();
  BANYAN_ASSIGN(auto service, Service::Listen(*manager, config.listen, std::move(token)));
  std::unique_ptr<DashboardServer> dashboard;
  if (config.dashboard != "off") {
    dashboard =
        std::make_unique<DashboardServer>(*manager, DashboardServer::Options{.version = BANYAN_VERSION,
                                                                             .local_only = config.dashboard == "local",
                                                                             .preheats = has_token,
                                                                             .proxies = {.addresses = config.proxies}});
  }
  std::unique_ptr<net::HttpServer> http;
  if (!config.http.empty()) {
    BANYAN_ASSIGN(http, ServeHttp(config.http, {*manager, *service, tracker, preheats, dashboard.get()}));
    spdlog::info("metrics{} on {} (port {})", dashboard ? " and dashboard" : "", config.http, http->port());
  }
  spdlog::info("listening on {} (port {})", config.listen, service->port());
  ::sd_notify(0, "READY=1");
  signals.WaitForEnd();
  ::sd_notify(0, "STOPPING=1");
  if (dashboard) dashboard->EndStreams();
  if (http) http->Stop();
  service.reset();
  return {};
}

int Run(const Flags& flags) {
  if (flags.print_config) {
    fmt::print("{}", ConfigReference());
    return 0;
  }
  const DaemonSignals signals;
  const auto config = Configure(flags);
  if (!config) {
    spdlog::error("{}", config.error().message);
    return 2;
  }
  if (flags.check) return 0;
  SetLogLevel(config->log_level);
  if (const Status served = Serve(*config, signals); !served) {
    spdlog::error("{}", served.error().message);
    return 1;
  }
  return 0;
}

int Main(int argc, char** argv) {
  InitLogging("banyan-tree-manager", spdlog::level::info);
  Flags flags;
  CLI::App app("Keeps the function trees of a cluster: which node gets an image's bytes from which.",
               "banyan-tree-manager");
  app.set_version_flag("--version", "banyan-tree-manager " BANYAN_VERSION);
  app.footer("--print-config shows every key of the configuration with its meaning and default.");
  app.add_option("-c,--config", flags.config_file, "Configuration (TOML)");
  app.add_option("--data-root", flags.data_root, "Instead of data_root");
  app.add_option("--listen", flags.listen, "Instead of listen: host:port");
  app.add_option("--http", flags.http, "Instead of http: host:port");
  app.add_option("--token-file", flags.token_file, "Instead of token_file");
  app.add_flag("--check", flags.check, "Read the configuration and end");
  app.add_flag("--print-config", flags.print_config, "Print the documented configuration and end");
  CLI11_PARSE(app, argc, argv);
  return Run(flags);
}

}  // namespace
}  // namespace banyan::tree_manager

int main(int argc, char** argv) { return banyan::tree_manager::Main(argc, argv); }
