#include "store/presence.h"

#include <atomic>
#include <thread>

#include <gtest/gtest.h>

namespace banyan::store {
namespace {

using WriteTurn = Presence::WriteTurn;
using DropTurn = Presence::DropTurn;

bool Durable(const Presence& presence, ChunkIndex chunk) {
  return Bitmap(presence.size(), presence.durable_bytes()).Test(chunk);
}

void Write(Presence& presence, ChunkIndex chunk) {
  ASSERT_EQ(presence.BeginWrite(chunk), WriteTurn::kOwned);
  presence.FinishWrite(chunk);
}

TEST(PresenceTest, IsDurableOnlyAfterASyncThatBeganLater) {
  Presence presence{Bitmap(4)};
  Write(presence, 0);
  EXPECT_TRUE(presence.Has(0));
  EXPECT_TRUE(presence.BeginSync());
  Write(presence, 1);
  EXPECT_FALSE(Durable(presence, 0));
  presence.FinishSync();
  EXPECT_TRUE(Durable(presence, 0));
  EXPECT_FALSE(Durable(presence, 1));
  EXPECT_TRUE(presence.BeginSync());
  EXPECT_EQ(presence.AbandonSync(), std::vector<ChunkIndex>{1});
  EXPECT_FALSE(Durable(presence, 1));
  EXPECT_FALSE(presence.BeginSync());
}

TEST(PresenceTest, AChunkRemovedAndRewrittenDuringASyncIsNotDurable) {
  Presence presence{Bitmap(2)};
  Write(presence, 0);
  ASSERT_TRUE(presence.BeginSync());
  ASSERT_TRUE(presence.Claim(0, false));
  EXPECT_FALSE(presence.ClearDurable(0));
  presence.Release(0);
  Write(presence, 0);
  presence.FinishSync();
  EXPECT_FALSE(Durable(presence, 0));
  ASSERT_TRUE(presence.BeginSync());
  presence.FinishSync();
  EXPECT_TRUE(Durable(presence, 0));
}

TEST(PresenceTest, LeasesKeepRemovalAway) {
  Presence presence{Bitmap(2)};
  EXPECT_FALSE(presence.Lease(0));
  Write(presence, 0);
  ASSERT_TRUE(presence.Lease(0));
  EXPECT_FALSE(presence.Idle(0));
  EXPECT_FALSE(presence.Claim(0, false));
  EXPECT_FALSE(presence.Unlease(0));
  EXPECT_TRUE(presence.Claim(0, false));
  EXPECT_FALSE(presence.Lease(0));
  presence.Restore(0, false);
  EXPECT_TRUE(presence.Lease(0));
  EXPECT_EQ(presence.count(), 1U);
}

TEST(PresenceTest, TheRecentAreSparedOnce) {
  Presence presence{Bitmap(1)};
  Write(presence, 0);
  EXPECT_FALSE(presence.Claim(0, true));
  EXPECT_TRUE(presence.Claim(0, true));
}

TEST(PresenceTest, ADroppedChunkGoesToItsLastLease) {
  Presence presence{Bitmap(1)};
  Write(presence, 0);
  ASSERT_TRUE(presence.Lease(0));
  ASSERT_TRUE(presence.Lease(0));
  EXPECT_EQ(presence.ClaimForDrop(0), DropTurn::kLeased);
  EXPECT_EQ(presence.ClaimForDrop(0), DropTurn::kAbsent);
  EXPECT_EQ(presence.BeginWrite(0), WriteTurn::kDropped);
  EXPECT_FALSE(presence.Unlease(0));
  EXPECT_FALSE(presence.Doom(0));
  EXPECT_TRUE(presence.Unlease(0));
  presence.Release(0);
  EXPECT_EQ(presence.BeginWrite(0), WriteTurn::kOwned);
}

TEST(PresenceTest, TheDropperPunchesWhenTheLeasesWentFirst) {
  Presence presence{Bitmap(1)};
  Write(presence, 0);
  ASSERT_TRUE(presence.Lease(0));
  EXPECT_EQ(presence.ClaimForDrop(0), DropTurn::kLeased);
  EXPECT_FALSE(presence.Unlease(0));
  EXPECT_TRUE(presence.Doom(0));
}

TEST(PresenceTest, WritersOfOneChunkTakeTurns) {
  Presence presence{Bitmap(1)};
  std::atomic<int> owners{0};
  std::atomic<int> writes{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 2000; ++round) {
        if (presence.BeginWrite(0) == WriteTurn::kOwned) {
          EXPECT_EQ(owners.fetch_add(1), 0);
          owners.fetch_sub(1);
          ++writes;
          presence.FinishWrite(0);
        }
        if (presence.Claim(0, false)) presence.Release(0);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GE(writes.load(), 2000);
}

}  // namespace
}  // namespace banyan::store
