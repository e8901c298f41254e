// `banyan install --containerd`: shows what would change in containerd's configuration, asks, and writes it.
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <memory>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/install.h"

namespace banyan::cli {

namespace {

struct InstallFlags {
  InstallRequest request;
  bool containerd = false;
  bool uninstall = false;
  bool dry_run = false;
  bool yes = false;
  bool no_mirror = false;
};

void PrintDocument(const InstallPlan& plan, bool applied) {
  nlohmann::json files = nlohmann::json::array();
  for (const auto& change : plan.changes) {
    const char* const what = !change.after ? "removed" : change.before ? "changed" : "created";
    files.push_back({{"path", change.path}, {"change", what}});
  }
  PrintJson({{"applied", applied}, {"files", files}, {"notes", plan.notes}});
}

// True for "y" or "yes" on the terminal.
bool Agreed() {
  fmt::print("Write this? [y/N] ");
  std::fflush(stdout);
  std::string answer;
  return std::getline(std::cin, answer) && (answer == "y" || answer == "yes");
}

int Install(InstallFlags flags, const GlobalOptions& globals) {
  const std::string_view subject = flags.uninstall ? "install --uninstall" : "install";
  if (!flags.containerd) {
    return ReportError(globals, subject, {Code::kInvalidArgument, "say what to install into: --containerd"},
                       Asked::kNobody);
  }
  if (flags.no_mirror) flags.request.options.mirror.clear();
  const auto plan = flags.uninstall ? PlanUninstall(flags.request) : PlanInstall(flags.request);
  if (!plan) return ReportError(globals, subject, plan.error(), Asked::kNobody);
  const bool text = !globals.json;
  if (text) fmt::print("{}", DescribePlan(*plan));
  if (text && !globals.quiet) {
    for (const std::string& note : plan->notes) fmt::print("Note: {}.\n", note);
  }
  if (plan->changes.empty() || flags.dry_run) {
    if (!text) PrintDocument(*plan, false);
    if (text && plan->changes.empty() && !globals.quiet) fmt::print("Nothing to change.\n");
    return kExitOk;
  }
  if (!flags.yes) {
    if (!text || ::isatty(STDIN_FILENO) == 0) {
      return ReportError(globals, subject, {Code::kInvalidArgument, "nothing was written: agree to it with --yes"},
                         Asked::kNobody);
    }
    if (!Agreed()) return kExitOk;
  }
  if (Status status = ApplyPlan(*plan); !status) {
    return ReportError(globals, subject, status.error(), Asked::kNobody);
  }
  if (!text) PrintDocument(*plan, true);
  if (text && !globals.quiet) {
    fmt::print(
        "Written. containerd reads it when it starts: systemctl restart containerd (running containers go on).\n");
  }
  return kExitOk;
}

}  // namespace

void AddInstallCommand(CLI::App& app, GlobalOptions& globals) {
  auto flags = std::make_shared<InstallFlags>();
  CLI::App* command = app.add_subcommand("install", "Make containerd start images lazily; shows each change first");
  InstallRequest& request = flags->request;
  command->add_flag("--containerd", flags->containerd, "Install into containerd's configuration");
  command->add_flag("--uninstall", flags->uninstall, "Take back what was installed, and nothing else");
  command->add_flag("--dry-run", flags->dry_run, "Only show what would change");
  command->add_flag("-y,--yes", flags->yes, "Do not ask");
  command->add_option("--config", request.config_path, "containerd's configuration file")->capture_default_str();
  command
      ->add_option("--snapshotter-socket", request.options.snapshotter_socket,
                   "Where the agent's snapshotter listens ([snapshotter] socket of its configuration)")
      ->capture_default_str();
  command
      ->add_option("--snapshotter-root", request.options.snapshotter_root,
                   "Where the agent keeps snapshots ([snapshotter] root); kubelet counts its disk's space")
      ->capture_default_str();
  command->add_option("--mirror", request.options.mirror, "host:port of the agent's mirror ([mirror] address)")
      ->capture_default_str();
  command->add_flag("--no-mirror", flags->no_mirror, "Leave hosts.toml alone");
  command
      ->add_option("--registry", request.registries,
                   "Send pulls from this registry through the mirror; may be repeated. Default: every registry "
                   "without a hosts.toml of its own")
      ->allow_extra_args(false);
  command->add_option("--root", request.root, "Take every path below this directory");
  command->footer(R"(
Sets, in containerd's config.toml (version 2 or 3; containerd 1.6 to 2.x), the proxy plugin `banyan`, CRI's snapshotter and
disable_snapshot_annotations = false, and puts the agent's mirror first in hosts.toml. Lines of others stay as they are: each
line that is added is marked, each that is replaced is kept as a comment, and a copy of the file as it was first is kept beside it
(.before-banyan). Running it again changes nothing. Restarting containerd is left to you.

Exit codes: 0 done, or nothing to do; 2 not agreed to; 8 the configuration cannot be edited safely: what to do is said.

Examples:
  banyan install --containerd --dry-run
  banyan install --containerd --yes && systemctl restart containerd
  banyan install --containerd --registry registry.example --registry docker.io
  banyan install --containerd --uninstall)");
  command->callback([flags, &globals] { globals.action = [flags, &globals] { return Install(*flags, globals); }; });
}

}  // namespace banyan::cli
