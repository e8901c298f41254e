#include <unistd.h>

#include <chrono>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/convert.h"
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "cli/text.h"
#include "convert/spool.h"

namespace banyan::cli {
namespace {

constexpr const char* kFooter = R"(
Without DST the artifact is attached to the image, in the image's own repository (a registry without a referrers API gets
the fallback tag). With DST, the image of the chosen platform is copied there, so that the artifact has something to be
attached to. With --tag nothing is attached: the artifact becomes an image of its own, under that tag.

An image that this version has converted already is left alone (--force converts it again), and so is a layer that another
image shares.

Examples:
  banyan convert docker://registry.example/app:1
  banyan convert docker://registry.example/app:1 docker://mirror.example/app:1
  banyan convert oci:/srv/images:app oci:/srv/converted:app
  banyan convert docker://registry.example/app:1 --tag 1-banyan --level 9)";

nlohmann::json ToJson(const convert::ConvertReport& report, double seconds) {
  return {{"manifest", report.manifest_digest.ToString()},
          {"artifact", report.artifact_digest.ToString()},
          {"repository", report.destination},
          {"already_converted", report.already_converted},
          {"layers", report.layers},
          {"layers_converted", report.layers_converted},
          {"source_bytes", report.source_bytes},
          {"device_bytes", report.device_bytes},
          {"blob_bytes", report.blob_bytes},
          {"index_bytes", report.index_bytes},
          {"map_bytes", report.map_bytes},
          {"metadata_bytes", report.metadata_bytes},
          {"chunks", report.chunks},
          {"shared_chunks", report.shared_chunks},
          {"seconds", seconds}};
}

void PrintSummary(const convert::ConvertReport& report, std::chrono::milliseconds elapsed) {
  if (report.already_converted) {
    fmt::print("already converted by this version: artifact {} in {} (--force converts it again)\n",
               report.artifact_digest.ToString(), report.destination);
    return;
  }
  const uint64_t out = report.blob_bytes + report.index_bytes + report.map_bytes + report.metadata_bytes;
  fmt::print("layers     {} ({} converted now)\n", report.layers, report.layers_converted);
  fmt::print("bytes in   {}\n", HumanBytes(report.source_bytes));
  fmt::print("bytes out  {} (data {}, indexes {}, metadata {}, map {})\n", HumanBytes(out),
             HumanBytes(report.blob_bytes), HumanBytes(report.index_bytes), HumanBytes(report.metadata_bytes),
             HumanBytes(report.map_bytes));
  fmt::print("ratio      {} ({} of contents)\n", Ratio(report.device_bytes, report.blob_bytes),
             HumanBytes(report.device_bytes));
  fmt::print("chunks     {} ({} of them equal an earlier one)\n", report.chunks, report.shared_chunks);
  fmt::print("time       {}\n", HumanTime(elapsed));
  fmt::print("image      {}\n", report.manifest_digest.ToString());
  fmt::print("artifact   {} in {}\n", report.artifact_digest.ToString(), report.destination);
}

int RunConvert(const ConvertCommandOptions& options, const GlobalOptions& globals) {
  const std::string subject = "convert " + options.source;
  const auto begin = std::chrono::steady_clock::now();
  Interrupts interrupts;
  auto spool = convert::Spool::Open(globals.data_root);
  if (!spool) return ReportError(globals, subject, spool.error(), Asked::kNobody);
  const Interrupts::Cleanup cleanup(interrupts, [directory = spool->directory()] { convert::RemoveTree(directory); });

  auto report = [&] {
    Progress progress(Progress::ModeFor(STDERR_FILENO, globals.quiet || globals.json), WriteToStderr);
    return ConvertImage(options, globals, spool->directory(), progress, interrupts.token());
  }();
  if (!report) {
    const int code = ReportError(globals, subject, report.error(), AskedFor(options.source));
    return interrupts.signal() != 0 ? 128 + interrupts.signal() : code;
  }
  const auto elapsed = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begin);
  if (globals.json) {
    PrintJson(ToJson(*report, static_cast<double>(elapsed.count()) / 1000), 2);
  } else if (!globals.quiet) {
    PrintSummary(*report, elapsed);
  }
  return kExitOk;
}

}  // namespace

void AddConvertCommand(CLI::App& app, GlobalOptions& globals) {
  auto options = std::make_shared<ConvertCommandOptions>();
  CLI::App* command = app.add_subcommand("convert", "Convert an image, so that it can start before it has arrived");
  command->footer(kFooter);
  command->add_option("SRC", options->source, "The image: docker://host/name:tag or oci:directory:tag")->required();
  command->add_option("DST", options->destination, "Where to put the result, if not beside the image");
  command->add_option("--tag", options->tag, "Push the result as an image of its own under this tag");
  command->add_option("--platform", options->platform,
                      "os/architecture of a multi-platform image; default: this machine's");
  command->add_option("--level", options->settings.level, "zstd level")
      ->check(CLI::Range(1, 19))
      ->capture_default_str();
  command->add_option("--jobs", options->jobs, "Threads; 0: one a CPU")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_option("--sign-key", options->key_file,
                      "Sign the artifact with this private key (`banyan keys generate`)");
  command->add_flag("--force", options->settings.force, "Convert again what has been converted");
  command->add_option("--max-layer-bytes", options->settings.max_layer_bytes, "Refuse layers with more file contents")
      ->capture_default_str();
  command->add_option("--max-entries", options->settings.max_entries, "Refuse layers with more names")
      ->capture_default_str();
  command->add_option("--max-ratio", options->settings.max_ratio, "Refuse layers that grow more than so many times")
      ->capture_default_str();
  command
      ->add_option("--max-ratio-free-bytes", options->settings.max_ratio_free_bytes,
                   "--max-ratio holds beyond so many bytes")
      ->capture_default_str();
  command->callback(
      [options, &globals] { globals.action = [options, &globals] { return RunConvert(*options, globals); }; });
}

}  // namespace banyan::cli
