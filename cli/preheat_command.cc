// `banyan preheat REF`: has nodes bring an image before anyone starts it, and shows how far they are.
#include <unistd.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/manager_client.h"
#include "cli/progress.h"
#include "cli/text.h"

namespace banyan::cli {
namespace {

using proto::tree::PreheatProgressReply;
using proto::tree::TreeManager;
using NodeProgress = PreheatProgressReply::Node;

constexpr std::chrono::milliseconds kAskEvery{300};

struct PreheatOptions : ManagerOptions {
  std::string reference;
  std::vector<std::string> nodes;
  std::string zone;
  uint32_t count = 0;
  bool detach = false;
};

const char* StateName(NodeProgress::State state) {
  switch (state) {
    case NodeProgress::RUNNING:
      return "running";
    case NodeProgress::DONE:
      return "done";
    case NodeProgress::FAILED:
      return "failed";
    default:
      return "waiting";
  }
}

struct Totals {
  uint64_t present = 0;
  uint64_t wanted = 0;
  int done = 0;
  int failed = 0;
};

Totals TotalsOf(const PreheatProgressReply& reply) {
  Totals totals;
  for (const NodeProgress& node : reply.nodes()) {
    totals.present += node.present_bytes();
    totals.wanted += node.total_bytes();
    totals.done += node.state() == NodeProgress::DONE ? 1 : 0;
    totals.failed += node.state() == NodeProgress::FAILED ? 1 : 0;
  }
  return totals;
}

void PrintProgress(const PreheatProgressReply& reply) {
  nlohmann::json nodes = nlohmann::json::array();
  for (const NodeProgress& node : reply.nodes()) {
    nodes.push_back({{"node", node.node()},
                     {"state", StateName(node.state())},
                     {"present_bytes", node.present_bytes()},
                     {"total_bytes", node.total_bytes()},
                     {"error", node.error()},
                     {"away", node.away()}});
  }
  PrintJson({{"id", reply.id()},
             {"reference", reply.reference()},
             {"ended", reply.ended()},
             {"milliseconds", reply.took_millis()},
             {"nodes", nodes}},
            2);
}

// Until every node has ended.
Result<PreheatProgressReply> Follow(ManagerClient& client, uint64_t id, const std::string& reference, bool quiet) {
  Progress bars(Progress::ModeFor(STDERR_FILENO, quiet), WriteToStderr);
  std::shared_ptr<Progress::Task> task;
  uint64_t shown = 0;
  proto::tree::PreheatProgressRequest request;
  request.set_id(id);
  PreheatProgressReply reply;
  while (true) {
    BANYAN_TRY(client.Call(&TreeManager::Stub::PreheatProgress, request, &reply));
    const Totals totals = TotalsOf(reply);
    const std::string phase = fmt::format("{} of {} nodes", totals.done, reply.nodes_size());
    if (task == nullptr && totals.wanted > 0) task = bars.Start(reference, phase, totals.wanted);
    if (task != nullptr) {
      task->Phase(phase, totals.wanted);
      task->Advance(totals.present);
      shown = totals.present;
    }
    if (reply.ended()) break;
    std::this_thread::sleep_for(kAskEvery);
  }
  if (task != nullptr) {
    bars.Finish(task, fmt::format("{} on {} of {} nodes after {}", HumanBytes(shown), TotalsOf(reply).done,
                                  reply.nodes_size(), HumanTime(std::chrono::milliseconds(reply.took_millis()))));
  }
  return reply;
}

int Preheat(const PreheatOptions& options, const GlobalOptions& globals) {
  const std::string subject = "preheat " + options.reference;
  proto::tree::PreheatRequest request;
  const bool has_transport = options.reference.starts_with("docker://");
  request.set_reference(has_transport ? options.reference : "docker://" + options.reference);
  request.set_plain_http(globals.plain_http);
  for (const std::string& node : options.nodes) request.add_nodes(node);
  request.set_zone(options.zone);
  request.set_count(options.count);
  ManagerClient client(options);
  proto::tree::PreheatReply begun;
  if (const Status called = client.Call(&TreeManager::Stub::Preheat, request, &begun); !called) {
    return ReportError(globals, subject, called.error(), Asked::kTreeManager);
  }
  if (options.detach) {
    if (globals.json) {
      const std::vector<std::string> nodes(begun.nodes().begin(), begun.nodes().end());
      PrintJson({{"id", begun.id()}, {"nodes", nodes}});
    } else if (!globals.quiet) {
      fmt::print("{} nodes have been told\n", begun.nodes_size());
    }
    return kExitOk;
  }
  const auto reply = Follow(client, begun.id(), options.reference, globals.quiet || globals.json);
  if (!reply) return ReportError(globals, subject, reply.error(), Asked::kTreeManager);
  if (globals.json) PrintProgress(*reply);
  for (const NodeProgress& node : reply->nodes()) {
    if (node.state() != NodeProgress::FAILED || globals.json) continue;
    fmt::print(stderr, "banyan: {}: {}: {}\n", subject, Printable(node.node()), Printable(node.error()));
  }
  return TotalsOf(*reply).failed == 0 ? kExitOk : kExitFailed;
}

}  // namespace

void AddPreheatCommand(CLI::App& app, GlobalOptions& globals) {
  auto options = std::make_shared<PreheatOptions>();
  CLI::App* command = app.add_subcommand("preheat", "Bring an image to nodes before anyone starts it");
  command->add_option("REF", options->reference, "registry.example/name:tag, converted")->required();
  command->add_option("--nodes", options->nodes, "These nodes")->delimiter(',');
  command->add_option("--zone", options->zone, "The nodes of this zone");
  command->add_option("--count", options->count, "So many of them, spread over the zones; default: all");
  command->add_flag("--detach", options->detach, "Tell them, and do not wait");
  AddManagerOptions(*command, *options);
  command->footer(R"(
By trees or by swarm, as each node's [swarm] transport says. Ended before its time, the nodes go on.

Exit codes: 0 all nodes have it; 3 no such node; 5 the tree-manager does not answer; 8 a node could not bring it.

Examples:
  banyan preheat registry.example/app:1
  banyan preheat registry.example/app:1 --zone eu-1 --count 3
  banyan --json preheat registry.example/app:1 --nodes n1,n2 | jq '.nodes[] | select(.state == "failed")')");
  command->callback(
      [options, &globals] { globals.action = [options, &globals] { return Preheat(*options, globals); }; });
}

}  // namespace banyan::cli
