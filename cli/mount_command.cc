// `banyan mount REF DIR`, `banyan umount DIR`, `banyan stats`, `banyan scrub`: what the node's agent does,
// asked for from the command line.
#include <unistd.h>

#include <filesystem>
#include <memory>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/agent_client.h"
#include "cli/command.h"
#include "cli/mount_request.h"
#include "cli/terminal.h"
#include "cli/text.h"

namespace banyan::cli {

namespace {

struct MountFlags {
  std::string reference;
  std::string directory;
  std::string form = "auto";
  bool fill = false;
  uint32_t read_ahead_kib = 1024;
};

struct UmountFlags {
  std::string directory;
  bool force = false;
};

double Milliseconds(uint64_t micros) { return static_cast<double>(micros) / 1000.0; }

int Mount(const MountFlags& flags, const GlobalOptions& globals) {
  const std::string subject = fmt::format("mount {}", flags.reference);
  auto client = AgentClient::ConnectOrStart(AbsolutePath(globals.data_root));
  if (!client) return ReportError(globals, subject, client.error(), Asked::kAgent);
  auto request = MakeMountRequest(globals, flags.reference, AbsolutePath(flags.directory), flags.form);
  if (!request) return ReportError(globals, subject, request.error(), Asked::kNobody);
  request->set_fill(flags.fill);
  request->set_read_ahead_kib(flags.read_ahead_kib);
  const auto reply = client->Mount(*request);
  if (!reply) return ReportError(globals, subject, reply.error(), client->asked());

  const auto& times = reply->times();
  if (globals.json) {
    PrintJson({{"directory", reply->directory()},
               {"form", reply->form()},
               {"manifest", reply->manifest_digest()},
               {"artifact", reply->artifact_digest()},
               {"times_us",
                {{"resolved", times.resolved()},
                 {"map", times.map()},
                 {"metadata", times.metadata()},
                 {"mounted", times.mounted()}}}});
  } else if (!globals.quiet) {
    fmt::print(
        "{} is mounted on {} (form: {}) after {:.1f} ms: resolve {:.1f}, map {:.1f}, metadata {:.1f}, mount {:.1f}\n",
        flags.reference, reply->directory(), reply->form(), Milliseconds(times.mounted()),
        Milliseconds(times.resolved()), Milliseconds(times.map() - times.resolved()),
        Milliseconds(times.metadata() - times.map()), Milliseconds(times.mounted() - times.metadata()));
  }
  return kExitOk;
}

int Umount(const std::string& directory, bool force, const GlobalOptions& globals) {
  const std::string subject = fmt::format("umount {}", directory);
  auto client = AgentClient::Connect(AbsolutePath(globals.data_root));
  if (!client) return ReportError(globals, subject, client.error(), Asked::kAgent);
  if (Status status = client->Umount(AbsolutePath(directory), force); !status) {
    return ReportError(globals, subject, status.error(), Asked::kAgent);
  }
  if (globals.json) PrintJson({{"unmounted", AbsolutePath(directory)}});
  return kExitOk;
}

void PrintStatsJson(const proto::agent::StatsReply& reply) {
  nlohmann::json sources = nlohmann::json::object();
  for (const auto& source : reply.sources()) {
    sources[source.source()] = {
        {"chunks", source.chunks()}, {"compressed_bytes", source.compressed_bytes()}, {"requests", source.requests()}};
  }
  nlohmann::json touches = nlohmann::json::array();
  for (const auto& touch : reply.first_touches()) touches.push_back({touch.device(), touch.chunk()});
  PrintJson({{"reads", reply.reads()},
             {"read_bytes", reply.read_bytes()},
             {"waiting_reads", reply.waiting_reads()},
             {"hung_reads", reply.hung_reads()},
             {"longest_read_us", reply.longest_read_micros()},
             {"sources", sources},
             {"touched_compressed_bytes", reply.touched_compressed_bytes()},
             {"first_touches", touches}});
}

void PrintStatsText(const proto::agent::StatsReply& reply, bool of_mount) {
  fmt::print("reads: {} of {} in all, {} waiting now, {} hung so far, longest {:.1f} ms\n", reply.reads(),
             HumanBytes(reply.read_bytes()), reply.waiting_reads(), reply.hung_reads(),
             Milliseconds(reply.longest_read_micros()));
  std::vector<std::vector<std::string>> rows{{"SOURCE", "CHUNKS", "COMPRESSED", "REQUESTS"}};
  for (const auto& source : reply.sources()) {
    rows.push_back({source.source(), std::to_string(source.chunks()), HumanBytes(source.compressed_bytes()),
                    std::to_string(source.requests())});
  }
  fmt::print("{}", FitTable(rows, 0, TerminalWidth(STDOUT_FILENO)));
  if (of_mount) {
    fmt::print("touched: {} chunks, {} compressed\n", reply.first_touches_size(),
               HumanBytes(reply.touched_compressed_bytes()));
  }
}

int Stats(const std::string& directory, const GlobalOptions& globals) {
  const std::string subject = directory.empty() ? "stats" : "stats " + directory;
  auto client = AgentClient::Connect(AbsolutePath(globals.data_root));
  if (!client) return ReportError(globals, subject, client.error(), Asked::kAgent);
  const auto reply = client->Stats(directory.empty() ? directory : AbsolutePath(directory));
  if (!reply) return ReportError(globals, subject, reply.error(), Asked::kAgent);
  globals.json ? PrintStatsJson(*reply) : PrintStatsText(*reply, !directory.empty());
  return kExitOk;
}

int Scrub(const GlobalOptions& globals) {
  auto client = AgentClient::ConnectOrStart(AbsolutePath(globals.data_root));
  if (!client) return ReportError(globals, "scrub", client.error(), Asked::kAgent);
  const auto reply = client->Scrub();
  if (!reply) return ReportError(globals, "scrub", reply.error(), Asked::kAgent);
  if (globals.json) {
    PrintJson({{"chunks_checked", reply->chunks_checked()},
               {"bad_chunks", std::vector<std::string>(reply->bad_chunks().begin(), reply->bad_chunks().end())},
               {"blobs_checked", reply->blobs_checked()},
               {"bad_blobs", std::vector<std::string>(reply->bad_blobs().begin(), reply->bad_blobs().end())}});
  } else {
    for (const std::string& chunk : reply->bad_chunks()) fmt::print("bad, dropped: {}\n", chunk);
    for (const std::string& blob : reply->bad_blobs()) fmt::print("bad, dropped: {}\n", blob);
    if (!globals.quiet) {
      fmt::print("{} chunks checked, {} bad; {} whole blobs checked, {} bad\n", reply->chunks_checked(),
                 reply->bad_chunks_size(), reply->blobs_checked(), reply->bad_blobs_size());
    }
  }
  return reply->bad_chunks().empty() && reply->bad_blobs().empty() ? kExitOk : kExitDifferences;
}

}  // namespace

std::string AbsolutePath(const std::string& path) {
  return std::filesystem::absolute(path).lexically_normal().string();
}

Result<proto::agent::MountRequest> MakeMountRequest(const GlobalOptions& globals, const std::string& reference,
                                                    const std::string& directory, const std::string& form) {
  BANYAN_ASSIGN(net::ImageReference parsed, net::ImageReference::Parse(reference));
  // The agent has another working directory.
  if (parsed.transport == net::ImageReference::Transport::kOci) parsed.repository = AbsolutePath(parsed.repository);
  const auto absolute_or_empty = [](const std::string& path) { return path.empty() ? path : AbsolutePath(path); };
  proto::agent::MountRequest request;
  request.set_reference(parsed.ToString());
  request.set_directory(directory);
  request.set_form(form);
  request.set_plain_http(globals.plain_http);
  request.set_credentials_file(absolute_or_empty(globals.creds_file));
  request.set_ca_file(absolute_or_empty(globals.ca_file));
  return request;
}

void AddMountCommand(CLI::App& app, GlobalOptions& globals) {
  auto flags = std::make_shared<MountFlags>();
  CLI::App* command = app.add_subcommand("mount", "Mount an image read-only; its data arrive as they are read");
  command->add_option("REF", flags->reference, "The image: docker://host/name:tag or oci:directory:tag")->required();
  command->add_option("DIR", flags->directory, "Where to mount it; made if it does not exist")->required();
  command->add_option("--form", flags->form, "How: auto (tries the others in order), file, loop, tree")
      ->check(CLI::IsMember({"auto", "file", "loop", "tree"}))
      ->capture_default_str();
  command->add_flag("--fill", flags->fill, "Fetch the rest in the background");
  command->add_option("--read-ahead-kib", flags->read_ahead_kib, "What the kernel reads ahead on this mount, in KiB")
      ->capture_default_str();
  command->footer(R"(
The image must have been converted (`banyan convert`); its artifact is found beside it. Needs root.

Examples:
  banyan mount docker://registry.example/app:1 /mnt/app
  banyan mount --form loop oci:/srv/images:app /mnt/app)");
  command->callback([flags, &globals] { globals.action = [flags, &globals] { return Mount(*flags, globals); }; });
}

void AddUmountCommand(CLI::App& app, GlobalOptions& globals) {
  auto flags = std::make_shared<UmountFlags>();
  CLI::App* command = app.add_subcommand("umount", "Unmount an image; reads that wait for data fail first");
  command->add_option("DIR", flags->directory, "Where it is mounted")->required();
  command->add_flag("--force", flags->force, "Also when processes use it; what they read of it then fails");
  command->footer("\nExample:\n  banyan umount /mnt/app");
  command->callback([flags, &globals] {
    globals.action = [flags, &globals] { return Umount(flags->directory, flags->force, globals); };
  });
}

void AddStatsCommand(CLI::App& app, GlobalOptions& globals) {
  auto directory = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("stats", "What the agent has read and where it came from, since it began");
  command->add_option("DIR", *directory, "Also say which chunks the mount there has touched, in order (with --json)");
  command->footer("\nExample:\n  banyan stats --json /mnt/app");
  command->callback(
      [directory, &globals] { globals.action = [directory, &globals] { return Stats(*directory, globals); }; });
}

void AddScrubCommand(CLI::App& app, GlobalOptions& globals) {
  CLI::App* command =
      app.add_subcommand("scrub", "Check every chunk on this node against its digest; bad ones are fetched again");
  command->footer("\nExit code 1 if a chunk was bad.\n\nExample:\n  banyan scrub --json");
  command->callback([&globals] { globals.action = [&globals] { return Scrub(globals); }; });
}

}  // namespace banyan::cli
