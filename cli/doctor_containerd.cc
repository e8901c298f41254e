#include <charconv>
#include <filesystem>

#include <fmt/format.h>

#include "cli/doctor.h"
#include "common/file_io.h"

namespace banyan::cli {

namespace {

namespace fs = std::filesystem;

constexpr const char* kInstall = "banyan install --containerd, then restart containerd";
constexpr uint64_t kMaxHostsBytes = 1 << 20;

// "1.6.20~ds1", "v2.0.1" → 1.6, 2.0; absent when it is no version.
std::optional<std::pair<int, int>> ParseVersion(std::string_view text) {
  if (text.starts_with('v')) text.remove_prefix(1);
  int major = 0;
  int minor = 0;
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, major);
  if (first.ec != std::errc() || first.ptr == end || *first.ptr != '.') return std::nullopt;
  if (std::from_chars(first.ptr + 1, end, minor).ec != std::errc()) return std::nullopt;
  return std::pair{major, minor};
}

Check CheckProxyPlugin(const ContainerdConfig& config, const std::optional<proto::agent::InfoReply>& agent) {
  if (!config.proxy_plugin) return {"proxy plugin", Verdict::kFail, "[proxy_plugins.banyan] is missing", kInstall};
  if (agent && !agent->snapshotter_socket().empty() && config.proxy_address != agent->snapshotter_socket()) {
    return {"proxy plugin", Verdict::kFail,
            fmt::format("its address is {}, but the agent listens at {}", config.proxy_address,
                        agent->snapshotter_socket()),
            fmt::format("banyan install --containerd --snapshotter-socket {}, then restart containerd",
                        agent->snapshotter_socket())};
  }
  return {"proxy plugin", Verdict::kOk, config.proxy_address, ""};
}

// Hosts whose hosts.toml names the mirror.
std::vector<std::string> HostsThrough(const std::string& directory, const std::string& mirror) {
  std::vector<std::string> hosts;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const auto text = ReadFile((entry.path() / "hosts.toml").string(), kMaxHostsBytes);
    if (text && HostsTomlNames(*text, mirror)) hosts.push_back(entry.path().filename().string());
  }
  return hosts;
}

Check CheckHosts(const ContainerdConfig& config, const std::optional<proto::agent::InfoReply>& agent) {
  const std::string mirror = agent ? agent->mirror_address() : std::string(kDefaultMirror);
  if (agent && mirror.empty()) return {"hosts.toml", Verdict::kOk, "not needed: the agent's mirror is off", ""};
  if (config.config_path.empty()) {
    return {"hosts.toml", Verdict::kWarn, "registry.config_path is not set: pulls do not go through the mirror",
            kInstall};
  }
  const auto hosts = HostsThrough(config.config_path, mirror);
  if (hosts.empty()) {
    return {"hosts.toml", Verdict::kWarn,
            fmt::format("no hosts.toml in {} names the mirror {}", config.config_path, mirror), kInstall};
  }
  return {"hosts.toml", Verdict::kOk, fmt::format("through the mirror: {}", fmt::join(hosts, ", ")), ""};
}

}  // namespace

std::vector<Check> CheckContainerdConfig(const Result<ContainerdConfig>& config,
                                         const std::optional<proto::agent::InfoReply>& agent) {
  if (!config) return {{"containerd's configuration", Verdict::kFail, config.error().message, kInstall}};
  std::vector<Check> checks;
  checks.push_back({"containerd's configuration", Verdict::kOk,
                    fmt::format("version {}: {}", config->version, fmt::join(config->files, ", ")), ""});
  if (config->cri_disabled) {
    checks.push_back({"CRI", Verdict::kFail, "disabled_plugins turns it off",
                      "take \"cri\" out of disabled_plugins and restart containerd"});
  }
  checks.push_back(CheckProxyPlugin(*config, agent));
  const std::string snapshotter = config->snapshotter.empty() ? "overlayfs" : config->snapshotter;
  checks.push_back(snapshotter == kSnapshotterName
                       ? Check{"snapshotter of CRI", Verdict::kOk, snapshotter, ""}
                       : Check{"snapshotter of CRI", Verdict::kFail, snapshotter, kInstall});
  // True is the default up to 1.7 and what matters: without annotations nothing can be lazy.
  const bool disabled = config->disable_snapshot_annotations.value_or(true);
  checks.push_back({"snapshot annotations", disabled ? Verdict::kFail : Verdict::kOk,
                    disabled ? "disable_snapshot_annotations is not false" : "on", disabled ? kInstall : ""});
  checks.push_back(CheckHosts(*config, agent));
  return checks;
}

std::vector<Check> CheckRunningContainerd(const Result<CriVersion>& version, const Result<CriConfig>& running,
                                          const Result<ContainerdConfig>& config) {
  if (!version) {
    return {{"containerd", Verdict::kFail, version.error().message,
             "start it (systemctl start containerd), or name its socket with --containerd"}};
  }
  std::vector<Check> checks;
  const auto parsed = ParseVersion(version->version);
  const bool old = parsed && *parsed < std::pair{1, 6};
  checks.push_back({"containerd", old ? Verdict::kFail : Verdict::kOk,
                    fmt::format("{} {}", version->runtime, version->version), old ? "update it to 1.6 or later" : ""});
  if (!running) {
    checks.push_back({"containerd's CRI", Verdict::kFail, running.error().message, "see containerd's log"});
    return checks;
  }
  const bool known = config && !running->snapshotter.empty();
  const std::string wanted = !config || config->snapshotter.empty() ? "overlayfs" : config->snapshotter;
  const bool stale =
      known && (running->snapshotter != wanted || running->disable_snapshot_annotations.value_or(false) !=
                                                      config->disable_snapshot_annotations.value_or(true));
  checks.push_back(
      {"containerd's CRI", stale ? Verdict::kFail : Verdict::kOk,
       stale ? fmt::format("runs with snapshotter {}, annotations {}: not what its configuration says",
                           running->snapshotter, running->disable_snapshot_annotations.value_or(false) ? "off" : "on")
             : fmt::format("runs with snapshotter {}", known ? running->snapshotter : "(not told)"),
       stale ? "restart containerd" : ""});
  return checks;
}

}  // namespace banyan::cli
