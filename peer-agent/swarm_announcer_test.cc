#include "peer-agent/swarm_announcer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace banyan::peer_agent {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class SwarmAnnouncerTest : public ::testing::Test {
 protected:
  // "a" of a swarm that it is in, "+a" of one that it has all of, "-a" of one that it left.
  std::vector<std::string> Due(const std::map<std::string, bool>& swarms) {
    std::vector<std::string> told;
    const auto announce = announcer_.Due(swarms, now_);
    if (!announce) return told;
    for (const auto& swarm : announce->swarms()) {
      told.push_back((swarm.gone() ? "-" : swarm.seed() ? "+" : "") + swarm.info_hash());
    }
    return told;
  }

  SwarmAnnouncer announcer_;
  SwarmAnnouncer::Clock::time_point now_{1h};
};

TEST_F(SwarmAnnouncerTest, TellsWhatIsNewAtOnceAndAllAfterAWhile) {
  EXPECT_THAT(Due({}), IsEmpty());
  EXPECT_THAT(Due({{"a", false}}), ElementsAre("a"));
  EXPECT_THAT(Due({{"a", false}}), IsEmpty());
  EXPECT_THAT(Due({{"a", true}, {"b", false}}), ElementsAre("+a", "b"));
  EXPECT_THAT(Due({{"b", false}}), ElementsAre("-a"));
  now_ += 31s;
  EXPECT_THAT(Due({{"b", false}}), ElementsAre("b"));
  EXPECT_THAT(Due({{"b", false}}), IsEmpty());
}

TEST_F(SwarmAnnouncerTest, ANewSessionIsToldAll) {
  EXPECT_THAT(Due({{"a", true}}), ElementsAre("+a"));
  announcer_.Reset();
  EXPECT_THAT(Due({{"a", true}}), ElementsAre("+a"));
  EXPECT_THAT(Due({{"a", true}}), IsEmpty());
}

TEST_F(SwarmAnnouncerTest, TheManagersIntervalHoldsWithinBounds) {
  announcer_.SetInterval(0s);
  EXPECT_THAT(Due({{"a", false}}), ElementsAre("a"));
  now_ += 9s;
  EXPECT_THAT(Due({{"a", false}}), IsEmpty());
  now_ += 1s;
  EXPECT_THAT(Due({{"a", false}}), ElementsAre("a"));
}

TEST_F(SwarmAnnouncerTest, MoreThanAMessageHoldsComesInSeveral) {
  std::map<std::string, bool> swarms;
  for (int i = 0; i < SwarmAnnouncer::kMostSwarms + 5; ++i) swarms[std::to_string(i)] = false;
  EXPECT_EQ(Due(swarms).size(), static_cast<size_t>(SwarmAnnouncer::kMostSwarms));
  EXPECT_EQ(Due(swarms).size(), 5U);
  EXPECT_EQ(Due({}).size(), static_cast<size_t>(SwarmAnnouncer::kMostSwarms));
  EXPECT_EQ(Due({}).size(), 5U);
}

}  // namespace
}  // namespace banyan::peer_agent
