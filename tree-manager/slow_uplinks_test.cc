#include "tree-manager/slow_uplinks.h"

#include <map>

#include <gtest/gtest.h>

namespace banyan::tree_manager {
namespace {

constexpr uint64_t kUsual = 10'000'000;

// Sixteen nodes in the middle of a stream; an interior of stripe 0 with two children, and these.
class SlowUplinksTest : public testing::Test {
 protected:
  SlowUplinksTest() {
    for (NodeId node = 0; node < 16; ++node) {
      EXPECT_TRUE(tree_.Join(node, {}));
      loads_[node] = {kUsual, kUsual, true};
    }
    for (NodeId node = 0; node < 16; ++node) {
      if (tree_.ChildCountOf(node, 0) == 2 && tree_.DepthOf(node, 0) == 2) suspect_ = node;
    }
    children_ = tree_.ChildrenOf(suspect_, 0);
  }

  std::vector<SlowUplink> Look() {
    return slow_.Look(tree_, [this](NodeId node) { return loads_.at(node); });
  }

  FunctionTree tree_{FunctionTree::Options{}};
  std::map<NodeId, NodeLoad> loads_;
  SlowUplinks slow_;
  NodeId suspect_ = 0;
  std::vector<NodeId> children_;
};

TEST_F(SlowUplinksTest, EqualNodesAreNotSlow) {
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Look().empty());
}

TEST_F(SlowUplinksTest, HalfAnUplinkIsSeenAtTheSecondLook) {
  loads_[suspect_].up = kUsual / 2;
  for (const NodeId child : children_) loads_[child].down = kUsual * 3 / 4;
  EXPECT_TRUE(Look().empty());
  const auto slow = Look();
  ASSERT_EQ(slow.size(), 1U);
  EXPECT_EQ(slow[0].node, suspect_);
  EXPECT_EQ(slow[0].weight, 50U);
}

TEST_F(SlowUplinksTest, NotTwiceInARowIsNotSlow) {
  for (int i = 0; i < 3; ++i) {
    loads_[suspect_].up = kUsual / 2;
    for (const NodeId child : children_) loads_[child].down = kUsual * 3 / 4;
    EXPECT_TRUE(Look().empty());
    loads_[suspect_].up = kUsual;
    EXPECT_TRUE(Look().empty());
  }
}

// It sends little since one child takes little.
TEST_F(SlowUplinksTest, ASlowChildAccusesNobody) {
  loads_[suspect_].up = kUsual * 6 / 10;
  loads_[children_[0]].down = kUsual / 10;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Look().empty());
}

TEST_F(SlowUplinksTest, AnUplinkWithRoomIsNotSlow) {
  loads_[suspect_].up = kUsual / 2;
  loads_[suspect_].up_full = false;
  for (const NodeId child : children_) loads_[child].down = kUsual * 3 / 4;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Look().empty());
}

// Then everybody receives three quarters, but the root.
TEST_F(SlowUplinksTest, ASlowRootIsSeen) {
  NodeId root = 0;
  for (NodeId node = 0; node < 16; ++node) {
    if (tree_.ParentOf(node, 0) == kProxy) root = node;
    loads_[node] = {kUsual * 3 / 4, kUsual * 3 / 4, false};
  }
  loads_[root] = {kUsual / 2, kUsual, true};
  EXPECT_TRUE(Look().empty());
  const auto slow = Look();
  ASSERT_EQ(slow.size(), 1U);
  EXPECT_EQ(slow[0].node, root);
}

TEST_F(SlowUplinksTest, WithoutAStreamNobodyIsSlow) {
  for (auto& [node, load] : loads_) load = {1000, 0, true};
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Look().empty());
}

}  // namespace
}  // namespace banyan::tree_manager
