#include "sim/simulation.h"

#include <numeric>

#include <gtest/gtest.h>

#include "common/file_io.h"
#include "sim/report.h"

namespace banyan::sim {
namespace {

// 16 MB in 64 equal chunks over links of 100 Mbit/s.
Scenario Small(uint32_t nodes) {
  Scenario scenario;
  scenario.nodes = nodes;
  scenario.image_bytes = 16'384'000;
  scenario.chunk_bytes = 256'000;
  scenario.even_chunks = true;
  return scenario;
}

constexpr double kRate = 12.5e6 * 0.95;

double Sum(const std::vector<uint64_t>& bytes) {
  return static_cast<double>(std::accumulate(bytes.begin(), bytes.end(), uint64_t{0}));
}

// Every node has every chunk, once; what was sent has arrived.
void ExpectConserved(const Scenario& scenario, const Outcome& outcome) {
  EXPECT_EQ(outcome.metrics.at("unfinished"), 0);
  EXPECT_EQ(outcome.metrics.at("complete"), scenario.nodes);
  EXPECT_EQ(outcome.metrics.at("wasted_bytes"), 0);
  EXPECT_EQ(outcome.metrics.at("lost_bytes"), 0);
  EXPECT_EQ(Sum(outcome.sent), Sum(outcome.received));
  for (uint32_t node = 0; node < scenario.nodes; ++node) {
    EXPECT_EQ(outcome.received[node], scenario.image_bytes + scenario.metadata_bytes) << "node " << node;
  }
}

TEST(SimulationTest, TheSameScenarioGivesTheSameOutcome) {
  Scenario scenario = Small(24);
  scenario.unfairness = 0.5;
  scenario.churn = 1;
  scenario.churn_end = 5 * kSecond;
  const std::string first = JsonLine({scenario, Simulate(scenario)});
  EXPECT_EQ(first, JsonLine({scenario, Simulate(scenario)}));
  Scenario other = scenario;
  other.seed = 2;
  EXPECT_NE(first, JsonLine({other, Simulate(other)}));
}

TEST(SimulationTest, BytesAreConserved) {
  for (const uint32_t stripes : {1U, 2U}) {
    for (const bool coarse : {false, true}) {
      Scenario scenario = Small(21);
      scenario.stripes = stripes;
      scenario.coarse = coarse;
      scenario.even_chunks = false;
      scenario.metadata_bytes = 300'000;
      scenario.zones = {20, 1};
      ExpectConserved(scenario, Simulate(scenario));
    }
  }
}

TEST(SimulationTest, AColdProxyTakesTheImageFromTheRegistryOnce) {
  Scenario scenario = Small(9);
  scenario.proxy_warm = false;
  const Outcome outcome = Simulate(scenario);
  EXPECT_EQ(outcome.metrics.at("unfinished"), 0);
  EXPECT_EQ(outcome.metrics.at("registry_bytes"), static_cast<double>(scenario.image_bytes));
  EXPECT_EQ(outcome.received[scenario.nodes], scenario.image_bytes);
}

TEST(SimulationTest, AStarTakesTheTimeOfAllBytesThroughTheProxy) {
  Scenario scenario = Small(6);
  scenario.trees = Trees::kStar;
  const Outcome outcome = Simulate(scenario);
  ExpectConserved(scenario, outcome);
  const double expected = 6 * static_cast<double>(scenario.image_bytes) / kRate;
  EXPECT_NEAR(outcome.metrics.at("last"), expected, 0.01 * expected + 0.05);
  EXPECT_EQ(outcome.metrics.at("proxy_bytes"), 6.0 * static_cast<double>(scenario.image_bytes));
}

TEST(SimulationTest, AChainDelaysEachNodeByOneChunk) {
  Scenario scenario = Small(5);
  scenario.trees = Trees::kChain;
  scenario.relay_delay = 3 * kMillisecond;
  const Outcome outcome = Simulate(scenario);
  ExpectConserved(scenario, outcome);
  const double image = static_cast<double>(scenario.image_bytes) / kRate;
  const double hop = static_cast<double>(scenario.chunk_bytes) / kRate + 0.0034;
  // A join takes 20 ms and some latencies, a hop two latencies more.
  EXPECT_NEAR(outcome.metrics.at("first"), image + 0.003 + 0.020, 0.005);
  EXPECT_NEAR(outcome.metrics.at("last"), image + 0.020 + 4 * hop + 0.003, 0.03);
  EXPECT_EQ(outcome.metrics.at("proxy_bytes"), static_cast<double>(scenario.image_bytes));
}

TEST(SimulationTest, TwoStripesUseEveryUplink) {
  Scenario scenario;
  scenario.nodes = 16;
  scenario.image_bytes = 128'000'000;
  const Outcome two = Simulate(scenario);
  ExpectConserved(scenario, two);
  EXPECT_LE(two.metrics.at("last"), 1.15 * two.metrics.at("bound"));
  EXPECT_LE(two.metrics.at("served"), 1.05);
  scenario.stripes = 1;
  const Outcome one = Simulate(scenario);
  ExpectConserved(scenario, one);
  EXPECT_GE(one.metrics.at("last"), 1.9 * one.metrics.at("bound"));
}

TEST(SimulationTest, AnIdleLinkPassesItsBucketAtOnce) {
  Scenario scenario = Small(1);
  scenario.trees = Trees::kStar;
  const double without = Simulate(scenario).metrics.at("last");
  scenario.burst_bytes = 2'000'000;
  const Outcome outcome = Simulate(scenario);
  ExpectConserved(scenario, outcome);
  EXPECT_NEAR(without - outcome.metrics.at("last"), 2e6 / kRate, 0.02);
}

// As in the lab: the kernel takes what the policy grants before the link can send it, and shares it as it likes.
TEST(SimulationTest, UnfairSharesBehindThePolicyCostTime) {
  Scenario scenario;
  scenario.nodes = 16;
  scenario.image_bytes = 64'000'000;
  const Outcome fair = Simulate(scenario);
  scenario.unfairness = 0.3;
  const Outcome unfair = Simulate(scenario);
  ExpectConserved(scenario, unfair);
  scenario.backlog = 50 * kMillisecond;
  const Outcome behind = Simulate(scenario);
  ExpectConserved(scenario, behind);
  EXPECT_GT(unfair.metrics.at("last"), 1.005 * fair.metrics.at("last"));
  EXPECT_GT(behind.metrics.at("last"), 1.005 * fair.metrics.at("last"));
  EXPECT_LT(behind.metrics.at("last"), 1.15 * fair.metrics.at("last"));
}

TEST(SimulationTest, ASlowUplinkIsLearnedFromHeartbeats) {
  Scenario scenario;
  scenario.nodes = 16;
  scenario.uplink_of = {{3, scenario.up / 2}};
  const Outcome known = Simulate(scenario);
  scenario.knows_links = false;
  const Outcome learned = Simulate(scenario);
  scenario.learns_links = false;
  const Outcome neither = Simulate(scenario);
  EXPECT_EQ(known.metrics.at("moves"), 0);
  EXPECT_GT(learned.metrics.at("moves"), 0);
  EXPECT_LE(known.metrics.at("last_fast"), 1.15 * known.metrics.at("bound"));
  EXPECT_LE(learned.metrics.at("last_fast"), 1.3 * learned.metrics.at("bound"));
  EXPECT_GT(neither.metrics.at("last_fast"), 1.3 * neither.metrics.at("bound"));
}

// Lanes that take each other's tail may come to wait for one another.
TEST(SimulationTest, LanesThatStealDoNotWaitForEachOther) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Scenario scenario;
    scenario.seed = seed;
    scenario.nodes = 3;
    scenario.up = scenario.down = scenario.proxy_up = 5e6;
    scenario.image_bytes = 8'388'608;
    scenario.metadata_bytes = 3000;
    const Outcome outcome = Simulate(scenario);
    EXPECT_LE(outcome.metrics.at("last"), 2 * outcome.metrics.at("bound")) << "seed " << seed;
  }
}

