#include "tree-manager/tracker/tracker.h"

#include <set>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tree-manager/tracker/session_announces.h"

namespace banyan::tree_manager {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

const std::string kHash(20, 'h');

class TrackerTest : public ::testing::Test {
 protected:
  Tracker::Options Options() {
    Tracker::Options options;
    options.path = "/key";
    options.seed = 7;
    options.now = [this] { return now_; };
    return options;
  }

  static std::string Ask(Tracker& tracker, const std::string& client, const std::string& target) {
    net::HttpRequest request;
    request.method = "GET";
    request.target = target;
    request.client = client;
    return std::get<std::string>(tracker.Answer(request).body);
  }
  static std::string Announce(Tracker& tracker, const std::string& client, int port, const std::string& more = "",
                              const std::string& hash = kHash) {
    return Ask(tracker, client,
               fmt::format("/key/announce?info_hash={}&peer_id=-XX0000-abcdefghijkl&port={}{}", hash, port, more));
  }

  Tracker::Clock::time_point now_{};
};

TEST_F(TrackerTest, PeersLearnOfEachOther) {
  Tracker tracker(Options());
  EXPECT_EQ(Announce(tracker, "10.0.0.1", 258, "&left=0"),
            "d8:completei1e10:incompletei0e8:intervali30e12:min intervali15e5:peers0:e");
  EXPECT_EQ(Announce(tracker, "10.0.0.2", 259, "&left=5"),
            std::string("d8:completei1e10:incompletei1e8:intervali30e12:min intervali15e5:peers6:\x0a\0\0\1\1\2e", 79));
  EXPECT_EQ(Announce(tracker, "10.0.0.3", 260, "&left=0&compact=0"),
            "d8:completei2e10:incompletei1e8:intervali30e12:min intervali15e5:peers"
            "ld2:ip8:10.0.0.27:peer id20:-XX0000-abcdefghijkl4:porti259eeee");
  EXPECT_THAT(Announce(tracker, "10.0.0.3", 260, "&left=0&compact=0&no_peer_id=1"),
              HasSubstr("ld2:ip8:10.0.0.24:porti259eee"));
}

TEST_F(TrackerTest, SixteenByteAddressesHaveTheirOwnList) {
  Tracker tracker(Options());
  Announce(tracker, "fd00::1", 1, "&left=0");
  Announce(tracker, "::ffff:10.0.0.1", 1, "&left=0");
  const std::string answer = Announce(tracker, "10.0.0.2", 1, "&left=1");
  EXPECT_THAT(answer, HasSubstr(std::string("5:peers6:\x0a\0\0\1\0\1", 15)));
  EXPECT_THAT(answer, HasSubstr("6:peers618:\xfd"));
}

TEST_F(TrackerTest, SameZoneComesFirst) {
  Tracker tracker(Options());
  for (int i = 0; i < 40; ++i) Announce(tracker, fmt::format("10.1.0.{}", i), 1, "&left=1&zone=a");
  for (int i = 0; i < 40; ++i) Announce(tracker, fmt::format("10.2.0.{}", i), 1, "&left=1&zone=b");
  const std::string near = Announce(tracker, "10.9.0.1", 1, "&left=1&zone=b&compact=0&numwant=40");
  EXPECT_THAT(near, Not(HasSubstr("10.1.0.")));
  EXPECT_THAT(near, HasSubstr("10.2.0."));
  EXPECT_THAT(Announce(tracker, "10.9.0.1", 1, "&left=1&zone=b&compact=0&numwant=41"), HasSubstr("10.1.0."));
  // A client that says no zone is where another peer of its machine is.
  EXPECT_THAT(Announce(tracker, "10.2.0.1", 2, "&left=1&compact=0&numwant=40"), Not(HasSubstr("10.1.0.")));
}

TEST_F(TrackerTest, WhoStopsOrFallsSilentIsForgotten) {
  Tracker tracker(Options());
  Announce(tracker, "10.0.0.1", 1, "&left=0");
  Announce(tracker, "10.0.0.2", 1, "&left=0");
  Announce(tracker, "10.0.0.2", 1, "&event=stopped");
  EXPECT_THAT(Announce(tracker, "10.0.0.3", 1, "&compact=0"), Not(HasSubstr("10.0.0.2")));
  now_ += std::chrono::seconds(91);
  EXPECT_THAT(Announce(tracker, "10.0.0.4", 1, "&compact=0"), HasSubstr("peersle"));
}

TEST_F(TrackerTest, ScrapeCounts) {
  Tracker tracker(Options());
  Announce(tracker, "10.0.0.1", 1, "&left=9");
  Announce(tracker, "10.0.0.1", 1, "&left=0&event=completed");
  Announce(tracker, "10.0.0.1", 1, "&left=0&event=completed");
  Announce(tracker, "10.0.0.2", 1, "&left=9");
  EXPECT_EQ(Ask(tracker, "10.0.0.1", "/key/scrape?info_hash=" + kHash + "&info_hash=" + std::string(20, 'x')),
            "d5:filesd20:" + kHash + "d8:completei1e10:downloadedi1e10:incompletei1eeee");
}

TEST_F(TrackerTest, LimitsHold) {
  auto options = Options();
  options.max_swarms = 2;
  options.max_peers = 4;
  options.max_peers_per_address = 2;
  options.most_given = 1;
  Tracker tracker(options);
  EXPECT_THAT(Announce(tracker, "10.0.0.1", 1, "", std::string(20, 'a')), Not(HasSubstr("failure")));
  EXPECT_THAT(Announce(tracker, "10.0.0.1", 2, "", std::string(20, 'a')), Not(HasSubstr("failure")));
  EXPECT_THAT(Announce(tracker, "10.0.0.1", 3, "", std::string(20, 'a')), HasSubstr("too many peers of your address"));
  EXPECT_THAT(Announce(tracker, "10.0.0.2", 1, "&numwant=500", std::string(20, 'a')), HasSubstr("5:peers6:"));
  EXPECT_THAT(Announce(tracker, "10.0.0.1", 1, "", std::string(20, 'b')), Not(HasSubstr("failure")));
  EXPECT_THAT(Announce(tracker, "10.0.0.1", 1, "", std::string(20, 'c')), HasSubstr("the tracker is full"));
  EXPECT_THAT(Announce(tracker, "10.0.0.3", 1, "", std::string(20, 'b')), HasSubstr("the tracker is full"));
  now_ += std::chrono::seconds(91);
  EXPECT_THAT(Announce(tracker, "10.0.0.1", 1, "", std::string(20, 'c')), Not(HasSubstr("failure")));
}

TEST_F(TrackerTest, IntervalsGrowWithTheCrowd) {
  auto options = Options();
  options.announces_per_second = 1;
  Tracker tracker(options);
  std::string last;
  for (int i = 0; i < 100; ++i) last = Announce(tracker, fmt::format("10.1.0.{}", i), 1);
  EXPECT_THAT(last, HasSubstr("8:intervali100e"));
}

TEST_F(TrackerTest, WrongPathsAndQueriesAreRefused) {
  Tracker tracker(Options());
  net::HttpRequest request;
  request.method = "GET";
  request.client = "10.0.0.1";
  request.target = "/other/announce?info_hash=" + kHash;
  EXPECT_TRUE(tracker.Knows(request));
  EXPECT_EQ(tracker.Answer(request).status, 404);
  request.target = "/announce";
  EXPECT_EQ(tracker.Answer(request).status, 404);
  request.target = "/metrics";
  EXPECT_FALSE(tracker.Knows(request));
  EXPECT_THAT(Ask(tracker, "10.0.0.1", "/key/announce"), HasSubstr("failure reason"));
  EXPECT_THAT(Ask(tracker, "10.0.0.1", "/key/scrape"), HasSubstr("failure reason"));
  EXPECT_THAT(Announce(tracker, "10.0.0.1", 0), HasSubstr("port"));
  EXPECT_THAT(Announce(tracker, "10.0.0.1", 1, "&left=-3"), HasSubstr("left"));
  EXPECT_THAT(Announce(tracker, "10.0.0.1", 1, "", "short"), HasSubstr("info_hash"));
  EXPECT_THAT(Announce(tracker, "10.0.0.1", 1, "", std::string(20, '%')), HasSubstr("info_hash"));
}

TEST(TrackerQueryTest, DecodesWhatClientsEscape) {
  const auto query = ParseAnnounce(
      "info_hash=%01%02%fF%00abcdefghijklmnop&peer_id=-LT2080-%20bcdefghijk%7e&port=6881&left=12&numwant=7&"
      "event=completed&zone=rack-1.a");
  ASSERT_TRUE(query) << query.error().message;
  EXPECT_EQ(query->info_hash, std::string("\x01\x02\xff\0abcdefghijklmnop", 20));
  EXPECT_EQ(query->port, 6881);
  EXPECT_EQ(query->left, 12U);
  EXPECT_EQ(query->numwant, 7);
  EXPECT_EQ(query->event, AnnounceEvent::kCompleted);
  EXPECT_EQ(query->zone, "rack-1.a");
  EXPECT_TRUE(query->compact);
}

// ---- By session ----

proto::tree::SwarmAnnounce AnnounceOf(uint32_t port, bool seed = false, bool gone = false) {
  proto::tree::SwarmAnnounce announce;
  announce.set_port(port);
  announce.set_peer_id("-BY0100-abcdefghijkl");
  auto* swarm = announce.add_swarms();
  swarm->set_info_hash(kHash);
  swarm->set_seed(seed);
  swarm->set_gone(gone);
  return announce;
}

std::vector<std::string> PeersIn(const proto::tree::SwarmPeers& answer) {
  std::vector<std::string> peers;
  for (const auto& swarm : answer.swarms()) {
    EXPECT_EQ(swarm.info_hash(), kHash);
    for (const auto& peer : swarm.peers()) peers.push_back(fmt::format("{}:{}", peer.address(), peer.port()));
  }
  return peers;
}

TEST_F(TrackerTest, SessionsAndHttpLeadToTheSamePeers) {
  Tracker tracker(Options());
  EXPECT_THAT(PeersIn(AnnounceBySession(tracker, AnnounceOf(1, true), "a", "10.0.0.1")), IsEmpty());
  Announce(tracker, "10.0.0.2", 2, "&left=5&zone=b");
  const auto answer = AnnounceBySession(tracker, AnnounceOf(3), "b", "10.0.0.3");
  EXPECT_THAT(PeersIn(answer), ElementsAre("10.0.0.2:2", "10.0.0.1:1")) << "the same zone first";
  EXPECT_EQ(answer.interval_seconds(), 30U);
  const std::string http = Announce(tracker, "10.0.0.9", 9, "&left=5&zone=a&compact=0");
  EXPECT_THAT(http, HasSubstr("10.0.0.1"));
  EXPECT_THAT(http, HasSubstr("10.0.0.3"));
  EXPECT_THAT(http, HasSubstr("-BY0100-abcdefghijkl"));

  auto elsewhere = AnnounceOf(4);
  elsewhere.set_address("fd00::7");
  (void)AnnounceBySession(tracker, elsewhere, "b", "10.0.0.4");
  EXPECT_THAT(PeersIn(AnnounceBySession(tracker, AnnounceOf(3), "b", "10.0.0.3")), Contains("fd00::7:4"));
  EXPECT_THAT(PeersIn(AnnounceBySession(tracker, AnnounceOf(1, true, true), "a", "10.0.0.1")), IsEmpty());
  EXPECT_THAT(PeersIn(AnnounceBySession(tracker, AnnounceOf(3), "b", "10.0.0.3")), Not(Contains("10.0.0.1:1")));
}

TEST_F(TrackerTest, WhoCannotBeCalledIsToldOfOthersOnly) {
  Tracker tracker(Options());
  EXPECT_THAT(PeersIn(AnnounceBySession(tracker, AnnounceOf(0), "", "10.0.0.1")), IsEmpty());
  EXPECT_THAT(PeersIn(AnnounceBySession(tracker, AnnounceOf(2), "", "10.0.0.2")), IsEmpty());
  EXPECT_THAT(PeersIn(AnnounceBySession(tracker, AnnounceOf(0), "", "10.0.0.1")), ElementsAre("10.0.0.2:2"));
}

TEST_F(TrackerTest, WhatIsMalformedInASessionIsPassedOver) {
  Tracker tracker(Options());
  auto announce = AnnounceOf(1);
  announce.set_port(70'000);
  EXPECT_EQ(AnnounceBySession(tracker, announce, "", "10.0.0.1").swarms_size(), 0);
  announce = AnnounceOf(1);
  announce.set_peer_id("short");
  EXPECT_EQ(AnnounceBySession(tracker, announce, "", "10.0.0.1").swarms_size(), 0);
  announce = AnnounceOf(1);
  announce.mutable_swarms(0)->set_info_hash("short");
  EXPECT_EQ(AnnounceBySession(tracker, announce, "", "10.0.0.1").swarms_size(), 0);
  EXPECT_EQ(AnnounceBySession(tracker, AnnounceOf(1), "", "no address").swarms_size(), 0);
  EXPECT_THAT(Announce(tracker, "10.0.0.9", 9, "&left=5&compact=0"), HasSubstr("peersle"));
}

}  // namespace
}  // namespace banyan::tree_manager
