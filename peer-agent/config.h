// The agent's configuration file (/etc/banyan/peer-agent.toml): keys, defaults and their meaning in one place.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/result.h"

namespace banyan::peer_agent {

// How a registry is reached. Keys of `[registries."<host>"]`.
struct RegistryConfig {
  std::vector<std::string> mirrors;  // "http://host:port" or "https://…", asked before the registry itself
  bool plain_http = false;
  std::string ca_file;
  std::string credentials_file;
};

// Keys of `[peer]` and `[tree]`: this node among the others.
struct PeerConfig {
  bool enabled = true;
  std::string address;    // "host:port"; empty: no peers at all
  std::string advertise;  // "host:port"; empty: as the tree-manager sees this node
  std::string token_file;
  std::string node;  // empty: the host's name
  std::string zone;
  bool leaf_only = false;
  bool allow_private = false;
  int64_t weight = 100;
  ByteCount uplink{0};       // a second; 0: no limit
  ByteCount uplink_fill{0};  // a second; 0: a quarter of uplink
  ByteCount downlink{0};     // a second; 0: no limit
  std::string manager;       // "host:port"; empty: none
};

// Keys of `[swarm]`: which layers travel by BitTorrent, and how.
struct SwarmConfig {
  std::string transport = "tree";  // "tree", "swarm", "hybrid"
  std::vector<std::string> tree_images;
  std::vector<std::string> swarm_images;
  std::vector<std::string> hybrid_images;
  std::string address;    // "host:port"
  std::string tracker;    // "http://host:port"
  ByteCount uplink{0};    // a second; 0: no limit
  ByteCount downlink{0};  // a second; 0: no limit
  int64_t connections = 200;
  int64_t connections_per_layer = 50;
  int64_t upload_slots = 8;
  std::string encryption = "off";  // "off", "prefer", "require"
  std::chrono::milliseconds seed_time{15 * 60'000};

  // Whether any layer may travel by swarm.
  bool on() const { return transport != "tree" || !swarm_images.empty() || !hybrid_images.empty(); }
};

struct Config {
  std::string data_root = "/var/lib/banyan";
  std::string keeper_socket;   // empty: $BANYAN_KEEPER_SOCKET, else none
  std::string control_socket;  // empty: <data_root>/agent.sock
  std::string log_level = "info";
  ByteCount store_budget{uint64_t{64} << 30};
  std::chrono::milliseconds read_timeout{5 * 60 * 1000};
  bool fill = false;
  std::string form = "auto";
  ByteCount read_ahead{uint64_t{128} << 10};
  std::string selinux_context = "auto";
  ByteCount shared_prefix{uint64_t{16} << 20};
  std::string snapshotter_socket;  // empty: off
  std::string snapshotter_root;    // empty: <data_root>/snapshots
  std::chrono::milliseconds lookup_timeout{3000};
  std::string mirror_address;   // "host:port"; empty: off
  std::string metrics_address;  // "host:port"; empty: off
  PeerConfig peer;
  SwarmConfig swarm;
  std::vector<std::string> trusted_keys;  // PEM files
  std::string min_converter_version;      // empty: any
  std::map<std::string, RegistryConfig> registries;
};

// kInvalidArgument that names file, line and key; kNotFound when there is no such file.
Result<Config> LoadConfig(const std::string& path);
// Every key with its meaning and its default, as a file that LoadConfig takes.
std::string ConfigReference();

}  // namespace banyan::peer_agent
