// `banyan tree`, `banyan nodes`, `banyan drain`: what the tree-manager knows, and what it can be told.
#include <unistd.h>

#include <chrono>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/manager_client.h"
#include "cli/terminal.h"
#include "cli/text.h"
#include "cli/tree_drawing.h"

namespace banyan::cli {
namespace {

using namespace proto::tree;

struct TreeOptions : ManagerOptions {
  std::string function;
  TreeDrawing drawing;
};

struct NodesOptions : ManagerOptions {
  std::string peer_to_peer;
};

struct DrainOptions : ManagerOptions {
  std::string node;
  bool undo = false;
};

constexpr const char* kTreeFooter = R"(
Examples:
  export BANYAN_TREE_MANAGER=manager.example:4650
  banyan tree
  banyan tree registry.example/app:1
  banyan tree 5f2a --stripe 1 --all
  banyan tree 5f2a --json | jq -r '.nodes[] | select(.depths[0] == 1) | .node')";

nlohmann::json ToJson(const FunctionInfo& function) {
  return {{"function", function.function()},
          {"reference", function.reference()},
          {"nodes", function.nodes()},
          {"height", function.height()},
          {"stripes", function.stripes()},
          {"version", function.version()},
          {"reparentings", function.reparentings()},
          {"profile_chunks", function.profile_chunks()}};
}

nlohmann::json ToJson(const TreeReply& reply) {
  nlohmann::json nodes = nlohmann::json::array();
  for (const TreeNode& node : reply.nodes()) {
    nodes.push_back({{"node", node.node()},
                     {"zone", node.zone()},
                     {"parents", std::vector<std::string>(node.parents().begin(), node.parents().end())},
                     {"depths", std::vector<uint32_t>(node.depths().begin(), node.depths().end())},
                     {"present_permille", node.present_permille()},
                     {"state", NodeStateName(node.state())},
                     {"ready", node.ready()}});
  }
  return {{"function", ToJson(reply.function())}, {"nodes", nodes}};
}

nlohmann::json ToJson(const NodesReply& reply) {
  nlohmann::json nodes = nlohmann::json::array();
  for (const NodeInfo& node : reply.nodes()) {
    nodes.push_back({{"node", node.node()},
                     {"zone", node.zone()},
                     {"address", node.address()},
                     {"port", node.port()},
                     {"version", node.version()},
                     {"state", NodeStateName(node.state())},
                     {"functions", node.functions()},
                     {"uplink_bytes_per_second", node.uplink_bytes_per_second()},
                     {"downlink_bytes_per_second", node.downlink_bytes_per_second()},
                     {"since_beat_millis", node.since_beat_millis()},
                     {"reports", node.reports()},
                     {"avoided", node.avoided()}});
  }
  return {{"peer_to_peer", reply.peer_to_peer()}, {"nodes", nodes}};
}

int ListFunctions(const TreeOptions& options, const GlobalOptions& globals) {
  FunctionsReply reply;
  const Status called = ManagerClient(options).Call(&TreeManager::Stub::Functions, FunctionsRequest(), &reply);
  if (!called) return ReportError(globals, "tree " + options.address, called.error(), Asked::kTreeManager);
  if (globals.json) {
    nlohmann::json list = nlohmann::json::array();
    for (const FunctionInfo& function : reply.functions()) list.push_back(ToJson(function));
    PrintJson(list, 2);
    return kExitOk;
  }
  std::vector<std::vector<std::string>> rows{{"FUNCTION", "IMAGE", "NODES", "HEIGHT", "MOVED", "PROFILE"}};
  for (const FunctionInfo& function : reply.functions()) {
    rows.push_back({Printable(function.function().substr(0, 19)), Printable(function.reference()),
                    std::to_string(function.nodes()), std::to_string(function.height()),
                    std::to_string(function.reparentings()), std::to_string(function.profile_chunks())});
  }
  if (reply.functions_size() == 0) {
    fmt::print("no node runs a function\n");
  } else {
    fmt::print("{}", FitTable(rows, 1, TerminalWidth(STDOUT_FILENO)));
  }
  return kExitOk;
}

int ShowTree(const TreeOptions& options, const GlobalOptions& globals) {
  if (options.function.empty()) return ListFunctions(options, globals);
  TreeRequest request;
  request.set_function(options.function);
  TreeReply reply;
  const Status called = ManagerClient(options).Call(&TreeManager::Stub::Tree, request, &reply);
  if (!called) return ReportError(globals, "tree " + options.function, called.error(), Asked::kTreeManager);
  if (globals.json) {
    PrintJson(ToJson(reply), 2);
  } else {
    fmt::print("{}", DrawTrees(reply, options.drawing));
  }
  return kExitOk;
}

std::string Since(uint64_t millis) { return HumanTime(std::chrono::milliseconds(millis)); }

std::string RenderNodes(const NodesReply& reply) {
  std::vector<std::vector<std::string>> rows{
      {"NODE", "ZONE", "ADDRESS", "STATE", "FUNCTIONS", "UP/s", "DOWN/s", "BEAT", "REPORTS", "VERSION"}};
  for (const NodeInfo& node : reply.nodes()) {
    const bool six = node.address().find(':') != std::string::npos;
    const std::string host = six ? "[" + node.address() + "]" : node.address();
    rows.push_back({Printable(node.node()), Printable(node.zone().empty() ? "-" : node.zone()),
                    node.port() == 0 ? "-" : Printable(fmt::format("{}:{}", host, node.port())),
                    NodeStateName(node.state()) + (node.avoided() ? ", avoided" : ""), std::to_string(node.functions()),
                    HumanBytes(node.uplink_bytes_per_second()), HumanBytes(node.downlink_bytes_per_second()),
                    Since(node.since_beat_millis()), std::to_string(node.reports()),
                    Printable(node.version().empty() ? "-" : node.version())});
  }
  std::string text = reply.nodes_size() == 0 ? "there are no nodes\n" : FitTable(rows, 0, TerminalWidth(STDOUT_FILENO));
  if (!reply.peer_to_peer()) text += "peer to peer is off: every node asks the proxy\n";
  return text;
}

int ShowNodes(const NodesOptions& options, const GlobalOptions& globals) {
  ManagerClient client(options);
  if (!options.peer_to_peer.empty()) {
    SetPeerToPeerRequest request;
    request.set_off(options.peer_to_peer == "off");
    SetPeerToPeerReply done;
    const Status called = client.Call(&TreeManager::Stub::SetPeerToPeer, request, &done);
    if (!called) return ReportError(globals, "nodes " + options.address, called.error(), Asked::kTreeManager);
  }
  NodesReply reply;
  const Status called = client.Call(&TreeManager::Stub::Nodes, NodesRequest(), &reply);
  if (!called) return ReportError(globals, "nodes " + options.address, called.error(), Asked::kTreeManager);
  if (globals.json) {
    PrintJson(ToJson(reply), 2);
  } else {
    fmt::print("{}", RenderNodes(reply));
  }
  return kExitOk;
}

int Drain(const DrainOptions& options, const GlobalOptions& globals) {
  DrainRequest request;
  request.set_node(options.node);
  request.set_undo(options.undo);
  DrainReply reply;
  const Status called = ManagerClient(options).Call(&TreeManager::Stub::Drain, request, &reply);
  if (!called) return ReportError(globals, "drain " + options.node, called.error(), Asked::kTreeManager);
  if (globals.json) {
    PrintJson({{"node", options.node}, {"draining", !options.undo}, {"moved", reply.moved()}}, 2);
  } else if (!globals.quiet) {
    fmt::print("{}: {}, {} edges moved\n", Printable(options.node),
               options.undo ? "feeds others again when it is needed" : "feeds nobody any more", reply.moved());
  }
  return kExitOk;
}

}  // namespace

