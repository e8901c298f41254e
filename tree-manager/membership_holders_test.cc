// Whom nodes are told that hold all of a function, and what becomes of those who only say so.
#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tree-manager/testing/cluster.h"

namespace banyan::tree_manager {
namespace {

using namespace std::chrono_literals;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;

std::string Name(int i) { return fmt::format("n{}", i); }

TEST(HoldersTest, WhoHoldsAllIsNamedToThoseWhoDoNot) {
  Cluster cluster;
  cluster.Start(8);
  EXPECT_THAT(cluster.agent("n1").holders["f"], IsEmpty());
  cluster.Hold("n0", "f", 1000, true);
  cluster.Hold("n2", "f", 999, true);
  cluster.Run(3s);
  EXPECT_THAT(cluster.agent("n1").holders["f"], ElementsAre("n0"));
  EXPECT_THAT(cluster.agent("n0").holders["f"], IsEmpty());
  // Also to those who come later, and until it has evicted something.
  cluster.Connect("late", {"f"});
  cluster.Run(1s);
  EXPECT_THAT(cluster.agent("late").holders["f"], ElementsAre("n0"));
  cluster.Hold("n0", "f", 700, true);
  cluster.Run(3s);
  EXPECT_THAT(cluster.agent("n1").holders["f"], IsEmpty());
  EXPECT_THAT(cluster.agent("late").holders["f"], IsEmpty());
}

TEST(HoldersTest, OnlyThoseWithUplinkToSpareInTheSameZone) {
  Cluster cluster;
  cluster.Start(6);
  cluster.Connect("far", {"f"}, "elsewhere");
  cluster.Connect("mute", {"f"}, "", 0);
  for (const char* name : {"far", "mute", "n0", "n1", "n2", "n3"}) cluster.Hold(name, "f", 1000, true);
  ASSERT_TRUE(cluster.core().Drain("n0", false, cluster.now()));
  cluster.agent("n1").up_full = true;
  cluster.Disconnect("n2");
  cluster.Run(3s);
  EXPECT_THAT(cluster.agent("n5").holders["f"], ElementsAre("n3"));
  cluster.agent("n1").up_full = false;
  cluster.Run(4s);
  EXPECT_THAT(cluster.agent("n5").holders["f"], ::testing::UnorderedElementsAre("n1", "n3"));
}

TEST(HoldersTest, AFewToEachAndNoneToMost) {
  Cluster cluster;
  cluster.Start(120);
  for (int i = 0; i < 20; ++i) cluster.Hold(Name(i), "f", 1000, true);
  cluster.Run(3s);
  std::map<std::string, int> first;
  for (int i = 20; i < 120; ++i) {
    const auto& holders = cluster.agent(Name(i)).holders["f"];
    ASSERT_EQ(holders.size(), 4U) << i;
    ++first[holders.front()];
  }
  EXPECT_GE(first.size(), 15U);
  for (const auto& [name, count] : first) EXPECT_LE(count, 15) << name;
}

TEST(HoldersTest, AChangingClusterIsNotToldMoreThanEveryTwoSeconds) {
  Cluster cluster;
  cluster.Start(4);
  uint64_t told = 0;
  std::vector<std::string> last;
  for (int i = 0; i < 100; ++i) {
    cluster.Hold("n0", "f", i % 2 == 0 ? 1000 : 990, true);
    cluster.Run(100ms);
    if (std::exchange(last, cluster.agent("n1").holders["f"]) != last) ++told;
  }
  EXPECT_LE(told, 6U);
}

TEST(HoldersTest, ANodeThatGoesOnClaimingWhatItLacksIsDemoted) {
  Cluster cluster;
  cluster.Start(8);
  cluster.Hold("n0", "f", 1000, true);
  cluster.Run(3s);
  for (int i = 1; i <= 3; ++i) cluster.Report(Name(i), "n0", PeerReport::LIED);
  cluster.Run(2s);
  EXPECT_FALSE(cluster.Info("n0").avoided()) << "it may take it back yet";
  cluster.Run(3s);
  EXPECT_TRUE(cluster.Info("n0").avoided());
  EXPECT_THAT(cluster.ChildrenOf("n0"), IsEmpty());
  cluster.Run(3s);
  EXPECT_THAT(cluster.agent("n5").holders["f"], Not(Contains("n0")));
}

TEST(HoldersTest, ANodeThatTakesItsClaimBackHasOnlyEvicted) {
  Cluster cluster;
  cluster.Start(8);
  cluster.Hold("n0", "f", 1000, true);
  cluster.Run(3s);
  for (int i = 1; i <= 3; ++i) cluster.Report(Name(i), "n0", PeerReport::LIED);
  cluster.Hold("n0", "f", 900, true);
  for (int i = 4; i <= 6; ++i) cluster.Report(Name(i), "n0", PeerReport::LIED);
  cluster.Run(10s);
  EXPECT_EQ(cluster.Info("n0").reports(), 0U);
  EXPECT_FALSE(cluster.Info("n0").avoided());
}

}  // namespace
}  // namespace banyan::tree_manager
