#include "peer-agent/config.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include <fmt/format.h>

#include "common/log.h"
#include "common/settings.h"
#include "lazyfs/image_mount.h"
#include "net/url.h"

namespace banyan::peer_agent {

namespace {

void DeclareRegistry(RegistryConfig& registry, ConfigSchema& table) {
  table.Add("mirrors",
            "Asked before the registry itself, in this order: a registry proxy, a pull-through cache.\n"
            "\"http://proxy.example:5050\", \"https://…\"",
            &registry.mirrors);
  table.Add("plain_http", "Speak plain HTTP to the registry. (Loopback hosts fall back to it by themselves.)",
            &registry.plain_http);
  table.Add("ca_file", "Certificate authorities for this registry, as PEM. Empty: the system's.", &registry.ca_file);
  table.Add("credentials_file",
            "docker-style config.json, read again when it changes.\n"
            "Empty: $REGISTRY_AUTH_FILE, $DOCKER_CONFIG/config.json, ~/.docker/config.json.",
            &registry.credentials_file);
}

void DeclarePeer(PeerConfig& peer, ConfigSchema& schema) {
  schema.Add("peer.address",
             "host:port where this node's peers fetch what it has. Empty: it fetches from proxy and registry alone.",
             &peer.address);
  schema.Add("peer.enabled", "false turns peers off without changing anything else. Reloaded by SIGHUP.",
             &peer.enabled);
  schema.Add("peer.advertise",
             "host:port under which peers reach peer.address. Empty: the address from which this node calls the\n"
             "tree-manager, unless peer.address names one.",
             &peer.advertise);
  schema.Add("peer.token_file",
             "File with the cluster's token: shown to the tree-manager and to peers, and asked of peers.",
             &peer.token_file);
  schema.Add("peer.node", "This node's name, unique in the cluster. Empty: the host's name.", &peer.node);
  schema.Add("peer.zone", "Trees do not cross zones; each gets about one copy of an image from the proxy.", &peer.zone);
  schema.Add("peer.weight", "This node's uplink relative to the others', which have 100.", &peer.weight);
  schema.Add("peer.leaf_only", "Fetch from peers, and serve nobody.", &peer.leaf_only);
  schema.Add("peer.allow_private",
             "Share images of repositories that cannot be read without credentials too. Then every node that has the\n"
             "cluster's token can read them.",
             &peer.allow_private);
  schema.Add("peer.uplink", "Bytes a second for peers, at most. 0: no limit.", &peer.uplink);
  schema.Add("peer.uplink_fill",
             "Of them for background fill (fetch.fill of others), which nobody waits for. 0: a quarter of peer.uplink.",
             &peer.uplink_fill);
  schema.Add("peer.downlink", "Bytes a second for prefetch and fill, at most; reads are not held up. 0: no limit.",
             &peer.downlink);
  schema.Add("tree.manager", "host:port of the tree-manager. Empty: no trees.", &peer.manager);
}

void DeclareSwarm(SwarmConfig& swarm, ConfigSchema& schema) {
  schema.Add("swarm.transport",
             "How layers come that are to come whole (fill, preheat): tree; hybrid: by BitTorrent, while reads and\n"
             "profiles use the trees; swarm: by BitTorrent, and reads use proxy and registry.",
             &swarm.transport);
  schema.Add("swarm.tree_images", "Globs over \"<registry>/<repository>\": images for which it is tree instead.",
             &swarm.tree_images);
  schema.Add("swarm.hybrid_images", "For which it is hybrid.", &swarm.hybrid_images);
  schema.Add("swarm.swarm_images", "For which it is swarm. The first list that matches counts: tree, hybrid, swarm.",
             &swarm.swarm_images);
  schema.Add("swarm.address", "host:port where peers of swarms call this node.", &swarm.address);
  schema.Add("swarm.tracker", "The tree-manager's HTTP port: \"http://host:4651\".", &swarm.tracker);
  schema.Add("swarm.uplink", "Bytes a second to peers of swarms, at most. 0: no limit.", &swarm.uplink);
  schema.Add("swarm.downlink", "Bytes a second from peers of swarms, at most. 0: no limit.", &swarm.downlink);
  schema.Add("swarm.connections", "To peers of swarms, at most.", &swarm.connections);
  schema.Add("swarm.connections_per_layer", "Of them for one layer.", &swarm.connections_per_layer);
  schema.Add("swarm.upload_slots", "Peers that are sent to at a time.", &swarm.upload_slots);
  schema.Add(
      "swarm.encryption",
      "BitTorrent's obfuscation of connections: off, prefer or require. It hides the protocol from networks that\n"
      "throttle it; it protects nothing.",
      &swarm.encryption);
  schema.Add("swarm.seed_time", "A layer that this node uses no more is offered for so long.", &swarm.seed_time);
}

void Declare(Config& config, ConfigSchema& schema) {
  schema.Add("data_root",
             "Directory for the node store, mounts, snapshots and the control socket.\n"
             "Not on overlayfs, not on a Banyan mount.",
             &config.data_root);
  schema.Add("keeper_socket",
             "Socket of the banyan-keeper that makes mounts survive this process.\n"
             "\"systemd\": the service manager's descriptor store does it (FileDescriptorStoreMax= in the unit).\n"
             "Empty: $BANYAN_KEEPER_SOCKET, which a keeper sets for an agent that it supervises.",
             &config.keeper_socket);
  schema.Add("control_socket", "Where `banyan` talks to this agent. Empty: <data_root>/agent.sock.",
             &config.control_socket);
  schema.Add("log_level", "trace, debug, info, warn, error or off. Reloaded by SIGHUP.", &config.log_level);
  schema.Add("store.budget", "Disk space for image data; the least useful goes first.", &config.store_budget);
  schema.Add("fetch.read_timeout", "How long a read that no source answers is tried before it fails with EIO.",
             &config.read_timeout);
  schema.Add("fetch.fill", "Fetch the rest of each mounted image in the background.", &config.fill);
  schema.Add("mount.form",
             "How images are mounted: file (EROFS on files, Linux 6.12), loop (EROFS on loop devices, 5.16),\n"
             "tree (FUSE alone), or auto: the first that works.",
             &config.form);
  schema.Add(
      "mount.read_ahead",
      "The kernel's read-ahead on an image. More helps sequential readers where the node's disk is slow; less fetches\n"
      "less that nobody reads.",
      &config.read_ahead);
  schema.Add("mount.selinux_context",
             "`context=` of image mounts. auto: system_u:object_r:container_ro_file_t:s0 where SELinux is on.",
             &config.selinux_context);
  schema.Add(
      "mount.shared_prefix",
      "Layers that several of containerd's images share get a mount of their own if their contents are at least so\n"
      "large: the images then share its page cache. 0: never.",
      &config.shared_prefix);
  schema.Add("snapshotter.socket",
             "containerd's snapshotter plugin listens here; empty: off. As in containerd's\n"
             "[proxy_plugins.banyan] address.",
             &config.snapshotter_socket);
  schema.Add("snapshotter.root",
             "Directory of snapshots/ and prefixes/, where images are mounted; containerd must see it at the same path "
             "(in Kubernetes: a\n"
             "volume with Bidirectional mount propagation). Empty: data_root.",
             &config.snapshotter_root);
  schema.Add("snapshotter.lookup_timeout",
             "How long containerd waits for the answer whether an image can start lazily, before it pulls the image\n"
             "as usual. Reloaded by SIGHUP.",
             &config.lookup_timeout);
  schema.Add("mirror.address",
             "host:port of the registry mirror for this node's containerd (hosts.toml), with /metrics, /healthz and\n"
             "/readyz; empty: off. Loopback, unless everyone who reaches it may read every image.",
             &config.mirror_address);
  schema.Add("metrics.address",
             "host:port of /metrics, /healthz and /readyz without the mirror, for a Prometheus on another machine; "
             "empty: off.",
             &config.metrics_address);
  DeclarePeer(config.peer, schema);
  DeclareSwarm(config.swarm, schema);
  schema.Add(
      "trust.keys",
      "Public keys (PEM files, `banyan keys`) of the converters that this node follows. An artifact beside an image\n"
      "that none of them signed counts as absent: the image is pulled as usual. Empty: all are followed.\n"
      "Reloaded by SIGHUP.",
      &config.trusted_keys);
  schema.Add(
      "trust.min_converter_version",
      "Artifacts of older converters (\"banyan 0.1.0\") count as absent. Empty: none is too old. Reloaded by SIGHUP.",
      &config.min_converter_version);
  schema.AddTables(
      "registries", "One registry; the host as it stands in image names. Reloaded by SIGHUP.", "registry.example",
      [&config](const std::string& name, ConfigSchema& table) { DeclareRegistry(config.registries[name], table); });
}

Status CheckSwarm(const Config& config) {
  const SwarmConfig& swarm = config.swarm;
  const auto one_of = [](const std::string& word, std::initializer_list<std::string_view> words) {
    return std::find(words.begin(), words.end(), word) != words.end();
  };
  if (!one_of(swarm.transport, {"tree", "swarm", "hybrid"})) {
    return BadSetting("swarm.transport", fmt::format("'{}' is none of tree, swarm and hybrid", swarm.transport));
  }
  if (!one_of(swarm.encryption, {"off", "prefer", "require"})) {
    return BadSetting("swarm.encryption", fmt::format("'{}' is none of off, prefer and require", swarm.encryption));
  }
  for (const auto& [key, value] : {std::pair("swarm.connections", swarm.connections),
                                   std::pair("swarm.connections_per_layer", swarm.connections_per_layer),
                                   std::pair("swarm.upload_slots", swarm.upload_slots)}) {
    BANYAN_TRY(CheckRange(key, value, 1, 10'000));
  }
  if (!swarm.on()) return {};
  if (const auto address = ParseHostPort(swarm.address); !address) {
    return BadSetting("swarm.address", address.error().message);
  }
  if (const auto url = net::Url::Parse(swarm.tracker); !url) return BadSetting("swarm.tracker", url.error().message);
  if (config.peer.address.empty()) return BadSetting("peer.address", "is needed where layers travel by swarm");
  return {};
}

Status Check(const Config& config) {
  BANYAN_TRY(CheckAbsolute("data_root", config.data_root));
  if (const auto level = ParseLogLevel(config.log_level); !level) return BadSetting("log_level", level.error().message);
  if (const auto form = lazyfs::ParseForm(config.form); !form) return BadSetting("mount.form", form.error().message);
  const auto check_address = [&](const char* key, const std::string& text) -> Status {
    if (text.empty()) return {};
    const auto parsed = ParseHostPort(text);
    return parsed ? Status() : Status(BadSetting(key, parsed.error().message));
  };
  BANYAN_TRY(check_address("mirror.address", config.mirror_address));
  BANYAN_TRY(check_address("metrics.address", config.metrics_address));
  BANYAN_TRY(check_address("peer.address", config.peer.address));
  BANYAN_TRY(check_address("peer.advertise", config.peer.advertise));
  BANYAN_TRY(check_address("tree.manager", config.peer.manager));
  BANYAN_TRY(CheckRange("peer.weight", config.peer.weight, 1, 1'000'000));
  if (config.peer.node.size() > 255 || config.peer.zone.size() > 255) {
    return BadSetting("peer.node", "names have at most 255 bytes");
  }
  if (!config.peer.address.empty() && config.peer.manager.empty()) {
    return BadSetting("tree.manager", "is needed where peer.address is set");
  }
  BANYAN_TRY(CheckSwarm(config));
  for (const auto& [name, registry] : config.registries) {
    for (const std::string& mirror : registry.mirrors) {
      if (const auto url = net::Url::Parse(mirror); !url) {
        return BadSetting(fmt::format("registries.\"{}\".mirrors", name), url.error().message);
      }
    }
  }
  return {};
}

}  // namespace

Result<Config> LoadConfig(const std::string& path) { return LoadConfigFile<Config>(path, Declare, Check); }

std::string ConfigReference() { return ReferenceOf<Config>(Declare); }

}  // namespace banyan::peer_agent
