#include "sim/scenario.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace banyan::sim {
namespace {

using ::testing::HasSubstr;

std::string ErrorOf(std::string_view text) {
  const auto parsed = ParseScenarios(text, "x.txt");
  return parsed ? "parsed" : parsed.error().message;
}

TEST(ScenarioTest, RunsInheritWhatStandsAbove) {
  const auto parsed = ParseScenarios(
      "title = two runs  # a comment\nnodes = 16\nlink = 100mbit\n[a]\nstripes = 1\n[b c]\nproxy = 1gbit\n"
      "expect last <= 1.15 * bound\nexpect served <= 1.05\nexpect median <= 2 * a.median\n",
      "x.txt");
  ASSERT_TRUE(parsed) << parsed.error().message;
  ASSERT_EQ(parsed->size(), 2U);
  const Scenario& a = (*parsed)[0];
  const Scenario& b = (*parsed)[1];
  EXPECT_EQ(a.title, "two runs");
  EXPECT_EQ(a.stripes, 1U);
  EXPECT_TRUE(a.expectations.empty());
  EXPECT_EQ(b.run, "b c");
  EXPECT_EQ(b.nodes, 16U);
  EXPECT_EQ(b.stripes, 2U);
  EXPECT_DOUBLE_EQ(b.up, 12.5e6);
  EXPECT_DOUBLE_EQ(b.proxy_up, 125e6);
  ASSERT_EQ(b.expectations.size(), 3U);
  EXPECT_EQ(b.expectations[0].operand, "bound");
  EXPECT_DOUBLE_EQ(b.expectations[0].factor, 1.15);
  EXPECT_EQ(b.expectations[1].operand, "");
  EXPECT_EQ(b.expectations[2].run, "a");
}

TEST(ScenarioTest, OneRunWithoutNames) {
  const auto parsed = ParseScenarios("nodes = 3\n", "x.txt");
  ASSERT_TRUE(parsed);
  ASSERT_EQ(parsed->size(), 1U);
  EXPECT_EQ(parsed->front().nodes, 3U);
}

TEST(ScenarioTest, Events) {
  const auto parsed = ParseScenarios(
      "nodes = 9\nat 1.5s kill interior\nat 2s slow node 8 to 50mbit\nat 20ms silence 33%\nrate = 0s:1, 10s:2.5, end "
      "1min\n",
      "x.txt");
  ASSERT_TRUE(parsed) << parsed.error().message;
  const auto& events = parsed->front().events;
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[0].at, 1'500 * kMillisecond);
  EXPECT_EQ(events[0].who, ScriptedEvent::Who::kInterior);
  EXPECT_EQ(events[1].node, 8U);
  EXPECT_DOUBLE_EQ(events[1].bytes_per_second, 6.25e6);
  EXPECT_EQ(events[2].action, ScriptedEvent::Action::kSilence);
  EXPECT_DOUBLE_EQ(events[2].share, 0.33);
  EXPECT_EQ(parsed->front().rate.size(), 2U);
  EXPECT_EQ(parsed->front().requests_end, 60 * kSecond);
}

TEST(ScenarioTest, UplinksOfSingleNodes) {
  const auto parsed = ParseScenarios("nodes = 9\nuplink = 3: 50mbit, 8: 8mbit\n", "x.txt");
  ASSERT_TRUE(parsed) << parsed.error().message;
  const std::vector<std::pair<uint32_t, double>> expected = {{3, 6.25e6}, {8, 1e6}};
  EXPECT_EQ(parsed->front().uplink_of, expected);
  EXPECT_THAT(ErrorOf("uplink = 3 50mbit"), HasSubstr("is not NODE: RATE"));
  EXPECT_THAT(ErrorOf("nodes = 3\nuplink = 3: 50mbit"), HasSubstr("there is no node 3 among 3"));
}

TEST(ScenarioTest, ErrorsNameTheLine) {
  EXPECT_THAT(ErrorOf("nodes = 3\nnods = 4\n"), HasSubstr("x.txt:2: there is no key \"nods\""));
  EXPECT_THAT(ErrorOf("nodes = many"), HasSubstr("x.txt:1: nodes: \"many\" is not a number"));
  EXPECT_THAT(ErrorOf("nodes = 0"), HasSubstr("not between 1 and"));
  EXPECT_THAT(ErrorOf("nodes = 2.5"), HasSubstr("not whole"));
  EXPECT_THAT(ErrorOf("nodes = -1"), HasSubstr("not a number"));
  EXPECT_THAT(ErrorOf("nodes = nan"), HasSubstr("not a number"));
  EXPECT_THAT(ErrorOf("link = 100"), HasSubstr("not a rate"));
  EXPECT_THAT(ErrorOf("link = 0mbit"), HasSubstr("no rate of a link"));
  EXPECT_THAT(ErrorOf("window = 0"), HasSubstr("window: a window has"));
  EXPECT_THAT(ErrorOf("image = 0MB"), HasSubstr("an image has bytes"));
  EXPECT_THAT(ErrorOf("image = 20000GB"), HasSubstr("too much"));
  EXPECT_THAT(ErrorOf("image = 9GB\nchunk = 4KiB"), HasSubstr("a million chunks"));
  EXPECT_THAT(ErrorOf("up = 1gbit..100mbit"), HasSubstr("the larger rate stands last"));
  EXPECT_THAT(ErrorOf("latency = 3"), HasSubstr("not a time"));
  EXPECT_THAT(ErrorOf("private_reads = 120%"), HasSubstr("more than all"));
  EXPECT_THAT(ErrorOf("trees = oak"), HasSubstr("none of chain, forest, star, static"));
  EXPECT_THAT(ErrorOf("what is this"), HasSubstr("neither KEY = VALUE"));
  EXPECT_THAT(ErrorOf("[a\n"), HasSubstr("expected [NAME]"));
  EXPECT_THAT(ErrorOf("[]\n"), HasSubstr("expected [NAME]"));
  EXPECT_THAT(ErrorOf("[a]\n[a]\n"), HasSubstr("x.txt:2: a second [a]"));
  EXPECT_THAT(ErrorOf("at 1s kill"), HasSubstr("expected: at TIME ACTION WHO"));
  EXPECT_THAT(ErrorOf("at 1s eat root"), HasSubstr("\"eat\" is none of"));
  EXPECT_THAT(ErrorOf("at 1s slow root"), HasSubstr("slow WHO to RATE"));
  EXPECT_THAT(ErrorOf("nodes = 4\nat 1s kill node 4"), HasSubstr("there is no node 4 among 4"));
  EXPECT_THAT(ErrorOf("expect last"), HasSubstr("expected METRIC <="));
  EXPECT_THAT(ErrorOf("expect last <= 2 *"), HasSubstr("expected METRIC <="));
  EXPECT_THAT(ErrorOf("rate = 0s:1"), HasSubstr("needs an \"end TIME\""));
  EXPECT_THAT(ErrorOf("rate = 5s:1, 5s:2, end 9s"), HasSubstr("not later"));
  EXPECT_THAT(ErrorOf("workload = requests"), HasSubstr("needs rate"));
  EXPECT_THAT(ErrorOf("zones = 200000, 1"), HasSubstr("more than 200000 nodes"));
  EXPECT_THAT(ErrorOf("nodes = 2\nstarts = 3"), HasSubstr("more starts"));
}

}  // namespace
}  // namespace banyan::sim