void AddTreeCommands(CLI::App& app, GlobalOptions& globals) {
  auto tree = std::make_shared<TreeOptions>();
  CLI::App* command = app.add_subcommand("tree", "Draw the trees by which nodes get an image, or list the functions");
  command->footer(kTreeFooter);
  command->add_option("FUNCTION", tree->function,
                      "Its name, a prefix of it or of its digest, or the image's reference");
  command->add_option("--stripe", tree->drawing.stripe, "Only this tree: 1 or 2")->check(CLI::Range(1, 2));
  command->add_flag("--all", tree->drawing.all, "Every node, also of a large tree");
  command->add_flag("--ascii", tree->drawing.plain, "Lines of ASCII");
  AddManagerOptions(*command, *tree);
  command->callback([tree, &globals] { globals.action = [tree, &globals] { return ShowTree(*tree, globals); }; });

  auto nodes = std::make_shared<NodesOptions>();
  command = app.add_subcommand("nodes", "List the cluster's nodes; switch peer to peer on or off");
  command->footer(R"(
Examples:
  banyan nodes
  banyan nodes --json | jq -r '.nodes[] | select(.avoided) | .node'
  banyan nodes --peer-to-peer off)");
  command->add_option("--peer-to-peer", nodes->peer_to_peer, "on, or off: every node asks the proxy")
      ->check(CLI::IsMember({"on", "off"}));
  AddManagerOptions(*command, *nodes);
  command->callback([nodes, &globals] { globals.action = [nodes, &globals] { return ShowNodes(*nodes, globals); }; });

  auto drain = std::make_shared<DrainOptions>();
  command = app.add_subcommand("drain", "Let a node feed nobody any more: before it is taken down");
  command->footer(R"(
Its children get other parents; what it runs goes on and fetches as before.

Examples:
  banyan drain node-7
  banyan drain node-7 --undo)");
  command->add_option("NODE", drain->node, "Its name")->required();
  command->add_flag("--undo", drain->undo, "Let it feed others again");
  AddManagerOptions(*command, *drain);
  command->callback([drain, &globals] { globals.action = [drain, &globals] { return Drain(*drain, globals); }; });
}

}  // namespace banyan::cli
