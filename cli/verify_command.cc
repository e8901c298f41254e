#include <unistd.h>

#include <chrono>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/text.h"
#include "cli/verify.h"
#include "convert/spool.h"
#include "lazyfs/image_mount.h"

namespace banyan::cli {
namespace {

nlohmann::json ToJson(const VerifyReport& report) {
  nlohmann::json findings = nlohmann::json::array();
  for (const Finding& finding : report.findings) findings.push_back({{"check", finding.check}, {"what", finding.what}});
  return {{"clean", report.finding_count == 0},
          {"findings", std::move(findings)},
          {"finding_count", report.finding_count},
          {"blobs", report.blobs},
          {"chunks", report.chunks},
          {"bytes", report.bytes},
          {"inodes", report.inodes},
          {"names", report.names},
          {"mount_form", report.mount_form}};
}

void Print(const VerifyReport& report, std::chrono::milliseconds elapsed, bool quiet) {
  for (const Finding& finding : report.findings) fmt::print("{}: {}\n", finding.check, finding.what);
  if (report.finding_count > report.findings.size()) {
    fmt::print("and {} more\n", report.finding_count - report.findings.size());
  }
  if (quiet) return;
  fmt::print("{}: {} blobs, {} chunks, {} read, {} names, {} inodes{} in {}\n",
             report.finding_count == 0 ? "clean" : fmt::format("{} findings", report.finding_count), report.blobs,
             report.chunks, HumanBytes(report.bytes), report.names, report.inodes,
             report.mount_form.empty() ? "" : fmt::format(", mounted ({})", report.mount_form), HumanTime(elapsed));
}

int RunVerify(const VerifyOptions& options, const GlobalOptions& globals) {
  const std::string subject = "verify " + options.reference;
  if (options.mount && ::geteuid() != 0) {
    return ReportError(globals, subject, {Code::kPermissionDenied, "--mount needs root"}, Asked::kNobody);
  }
  const auto begin = std::chrono::steady_clock::now();
  Interrupts interrupts;
  auto spool = convert::Spool::Open(globals.data_root);
  if (!spool) return ReportError(globals, subject, spool.error(), Asked::kNobody);
  const Interrupts::Cleanup cleanup(interrupts, [directory = spool->directory()] {
    static_cast<void>(lazyfs::UmountTarget(VerifyMountPoint(directory)));
    convert::RemoveTree(directory);
  });

  const auto report = [&] {
    Progress progress(Progress::ModeFor(STDERR_FILENO, globals.quiet || globals.json), WriteToStderr);
    return VerifyImage(options, globals, spool->directory(), progress, interrupts.token());
  }();
  if (!report) {
    const int code = ReportError(globals, subject, report.error(), AskedFor(options.reference));
    return interrupts.signal() != 0 ? 128 + interrupts.signal() : code;
  }
  if (globals.json) {
    PrintJson(ToJson(*report), 2);
  } else {
    Print(*report, std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begin),
          globals.quiet);
  }
  return report->finding_count == 0 ? kExitOk : kExitDifferences;
}

}  // namespace

void AddVerifyCommand(CLI::App& app, GlobalOptions& globals) {
  auto options = std::make_shared<VerifyOptions>();
  CLI::App* command =
      app.add_subcommand("verify", "Check a converted image against its digests and its original layers");
  command->footer(R"(
Reads every blob of the image and of the original. Checks all digests, the file system's structure, and that every name of the
view is what the original layers say: kind, mode, owner, mtime, links, xattrs, device number, target, contents. Each finding is
printed; exit code 1 if there is one.

Examples:
  banyan verify docker://registry.example/app:1
  banyan verify oci:/srv/images:app --json
  banyan verify docker://mirror.example/app:banyan --original docker://registry.example/app:1
  sudo banyan verify --mount docker://registry.example/app:1)");
  command->add_option("REF", options->reference, "The image: docker://host/name:tag or oci:directory:tag")->required();
  command->add_option("--original", options->original, "Where the original image is, if not in the same repository");
  command->add_option("--platform", options->platform,
                      "os/architecture of a multi-platform image; default: this machine's");
  command->add_flag("--mount", options->mount,
                    "Also mount it and walk the mount (root; needs room for the unpacked image)");
  command->add_option("--form", options->form, "How to mount: auto, file, loop, tree")
      ->check(CLI::IsMember({"auto", "file", "loop", "tree"}))
      ->capture_default_str();
  command->callback(
      [options, &globals] { globals.action = [options, &globals] { return RunVerify(*options, globals); }; });
}

}  // namespace banyan::cli
