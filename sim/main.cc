// banyan-sim: runs scenarios.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>

#include <unistd.h>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "common/file_io.h"
#include "sim/report.h"

namespace banyan::sim {
namespace {

constexpr const char* kFooter = R"(
Exit codes: 0 done, 1 an expectation was missed or a start did not end, 2 a scenario is wrong.)";

// The state of thousands of nodes is gigabytes, touched at random: huge pages save a fifth of the time. The C library
// takes them only if it is told before the program begins.
void TakeHugePages(char** argv) {
  constexpr const char* kTunables = "GLIBC_TUNABLES";
  if (std::getenv(kTunables) != nullptr) return;
  ::setenv(kTunables, "glibc.malloc.hugetlb=1", 1);
  std::error_code error;
  const std::string self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) ::execv(self.c_str(), argv);  // if it fails: without
}

struct RunOptions {
  std::vector<std::string> files;
  std::string only;
  bool json = false;
  int64_t seed = -1;
};

// Whether everything that is expected came true.
Result<bool> RunFile(const std::string& file, const RunOptions& options) {
  BANYAN_ASSIGN(const std::string text, ReadFile(file));
  BANYAN_ASSIGN(std::vector<Scenario> scenarios, ParseScenarios(text, std::filesystem::path(file).filename().string()));
  std::vector<FinishedRun> runs;
  double seconds = 0;
  uint64_t events = 0;
  for (Scenario& scenario : scenarios) {
    if (!options.only.empty() && scenario.run != options.only) continue;
    if (options.seed >= 0) scenario.seed = static_cast<uint64_t>(options.seed);
    if (!options.only.empty()) scenario.expectations.clear();
    const auto begun = std::chrono::steady_clock::now();
    Outcome outcome = Simulate(scenario);
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    events += outcome.events;
    runs.push_back({std::move(scenario), std::move(outcome)});
    if (options.json) fmt::print("{}\n", JsonLine(runs.back()));
  }
  const std::vector<Verdict> verdicts = Judge(runs);
  if (!options.json) fmt::print("{}: {}", file, Table(runs, verdicts));
  fmt::print(stderr, "{} events in {:.1f} s\n", events, seconds);
  for (const FinishedRun& run : runs) {
    if (run.outcome.metrics.at("unfinished") > 0) return false;
  }
  for (const Verdict& verdict : verdicts) {
    if (!verdict.met) return false;
  }
  return true;
}

int RunFiles(const RunOptions& options) {
  int code = 0;
  for (const std::string& file : options.files) {
    const auto met = RunFile(file, options);
    if (!met) {
      fmt::print(stderr, "banyan-sim: {}\n", met.error().message);
      return 2;
    }
    if (!*met) code = 1;
    std::fflush(stdout);
  }
  return code;
}

int List(const std::string& directory) {
  std::error_code error;
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    if (entry.path().extension() == ".txt") files.push_back(entry.path());
  }
  if (error) {
    fmt::print(stderr, "banyan-sim: {}: {}\n", directory, error.message());
    return 2;
  }
  std::sort(files.begin(), files.end());
  int code = 0;
  for (const std::string& file : files) {
    const auto text = ReadFile(file);
    const auto scenarios = text ? ParseScenarios(*text, file) : Result<std::vector<Scenario>>(Fail(text.error()));
    if (!scenarios) {
      fmt::print(stderr, "banyan-sim: {}\n", scenarios.error().message);
      code = 2;
      continue;
    }
    fmt::print("{}: {}\n", file, scenarios->front().title);
    for (const Scenario& scenario : *scenarios) fmt::print("    [{}] {} nodes\n", scenario.run, scenario.nodes);
  }
  return code;
}

int Main(int argc, char** argv) {
  CLI::App app("Function trees and fetch policies over a model of links.", "banyan-sim");
  app.require_subcommand(1);
  app.footer(kFooter);
  RunOptions options;
  CLI::App* run = app.add_subcommand("run", "Run scenarios and hold them against what they expect");
  run->add_option("FILE", options.files, "Scenarios")->required();
  run->add_option("--only", options.only, "Only this run of each file; nothing is expected of it");
  run->add_option("--seed", options.seed, "Instead of the scenario's")->check(CLI::NonNegativeNumber);
  run->add_flag("--json", options.json, "One line of JSON a run");
  std::string directory = BANYAN_SCENARIOS;
  CLI::App* list = app.add_subcommand("list", "The scenarios of a directory");
  list->add_option("DIRECTORY", directory)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return run->parsed() ? RunFiles(options) : List(directory);
}

}  // namespace
}  // namespace banyan::sim

int main(int argc, char** argv) {
  banyan::sim::TakeHugePages(argv);
  try {
    return banyan::sim::Main(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "banyan-sim: internal error: {}\n", error.what());
    return 1;
  }
}
