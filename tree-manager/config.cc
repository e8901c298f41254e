#include "tree-manager/config.h"

#include <fmt/format.h>

#include "common/log.h"
#include "common/settings.h"

namespace banyan::tree_manager {
namespace {

constexpr size_t kMaxProxies = 16;  // each is a thread of the dashboard's

void Declare(Config& config, ConfigSchema& schema) {
  schema.Add("listen", "host:port where agents, `banyan` and the dashboard call. gRPC without TLS; port 0: any.",
             &config.listen);
  schema.Add("http", "host:port of /metrics, /healthz and /readyz. Empty: none.", &config.http);
  schema.Add("dashboard",
             "Show the trees to browsers, under `http`: local (to those on this machine, a reverse proxy with its own "
             "login for example), all (to whoever reaches it), off.",
             &config.dashboard);
  schema.Add(
      "proxies",
      "Status addresses of the registry proxies (their `status`): host:port, unix:/path. The dashboard shows what\n"
      "they convert, and asks them only while a page that shows it is open.",
      &config.proxies);
  schema.Add("data_root", "Directory for the trees' state.", &config.data_root);
  schema.Add(
      "token_file",
      "File with the cluster's token, which every caller must show. Empty: whoever reaches the manager may call.",
      &config.token_file);
  schema.Add("stripes", "Trees of a function: 2 use every node's uplink, 1 is one binary tree.", &config.stripes);
  schema.Add("spares", "Spare parents of a node in each tree, 0 to 2.", &config.spares);
  schema.Add("peer_to_peer",
             "Until the switch is used (`banyan nodes --peer-to-peer on|off`): off sends every node to the proxy.",
             &config.peer_to_peer);
  schema.Add("idle_reclaim", "A node leaves a function's trees after so long without use of it.", &config.idle_reclaim);
  schema.Add("log_level", "trace, debug, info, warn, error or off.", &config.log_level);
}

}  // namespace

Status CheckConfig(const Config& config) {
  BANYAN_TRY(CheckAbsolute("data_root", config.data_root));
  if (const auto level = ParseLogLevel(config.log_level); !level) return BadSetting("log_level", level.error().message);
  if (const auto listen = ParseHostPort(config.listen); !listen) return BadSetting("listen", listen.error().message);
  if (!config.http.empty()) {
    if (const auto http = ParseHostPort(config.http); !http) return BadSetting("http", http.error().message);
  }
  if (config.dashboard != "local" && config.dashboard != "all" && config.dashboard != "off") {
    return BadSetting("dashboard", fmt::format("'{}' is neither local, all nor off", config.dashboard));
  }
  if (config.proxies.size() > kMaxProxies) {
    return BadSetting("proxies", fmt::format("has more than {} addresses", kMaxProxies));
  }
  for (const std::string& proxy : config.proxies) {
    if (proxy.starts_with("unix:/")) continue;
    if (const auto address = ParseHostPort(proxy); !address) return BadSetting("proxies", address.error().message);
  }
  if (config.stripes < 1 || config.stripes > 2) return BadSetting("stripes", "is neither 1 nor 2");
  BANYAN_TRY(CheckRange("spares", config.spares, 0, 2));
  if (config.idle_reclaim < std::chrono::seconds(1)) return BadSetting("idle_reclaim", "is less than a second");
  return {};
}

Result<Config> LoadConfig(const std::string& path) { return LoadConfigFile<Config>(path, Declare, CheckConfig); }

std::string ConfigReference() { return ReferenceOf<Config>(Declare); }

}  // namespace banyan::tree_manager