TEST(SimulationTest, SurvivorsOfDeathsEndWithEveryChunk) {
  for (const auto action : {ScriptedEvent::Action::kKill, ScriptedEvent::Action::kSilence}) {
    Scenario scenario = Small(30);
    ScriptedEvent event;
    event.at = 600 * kMillisecond;
    event.action = action;
    event.who = ScriptedEvent::Who::kShare;
    event.share = 0.3;
    scenario.events.push_back(event);
    const Outcome outcome = Simulate(scenario);
    EXPECT_EQ(outcome.metrics.at("unfinished"), 0);
    EXPECT_EQ(outcome.metrics.at("deaths"), 9);
    EXPECT_EQ(outcome.metrics.at("complete"), 21);
    EXPECT_EQ(Sum(outcome.sent), Sum(outcome.received) + outcome.metrics.at("lost_bytes"));
    EXPECT_LE(outcome.metrics.at("stall"), 3);
  }
}

TEST(SimulationTest, APrivateReadGoesToTheProxyAndNoFurther) {
  Scenario scenario = Small(16);
  scenario.workload = Workload::kStart;
  scenario.reads = 20;
  scenario.proxy_up = scenario.proxy_down = 125e6;
  const Outcome quiet = Simulate(scenario);
  scenario.private_reads = 0.2;
  const Outcome outcome = Simulate(scenario);
  EXPECT_EQ(outcome.metrics.at("unfinished"), 0);
  EXPECT_EQ(quiet.metrics.at("misses"), 0);
  EXPECT_GT(outcome.metrics.at("misses"), 0);
  // Each node received its own reads and nobody else's: a fifth of 20 reads more than the profile, on average.
  const double more = (Sum(outcome.received) - Sum(quiet.received)) / static_cast<double>(scenario.chunk_bytes) / 16;
  EXPECT_NEAR(more, 4, 1.5);
}

