// What containerd's configuration says about lazy images, and what it must say for Banyan.
//
// Why config.toml itself is edited and not a drop-in below `imports`: containerd 1.6 merges imported files by whole
// plugin sections, so a drop-in that chooses the snapshotter would wipe whatever else config.toml says about CRI (CNI
// paths, runtimes, the sandbox image). The snapshotter chosen is `banyan`, a proxy plugin at the agent's socket.
// `disable_snapshot_annotations = false` makes CRI send the image's name and digests to the snapshotter, in 1.6 to 2.x;
// from 2.1 on it also keeps CRI's pulls out of the transfer service, which would want a configuration of its own. Keys
// that a version does not know (`exports` in 1.6) are ignored by it.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/toml_edit.h"
#include "common/result.h"

namespace banyan::cli {

inline constexpr std::string_view kSnapshotterName = "banyan";
inline constexpr std::string_view kDefaultSnapshotterSocket = "/run/banyan/snapshotter.sock";
inline constexpr std::string_view kDefaultMirror = "127.0.0.1:5065";
inline constexpr std::string_view kDefaultContainerdConfig = "/etc/containerd/config.toml";
inline constexpr std::string_view kDefaultContainerdSocket = "/run/containerd/containerd.sock";
inline constexpr std::string_view kDefaultCertsDirectory = "/etc/containerd/certs.d";

// The effective configuration, as far as it matters here. A value.
struct ContainerdConfig {
  int version = 1;
  std::vector<std::string> files;  // in the order in which containerd reads them
  std::string cri_file;       // the last file with a CRI section, whose section is the one that counts; may be empty
  bool cri_disabled = false;  // by disabled_plugins
  std::string snapshotter;    // empty: containerd's default
  std::optional<bool> disable_snapshot_annotations;
  std::string config_path;         // of hosts.toml; the first if there are several; empty: none
  bool legacy_registries = false;  // registry.mirrors or configs: they exclude config_path
  bool proxy_plugin = false;       // [proxy_plugins.banyan]
  std::string proxy_address;
};

// Reads `path` and what it imports; paths are taken below `root` (tests; empty: /). kNotFound: no such file;
// kInvalidArgument: it is no TOML.
Result<ContainerdConfig> ReadContainerdConfig(const std::string& path, const std::string& root = "");

// The same from the text of one file, without what it imports.
Result<ContainerdConfig> ParseContainerdConfig(std::string_view text);

struct InstallOptions {
  std::string snapshotter_socket = std::string(kDefaultSnapshotterSocket);
  std::string snapshotter_root = "/var/lib/banyan/snapshots";
  std::string mirror = std::string(kDefaultMirror);  // host:port; empty: no hosts.toml
};

// What config.toml of that version must hold. 2: containerd 1.6 to 2.x; 3: 2.x.
std::vector<TomlSetting> SettingsFor(int version, const InstallOptions& options, bool set_config_path);

// config.toml with the settings; an empty text becomes a file of version 2. kFailedPrecondition when it must not or
// cannot be edited (version 1, CRI disabled, …), with what to do.
Result<std::string> EditContainerdConfig(std::string_view text, const InstallOptions& options);

// hosts.toml with the mirror first; as it is when it names the mirror already.
Result<std::string> EditHostsToml(std::string_view text, const std::string& mirror);
// Whether a hosts.toml names the mirror.
bool HostsTomlNames(std::string_view text, const std::string& mirror);

}  // namespace banyan::cli
