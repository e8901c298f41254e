#include "cli/tree_drawing.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace banyan::cli {
namespace {

using proto::tree::TreeReply;

void Add(TreeReply& reply, const std::string& node, const std::string& first, const std::string& second,
         const std::string& zone = "") {
  auto& added = *reply.add_nodes();
  added.set_node(node);
  added.set_zone(zone);
  added.add_parents(first);
  added.add_parents(second);
  added.set_state(proto::tree::LIVE);
  reply.mutable_function()->set_nodes(static_cast<uint32_t>(reply.nodes_size()));
}

TEST(TreeDrawingTest, BothStripes) {
  TreeReply reply;
  reply.mutable_function()->set_function("sha256:12");
  reply.mutable_function()->set_reference("registry.example/app:1");
  reply.mutable_function()->set_height(2);
  Add(reply, "b", "a", "");
  Add(reply, "a", "", "b");
  Add(reply, "c", "a", "b");
  reply.mutable_nodes(1)->set_present_permille(1000);
  reply.mutable_nodes(0)->set_present_permille(125);
  reply.mutable_nodes(0)->set_ready(true);
  reply.mutable_nodes(2)->set_state(proto::tree::SUSPECT);
  EXPECT_EQ(DrawTrees(reply, {}),
            "sha256:12  registry.example/app:1\n"
            "3 nodes, height 2, 0 re-parentings\n"
            "\n"
            "stripe 1\n"
            "proxy\n"
            "└─ a  100.0 %\n"
            "   ├─ b  12.5 %  ready\n"
            "   └─ c  0.0 %  suspect\n"
            "\n"
            "stripe 2\n"
            "proxy\n"
            "└─ b  12.5 %  ready\n"
            "   ├─ a  100.0 %\n"
            "   └─ c  0.0 %  suspect\n");
  const std::string second = DrawTrees(reply, {.stripe = 2, .plain = true});
  EXPECT_EQ(second.find("stripe 1"), std::string::npos);
  EXPECT_NE(second.find("`- b"), std::string::npos);
}

TEST(TreeDrawingTest, ZonesApart) {
  TreeReply reply;
  Add(reply, "a", "", "", "x");
  Add(reply, "b", "", "");
  const std::string text = DrawTrees(reply, {.stripe = 1});
  EXPECT_NE(text.find("proxy, for nodes of no zone\n└─ b"), std::string::npos) << text;
  EXPECT_NE(text.find("proxy, for zone x\n└─ a"), std::string::npos) << text;
}

TEST(TreeDrawingTest, LargeTreesAreCutAndCounted) {
  TreeReply reply;
  for (int i = 1; i <= 255; ++i) Add(reply, fmt::format("n{}", i), i == 1 ? "" : fmt::format("n{}", i / 2), "");
  const std::string cut = DrawTrees(reply, {.stripe = 1});
  EXPECT_NE(cut.find("n8  0.0 %  (and 30 below)"), std::string::npos) << cut;
  EXPECT_EQ(std::count(cut.begin(), cut.end(), '\n'), 2 + 3 + 15);
  const std::string all = DrawTrees(reply, {.stripe = 1, .all = true});
  EXPECT_EQ(std::count(all.begin(), all.end(), '\n'), 2 + 3 + 255);
}

TEST(TreeDrawingTest, WhatIsNoTreeIsDrawnAndEnds) {
  TreeReply reply;
  Add(reply, "a", "b", "nobody");
  Add(reply, "b", "a", "b");
  Add(reply, "\x1b[2J", "", "");
  const std::string text = DrawTrees(reply, {});
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_NE(text.find("a  "), std::string::npos);
}

}  // namespace
}  // namespace banyan::cli
