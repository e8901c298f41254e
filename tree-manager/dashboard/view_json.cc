#include "tree-manager/dashboard/view_json.h"

#include <vector>

namespace banyan::tree_manager {

using nlohmann::json;
using namespace proto::tree;

namespace {

const char* NameOf(Feed::From from) {
  switch (from) {
    case Feed::PARENT:
      return "parent";
    case Feed::SPARE:
      return "spare";
    default:
      return "origin";
  }
}

const char* NameOf(NodeState state) {
  switch (state) {
    case LIVE:
      return "live";
    case SUSPECT:
      return "suspect";
    case DRAINING:
      return "draining";
    case AWAY:
      return "away";
    default:
      return "unknown";
  }
}

json ToJson(const Feed& feed) {
  return {{"stripe", feed.stripe()},
          {"from", NameOf(feed.from())},
          {"demand", feed.demand()},
          {"prefetch", feed.prefetch()},
          {"fill", feed.fill()}};
}

}  // namespace

json ToJson(const FunctionInfo& function) {
  return {{"function", function.function()},
          {"reference", function.reference()},
          {"nodes", function.nodes()},
          {"height", function.height()},
          {"stripes", function.stripes()},
          {"version", function.version()},
          {"reparentings", function.reparentings()},
          {"profileChunks", function.profile_chunks()},
          {"blobBytes", function.blob_bytes()},
          {"completeNodes", function.complete_nodes()},
          {"startingNodes", function.starting_nodes()}};
}

json ToJson(const TreeNode& node) {
  json out = {{"node", node.node()},
              {"zone", node.zone()},
              {"parents", std::vector<std::string>(node.parents().begin(), node.parents().end())},
              {"depths", std::vector<uint32_t>(node.depths().begin(), node.depths().end())},
              {"presentPermille", node.present_permille()},
              {"state", NameOf(node.state())},
              {"ready", node.ready()}};
  if (node.feeds_size() == 0) return out;
  json feeds = json::array();
  for (const Feed& feed : node.feeds()) feeds.push_back(ToJson(feed));
  out["feeds"] = std::move(feeds);
  return out;
}

json ToJson(const NodeInfo& node) {
  return {{"node", node.node()},
          {"zone", node.zone()},
          {"address", node.address()},
          {"port", node.port()},
          {"version", node.version()},
          {"state", NameOf(node.state())},
          {"functions", node.functions()},
          {"uplinkBytesPerSecond", node.uplink_bytes_per_second()},
          {"downlinkBytesPerSecond", node.downlink_bytes_per_second()},
          {"sinceBeatMillis", node.since_beat_millis()},
          {"reports", node.reports()},
          {"avoided", node.avoided()},
          {"storeBytes", node.store_bytes()},
          {"storeBudgetBytes", node.store_budget_bytes()}};
}

json ToJson(const StartReport& start) {
  json stages = json::array();
  for (const auto& stage : start.stages()) {
    stages.push_back({{"stage", stage.name()}, {"beginMicros", stage.begin()}, {"endMicros", stage.end()}});
  }
  json sources = json::array();
  for (const auto& source : start.sources()) {
    sources.push_back(
        {{"source", source.name()}, {"chunks", source.chunks()}, {"compressedBytes", source.compressed_bytes()}});
  }
  return {{"node", start.node()},           {"function", start.function()},
          {"reference", start.reference()}, {"beganUnixMicros", start.began_unix_micros()},
          {"stages", std::move(stages)},    {"quiet", start.quiet()},
          {"sources", std::move(sources)}};
}

std::string Dump(const json& document) { return document.dump(-1, ' ', false, json::error_handler_t::replace); }

}  // namespace banyan::tree_manager
