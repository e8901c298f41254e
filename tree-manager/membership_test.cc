// The rules of membership on a simulated clock: no test here waits.
#include "tree-manager/membership.h"

#include <map>
#include <set>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tree-manager/testing/cluster.h"

namespace banyan::tree_manager {
namespace {

using namespace std::chrono_literals;
using namespace proto::tree;

TEST(MembershipTest, ABurstTellsEachNodeOnce) {
  Cluster cluster;
  for (int i = 0; i < 64; ++i) cluster.Connect(fmt::format("n{}", i), {"f"});
  cluster.Run(100ms);
  cluster.ExpectToldTheTruth();
  for (int i = 0; i < 64; ++i) EXPECT_EQ(cluster.agent(fmt::format("n{}", i)).told["f"], 1U);
  // One more moves few, and whom it does not concern hears nothing.
  cluster.Connect("late", {"f"});
  cluster.Run(100ms);
  cluster.ExpectToldTheTruth();
  int told = 0;
  for (int i = 0; i < 64; ++i) told += cluster.agent(fmt::format("n{}", i)).told["f"] > 1 ? 1 : 0;
  EXPECT_GE(told, 1);
  EXPECT_LE(told, 24);
}

TEST(MembershipTest, ALeaverIsReplacedAtOnce) {
  Cluster cluster;
  cluster.Start(16);
  const std::string leaver = cluster.Interior();
  cluster.Leave(leaver, "f");
  cluster.Run(30ms);
  EXPECT_EQ(cluster.Members().size(), 15U);
  EXPECT_FALSE(cluster.Members().contains(leaver));
  cluster.ExpectToldTheTruth();
}

TEST(MembershipTest, SilenceMakesSuspectAndThenRemoves) {
  Cluster cluster;
  cluster.Start(16);
  const std::string dead = cluster.Interior();
  cluster.Run(1s);
  cluster.Silence(dead);
  cluster.Run(1800ms);
  EXPECT_EQ(cluster.Info(dead).state(), LIVE);  // one late beat is nothing
  EXPECT_FALSE(cluster.ChildrenOf(dead).empty());
  cluster.Run(1500ms);
  EXPECT_EQ(cluster.Info(dead).state(), SUSPECT);
  EXPECT_TRUE(cluster.ChildrenOf(dead).empty());
  EXPECT_TRUE(cluster.Members().contains(dead));
  cluster.Run(3700ms);
  EXPECT_FALSE(cluster.Members().contains(dead));  // within 10 s of the last beat
  EXPECT_EQ(cluster.ended_.size(), 1U);
  EXPECT_EQ(cluster.core().counters().removed, 1U);
  cluster.ExpectToldTheTruth();
}

TEST(MembershipTest, ASuspectThatBeatsIsTrustedAgain) {
  Cluster cluster;
  cluster.Start(16);
  const std::string node = cluster.Interior();
  cluster.Run(1s);
  cluster.Silence(node);
  cluster.Run(4s);
  ASSERT_EQ(cluster.Info(node).state(), SUSPECT);
  cluster.agent(node).silent = false;
  cluster.Run(1s);
  EXPECT_EQ(cluster.Info(node).state(), LIVE);
  EXPECT_TRUE(cluster.Members().contains(node));
  cluster.Run(20s);
  EXPECT_EQ(cluster.core().counters().removed, 0U);
}

TEST(MembershipTest, AChildsReportAndAMissedBeatRemove) {
  Cluster cluster;
  cluster.Start(16);
  const std::string dead = cluster.Interior();
  const std::string child = *cluster.ChildrenOf(dead).begin();
  cluster.Silence(dead);
  cluster.Run(1200ms);
  cluster.Report(child, dead, PeerReport::UNREACHABLE);
  cluster.Run(100ms);
  EXPECT_TRUE(cluster.Members().contains(dead));
  cluster.Run(1900ms);
  EXPECT_FALSE(cluster.Members().contains(dead));
  cluster.ExpectToldTheTruth();
}

TEST(MembershipTest, AReportAloneRemovesNobody) {
  Cluster cluster;
  cluster.Start(16);
  const std::string node = cluster.Interior();
  const std::set<std::string> children = cluster.ChildrenOf(node);
  for (int i = 0; i < 20; ++i) {
    cluster.Report(*children.begin(), node, PeerReport::UNREACHABLE);
    cluster.Run(1s);
  }
  EXPECT_TRUE(cluster.Members().contains(node));
  EXPECT_FALSE(cluster.Info(node).avoided());  // one reporter is one opinion
}

TEST(MembershipTest, AReportOfBeforeTheLastBeatProvesNothing) {
  Cluster cluster;
  cluster.Start(16);
  const std::string node = cluster.Interior();
  cluster.Report(*cluster.ChildrenOf(node).begin(), node, PeerReport::UNREACHABLE);
  cluster.Run(1s);  // it beats
  cluster.Silence(node);
  cluster.Run(2500ms);
  EXPECT_TRUE(cluster.Members().contains(node));
}

TEST(MembershipTest, ARestartedAgentGetsItsPlaceAgain) {
  Cluster cluster;
  cluster.Start(16);
  const std::string shape = cluster.Shape();
  const std::string node = cluster.Interior();
  cluster.Disconnect(node);
  cluster.Run(500ms);
  cluster.Report(*cluster.ChildrenOf(node).begin(), node, PeerReport::UNREACHABLE);
  cluster.Run(300ms);
  EXPECT_EQ(cluster.Info(node).state(), SUSPECT);
  cluster.Connect(node, {"f"});
  cluster.Run(15s);
  EXPECT_EQ(cluster.Shape(), shape);
  EXPECT_EQ(cluster.Info(node).state(), LIVE);
}

TEST(MembershipTest, AKilledAgentThatIsReportedIsGoneWithinSeconds) {
  Cluster cluster;
  cluster.Start(16);
  const std::string node = cluster.Interior();
  const std::string child = *cluster.ChildrenOf(node).begin();
  cluster.Disconnect(node);
  cluster.Report(child, node, PeerReport::UNREACHABLE);
  cluster.Run(1200ms);
  EXPECT_FALSE(cluster.Members().contains(node));
}

TEST(MembershipTest, AFunctionThatARestartedAgentDoesNotNameIsLeft) {
  Cluster cluster;
  cluster.Start(4);
  cluster.Join("n0", "g");
  cluster.Run(100ms);
  cluster.Disconnect("n0");
  cluster.Connect("n0", {"f"});
  EXPECT_TRUE(cluster.Members("g").contains("n0"));
  cluster.Run(11s);
  EXPECT_FALSE(cluster.Members("g").contains("n0"));
  EXPECT_TRUE(cluster.Members("f").contains("n0"));
}

TEST(MembershipTest, ManySilentAtOnceConvictNobody) {
  Cluster cluster;
  cluster.Start(20);
  const std::string shape = cluster.Shape();
  for (int i = 0; i < 6; ++i) cluster.Silence(fmt::format("n{}", i));
  cluster.Run(14s);
  EXPECT_EQ(cluster.Shape(), shape);
  EXPECT_EQ(cluster.core().counters().doubts, 1U);
  for (int i = 0; i < 6; ++i) cluster.agent(fmt::format("n{}", i)).silent = false;
  cluster.Run(30s);
  EXPECT_EQ(cluster.Members().size(), 20U);
  EXPECT_EQ(cluster.core().counters().removed, 0U);
}

TEST(MembershipTest, DoubtEnds) {
  Cluster cluster;
  cluster.Start(20);
  for (int i = 0; i < 6; ++i) cluster.Silence(fmt::format("n{}", i));
  cluster.Run(20s);
  EXPECT_EQ(cluster.Members().size(), 14U);
  cluster.ExpectToldTheTruth();
}

TEST(MembershipTest, InDoubtTwoWitnessesStillConvict) {
  Cluster cluster;
  cluster.Start(20);
  const std::string dead = cluster.Interior();
  const std::set<std::string> children = cluster.ChildrenOf(dead);
  std::string witness;
  cluster.Silence(dead);
  int silenced = 1;
  for (const std::string& name : cluster.Members()) {
    if (name == dead) continue;
    if (children.contains(name) && witness.empty()) {
      witness = name;
    } else if (silenced < 6) {
      cluster.Silence(name);
      ++silenced;
    }
  }
  cluster.Run(3s);
  ASSERT_EQ(cluster.core().counters().doubts, 1U);
  cluster.Report(witness, dead, PeerReport::UNREACHABLE);
  cluster.Run(200ms);
  EXPECT_EQ(cluster.Members().size(), 19U);
  EXPECT_FALSE(cluster.Members().contains(dead));
}

TEST(MembershipTest, AWholeZoneIsDoubted) {
  Cluster cluster;
  cluster.Start(30, "a");
  cluster.Start(3, "b");
  for (int i = 0; i < 3; ++i) cluster.Silence(fmt::format("bn{}", i));
  cluster.Run(12s);
  EXPECT_EQ(cluster.Members().size(), 33U);
  EXPECT_EQ(cluster.core().counters().doubts, 1U);
}

TEST(MembershipTest, WhoHearsNobodyRemovesNobody) {
  Cluster cluster;
  cluster.Start(8);
  const std::string shape = cluster.Shape();
  for (int i = 0; i < 8; ++i) cluster.Silence(fmt::format("n{}", i));
  cluster.Run(600s);
  EXPECT_EQ(cluster.Shape(), shape);
}

TEST(MembershipTest, WhatTheManagerSleptThroughDoesNotCount) {
  Cluster cluster;
  cluster.Start(2);  // too few for self-doubt
  for (int i = 0; i < 60; ++i) {
    cluster.Stall(8s, "n0");
    cluster.Run(300ms);
  }
  EXPECT_EQ(cluster.core().counters().removed, 0U);
  EXPECT_EQ(cluster.Members().size(), 2U);
}

TEST(MembershipTest, WhatTheManagerSleptThroughDoesNotMakeAReportOld) {
  Cluster cluster;
  cluster.Start(16);
  const std::string node = cluster.Interior();
  const std::string child = *cluster.ChildrenOf(node).begin();
  cluster.Disconnect(node);
  cluster.Report(child, node, PeerReport::UNREACHABLE);
  cluster.Run(100ms);
  cluster.Stall(3s, child);
  cluster.Run(1500ms);
  EXPECT_FALSE(cluster.Members().contains(node));
}

TEST(MembershipTest, ThreeReportersDemoteForTenMinutes) {
  Cluster cluster;
  cluster.Start(16);
  const std::string liar = cluster.Interior();
  std::vector<std::string> others;
  for (const std::string& name : cluster.Members()) {
    if (name != liar) others.push_back(name);
  }
  cluster.Report(others[0], liar, PeerReport::BAD_BYTES);
  cluster.Report(others[0], liar, PeerReport::BAD_BYTES);
  cluster.Report(others[1], liar, PeerReport::SLOW);
  cluster.Run(1s);
  EXPECT_FALSE(cluster.Info(liar).avoided());
  EXPECT_EQ(cluster.Info(liar).reports(), 2U);
  cluster.Report(others[2], liar, PeerReport::BAD_BYTES);
  cluster.Run(1s);
  EXPECT_TRUE(cluster.Info(liar).avoided());
  EXPECT_TRUE(cluster.ChildrenOf(liar).empty());
  EXPECT_EQ(cluster.Info(liar).state(), LIVE);
  cluster.ExpectToldTheTruth();
  cluster.Run(9min);
  for (int i = 0; i < 16; ++i) cluster.Join(fmt::format("n{}", i), "f");  // in use
  EXPECT_TRUE(cluster.Info(liar).avoided());
  cluster.Run(2min);
  EXPECT_FALSE(cluster.Info(liar).avoided());
  EXPECT_EQ(cluster.Info(liar).reports(), 0U);
}

TEST(MembershipTest, ReportsOfMoreThanTenMinutesDoNotAddUp) {
  Cluster cluster;
  cluster.Start(8);
  for (int i = 1; i <= 4; ++i) {
    cluster.Report(fmt::format("n{}", i), "n0", PeerReport::SLOW);
    cluster.Run(6min);
    for (int j = 0; j < 8; ++j) cluster.Join(fmt::format("n{}", j), "f");
    EXPECT_FALSE(cluster.Info("n0").avoided());
  }
}

TEST(MembershipTest, ReportsAreOnlyTakenFromMembersAboutMembers) {
  Cluster cluster;
  cluster.Start(4);
  cluster.Connect("stranger");
  for (const char* peer : {"n0", "nobody", ""}) cluster.Report("stranger", peer, PeerReport::LIED);
  cluster.Report("n1", "stranger", PeerReport::LIED);
  cluster.Report("n1", "n1", PeerReport::LIED);
  cluster.Report("n1", "n0", PeerReport::UNKNOWN);
  EXPECT_EQ(cluster.core().counters().reports[PeerReport::LIED], 0U);
  EXPECT_EQ(cluster.Info("n0").reports(), 0U);
}

TEST(MembershipTest, APeerThatBeatsAndIsReachedByNobodyIsDemoted) {
  Cluster cluster;
  cluster.Start(8);
  for (int i = 1; i <= 3; ++i) cluster.Report(fmt::format("n{}", i), "n0", PeerReport::UNREACHABLE);
  cluster.Run(2s);
  EXPECT_FALSE(cluster.Info("n0").avoided());
  cluster.Run(3s);
  EXPECT_TRUE(cluster.Info("n0").avoided());
  EXPECT_TRUE(cluster.Members().contains("n0"));
}

TEST(MembershipTest, WithoutAPortANodeIsALeaf) {
  Cluster cluster;
  cluster.Connect("leaf", {"f"}, "", 0);
  cluster.Start(8);
  EXPECT_TRUE(cluster.ChildrenOf("leaf").empty());
}

TEST(MembershipTest, ADrainedNodeFeedsNobodyAlsoAfterARestart) {
  Cluster cluster;
  cluster.Start(16);
  const std::string node = cluster.Interior();
  const auto reply = cluster.core().Drain(node, false, cluster.now());
  ASSERT_TRUE(reply);
  EXPECT_GT(reply->moved(), 0U);
  cluster.Run(100ms);
  EXPECT_EQ(cluster.Info(node).state(), DRAINING);
  EXPECT_TRUE(cluster.ChildrenOf(node).empty());
  cluster.ExpectToldTheTruth();
  const std::string shape = cluster.Shape();
  cluster.Restart(true);
  EXPECT_EQ(cluster.Shape(), shape);
  cluster.Start(16);
  EXPECT_EQ(cluster.Shape(), shape);
  EXPECT_TRUE(cluster.ChildrenOf(node).empty());
  ASSERT_TRUE(cluster.core().Drain(node, true, cluster.now()));
  EXPECT_EQ(cluster.Info(node).state(), LIVE);
  EXPECT_EQ(cluster.core().Drain("nobody", false, cluster.now()).error().code, Code::kNotFound);
}

TEST(MembershipTest, ARestartMovesNobody) {
  for (const int nodes : {1, 2, 3, 16, 33}) {
    Cluster cluster;
    cluster.Start(nodes, "a");
    cluster.Start(5, "b");
    for (int i = 0; i < nodes; i += 3) cluster.Leave(fmt::format("an{}", i), "f");
    cluster.Run(5s);
    const std::string shape = cluster.Shape();
    const uint64_t epoch = cluster.agent("bn0").epoch;
    const uint64_t version = cluster.agent("bn0").assignments["f"].version();
    cluster.Restart(true);
    EXPECT_EQ(cluster.Shape(), shape);
    EXPECT_EQ(cluster.Info("bn0").state(), AWAY);
    cluster.Run(10s);  // they take their time
    for (int i = 0; i < nodes; ++i) {
      if (i % 3 != 0) cluster.Connect(fmt::format("an{}", i), {"f"}, "a");
    }
    for (int i = 0; i < 5; ++i) cluster.Connect(fmt::format("bn{}", i), {"f"}, "b");
    cluster.Run(100ms);
    EXPECT_EQ(cluster.Shape(), shape);
    EXPECT_EQ(cluster.agent("bn0").epoch, epoch);
    EXPECT_GT(cluster.agent("bn0").assignments["f"].version(), version);
    cluster.ExpectToldTheTruth();
    cluster.Run(60s);
    EXPECT_EQ(cluster.core().counters().removed, nodes > 1 ? (nodes + 2) / 3 : 1U);  // who left f did not come back
  }
}

TEST(MembershipTest, WhoIsNotBackAfterARestartIsRemovedInTheEnd) {
  Cluster cluster;
  cluster.Start(16);
  cluster.Restart(true);
  for (int i = 0; i < 15; ++i) cluster.Connect(fmt::format("n{}", i), {"f"});
  cluster.Run(14s);
  EXPECT_EQ(cluster.Members().size(), 16U);
  cluster.Run(2s);
  EXPECT_EQ(cluster.Members().size(), 15U);
  cluster.ExpectToldTheTruth();
}

TEST(MembershipTest, LostStateBeginsANewEpoch) {
  Cluster cluster;
  cluster.Start(8);
  const Assignment known = cluster.agent("n0").assignments["f"];
  cluster.Restart(false);
  Cluster::Agent& agent = cluster.agent("n0");
  agent.session = cluster.core().Open("10.0.0.1", cluster.now());
  NodeMessage message;
  message.mutable_hello()->set_node("n0");
  message.mutable_hello()->set_port(7000);
  message.mutable_hello()->add_functions()->set_function("f");
  *message.mutable_hello()->mutable_functions(0)->mutable_known() = known;
  message.mutable_hello()->mutable_functions(0)->mutable_known()->set_version(known.version() + 100);
  cluster.Send("n0", message);
  cluster.Run(100ms);
  EXPECT_GT(agent.epoch, known.epoch());
  EXPECT_EQ(agent.assignments["f"].epoch(), agent.epoch);
}

TEST(MembershipTest, IdleMembersAreReclaimedAndMayComeBack) {
  Cluster cluster;
  cluster.Start(4);
  cluster.Hold("n0", "f", 500, false);
  cluster.Run(14min);
  cluster.Join("n1", "f");
  cluster.Hold("n2", "f", 300, true);  // more than before: use
  cluster.Hold("n3", "f", 0, true);    // ready, and nothing new: none
  cluster.Run(90s);
  EXPECT_EQ(cluster.Members(), (std::set<std::string>{"n1", "n2"}));
  EXPECT_EQ(cluster.agent("n0").assignments["f"].stripes_size(), 0);
  EXPECT_EQ(cluster.core().counters().reclaimed, 2U);
  cluster.Join("n0", "f");
  cluster.Run(100ms);
  EXPECT_TRUE(cluster.Members().contains("n0"));
  EXPECT_EQ(cluster.agent("n0").assignments["f"].stripes_size(), 2);
  cluster.ExpectToldTheTruth();
}

TEST(MembershipTest, ANewAddressReachesThoseItFeeds) {
  Cluster cluster;
  cluster.Start(16);
  const std::string node = cluster.Interior();
  const std::string child = *cluster.ChildrenOf(node).begin();
  cluster.Disconnect(node);
  cluster.Connect(node, {"f"}, "", 7001);
  cluster.Run(100ms);
  bool seen = false;
  for (const StripeParents& stripe : cluster.agent(child).assignments["f"].stripes()) {
    seen |= stripe.parent().node() == node && stripe.parent().port() == 7001;
  }
  EXPECT_TRUE(seen);
}

TEST(MembershipTest, TheSwitchIsKept) {
  Cluster cluster;
  cluster.Start(2);
  cluster.core().SetPeerToPeer(false);
  cluster.Run(10ms);
  EXPECT_FALSE(cluster.agent("n0").peer_to_peer);
  cluster.Restart(true);
  cluster.Start(2);
  EXPECT_FALSE(cluster.agent("n0").peer_to_peer);
  EXPECT_FALSE(cluster.core().Nodes(cluster.now()).peer_to_peer());
}

TEST(MembershipTest, ProfilesGrowWithABurstAndAreKept) {
  Cluster cluster;
  cluster.Start(2);
  cluster.Touch("n0", {9, 4});
  cluster.Run(200ms);
  EXPECT_EQ(cluster.agent("n1").profiles["f"].chunks().chunk_size(), 2);
  EXPECT_TRUE(cluster.agent("n1").profiles["f"].provisional());
  const uint64_t version = cluster.agent("n1").profiles["f"].version();
  cluster.Touch("n1", {4, 5});
  cluster.Run(200ms);
  EXPECT_EQ(cluster.agent("n0").profiles["f"].chunks().chunk_size(), 3);
  EXPECT_GT(cluster.agent("n0").profiles["f"].version(), version);
  cluster.Run(61s);
  EXPECT_FALSE(cluster.agent("n0").profiles["f"].provisional());
  cluster.Restart(true);
  cluster.Connect("late", {"f"});
  cluster.Run(100ms);
  EXPECT_EQ(cluster.agent("late").profiles["f"].chunks().chunk_size(), 3);
  EXPECT_FALSE(cluster.agent("late").profiles["f"].provisional());
}

TEST(MembershipTest, NonsenseIsRefusedOrPassedOver) {
  Cluster cluster;
  cluster.Start(2);
  const auto hello = [&](auto change) {
    NodeMessage message;
    message.mutable_hello()->set_node("x");
    change(*message.mutable_hello());
    const SessionId session = cluster.core().Open("", cluster.now());
    const Status status = cluster.core().OnMessage(session, message, cluster.now());
    return status ? Code{} : status.error().code;
  };
  EXPECT_EQ(hello([](Hello& h) { h.set_node(""); }), Code::kInvalidArgument);
  EXPECT_EQ(hello([](Hello& h) { h.set_node(std::string(256, 'x')); }), Code::kInvalidArgument);
  EXPECT_EQ(hello([](Hello& h) { h.set_node("a\nb"); }), Code::kInvalidArgument);
  EXPECT_EQ(hello([](Hello& h) { h.set_address("peer.example"); }), Code::kInvalidArgument);
  EXPECT_EQ(hello([](Hello& h) { h.set_port(70'000); }), Code::kInvalidArgument);
  EXPECT_EQ(hello([](Hello& h) { h.set_zone(std::string(300, 'z')); }), Code::kInvalidArgument);
  cluster.Join("n0", std::string(256, 'f'));
  cluster.Join("n0", "");
  EXPECT_EQ(cluster.core().counters().refused, 2U);
  cluster.Leave("n0", "no such function");
  cluster.Hold("n0", "no such function", 1, true);
  cluster.Hold("n0", "f", 5000, true);
  EXPECT_EQ(cluster.core().Tree("f")->nodes_size(), 2);
  NodeMessage nothing;
  cluster.Send("n0", nothing);
}

TEST(MembershipTest, ASessionWithoutAHelloIsEnded) {
  Cluster cluster;
  const SessionId session = cluster.core().Open("", cluster.now());
  cluster.Run(11s);
  ASSERT_EQ(cluster.ended_.size(), 1U);
  EXPECT_EQ(cluster.ended_[0].first, session);
}

TEST(MembershipTest, FunctionsAreFoundByNamePrefixAndReference) {
  Cluster cluster;
  const std::string first = "sha256:" + std::string(64, 'a');
  const std::string second = "sha256:ab" + std::string(62, 'c');
  cluster.Connect("n0", {first, second});
  NodeMessage message;
  message.mutable_join()->set_function("web");
  message.mutable_join()->set_reference("registry.example/web:1");
  cluster.Send("n0", message);
  cluster.Run(100ms);
  EXPECT_EQ(cluster.core().Tree("aa")->function().function(), first);
  EXPECT_EQ(cluster.core().Tree("sha256:ab")->function().function(), second);
  EXPECT_EQ(cluster.core().Tree("registry.example/web:1")->function().function(), "web");
  EXPECT_EQ(cluster.core().Tree("a").error().code, Code::kInvalidArgument);
  EXPECT_EQ(cluster.core().Tree("zzz").error().code, Code::kNotFound);
  EXPECT_EQ(cluster.core().Functions().functions_size(), 3);
}

TEST(MembershipTest, WatchersCanFollowTheTrees) {
  Cluster cluster;
  cluster.SetWatch(true);
  std::map<std::string, std::string> seen;  // node → parents, as a watcher puts them together
  const auto follow = [&] {
    for (const WatchEvent& event : std::exchange(cluster.events_, {})) {
      if (event.event_case() == WatchEvent::kFunctionGone) seen.clear();
      for (const std::string& gone : event.tree().gone()) seen.erase(gone);
      for (const TreeNode& node : event.tree().nodes()) {
        std::string& parents = seen[node.node()];
        parents.clear();
        for (const std::string& parent : node.parents()) parents += parent + ",";
      }
    }
    std::string text;
    for (const auto& [node, parents] : seen) text += node + ":" + parents + " ";
    return text;
  };
  cluster.Start(16);
  EXPECT_EQ(follow(), cluster.Shape());
  cluster.Leave("n3", "f");
  cluster.Leave("n0", "f");
  cluster.Connect("late", {"f"});
  cluster.Run(5s);
  EXPECT_EQ(follow(), cluster.Shape());
  for (const std::string& name : cluster.Members()) cluster.Leave(name, "f");
  cluster.Run(100ms);
  EXPECT_EQ(follow(), "");
}

// What nodes hold, where their bytes come from and how they are: within half a second, and only where it changed.
TEST(MembershipTest, WatchersSeeMembersChange) {
  Cluster cluster;
  cluster.SetWatch(true);
  cluster.Start(16);
  cluster.Run(1s);
  std::map<std::string, TreeNode> seen;
  const auto follow = [&] {
    seen.clear();
    for (const WatchEvent& event : std::exchange(cluster.events_, {})) {
      for (const TreeNode& node : event.tree().nodes()) seen[node.node()] = node;
    }
  };
  follow();
  NodeMessage message;
  Holding& holding = *message.mutable_heartbeat()->add_holdings();
  holding.set_function("f");
  holding.set_present_permille(400);
  holding.set_blob_bytes(123);
  Feed& feed = *message.mutable_heartbeat()->add_feeds();
  feed.set_function("f");
  feed.set_stripe(1);
  feed.set_demand(1000);
  Feed& stranger = *message.mutable_heartbeat()->add_feeds();
  stranger.set_function("g");
  cluster.Send("n3", message);
  cluster.Run(600ms);
  follow();
  ASSERT_TRUE(seen.contains("n3"));
  EXPECT_EQ(seen.size(), 1U);
  EXPECT_EQ(seen["n3"].present_permille(), 400U);
  ASSERT_EQ(seen["n3"].feeds_size(), 1);
  EXPECT_EQ(seen["n3"].feeds(0).demand(), 1000U);
  EXPECT_EQ(cluster.core().Functions().functions(0).blob_bytes(), 123U);

  cluster.Run(1500ms);  // beats without feeds
  follow();
  ASSERT_TRUE(seen.contains("n3"));
  EXPECT_EQ(seen["n3"].feeds_size(), 0);

  cluster.Disconnect("n5");
  cluster.Run(600ms);
  follow();
  ASSERT_TRUE(seen.contains("n5"));
  EXPECT_EQ(seen["n5"].state(), SUSPECT);
}

// A slow session: what it has not taken is not piled up.
TEST(MembershipTest, TheLatestAssignmentWins) {
  Cluster cluster;
  cluster.Start(8);
  cluster.agent("n0").silent = true;  // takes nothing
  for (int i = 0; i < 200; ++i) {
    cluster.Join("n0", "g");
    cluster.Join(fmt::format("n{}", 1 + i % 7), "g");
    cluster.Leave(fmt::format("n{}", 1 + (i + 3) % 7), "g");
    cluster.Run(30ms);
    NodeMessage beat;
    beat.mutable_heartbeat();
    cluster.Send("n0", beat);
  }
  int messages = 0;
  while (cluster.core().Next(cluster.agent("n0").session)) ++messages;
  EXPECT_EQ(messages, 1);
}

}  // namespace
}  // namespace banyan::tree_manager
