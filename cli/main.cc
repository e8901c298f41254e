// `banyan`: converts, inspects, verifies, extracts, mounts, pulls and runs images; looks after the node's agent.
#include <exception>
#include <string_view>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "cli/command.h"
#include "cli/command_table.h"
#include "common/log.h"

namespace banyan::cli {
namespace {

constexpr const char* kFooter = R"(
References are written as skopeo writes them: docker://host/name:tag, oci:directory:tag.

Examples:
  banyan convert docker://registry.example/app:1
  banyan inspect docker://registry.example/app:1 --against docker://registry.example/app:2
  banyan verify oci:/srv/images:app
  banyan extract docker://registry.example/app:1 /srv/app
  banyan mount docker://registry.example/app:1 /mnt/app
  banyan run docker://registry.example/app:1 -- /bin/app --help
  banyan install --containerd --dry-run
  banyan doctor
  banyan pull registry.example/app:1 && banyan starts -n 1

Exit codes: 0 ok, 1 a check found differences, 2 usage, 3 not found, 4 denied, 5 unavailable (try again), 6 damaged or
hostile content, 7 no space left or a limit reached, 8 anything else, 128 + N ended by signal N.)";

void AddGlobalOptions(CLI::App& app, GlobalOptions& globals) {
  globals.data_root = DefaultDataRoot();
  app.add_option("--data-root", globals.data_root, "Directory for all that the commands store")->capture_default_str();
  app.add_flag("--plain-http", globals.plain_http, "Speak plain HTTP to the registry (loopback and labs)");
  app.add_option("--creds-file", globals.creds_file, "Docker-style config.json with credentials");
  app.add_option("--ca-file", globals.ca_file, "Certificate authorities (PEM) to trust instead of the system's");
  app.add_flag("--json", globals.json, "Print one JSON document on standard output, also of an error");
  app.add_flag("-q,--quiet", globals.quiet, "No progress and no summary");
}

// Whether errors are wanted as documents, when the line cannot be parsed. What stands behind -- is another program's.
bool WantsJson(int argc, char** argv) {
  for (int i = 1; i < argc && std::string_view(argv[i]) != "--"; ++i) {
    if (std::string_view(argv[i]) == "--json") return true;
  }
  return false;
}

int Main(int argc, char** argv) {
  InitLogging("banyan", spdlog::level::warn);
  GlobalOptions globals;
  CLI::App app("Container images that start before they have arrived.", "banyan");
  app.set_version_flag("--version", "banyan " BANYAN_VERSION);
  app.require_subcommand(1);
  app.fallthrough();
  app.footer(kFooter);
  AddGlobalOptions(app, globals);
  AddConvertCommand(app, globals);
  AddConversionsCommand(app, globals);
  AddKeysCommand(app, globals);
  AddInspectCommand(app, globals);
  AddVerifyCommand(app, globals);
  AddExtractCommand(app, globals);
  AddMountCommand(app, globals);
  AddUmountCommand(app, globals);
  AddListCommand(app, globals);
  AddStatsCommand(app, globals);
  AddScrubCommand(app, globals);
  AddRunCommand(app, globals);
  AddPullCommand(app, globals);
  AddStartsCommand(app, globals);
  AddInfoCommand(app, globals);
  AddPrefetchCommand(app, globals);
  AddPinCommands(app, globals);
  AddDropCommand(app, globals);
  AddDoctorCommand(app, globals);
  AddInstallCommand(app, globals);
  AddTreeCommands(app, globals);
  AddPreheatCommand(app, globals);
  // For scripts/command_docs.py.
  app.add_flag_callback(
         "--print-commands",
         [&app] {
           fmt::print("{}", CommandTable(app));
           throw CLI::Success();
         },
         "Print what this program understands, as JSON")
      ->group("");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    globals.json = WantsJson(argc, argv);
    const std::string message = fmt::format("{}: see banyan --help", error.what());
    return ReportError(globals, "command line", {Code::kInvalidArgument, message}, Asked::kNobody);
  }
  return globals.action();
}

}  // namespace
}  // namespace banyan::cli

int main(int argc, char** argv) {
  using namespace banyan::cli;
  try {
    return Main(argc, argv);
  } catch (const std::exception& error) {
    GlobalOptions globals;
    globals.json = WantsJson(argc, argv);
    return ReportError(globals, "internal error", {banyan::Code::kInternal, error.what()}, Asked::kNobody);
  }
}
