#include <unistd.h>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/inspect.h"
#include "cli/terminal.h"
#include "cli/text.h"

namespace banyan::cli {
namespace {

struct InspectOptions {
  std::string reference;
  std::string against;
  std::string platform;
};

void Add(Sharing& sum, const Sharing& part) {
  sum.chunks += part.chunks;
  sum.device_bytes += part.device_bytes;
  sum.blob_bytes += part.blob_bytes;
}

LayerFacts Sum(const ImageFacts& facts) {
  LayerFacts sum;
  for (const LayerFacts& layer : facts.layers) {
    sum.device_bytes += layer.device_bytes;
    sum.blob_bytes += layer.blob_bytes;
    sum.index_bytes += layer.index_bytes;
    sum.chunks += layer.chunks;
    sum.entries += layer.entries;
    Add(sum.with_lower, layer.with_lower);
    if (layer.with_other) {
      if (!sum.with_other) sum.with_other.emplace();
      Add(*sum.with_other, *layer.with_other);
    }
  }
  return sum;
}

nlohmann::json ToJson(const Sharing& sharing) {
  return {{"chunks", sharing.chunks}, {"device_bytes", sharing.device_bytes}, {"blob_bytes", sharing.blob_bytes}};
}

nlohmann::json ToJson(const LayerFacts& layer) {
  nlohmann::json json = {{"device_bytes", layer.device_bytes}, {"blob_bytes", layer.blob_bytes},
                         {"index_bytes", layer.index_bytes},   {"chunks", layer.chunks},
                         {"entries", layer.entries},           {"shared_with_lower_layers", ToJson(layer.with_lower)}};
  if (layer.with_other) json["shared_with_other_image"] = ToJson(*layer.with_other);
  return json;
}

nlohmann::json ToJson(const ImageFacts& facts) {
  nlohmann::json layers = nlohmann::json::array();
  for (const LayerFacts& layer : facts.layers) {
    nlohmann::json json = ToJson(layer);
    json["blob"] = layer.blob_digest.ToString();
    json["diff_id"] = layer.diff_id.ToString();
    layers.push_back(std::move(json));
  }
  return {{"repository", facts.repository},
          {"manifest", facts.manifest_digest.ToString()},
          {"artifact", facts.artifact_digest.ToString()},
          {"tagged", facts.tagged},
          {"converter_version", facts.converter_version},
          {"chain_id", facts.chain_id.ToString()},
          {"inodes", facts.inodes},
          {"map_bytes", facts.map_bytes},
          {"metadata_bytes", facts.metadata_bytes},
          {"metadata_blob_bytes", facts.metadata_blob_bytes},
          {"layers", std::move(layers)},
          {"total", ToJson(Sum(facts))}};
}

std::vector<std::string> Row(const std::string& name, const LayerFacts& layer) {
  std::vector<std::string> row = {name,
                                  HumanBytes(layer.device_bytes),
                                  HumanBytes(layer.blob_bytes),
                                  Ratio(layer.device_bytes, layer.blob_bytes),
                                  fmt::format("{}", layer.chunks),
                                  fmt::format("{}", layer.entries),
                                  HumanBytes(layer.with_lower.blob_bytes)};
  if (layer.with_other) row.push_back(HumanBytes(layer.with_other->blob_bytes));
  return row;
}

void Print(const ImageFacts& facts, const InspectOptions& options) {
  const LayerFacts sum = Sum(facts);
  const uint64_t before_mount = facts.map_bytes + facts.metadata_blob_bytes;
  const uint64_t all = sum.blob_bytes + before_mount;
  fmt::print("image      {}{}\n", facts.manifest_digest.ToString(), facts.tagged ? " (Banyan image of its own)" : "");
  fmt::print("artifact   {} in {}, by {}\n", facts.artifact_digest.ToString(), facts.repository,
             Printable(facts.converter_version));
  fmt::print("inodes     {}\n", facts.inodes);
  fmt::print("metadata   {} ({} as fetched, {} of the image)\n", HumanBytes(facts.metadata_bytes),
             HumanBytes(facts.metadata_blob_bytes), Percent(facts.metadata_blob_bytes, all));
  fmt::print("map        {} ({} of the image)\n", HumanBytes(facts.map_bytes), Percent(facts.map_bytes, all));
  fmt::print("to mount   {} ({} of the image)\n\n", HumanBytes(before_mount), Percent(before_mount, all));

  std::vector<std::vector<std::string>> rows{{"LAYER", "CONTENTS", "BLOB", "RATIO", "CHUNKS", "ENTRIES", "IN LOWER"}};
  if (!options.against.empty()) rows.front().push_back("IN OTHER");
  for (const LayerFacts& layer : facts.layers) rows.push_back(Row(layer.diff_id.Short(), layer));
  rows.push_back(Row("all", sum));
  fmt::print("{}", FitTable(rows, 0, TerminalWidth(STDOUT_FILENO)));
  if (sum.with_other) {
    fmt::print("\n{} of {} chunks, {} of {} ({}) are in {} as well\n", sum.with_other->chunks, sum.chunks,
               HumanBytes(sum.with_other->blob_bytes), HumanBytes(sum.blob_bytes),
               Percent(sum.with_other->blob_bytes, sum.blob_bytes), options.against);
  }
}

int RunInspect(const InspectOptions& options, const GlobalOptions& globals) {
  const auto facts = InspectImage(globals, options.reference, options.against, options.platform);
  if (!facts) return ReportError(globals, "inspect " + options.reference, facts.error(), AskedFor(options.reference));
  if (globals.json) {
    PrintJson(ToJson(*facts), 2);
  } else {
    Print(*facts, options);
  }
  return kExitOk;
}

}  // namespace

void AddInspectCommand(CLI::App& app, GlobalOptions& globals) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* command = app.add_subcommand("inspect", "Show what a converted image is made of and what it shares");
  command->footer(R"(
Columns: contents and compressed size of each layer's data, and the compressed bytes of chunks that lower layers (or the other
image) have as well, so that a node which has these need not fetch them.

Examples:
  banyan inspect docker://registry.example/app:1
  banyan inspect oci:/srv/images:app --json
  banyan inspect docker://registry.example/app:2 --against docker://registry.example/app:1)");
  command->add_option("REF", options->reference, "The image: docker://host/name:tag or oci:directory:tag")->required();
  command->add_option("--against", options->against, "Another converted image to compare chunks with");
  command->add_option("--platform", options->platform,
                      "os/architecture of a multi-platform image; default: this machine's");
  command->callback(
      [options, &globals] { globals.action = [options, &globals] { return RunInspect(*options, globals); }; });
}

}  // namespace banyan::cli
