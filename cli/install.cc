#include "cli/install.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include <fmt/format.h>

#include "cli/text_diff.h"
#include "common/file_io.h"

namespace banyan::cli {

namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxBytes = 4 << 20;
constexpr const char* kBackupSuffix = ".before-banyan";

Result<std::optional<std::string>> ReadIfPresent(const std::string& path) {
  auto text = ReadFile(path, kMaxBytes);
  if (text) return std::optional<std::string>(std::move(*text));
  if (text.error().code == Code::kNotFound) return std::optional<std::string>();
  return Fail(text.error());
}

// What the user may have restricted (credentials can stand in config.toml) stays so.
unsigned ModeOf(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? status.st_mode & 07777U : 0644U;
}

// A replaced symbolic link would become a file.
std::string Resolved(const std::string& path) {
  std::error_code error;
  const fs::path resolved = fs::canonical(path, error);
  return error ? path : resolved.string();
}

bool IsBlank(const std::string& text) { return text.find_first_not_of(" \t\n") == std::string::npos; }

void AddChange(InstallPlan& plan, std::string path, std::optional<std::string> before,
               std::optional<std::string> after) {
  if (before != after) plan.changes.push_back({std::move(path), std::move(before), std::move(after)});
}

std::string CertsDirectory(const InstallRequest& request, const std::string& config_text) {
  const auto config = ParseContainerdConfig(config_text);
  const bool named = config && !config->config_path.empty();
  return request.root + (named ? config->config_path : std::string(kDefaultCertsDirectory));
}

// An imported file whose CRI section replaces the main file's would hide the edit.
Status CheckImports(const InstallRequest& request) {
  const auto config = ReadContainerdConfig(request.config_path, request.root);
  if (!config && config.error().code == Code::kNotFound) return {};
  if (!config) return Fail(config.error());
  if (config->cri_file.empty() || config->cri_file == request.root + request.config_path) return {};
  return Fail(
      Code::kFailedPrecondition,
      fmt::format("{} is imported, and its CRI section replaces that of {} whole: install into it with --config",
                  config->cri_file, request.config_path));
}

Status PlanHosts(const InstallRequest& request, const std::string& certs, InstallPlan& plan) {
  std::vector<std::string> hosts = request.registries;
  if (hosts.empty()) hosts.emplace_back("_default");
  for (const std::string& host : hosts) {
    if (host.empty() || host.find('/') != std::string::npos || host == "." || host == "..") {
      return Fail(Code::kInvalidArgument, fmt::format("'{}' is no registry host: write registry.example:5000", host));
    }
    const std::string path = certs + "/" + host + "/hosts.toml";
    BANYAN_ASSIGN(auto before, ReadIfPresent(path));
    auto after = EditHostsToml(before.value_or(""), request.options.mirror);
    if (!after) return Fail(after.error().WithContext(path));
    AddChange(plan, path, std::move(before), std::move(*after));
  }
  if (!request.registries.empty()) return {};
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(certs, error)) {
    if (entry.path().filename() == "_default" || !fs::exists(entry.path() / "hosts.toml")) continue;
    plan.notes.push_back(
        fmt::format("{} has a hosts.toml of its own, so _default does not count for it: add --registry {} to send its "
                    "pulls through the mirror too",
                    entry.path().filename().string(), entry.path().filename().string()));
  }
  return {};
}

}  // namespace

Result<InstallPlan> PlanInstall(const InstallRequest& request) {
  InstallPlan plan;
  const std::string path = request.root + request.config_path;
  BANYAN_ASSIGN(auto before, ReadIfPresent(path));
  BANYAN_TRY(CheckImports(request));
  auto after = EditContainerdConfig(before.value_or(""), request.options);
  if (!after) return Fail(after.error().WithContext(path));
  const std::string certs = CertsDirectory(request, *after);
  AddChange(plan, path, std::move(before), std::move(*after));
  if (!request.options.mirror.empty()) BANYAN_TRY(PlanHosts(request, certs, plan));
  return plan;
}

Result<InstallPlan> PlanUninstall(const InstallRequest& request) {
  InstallPlan plan;
  std::vector<std::string> paths = {request.root + request.config_path};
  BANYAN_ASSIGN(const auto config, ReadIfPresent(paths.front()));
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(CertsDirectory(request, config.value_or("")), error)) {
    paths.push_back((entry.path() / "hosts.toml").string());
  }
  for (const std::string& path : paths) {
    BANYAN_ASSIGN(auto before, ReadIfPresent(path));
    if (!before) continue;
    std::string after = RemoveEdits(*before);
    if (after == *before || after == *before + "\n") continue;
    AddChange(plan, path, before, IsBlank(after) ? std::nullopt : std::optional<std::string>(std::move(after)));
  }
  return plan;
}

std::string DescribePlan(const InstallPlan& plan) {
  std::string text;
  for (const auto& change : plan.changes) {
    text += UnifiedDiff(change.path, change.before.value_or(""), change.after.value_or(""));
  }
  return text;
}

Status ApplyPlan(const InstallPlan& plan) {
  for (const auto& change : plan.changes) {
    BANYAN_ASSIGN(const auto now, ReadIfPresent(change.path));
    if (now != change.before) {
      return Fail(Code::kFailedPrecondition, fmt::format("{} was changed meanwhile: try again", change.path));
    }
    const std::string backup = change.path + kBackupSuffix;
    std::error_code error;
    const bool installing = change.after && RemoveEdits(*change.after) != *change.after;
    BANYAN_TRY(MakeDirectories(fs::path(change.path).parent_path().string()));
    const unsigned mode = ModeOf(change.path);
    if (installing && change.before && !fs::exists(backup)) BANYAN_TRY(WriteFileDurably(backup, *change.before, mode));
    if (change.after) {
      BANYAN_TRY(WriteFileDurably(Resolved(change.path), *change.after, mode));
    } else if (::unlink(change.path.c_str()) != 0) {
      return FailErrno("remove " + change.path, errno);
    }
    if (installing) continue;
    // Taken back: the copy has served, and a directory that was made for one file goes (only if it is empty).
    fs::remove(backup, error);
    if (!change.after) fs::remove(fs::path(change.path).parent_path(), error);
  }
  return {};
}

}  // namespace banyan::cli
