#include "tree-manager/config.h"

#include <fmt/format.h>

#include "common/file_io.h"
#include "common/log.h"
#include "common/settings.h"

namespace banyan::tree_manager {
namespace {

constexpr uint64_t kMaxConfigBytes = 1 << 20;

void Declare(Config& config, ConfigSchema& schema) {
  schema.Add("listen", "host:port where agents, `banyan` and the dashboard call. gRPC without TLS; port 0: any.",
             &config.listen);
  schema.Add("http", "host:port of /metrics, /healthz and /readyz. Empty: none.", &config.http);
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

tl::unexpected<Error> Bad(std::string_view key, std::string_view why) {
  return Fail(Code::kInvalidArgument, fmt::format("{}: {}", key, why));
}

}  // namespace

Status CheckConfig(const Config& config) {
  if (config.data_root.empty() || config.data_root.front() != '/') return Bad("data_root", "is no absolute path");
  if (const auto level = ParseLogLevel(config.log_level); !level) return Bad("log_level", level.error().message);
  if (const auto listen = ParseHostPort(config.listen); !listen) return Bad("listen", listen.error().message);
  if (!config.http.empty()) {
    if (const auto http = ParseHostPort(config.http); !http) return Bad("http", http.error().message);
  }
  if (config.stripes < 1 || config.stripes > 2) return Bad("stripes", "is neither 1 nor 2");
  if (config.spares < 0 || config.spares > 2) return Bad("spares", "is not within 0 to 2");
  if (config.idle_reclaim < std::chrono::seconds(1)) return Bad("idle_reclaim", "is less than a second");
  return {};
}

Result<Config> LoadConfig(const std::string& path) {
  BANYAN_ASSIGN(const std::string text, ReadFile(path, kMaxConfigBytes));
  Config config;
  ConfigSchema schema;
  Declare(config, schema);
  BANYAN_TRY(schema.Load(text, path));
  if (const Status good = CheckConfig(config); !good) return Fail(good.error().WithContext(path));
  return config;
}

std::string ConfigReference() {
  Config config;
  ConfigSchema schema;
  Declare(config, schema);
  return schema.Reference();
}

}  // namespace banyan::tree_manager
