// `banyan doctor`: the checks as a list for people, or as JSON.
#include <algorithm>
#include <memory>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/doctor.h"
#include "cli/mount_request.h"
#include "cli/text.h"

namespace banyan::cli {

namespace {

void PrintText(const std::vector<Check>& checks, bool quiet) {
  for (const Check& check : checks) {
    if (quiet && check.verdict == Verdict::kOk) continue;
    fmt::print("{:<5} {}: {}\n", VerdictName(check.verdict), check.name, Printable(check.found));
    if (!check.remedy.empty()) fmt::print("      -> {}\n", check.remedy);
  }
}

void PrintDocument(const std::vector<Check>& checks, bool failed) {
  nlohmann::json list = nlohmann::json::array();
  for (const Check& check : checks) {
    list.push_back({{"name", check.name},
                    {"verdict", VerdictName(check.verdict)},
                    {"found", check.found},
                    {"remedy", check.remedy}});
  }
  PrintJson({{"ok", !failed}, {"checks", list}}, 2);
}

int Doctor(DoctorOptions options, const GlobalOptions& globals) {
  options.data_root = AbsolutePath(globals.data_root);
  const std::vector<Check> checks = Diagnose(options);
  const bool failed =
      std::any_of(checks.begin(), checks.end(), [](const Check& check) { return check.verdict == Verdict::kFail; });
  globals.json ? PrintDocument(checks, failed) : PrintText(checks, globals.quiet);
  return failed ? kExitDifferences : kExitOk;
}

}  // namespace

void AddDoctorCommand(CLI::App& app, GlobalOptions& globals) {
  auto options = std::make_shared<DoctorOptions>();
  auto no_containerd = std::make_shared<bool>(false);
  CLI::App* command =
      app.add_subcommand("doctor", "Say what this node lacks to start images lazily, and how to mend it");
  command->add_option("--containerd", options->containerd_socket, "containerd's socket")->capture_default_str();
  command->add_option("--config", options->containerd_config, "containerd's configuration file")->capture_default_str();
  command->add_flag("--no-containerd", *no_containerd, "Check only what `banyan mount` and `banyan run` need");
  command->footer(R"(
Looks at the kernel (FUSE; EROFS by mounting a tiny image in a private namespace), the agent and its keeper, the data root, and
containerd: configuration with imports, the running process, hosts.toml, the agent's mirror. With -q only what is amiss.

Exit codes: 0 nothing failed (there may be warnings); 1 a check failed.

Examples:
  banyan doctor
  banyan doctor --no-containerd
  banyan --json doctor | jq -r '.checks[] | select(.verdict == "fail") | .remedy')");
  command->callback([options, no_containerd, &globals] {
    globals.action = [options, no_containerd, &globals] {
      options->containerd = !*no_containerd;
      return Doctor(*options, globals);
    };
  });
}

}  // namespace banyan::cli
