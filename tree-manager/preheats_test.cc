#include "tree-manager/preheats.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace banyan::tree_manager {
namespace {

using proto::tree::PreheatProgressReply;
using ::testing::ElementsAre;

class PreheatsTest : public ::testing::Test {
 protected:
  PreheatsTest() {
    for (const auto& [name, zone] : {std::pair{"a1", "a"}, std::pair{"a2", "a"}, std::pair{"a3", "a"},
                                     std::pair{"b1", "b"}, std::pair{"gone", "b"}}) {
      auto& node = *nodes_.add_nodes();
      node.set_node(name);
      node.set_zone(zone);
      node.set_state(proto::tree::LIVE);
    }
    nodes_.mutable_nodes(4)->set_state(proto::tree::AWAY);
    request_.set_reference("docker://r/app:1");
  }
  std::vector<std::string> Chosen() {
    const auto reply = preheats_.Begin(request_, nodes_, now_);
    return reply ? std::vector<std::string>(reply->nodes().begin(), reply->nodes().end())
                 : std::vector<std::string>{reply.error().message};
  }
  void Report(const std::string& node, uint64_t present, bool ended = false, const std::string& error = "") {
    proto::tree::PreheatReport report;
    report.set_id(1);
    report.set_present_bytes(present);
    report.set_total_bytes(100);
    report.set_ended(ended);
    report.set_error(error);
    preheats_.Report(node, report, now_);
  }

  Preheats preheats_;
  proto::tree::NodesReply nodes_;
  proto::tree::PreheatRequest request_;
  Time now_{};
};

TEST_F(PreheatsTest, NodesAreThoseThatAreHere) { EXPECT_THAT(Chosen(), ElementsAre("a1", "b1", "a2", "a3")); }

TEST_F(PreheatsTest, AFewAreOfDifferentZones) {
  request_.set_count(2);
  EXPECT_THAT(Chosen(), ElementsAre("a1", "b1"));
}

TEST_F(PreheatsTest, OfOneZoneOrByName) {
  request_.set_zone("a");
  EXPECT_THAT(Chosen(), ElementsAre("a1", "a2", "a3"));
  request_.add_nodes("a3");
  request_.add_nodes("a3");
  EXPECT_THAT(Chosen(), ElementsAre("a3"));
  request_.add_nodes("gone");
  EXPECT_EQ(preheats_.Begin(request_, nodes_, now_).error().code, Code::kNotFound);
  request_.clear_nodes();
  request_.set_zone("c");
  EXPECT_EQ(preheats_.Begin(request_, nodes_, now_).error().code, Code::kFailedPrecondition);
  request_.clear_reference();
  EXPECT_EQ(preheats_.Begin(request_, nodes_, now_).error().code, Code::kInvalidArgument);
}

TEST_F(PreheatsTest, TellsOnceASessionAndFollows) {
  request_.set_zone("a");
  Chosen();
  const auto command = preheats_.Next("a1");
  ASSERT_NE(command, nullptr);
  EXPECT_EQ(command->preheat().reference(), "docker://r/app:1");
  EXPECT_EQ(preheats_.Next("a1"), nullptr);
  EXPECT_EQ(preheats_.Next("b1"), nullptr);
  Report("a1", 40);
  Report("b1", 40);  // was not asked
  preheats_.Tell("a1");
  EXPECT_NE(preheats_.Next("a1"), nullptr);

  now_ += std::chrono::seconds(2);
  Report("a1", 100, true);
  Report("a1", 1);  // late
  Report("a2", 7, true, "no such image");
  preheats_.Tell("a1");
  EXPECT_EQ(preheats_.Next("a1"), nullptr);
  auto progress = preheats_.Progress(1, {"a1", "a2"}, now_);
  ASSERT_TRUE(progress);
  ASSERT_EQ(progress->nodes_size(), 3);
  EXPECT_EQ(progress->nodes(0).state(), PreheatProgressReply::Node::DONE);
  EXPECT_EQ(progress->nodes(0).present_bytes(), 100U);
  EXPECT_EQ(progress->nodes(1).state(), PreheatProgressReply::Node::FAILED);
  EXPECT_EQ(progress->nodes(1).error(), "no such image");
  EXPECT_EQ(progress->nodes(2).state(), PreheatProgressReply::Node::WAITING);
  EXPECT_TRUE(progress->nodes(2).away());
  EXPECT_FALSE(progress->ended());
  Report("a3", 100, true);
  now_ += std::chrono::seconds(5);
  progress = preheats_.Progress(1, {}, now_);
  EXPECT_TRUE(progress->ended());
  EXPECT_EQ(progress->took_millis(), 2000U);
  EXPECT_FALSE(preheats_.Progress(2, {}, now_));
}

TEST_F(PreheatsTest, TheOldestThatHasEndedMakesRoom) {
  request_.add_nodes("a1");
  for (size_t i = 0; i < Preheats::kMaxKept; ++i) ASSERT_TRUE(preheats_.Begin(request_, nodes_, now_));
  EXPECT_EQ(preheats_.Begin(request_, nodes_, now_).error().code, Code::kResourceExhausted);
  Report("a1", 100, true);
  EXPECT_TRUE(preheats_.Begin(request_, nodes_, now_));
  EXPECT_FALSE(preheats_.Progress(1, {}, now_));
}

}  // namespace
}  // namespace banyan::tree_manager
