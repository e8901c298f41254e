#include "cli/containerd_config.h"

#include <glob.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <set>

#include <fmt/format.h>
#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include "common/file_io.h"

namespace banyan::cli {

namespace {

constexpr uint64_t kMaxConfigBytes = 4 << 20;
constexpr size_t kMaxFiles = 256;
constexpr const char* kCriV2 = "io.containerd.grpc.v1.cri";
constexpr const char* kImagesV3 = "io.containerd.cri.v1.images";

Result<toml::table> ParseText(std::string_view text, std::string_view name) {
  toml::parse_result parsed = toml::parse(text);
  if (!parsed) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{}:{}: {}", name, parsed.error().source().begin.line, parsed.error().description()));
  }
  return std::move(parsed).table();
}

Result<toml::table> ParseFile(const std::string& path) {
  BANYAN_ASSIGN(const std::string text, ReadFile(path, kMaxConfigBytes));
  return ParseText(text, path);
}

// Imported files, relative ones to the importing file's directory, patterns expanded.
std::vector<std::string> Imports(const toml::table& table, const std::string& file, const std::string& root) {
  std::vector<std::string> paths;
  const toml::array* imports = table["imports"].as_array();
  if (imports == nullptr) return paths;
  for (const toml::node& node : *imports) {
    std::string path = node.value_or(std::string());
    if (path.empty()) continue;
    path = path.front() == '/' ? root + path : (std::filesystem::path(file).parent_path() / path).string();
    glob_t matches{};
    if (::glob(path.c_str(), 0, nullptr, &matches) == 0) {
      paths.insert(paths.end(), matches.gl_pathv, matches.gl_pathv + matches.gl_pathc);
    }
    ::globfree(&matches);
  }
  return paths;
}

bool NotEmpty(const toml::node_view<const toml::node>& node) {
  const toml::table* table = node.as_table();
  return table != nullptr && !table->empty();
}

// A file's CRI section replaces that of earlier files.
void TakeCri(const toml::table& table, const std::string& file, ContainerdConfig& config) {
  const auto plugins = table["plugins"];
  const auto images = plugins[kImagesV3];
  const auto cri = plugins[kCriV2];
  if (!images && !cri) return;
  const auto section = images ? images : cri["containerd"];
  const auto registry = images ? images["registry"] : cri["registry"];
  config.cri_file = file;
  config.snapshotter = section["snapshotter"].value_or(std::string());
  config.disable_snapshot_annotations = section["disable_snapshot_annotations"].value<bool>();
  const std::string paths = registry["config_path"].value_or(std::string());
  config.config_path = paths.substr(0, paths.find(':'));
  config.legacy_registries = NotEmpty(registry["mirrors"]) || NotEmpty(registry["configs"]);
}

void Take(const toml::table& table, const std::string& file, ContainerdConfig& config) {
  config.files.push_back(file);
  config.version = static_cast<int>(table["version"].value_or(int64_t{config.version}));
  if (const toml::array* disabled = table["disabled_plugins"].as_array()) {
    for (const toml::node& node : *disabled) {
      const std::string name = node.value_or(std::string());
      config.cri_disabled = config.cri_disabled || name == "cri" || name == kCriV2 || name == kImagesV3;
    }
  }
  TakeCri(table, file, config);
  const auto proxy = table["proxy_plugins"][kSnapshotterName];
  if (proxy.is_table()) {
    config.proxy_plugin = true;
    config.proxy_address = proxy["address"].value_or(std::string());
  }
}

std::vector<std::string> HostBlock(const std::string& mirror) {
  return {"# The node's agent first, then the registry itself.",
          fmt::format("[host.{}]", TomlString("http://" + mirror)), "  capabilities = [\"pull\", \"resolve\"]"};
}

}  // namespace

