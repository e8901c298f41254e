// /etc/banyan/tree-manager.toml.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/result.h"

namespace banyan::tree_manager {

struct Config {
  std::string listen = "127.0.0.1:4650";
  std::string http = "127.0.0.1:4651";
  std::string dashboard = "local";
  std::vector<std::string> proxies;
  std::string data_root = "/var/lib/banyan-tree";
  std::string token_file;
  int64_t stripes = 2;
  int64_t spares = 2;
  bool peer_to_peer = true;
  std::chrono::milliseconds idle_reclaim{15 * 60'000};
  std::string log_level = "info";
};

// kInvalidArgument with file, line and key.
Result<Config> LoadConfig(const std::string& path);
Status CheckConfig(const Config& config);
// The documented sample.
std::string ConfigReference();

}  // namespace banyan::tree_manager
