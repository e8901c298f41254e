// `banyan starts`: the waterfall of the latest cold starts.
#include <unistd.h>

#include <memory>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/agent_client.h"
#include "cli/command.h"
#include "cli/mount_request.h"
#include "cli/terminal.h"
#include "cli/waterfall.h"

namespace banyan::cli {

namespace {

constexpr size_t kDefaultWidth = 100;

struct StartsFlags {
  std::string image;
  uint32_t limit = 5;
};

nlohmann::json ToJson(const proto::agent::Start& start) {
  nlohmann::json stages = nlohmann::json::array();
  for (const Stage& stage : StagesOf(start)) {
    stages.push_back({{"stage", stage.name}, {"begin_us", stage.begin}, {"end_us", stage.end}});
  }
  nlohmann::json sources = nlohmann::json::object();
  for (const auto& source : start.sources()) {
    sources[source.source()] = {
        {"chunks", source.chunks()}, {"compressed_bytes", source.compressed_bytes()}, {"requests", source.requests()}};
  }
  return {{"reference", start.reference()},
          {"manifest", start.manifest_digest()},
          {"directory", start.directory()},
          {"began_unix_us", start.began_unix_micros()},
          {"stages", stages},
          {"quiet", start.quiet()},
          {"sources", sources},
          {"touched_chunks", start.touched_chunks()},
          {"touched_compressed_bytes", start.touched_compressed_bytes()}};
}

int Starts(const StartsFlags& flags, const GlobalOptions& globals) {
  auto client = AgentClient::Connect(AbsolutePath(globals.data_root));
  if (!client) return ReportError(globals, "starts", client.error(), Asked::kAgent);
  // A filter picks from all that the agent remembers.
  const auto reply = client->Starts(flags.image.empty() ? flags.limit : UINT32_MAX);
  if (!reply) return ReportError(globals, "starts", reply.error(), Asked::kAgent);
  const size_t terminal = TerminalWidth(STDOUT_FILENO);
  const size_t width = terminal == 0 ? kDefaultWidth : terminal;
  nlohmann::json starts = nlohmann::json::array();
  uint32_t shown = 0;
  for (const auto& start : reply->starts()) {
    if (shown == flags.limit) break;
    if (start.reference().find(flags.image) == std::string::npos) continue;
    if (globals.json) {
      starts.push_back(ToJson(start));
    } else {
      fmt::print("{}{}", shown == 0 ? "" : "\n", RenderStart(start, width));
    }
    ++shown;
  }
  if (globals.json) PrintJson({{"starts", starts}});
  if (!globals.json && !globals.quiet && shown == 0) fmt::print("No cold start since the agent began.\n");
  return kExitOk;
}

}  // namespace

void AddStartsCommand(CLI::App& app, GlobalOptions& globals) {
  auto flags = std::make_shared<StartsFlags>();
  CLI::App* command = app.add_subcommand("starts", "Show where the time of the latest cold starts went");
  command->add_option("IMAGE", flags->image, "Only starts whose image name contains this");
  command->add_option("-n,--limit", flags->limit, "How many, the newest first")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  command->footer(R"(
One line a stage; times count from the moment the agent first heard of the image:
  resolve         the image's Banyan artifact was found       map, metadata   both are here
  mount           the image is mounted                        container       containerd was given the first container's mounts
  first read      the first read of contents was answered     last cold read  the latest chunk that was read for the first time
The node cannot see when an application calls itself ready: a start counts as quiet when no chunk was read for the first time for
2 s after the last.

Examples:
  banyan starts
  banyan starts -n 1 registry.example/app
  banyan --json starts | jq '.starts[0].stages')");
  command->callback([flags, &globals] { globals.action = [flags, &globals] { return Starts(*flags, globals); }; });
}

}  // namespace banyan::cli
