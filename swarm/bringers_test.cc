#include "swarm/bringers.h"

#include <gtest/gtest.h>

namespace banyan::swarm {
namespace {

std::vector<std::string> Agents(size_t count) {
  std::vector<std::string> ids;
  for (size_t i = 0; i < count; ++i) ids.push_back("-BY0100-" + std::to_string(100000000000 + i * 7919));
  return ids;
}

Bringers Of(const std::vector<std::string>& all, size_t self, uint32_t pieces, uint32_t swarm_nodes) {
  std::vector<std::string> others = all;
  others.erase(others.begin() + static_cast<ptrdiff_t>(self));
  return {all[self], std::move(others), swarm_nodes, pieces};
}

TEST(BringersTest, EachPieceIsForOneOfThoseWhoSeeEachOther) {
  constexpr uint32_t kPieces = 2048;
  const auto all = Agents(16);
  std::vector<int> of_piece(kPieces);
  for (size_t self = 0; self < all.size(); ++self) {
    const Bringers bringers = Of(all, self, kPieces, 16);
    int ours = 0;
    for (uint32_t piece = 0; piece < kPieces; ++piece) {
      of_piece[piece] += bringers.IsOurs(piece) ? 1 : 0;
      ours += bringers.IsOurs(piece) ? 1 : 0;
      EXPECT_EQ(bringers.IsOurs(piece), bringers.IsOurs(piece / 8 * 8)) << "runs of eight";
    }
    EXPECT_EQ(ours, kPieces / 16) << self;
  }
  for (uint32_t piece = 0; piece < kPieces; ++piece) EXPECT_EQ(of_piece[piece], 1) << piece;
}

TEST(BringersTest, WhatAnAgentThatLeavesBroughtIsSharedAndLittleElseMoves) {
  constexpr uint32_t kPieces = 2048;
  auto all = Agents(16);
  std::vector<size_t> before(kPieces);
  for (size_t self = 0; self < all.size(); ++self) {
    const Bringers bringers = Of(all, self, kPieces, 16);
    for (uint32_t piece = 0; piece < kPieces; ++piece) {
      if (bringers.IsOurs(piece)) before[piece] = self;
    }
  }
  all.pop_back();
  int moved = 0;
  for (size_t self = 0; self < all.size(); ++self) {
    const Bringers bringers = Of(all, self, kPieces, 15);
    for (uint32_t piece = 0; piece < kPieces; ++piece) moved += bringers.IsOurs(piece) && before[piece] != self ? 1 : 0;
  }
  EXPECT_GE(moved, static_cast<int>(kPieces / 16));
  EXPECT_LT(moved, static_cast<int>(kPieces / 16 * 4));
}

TEST(BringersTest, AloneItIsAll) {
  const Bringers bringers(MakeAgentId(), {}, 0, 100);
  for (uint32_t piece = 0; piece < 100; ++piece) EXPECT_TRUE(bringers.IsOurs(piece));
  EXPECT_TRUE(Bringers(MakeAgentId(), {}, 1, 1).IsOurs(0));
}

TEST(BringersTest, InALargeSwarmFewThinkThatAPieceIsTheirs) {
  // 400 agents, each of which sees the next ten only.
  constexpr uint32_t kPieces = 512;
  const auto all = Agents(400);
  size_t ours = 0;
  for (size_t self = 0; self < all.size(); ++self) {
    std::vector<std::string> seen;
    for (size_t i = 1; i <= 10; ++i) seen.push_back(all[(self + i) % all.size()]);
    const Bringers bringers(all[self], seen, 400, kPieces);
    for (uint32_t piece = 0; piece < kPieces; ++piece) ours += bringers.IsOurs(piece) ? 1 : 0;
  }
  EXPECT_GT(ours, kPieces) << "hardly any is for nobody";
  EXPECT_LT(ours, kPieces * 5);
}

TEST(BringersTest, IdsAreOfAgentsAndAllDifferent) {
  const std::string id = MakeAgentId();
  EXPECT_EQ(id.size(), 20U);
  EXPECT_TRUE(IsAgentId(id));
  EXPECT_FALSE(IsAgentId("-TR3000-abcdefghijkl"));
  EXPECT_NE(id, MakeAgentId());
}

}  // namespace
}  // namespace banyan::swarm
