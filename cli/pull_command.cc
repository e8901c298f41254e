// `banyan pull REF`: containerd pulls, through CRI, and this says how much of the image did not have to come.
#include <chrono>
#include <memory>
#include <optional>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/agent_client.h"
#include "cli/command.h"
#include "cli/containerd_client.h"
#include "cli/containerd_config.h"
#include "cli/mount_request.h"
#include "cli/text.h"
#include "net/auth.h"
#include "net/repository.h"

namespace banyan::cli {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

struct PullFlags {
  std::string reference;
  std::string socket = std::string(kDefaultContainerdSocket);
};

// As containerd names images.
std::string BareReference(const std::string& reference) {
  constexpr std::string_view kTransport = "docker://";
  return reference.starts_with(kTransport) ? reference.substr(kTransport.size()) : reference;
}

// A file that was named must be usable; the default ones may be anything.
Result<net::Credentials> FindCredentials(const GlobalOptions& globals, const std::string& bare) {
  auto parsed = net::ImageReference::Parse("docker://" + bare);
  if (!parsed) return globals.creds_file.empty() ? Result<net::Credentials>() : Fail(parsed.error());
  auto found = net::CredentialsFile(globals.creds_file).Find(parsed->host, parsed->repository);
  if (!found && globals.creds_file.empty()) return net::Credentials();
  return found;
}

// What keeps this containerd from starting anything lazily, with what to do; empty: nothing known.
std::string Obstacle(const CriConfig& config) {
  if (!config.snapshotter.empty() && config.snapshotter != kSnapshotterName) {
    return fmt::format(
        "containerd's CRI uses the snapshotter '{}', so the image is pulled whole: run `banyan install "
        "--containerd` and restart containerd",
        config.snapshotter);
  }
  if (config.disable_snapshot_annotations.value_or(false)) {
    return "containerd tells its snapshotter no image names (disable_snapshot_annotations is true, its default), so "
           "the "
           "image is pulled whole: run `banyan install --containerd` and restart containerd";
  }
  return {};
}

// The agent writes references with or without transport.
std::optional<proto::agent::ImageInfo> FindLazy(const GlobalOptions& globals, const std::string& bare) {
  auto agent = AgentClient::Connect(AbsolutePath(globals.data_root));
  if (!agent) return std::nullopt;
  const auto images = agent->Images();
  if (!images) return std::nullopt;
  for (const auto& image : images->images()) {
    if (BareReference(image.reference()) == bare && !image.artifact_digest().empty()) return image;
  }
  return std::nullopt;
}

void PrintText(const std::string& bare, milliseconds took, const std::optional<proto::agent::ImageInfo>& lazy,
               const std::string& obstacle) {
  if (lazy) {
    fmt::print("{}: ready after {:.2f} s; {} layers lazy, {} of {} on this node, the rest comes as it is read\n", bare,
               static_cast<double>(took.count()) / 1000, lazy->layers(), HumanBytes(lazy->present_bytes()),
               HumanBytes(lazy->device_bytes()));
    return;
  }
  fmt::print("{}: pulled whole in {:.2f} s\n", bare, static_cast<double>(took.count()) / 1000);
  if (obstacle.empty()) {
    fmt::print(
        "It was not lazy: it has no Banyan artifact that this node could find (`banyan convert docker://{}` makes "
        "one), or it was here already.\n",
        bare);
  }
}

int Pull(const PullFlags& flags, const GlobalOptions& globals) {
  const std::string subject = fmt::format("pull {}", flags.reference);
  const std::string bare = BareReference(flags.reference);
  const auto credentials = FindCredentials(globals, bare);
  if (!credentials) return ReportError(globals, subject, credentials.error(), Asked::kNobody);
  auto containerd = ContainerdClient::Connect(flags.socket);
  if (!containerd) return ReportError(globals, subject, containerd.error(), Asked::kContainerd);
  const auto config = containerd->Config();
  const std::string obstacle = config ? Obstacle(*config) : "";
  if (!obstacle.empty()) fmt::print(stderr, "banyan: {}: {}\n", subject, obstacle);

  const auto begin = steady_clock::now();
  const auto id = containerd->Pull(bare, *credentials);
  const auto took = std::chrono::duration_cast<milliseconds>(steady_clock::now() - begin);
  if (!id) return ReportError(globals, subject, id.error(), containerd->asked());
  const auto lazy = obstacle.empty() ? FindLazy(globals, bare) : std::nullopt;
  if (globals.json) {
    nlohmann::json json = {
        {"reference", bare}, {"image_id", *id}, {"milliseconds", took.count()}, {"lazy", lazy.has_value()}};
    if (lazy) {
      json["layers"] = lazy->layers();
      json["device_bytes"] = lazy->device_bytes();
      json["present_bytes"] = lazy->present_bytes();
      json["manifest"] = lazy->manifest_digest();
      json["artifact"] = lazy->artifact_digest();
    }
    if (!obstacle.empty()) json["obstacle"] = obstacle;
    PrintJson(json);
  } else if (!globals.quiet) {
    PrintText(bare, took, lazy, obstacle);
  }
  return kExitOk;
}

}  // namespace

void AddPullCommand(CLI::App& app, GlobalOptions& globals) {
  auto flags = std::make_shared<PullFlags>();
  CLI::App* command =
      app.add_subcommand("pull", "Have containerd pull an image; says what of it came and what did not");
  command->add_option("REF", flags->reference, "registry.example/name:tag, with or without docker://")->required();
  command->add_option("--containerd", flags->socket, "containerd's socket")->capture_default_str();
  command->footer(R"(
containerd pulls as for Kubernetes (CRI, namespace k8s.io), which is the way on which a snapshotter is told what it needs.
Credentials come from --creds-file or docker's usual files. Plain HTTP and mirrors are containerd's business (hosts.toml).

Exit codes: 0 pulled, lazily or whole; 3 no such image; 4 credentials refused; 5 containerd or the registry does not answer.

Examples:
  banyan pull registry.example/app:1
  banyan --json pull registry.example/app:1 | jq .lazy)");
  command->callback([flags, &globals] { globals.action = [flags, &globals] { return Pull(*flags, globals); }; });
}

}  // namespace banyan::cli
