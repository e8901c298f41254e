#include "sim/report.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace banyan::sim {
namespace {

double MetricOf(const Outcome& outcome, const std::string& name) {
  const auto found = outcome.metrics.find(name);
  return found == outcome.metrics.end() ? 0 : found->second;
}

bool HasMetric(const Outcome& outcome, const std::string& name) { return outcome.metrics.contains(name); }

const Outcome* OutcomeOf(const std::vector<FinishedRun>& runs, const std::string& name) {
  for (const FinishedRun& run : runs) {
    if (run.scenario.run == name) return &run.outcome;
  }
  return nullptr;
}

Verdict JudgeOne(const std::vector<FinishedRun>& runs, const FinishedRun& run, const Expectation& expectation) {
  Verdict verdict;
  verdict.scenario = &run.scenario;
  verdict.expectation = &expectation;
  const Outcome* other = expectation.run.empty() ? &run.outcome : OutcomeOf(runs, expectation.run);
  if (other == nullptr) {
    verdict.problem = fmt::format("there is no run [{}]", expectation.run);
  } else if (!HasMetric(run.outcome, expectation.metric)) {
    verdict.problem = fmt::format("there is no figure \"{}\"", expectation.metric);
  } else if (!expectation.operand.empty() && !HasMetric(*other, expectation.operand)) {
    verdict.problem = fmt::format("there is no figure \"{}\"", expectation.operand);
  }
  if (!verdict.problem.empty()) return verdict;
  verdict.value = MetricOf(run.outcome, expectation.metric);
  verdict.bar = expectation.factor * (expectation.operand.empty() ? 1 : MetricOf(*other, expectation.operand));
  verdict.met = expectation.at_least ? verdict.value >= verdict.bar : verdict.value <= verdict.bar;
  return verdict;
}

std::string StartsTable(const std::vector<FinishedRun>& runs) {
  std::string text =
      fmt::format("{:24} {:>7} {:>8} {:>8} {:>8} {:>8} {:>7} {:>8} {:>9} {:>7} {:>7} {:>6}\n", "run", "nodes",
                  "bound s", "first", "median", "last", "x bound", "served", "registry", "stall s", "moves", "height");
  for (const FinishedRun& run : runs) {
    const auto get = [&](const char* name) { return MetricOf(run.outcome, name); };
    text += fmt::format("{:24} {:7} {:8.3f} {:8.3f} {:8.3f} {:8.3f} {:7.2f} {:8.3f} {:9.3f} {:7.2f} {:7.0f} {:6.0f}\n",
                        run.scenario.run, run.scenario.nodes, get("bound"), get("first"), get("median"), get("last"),
                        get("last") / std::max(get("bound"), 1e-9), get("served"), get("registry_bytes") / get("image"),
                        get("stall"), get("moves"), get("height"));
    if (get("unfinished") > 0) text += fmt::format("{:24} {:.0f} starts did not end\n", "", get("unfinished"));
  }
  return text;
}

std::string RequestsTable(const std::vector<FinishedRun>& runs) {
  std::string text =
      fmt::format("{:24} {:>8} {:>8} {:>8} {:>8} {:>8} {:>6} {:>9} {:>6} {:>8} {:>7} {:>6}\n", "run", "requests",
                  "bound s", "median", "p99", "last", "cold", "reclaimed", "nodes", "served", "moves", "height");
  for (const FinishedRun& run : runs) {
    const auto get = [&](const char* name) { return MetricOf(run.outcome, name); };
    text +=
        fmt::format("{:24} {:8.0f} {:8.3f} {:8.3f} {:8.3f} {:8.3f} {:6.0f} {:9.0f} {:6.0f} {:8.3f} {:7.0f} {:6.0f}\n",
                    run.scenario.run, get("requests"), get("bound"), get("response_median"), get("response_p99"),
                    get("response_last"), get("cold_starts"), get("reclaimed"), get("most_nodes"), get("served"),
                    get("tree_moves"), get("height"));
  }
  return text;
}

}  // namespace

std::vector<Verdict> Judge(const std::vector<FinishedRun>& runs) {
  std::vector<Verdict> verdicts;
  for (const FinishedRun& run : runs) {
    for (const Expectation& expectation : run.scenario.expectations) {
      verdicts.push_back(JudgeOne(runs, run, expectation));
    }
  }
  return verdicts;
}

std::string Table(const std::vector<FinishedRun>& runs, const std::vector<Verdict>& verdicts) {
  if (runs.empty()) return {};
  std::string text = runs.front().scenario.title.empty() ? std::string() : runs.front().scenario.title + "\n";
  const bool requests = runs.front().scenario.workload == Workload::kRequests;
  text += requests ? RequestsTable(runs) : StartsTable(runs);
  for (const Verdict& verdict : verdicts) {
    const std::string_view mark = verdict.met ? "met   " : "MISSED";
    text += fmt::format("{} [{}] {}: ", mark, verdict.scenario->run, verdict.expectation->text);
    text += verdict.problem.empty() ? fmt::format("{:.6g} against {:.6g}\n", verdict.value, verdict.bar)
                                    : verdict.problem + "\n";
  }
  return text;
}

std::string JsonLine(const FinishedRun& run) {
  nlohmann::json json = {{"file", run.scenario.file},      {"run", run.scenario.run},
                         {"title", run.scenario.title},    {"seed", run.scenario.seed},
                         {"nodes", run.scenario.nodes},    {"events", run.outcome.events},
                         {"metrics", run.outcome.metrics}, {"seconds", run.outcome.seconds},
                         {"sent", run.outcome.sent},       {"received", run.outcome.received}};
  if (!run.outcome.edges.empty()) {
    auto& edges = json["edges"] = nlohmann::json::array();
    for (const Outcome::Edge& edge : run.outcome.edges) edges.push_back({edge.server, edge.client, edge.bytes});
  }
  return json.dump();
}

}  // namespace banyan::sim
