#include "fetch/peer_health.h"

#include <gtest/gtest.h>

namespace banyan::fetch {
namespace {

using namespace std::chrono_literals;

TEST(PeerHealth, PenaltiesDoubleAndWhatFailsTogetherIsOneFault) {
  PeerHealth health;
  Clock::time_point now{1h};
  EXPECT_TRUE(health.NoteFault("a", PeerFault::kBadBytes, now));
  EXPECT_FALSE(health.NoteFault("a", PeerFault::kBadBytes, now + 900ms));
  EXPECT_TRUE(health.Avoided("a", now + 59s));
  EXPECT_FALSE(health.Avoided("a", now + 60s));
  EXPECT_FALSE(health.Avoided("b", now));
  health.NoteGood("a", now + 60s);
  EXPECT_TRUE(health.NoteFault("a", PeerFault::kBadBytes, now + 60s));
  EXPECT_TRUE(health.Avoided("a", now + 179s));
  for (int i = 0; i < 40; ++i) health.NoteFault("a", PeerFault::kBadBytes, now + std::chrono::hours(1 + i));
  EXPECT_TRUE(health.Avoided("a", now + 40h + 9min));
  EXPECT_FALSE(health.Avoided("a", now + 40h + 10min));

  health.NoteFault("c", PeerFault::kUnreachable, now);
  health.NoteFault("c", PeerFault::kUnreachable, now + 4s);
  EXPECT_TRUE(health.Avoided("c", now + 9s));
  health.NoteGood("c", now + 11s);
  health.NoteFault("c", PeerFault::kUnreachable, now + 12s);
  EXPECT_FALSE(health.Avoided("c", now + 15s));
}

TEST(PeerHealth, WhoDoesNotKnowTheFunctionIsGivenFiveSeconds) {
  PeerHealth health;
  const Clock::time_point now{1h};
  health.NoteUnknownThere("a", now);
  health.NoteUnknownThere("a", now + 5s);
  EXPECT_FALSE(health.Avoided("a", now + 5s));
  health.NoteGood("a", now + 5s);
  health.NoteUnknownThere("a", now + 6s);
  health.NoteUnknownThere("a", now + 10s);
  EXPECT_FALSE(health.Avoided("a", now + 10s));
  health.NoteUnknownThere("a", now + 12s);
  EXPECT_TRUE(health.Avoided("a", now + 21s));
  EXPECT_FALSE(health.Avoided("a", now + 22s));
}

TEST(PeerHealth, HedgesAfterThe95thPercentileAndWithinItsBudget) {
  PeerHealth health;
  const Clock::time_point now{1h};
  EXPECT_EQ(health.HedgeAfter("a"), 250ms);
  for (int i = 1; i <= 64; ++i) health.NoteFirstByte("a", std::chrono::milliseconds(i * 10), now);
  EXPECT_GE(health.HedgeAfter("a"), 600ms);
  EXPECT_LE(health.HedgeAfter("a"), 630ms);
  for (int i = 1; i <= 64; ++i) health.NoteFirstByte("a", 1ms, now);
  EXPECT_EQ(health.HedgeAfter("a"), 50ms);
  int hedges = 0;
  for (int i = 0; i < 1000; ++i) {
    health.CountAsk();
    if (health.TakeHedge()) ++hedges;
  }
  EXPECT_EQ(hedges, 50);
}

TEST(PeerHealth, OriginsAreCongestedOnlyBesideAFasterParentAndForAWhile) {
  PeerHealth health;
  const Clock::time_point now{1h};
  health.NoteFirstByte("parent", 20ms, now);
  EXPECT_FALSE(health.OriginsCongested("parent", now));
  health.NoteOrigins(150ms, now);
  EXPECT_FALSE(health.OriginsCongested("parent", now));
  for (int i = 0; i < 20; ++i) health.NoteOrigins(400ms, now);
  EXPECT_TRUE(health.OriginsCongested("parent", now));
  EXPECT_FALSE(health.OriginsCongested("stranger", now));
  EXPECT_FALSE(health.OriginsCongested("parent", now + 6s));
  for (int i = 0; i < 40; ++i) health.NoteFirstByte("parent", 150ms, now);
  EXPECT_FALSE(health.OriginsCongested("parent", now));
  health.NoteOriginsFailed(now);
  EXPECT_TRUE(health.OriginsCongested("stranger", now + 4s));
  EXPECT_FALSE(health.OriginsDown(now + 6s));
}

}  // namespace
}  // namespace banyan::fetch
