#include <unistd.h>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/extract.h"
#include "cli/interrupt.h"
#include "cli/text.h"

namespace banyan::cli {
namespace {

struct ExtractOptions {
  std::string reference;
  std::string directory;
  std::string platform;
};

nlohmann::json ToJson(const ExtractReport& report) {
  return {{"names", report.names},
          {"bytes", report.bytes},
          {"left_out",
           {{"owners", report.left_out.owners},
            {"devices", report.left_out.devices},
            {"xattrs", report.left_out.xattrs},
            {"modes", report.left_out.modes}}}};
}

int RunExtract(const ExtractOptions& options, const GlobalOptions& globals) {
  const std::string subject = "extract " + options.reference;
  Interrupts interrupts;
  const auto report = [&] {
    Progress progress(Progress::ModeFor(STDERR_FILENO, globals.quiet || globals.json), WriteToStderr);
    return ExtractImage(globals, options.reference, options.platform, options.directory, progress, interrupts.token());
  }();
  if (!report) {
    const int code = ReportError(globals, subject, report.error(), AskedFor(options.reference));
    return interrupts.signal() != 0 ? 128 + interrupts.signal() : code;
  }
  const LeftOut& left_out = report->left_out;
  if (globals.json) {
    PrintJson(ToJson(*report), 2);
  } else if (!globals.quiet) {
    fmt::print("{} names, {} of contents\n", report->names, HumanBytes(report->bytes));
  }
  if (left_out.total() == 0) return kExitOk;
  fmt::print(stderr, "banyan: {}: not as in the image: {} owners, {} device nodes, {} xattrs, {} modes: {}\n", subject,
             left_out.owners, left_out.devices, left_out.xattrs, left_out.modes,
             ::geteuid() == 0 ? "the file system of the directory cannot hold them" : "run as root to have them");
  return ::geteuid() == 0 ? kExitDifferences : kExitOk;
}

}  // namespace

void AddExtractCommand(CLI::App& app, GlobalOptions& globals) {
  auto options = std::make_shared<ExtractOptions>();
  CLI::App* command = app.add_subcommand("extract", "Write a converted image's files to a directory");
  command->footer(R"(
As root everything is written as the image has it; exit code 1 if the directory's file system cannot hold some of it. Otherwise
owners, device nodes and privileged xattrs are left out, with a warning.

Examples:
  banyan extract docker://registry.example/app:1 /srv/app
  banyan extract oci:/srv/images:app ./app)");
  command->add_option("REF", options->reference, "The image: docker://host/name:tag or oci:directory:tag")->required();
  command->add_option("DIR", options->directory, "Where to; an empty directory, or one that does not exist")
      ->required();
  command->add_option("--platform", options->platform,
                      "os/architecture of a multi-platform image; default: this machine's");
  command->callback(
      [options, &globals] { globals.action = [options, &globals] { return RunExtract(*options, globals); }; });
}

}  // namespace banyan::cli
