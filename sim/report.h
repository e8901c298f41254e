// What people and programs are told of runs.
#pragma once

#include <string>
#include <vector>

#include "sim/scenario.h"
#include "sim/simulation.h"

namespace banyan::sim {

struct FinishedRun {
  Scenario scenario;
  Outcome outcome;
};

struct Verdict {
  const Scenario* scenario = nullptr;
  const Expectation* expectation = nullptr;
  bool met = false;
  double value = 0;
  double bar = 0;
  std::string problem;  // the expectation names what there is not
};

// Of all expectations of a file's runs. Points into `runs`.
std::vector<Verdict> Judge(const std::vector<FinishedRun>& runs);

// A table of a file's runs, figures beside their lower bound, then the verdicts.
std::string Table(const std::vector<FinishedRun>& runs, const std::vector<Verdict>& verdicts);

// One line of JSON a run; the same runs give the same text.
std::string JsonLine(const FinishedRun& run);

}  // namespace banyan::sim
