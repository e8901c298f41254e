// What the manager does about an uplink that its beats show to be slow.
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tree-manager/testing/cluster.h"

namespace banyan::tree_manager {
namespace {

using namespace std::chrono_literals;

constexpr uint64_t kUsual = 10'000'000;

// Sixteen nodes, and one that has two children; all stream for as long as they have not said that they are ready.
class SlowUplinkTest : public testing::Test {
 protected:
  SlowUplinkTest() {
    cluster_.Start(16);
    for (const std::string& name : cluster_.Members()) {
      SetLoad(name, kUsual, kUsual, true);
      if (cluster_.ChildrenOf(name).size() == 2) slow_ = name;
    }
  }
  void SetLoad(const std::string& name, uint64_t up, uint64_t down, bool full) {
    cluster_.agent(name).up = up;
    cluster_.agent(name).down = down;
    cluster_.agent(name).up_full = full;
  }
  void Stream(int seconds) {
    for (int i = 0; i < seconds; ++i) {
      cluster_.Hold("n0", "f", 100, false);
      cluster_.Run(1s);
    }
  }
  void SlowDown() {
    SetLoad(slow_, kUsual / 2, kUsual, true);
    for (const std::string& child : cluster_.ChildrenOf(slow_)) SetLoad(child, 0, kUsual * 3 / 4, false);
  }

  Cluster cluster_;
  std::string slow_;
};

TEST_F(SlowUplinkTest, EqualNodesStay) {
  const std::string shape = cluster_.Shape();
  Stream(5);
  EXPECT_EQ(cluster_.Shape(), shape);
}

TEST_F(SlowUplinkTest, ItLosesAChildWhileTheStreamRuns) {
  SlowDown();
  Stream(4);
  EXPECT_LE(cluster_.ChildrenOf(slow_).size(), 1U);
  cluster_.ExpectToldTheTruth();
}

TEST_F(SlowUplinkTest, ItIsForgottenWhenItIsFastAgain) {
  SlowDown();
  Stream(4);
  ASSERT_LE(cluster_.ChildrenOf(slow_).size(), 1U);
  for (const std::string& name : cluster_.Members()) SetLoad(name, kUsual, kUsual, false);
  Stream(2);
  // As good as any again: whoever else becomes slow changes places with it.
  for (const std::string& name : cluster_.Members()) {
    if (cluster_.ChildrenOf(name).size() != 2) continue;
    slow_ = name;
    break;
  }
  SlowDown();
  Stream(4);
  EXPECT_LE(cluster_.ChildrenOf(slow_).size(), 1U);
}

}  // namespace
}  // namespace banyan::tree_manager
