// What the commands of `banyan` share: global options, exit codes, and how errors and results are printed.
//
// A command lives in <name>_command.cc, which registers it with CLI11 (and is the only file of the command that
// includes CLI11: it costs 5 s to compile). Registration sets GlobalOptions::action in the subcommand's callback;
// main() runs the action after the whole line is parsed, so global options may stand before or after the command's
// name.
//
//   void AddInspectCommand(CLI::App& app, GlobalOptions& globals) {
//     auto options = std::make_shared<InspectOptions>();
//     CLI::App* command = app.add_subcommand("inspect", "…");
//     command->add_option("REF", options->reference, "…")->required();
//     command->callback([options, &globals] { globals.action = [options, &globals] { return Inspect(*options, globals);
//     }; });
//   }
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "cli/advice.h"
#include "common/result.h"
#include "net/repository.h"

namespace CLI {
class App;
}

namespace banyan::cli {

// Documented in `banyan --help`; scripts rely on them. A run ended by a signal exits with 128 + the signal.
enum ExitCode : int {
  kExitOk = 0,
  kExitDifferences = 1,  // a check ran and found something wrong
  kExitUsage = 2,        // the command line, or what it asks for, makes no sense
  kExitNotFound = 3,     // no such image, artifact, file
  kExitDenied = 4,       // credentials missing or refused; permission denied
  kExitUnavailable = 5,  // the registry or agent does not answer; worth another try
  kExitBadData = 6,      // an image or artifact is damaged or hostile
  kExitNoSpace = 7,      // disk full, or a limit (--max-…) reached
  kExitFailed = 8,       // anything else
};

ExitCode ExitCodeOf(Code code);

struct GlobalOptions {
  std::string data_root;  // all that commands store; default DefaultDataRoot()
  bool plain_http = false;
  std::string creds_file;
  std::string ca_file;
  bool json = false;   // one JSON document on standard output instead of text
  bool quiet = false;  // no progress, no summary; errors still go to standard error

  // What the chosen subcommand wants run; returns the exit code.
  std::function<int()> action;

  net::RepositoryOptions repository_options() const;
};

// /var/lib/banyan for root, else $XDG_DATA_HOME/banyan or ~/.local/share/banyan.
std::string DefaultDataRoot();

// Prints "banyan: <subject>: <message>: <what to do>" on standard error (the last part where there is advice to give)
// and returns the exit code. With --json also {"error": {"code": …, "subject": …, "message": …, "advice": …}} on
// standard output. `subject` is the command and what it was about: "convert docker://host/app:1".
int ReportError(const GlobalOptions& globals, std::string_view subject, const Error& error, Asked asked);
// The line that ReportError prints, without line feed.
std::string ErrorLine(std::string_view subject, const Error& error, Asked asked);

// On standard output, in one line or indented. What is not UTF-8 (a file's name may be anything) is replaced.
void PrintJson(const nlohmann::json& document, int indent = -1);

// ParseReference with an error that says how references are written, then OpenRepository.
struct OpenedImage {
  net::ImageReference reference;
  std::unique_ptr<net::Repository> repository;

  // The tag or digest to ask the repository for.
  std::string selector() const;
};
Result<OpenedImage> OpenImage(const GlobalOptions& globals, const std::string& reference, bool create = false);

void AddConvertCommand(CLI::App& app, GlobalOptions& globals);
void AddKeysCommand(CLI::App& app, GlobalOptions& globals);
void AddConversionsCommand(CLI::App& app, GlobalOptions& globals);
void AddInspectCommand(CLI::App& app, GlobalOptions& globals);
void AddVerifyCommand(CLI::App& app, GlobalOptions& globals);
void AddExtractCommand(CLI::App& app, GlobalOptions& globals);
void AddMountCommand(CLI::App& app, GlobalOptions& globals);
void AddUmountCommand(CLI::App& app, GlobalOptions& globals);
void AddRunCommand(CLI::App& app, GlobalOptions& globals);
void AddListCommand(CLI::App& app, GlobalOptions& globals);
void AddStatsCommand(CLI::App& app, GlobalOptions& globals);
void AddScrubCommand(CLI::App& app, GlobalOptions& globals);
void AddInfoCommand(CLI::App& app, GlobalOptions& globals);
void AddPullCommand(CLI::App& app, GlobalOptions& globals);
void AddStartsCommand(CLI::App& app, GlobalOptions& globals);
void AddPrefetchCommand(CLI::App& app, GlobalOptions& globals);
void AddPinCommands(CLI::App& app, GlobalOptions& globals);
void AddDropCommand(CLI::App& app, GlobalOptions& globals);
void AddDoctorCommand(CLI::App& app, GlobalOptions& globals);
void AddInstallCommand(CLI::App& app, GlobalOptions& globals);
void AddPreheatCommand(CLI::App& app, GlobalOptions& globals);
// tree, nodes, drain
void AddTreeCommands(CLI::App& app, GlobalOptions& globals);

}  // namespace banyan::cli