Result<ContainerdConfig> ReadContainerdConfig(const std::string& path, const std::string& root) {
  ContainerdConfig config;
  std::deque<std::string> pending = {root + path};
  std::set<std::string> seen;
  while (!pending.empty() && seen.size() < kMaxFiles) {
    const std::string file = pending.front();
    pending.pop_front();
    if (!seen.insert(file).second) continue;
    BANYAN_ASSIGN(const toml::table table, ParseFile(file));
    Take(table, file, config);
    for (std::string& import : Imports(table, file, root)) pending.push_back(std::move(import));
  }
  return config;
}

std::vector<TomlSetting> SettingsFor(int version, const InstallOptions& options, bool set_config_path) {
  using Path = std::vector<std::string>;
  const Path images = version >= 3 ? Path{"plugins", kImagesV3} : Path{"plugins", kCriV2, "containerd"};
  const Path registry = version >= 3 ? Path{"plugins", kImagesV3, "registry"} : Path{"plugins", kCriV2, "registry"};
  const Path proxy = {"proxy_plugins", std::string(kSnapshotterName)};
  Path exports = proxy;
  exports.emplace_back("exports");
  std::vector<TomlSetting> settings = {
      {images, "snapshotter", TomlString(kSnapshotterName)},
      {images, "disable_snapshot_annotations", "false"},
      {proxy, "type", "\"snapshot\""},
      {proxy, "address", TomlString(options.snapshotter_socket)},
      {exports, "root", TomlString(options.snapshotter_root)},
      {exports, "enable_remote_snapshot_annotations", "\"true\""},
  };
  if (set_config_path) {
    settings.insert(settings.begin() + 2, {registry, "config_path", TomlString(kDefaultCertsDirectory)});
  }
  return settings;
}

Result<ContainerdConfig> ParseContainerdConfig(std::string_view text) {
  BANYAN_ASSIGN(const toml::table table, ParseText(text, "config.toml"));
  ContainerdConfig config;
  Take(table, "config.toml", config);
  return config;
}

Result<std::string> EditContainerdConfig(std::string_view text, const InstallOptions& options) {
  const std::string clean = RemoveEdits(text);
  BANYAN_ASSIGN(ContainerdConfig config, ParseContainerdConfig(clean));
  const bool blank = clean.find_first_not_of(" \t\n") == std::string::npos;
  if (blank) config.version = 2;
  if (config.cri_disabled) {
    return Fail(Code::kFailedPrecondition,
                "disabled_plugins turns CRI off, as packages for Docker do: take \"cri\" out of it first");
  }
  if (config.version < 2) {
    return Fail(Code::kFailedPrecondition,
                "a configuration of version 1 is not edited: write it anew from `containerd config default`");
  }
  const bool set_config_path = !options.mirror.empty() && config.config_path.empty();
  if (set_config_path && config.legacy_registries) {
    return Fail(
        Code::kFailedPrecondition,
        "registry.mirrors and registry.configs exclude the hosts.toml files that the mirror needs: move them to "
        "hosts.toml first, or install with --no-mirror");
  }
  std::vector<TomlSetting> settings = SettingsFor(config.version, options, set_config_path);
  if (blank) settings.insert(settings.begin(), {{}, "version", "2"});
  auto edited = ApplySettings(clean, settings);
  if (edited || edited.error().code != Code::kFailedPrecondition) return edited;
  return Fail(edited.error().code,
              fmt::format("{}; write this by hand:\n{}", edited.error().message, DescribeSettings(settings)));
}

bool HostsTomlNames(std::string_view text, const std::string& mirror) {
  const toml::parse_result parsed = toml::parse(text);
  return parsed && parsed.table()["host"]["http://" + mirror].is_table();
}

Result<std::string> EditHostsToml(std::string_view text, const std::string& mirror) {
  const std::string clean = RemoveEdits(text);
  if (HostsTomlNames(clean, mirror)) return std::string(text);
  return InsertBeforeTables(clean, HostBlock(mirror));
}

}  // namespace banyan::cli
