// /etc/banyan/registry-proxy.toml.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/result.h"
#include "common/units.h"

namespace banyan::registry_proxy {

struct UpstreamConfig {
  std::vector<std::string> endpoints;
  std::string auth = "own";  // "own", "client"
  std::string ca_file;
  std::string credentials_file;
  std::vector<std::string> credentials_for;
  bool push_artifacts = false;
  std::chrono::milliseconds connect_timeout{3'000};
  std::chrono::milliseconds stall_timeout{10'000};
  int64_t attempts = 2;
  int64_t max_fills = 16;
};

struct Config {
  std::string listen = "127.0.0.1:5050";
  std::string status = "unix";
  std::string data_root = "/var/lib/banyan-proxy";
  std::string log_level = "info";
  int64_t threads = 2;
  ByteCount store_budget{64 * kGiB};
  std::string default_upstream;
  std::chrono::milliseconds tag_lifetime{30'000};
  std::chrono::milliseconds referrers_lifetime{10'000};
  std::chrono::milliseconds stale_after{2'000};
  std::chrono::milliseconds referrers_budget{300};
  std::map<std::string, UpstreamConfig> upstreams;
  bool push = false;
  bool remove = false;
  std::string password_file;
  bool convert = true;
  std::vector<std::string> images = {"*"};
  std::vector<std::string> never;
  ByteCount min_size{0};
  ByteCount max_storage{0};
  int64_t convert_workers = 1;
  int64_t convert_threads = 0;
  int64_t level = 3;
  std::string key_file;
  std::vector<std::string> trusted_keys;
  std::string min_converter_version;
  std::string tracker;
  std::string tracker_token_file;
};

// kInvalidArgument with file, line and key.
Result<Config> LoadConfig(const std::string& path);
Status CheckConfig(const Config& config);
// The documented sample.
std::string ConfigReference();

}  // namespace banyan::registry_proxy