TEST(SimulationTest, RequestsAreAllServedAndIdleNodesGivenBack) {
  Scenario scenario = Small(40);
  scenario.workload = Workload::kRequests;
  scenario.reads = 10;
  scenario.service = 200 * kMillisecond;
  scenario.reclaim = 2 * kSecond;
  scenario.rate = {{0, 1}, {2 * kSecond, 40}, {6 * kSecond, 1}};
  scenario.requests_end = 15 * kSecond;
  const Outcome outcome = Simulate(scenario);
  EXPECT_NEAR(outcome.metrics.at("requests"), 171, 40);
  EXPECT_GE(outcome.metrics.at("response_median"), 0.2);
  EXPECT_GT(outcome.metrics.at("cold_starts"), 5);
  EXPECT_GT(outcome.metrics.at("reclaimed"), 5);
}

TEST(SimulationTest, ExpectationsAreJudged) {
  const auto parsed = ParseScenarios(
      "image = 2MB\nlink = 100mbit\nnodes = 4\n[a]\n[b]\nexpect last <= 3 * bound\nexpect last <= 0.5 * a.last\n"
      "expect last <= 2 * c.last\nexpect lost <= 1\nexpect nothing <= 1\n",
      "x");
  ASSERT_TRUE(parsed) << parsed.error().message;
  std::vector<FinishedRun> runs;
  for (const Scenario& scenario : *parsed) runs.push_back({scenario, Simulate(scenario)});
  const auto verdicts = Judge(runs);
  ASSERT_EQ(verdicts.size(), 5U);
  EXPECT_TRUE(verdicts[0].met);
  EXPECT_FALSE(verdicts[1].met);
  EXPECT_EQ(verdicts[2].problem, "there is no run [c]");
  EXPECT_FALSE(verdicts[4].met);
  EXPECT_NE(Table(runs, verdicts).find("MISSED [b] last <= 0.5 * a.last"), std::string::npos);
}

TEST(SimulationTest, TheScenariosOfTheFolderAreWellFormed) {
  for (const char* name : {"burst", "churn", "faasnet_2500", "faasnet_requests", "faasnet_scale", "huge", "lab",
                           "lab_kill", "lab_sizes", "lab_slow", "large", "small_layers", "uplinks", "zones"}) {
    const auto text = ReadFile(std::string(BANYAN_SOURCE_DIR) + "/sim/scenarios/" + name + ".txt");
    ASSERT_TRUE(text) << text.error().message;
    const auto parsed = ParseScenarios(*text, name);
    EXPECT_TRUE(parsed) << parsed.error().message;
  }
}

}  // namespace
}  // namespace banyan::sim
