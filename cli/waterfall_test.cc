#include "cli/waterfall.h"

#include <algorithm>
#include <sstream>

#include <gtest/gtest.h>

#include "cli/terminal.h"

namespace banyan::cli {
namespace {

proto::agent::Start ExampleStart() {
  proto::agent::Start start;
  start.set_reference("registry.example/app:1");
  start.set_resolved(10'000);
  start.set_map(20'000);
  start.set_metadata(30'000);
  start.set_mounted(40'000);
  start.set_prepared(35'000);  // containerd asked before the mount was done
  start.set_first_read(60'000);
  start.set_last_cold_read(400'000);
  start.set_quiet(true);
  return start;
}

std::vector<std::string> Lines(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

TEST(WaterfallTest, StagesFollowEachOtherAndNeverEndBeforeTheyBegin) {
  const auto stages = StagesOf(ExampleStart());
  ASSERT_EQ(stages.size(), 7U);
  EXPECT_EQ(stages[0].begin, 0U);
  EXPECT_EQ(stages[3].begin, 30'000U);
  EXPECT_EQ(stages[4].begin, 35'000U) << "an instant, as the mount had not ended";
  EXPECT_EQ(stages[5].begin, 40'000U) << "after the mount, which ended later than the stage before";
  for (const Stage& stage : stages) EXPECT_LE(stage.begin, stage.end);
}

TEST(WaterfallTest, BarsStandWhereTheTimeWasSpentAndLinesFit) {
  for (const size_t width : {60U, 80U, 132U}) {
    const auto lines = Lines(RenderStart(ExampleStart(), width));
    ASSERT_EQ(lines.size(), 2 + 7 + 2U);
    for (const std::string& line : lines) EXPECT_LE(line.size(), width) << line;
    const auto count = [](const std::string& line) { return std::count(line.begin(), line.end(), '='); };
    EXPECT_GT(count(lines[8]), 5 * count(lines[2])) << "340 ms against 10 ms";
    EXPECT_LT(lines[2].find('='), lines[8].find('='));
    EXPECT_EQ(lines[8].rfind('='), lines[8].rfind('|') - 1) << "the last stage ends at the end";
  }
}

TEST(WaterfallTest, AStartThatHasJustBegunShowsWhatIsKnown) {
  proto::agent::Start start;
  start.set_reference("a");
  EXPECT_EQ(Lines(RenderStart(start, 80)).size(), 4U);
  start.set_resolved(0);
  EXPECT_EQ(Lines(RenderStart(start, 80)).size(), 5U);
}

TEST(TerminalTest, ShortenKeepsBothEnds) {
  EXPECT_EQ(Shorten("registry.example/app:1", 0), "registry.example/app:1");
  EXPECT_EQ(Shorten("registry.example/app:1", 12), "regis..app:1");
  EXPECT_EQ(Shorten("abc", 3), "abc");
  EXPECT_EQ(Shorten("abcd", 2), "ab");
}

TEST(TerminalTest, ATableIsCutToTheWidthInOneColumn) {
  const std::vector<std::vector<std::string>> rows = {{"IMAGE", "SIZE"}, {std::string(100, 'x'), "12 MB"}};
  for (const std::string& line : Lines(FitTable(rows, 0, 60))) EXPECT_LE(line.size(), 60U);
  EXPECT_NE(FitTable(rows, 0, 0).find(std::string(100, 'x')), std::string::npos);
  EXPECT_NE(FitTable(rows, 0, 60).find("12 MB"), std::string::npos);
}

TEST(TerminalTest, ATableTooWideLeavesColumnsOutAndSaysSo) {
  const Rows rows = {{"NODE", "ZONE", "", "VERSION"}, {std::string(40, 'n'), "europe-west-1", "1 %", "1.2.3-4.5.6"}};
  EXPECT_EQ(FitTable(rows, 0, 32),
            "NODE                   ZONE\n"
            "nnnnn..nnnnn  europe-west-1  1 %\n"
            "No room for: VERSION (--json has all)\n");
  EXPECT_EQ(FitTable(rows, 0, 31),
            "NODE                       ZONE\n"
            "nnnnnnn..nnnnnnn  europe-west-1\n"
            "No room for: VERSION (--json has all)\n");
  EXPECT_EQ(FitTable({{"KEY", "SIGNS", "FILE"}, {std::string(16, 'k'), "yes", std::string(40, 'f')}}, 2, 30),
            "KEY                       FILE\n"
            "kkkkkkkkkkkkkkkk  fffff..fffff\n"
            "No room for: SIGNS (--json has all)\n");
}

}  // namespace
}  // namespace banyan::cli
