#include "cli/text.h"

#include <gtest/gtest.h>

namespace banyan::cli {
namespace {

using std::chrono::milliseconds;

TEST(TextTest, SizesKeepThreeDigitsAndChangeUnitInTime) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(999), "999 B");
  EXPECT_EQ(HumanBytes(1000), "1.00 kB");
  EXPECT_EQ(HumanBytes(62'942'000), "62.9 MB");
  EXPECT_EQ(HumanBytes(999'600), "1.00 MB");
  EXPECT_EQ(HumanBytes(UINT64_MAX), "18.4 EB");
}

TEST(TextTest, TimesUseTheFittingUnit) {
  EXPECT_EQ(HumanTime(milliseconds(420)), "0.4 s");
  EXPECT_EQ(HumanTime(milliseconds(12'400)), "12 s");
  EXPECT_EQ(HumanTime(milliseconds(59'600)), "1 min 0 s");
  EXPECT_EQ(HumanTime(milliseconds(7'500'000)), "2 h 5 min");
}

TEST(TextTest, SharesOfNothingAreADash) {
  EXPECT_EQ(Percent(1, 8), "12.5 %");
  EXPECT_EQ(Percent(0, 0), "-");
  EXPECT_EQ(Ratio(29, 10), "2.90");
  EXPECT_EQ(Ratio(29, 0), "-");
}

TEST(TextTest, HostileNamesCannotDriveTheTerminal) {
  EXPECT_EQ(Printable("usr/bin/é"), "usr/bin/é");
  EXPECT_EQ(Printable("a\nb\tc\\d"), "a\\nb\\tc\\\\d");
  EXPECT_EQ(Printable("\x1b[2J"), "\\x1b[2J");
  EXPECT_EQ(Printable("\xff\xc3"), "\\xff\\xc3");
  EXPECT_EQ(Printable("\xc2\x9b"
                      "1m"),
            "\\xc2\\x9b1m");
}

TEST(TextTest, TableAlignsColumnsAndEndsLinesWithoutBlanks) {
  Table table({"layer", "bytes", ""});
  table.Add({"a", "1000", ""});
  table.Add({"longer", "7", "x"});
  EXPECT_EQ(table.Render(),
            "layer   bytes\n"
            "a        1000\n"
            "longer      7  x\n");
}

}  // namespace
}  // namespace banyan::cli
