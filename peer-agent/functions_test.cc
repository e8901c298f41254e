#include "peer-agent/functions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "common/file_io.h"

namespace banyan::peer_agent {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using namespace std::chrono_literals;

constexpr char kFunction[] = "sha256:00000000000000000000000000000000000000000000000000000000000000aa";
constexpr char kReference[] = "docker://registry.example/app:1";

proto::tree::Assignments Assigned(uint64_t epoch, uint64_t version, const std::string& parent) {
  proto::tree::Assignments assignments;
  proto::tree::Assignment& one = *assignments.add_assignments();
  one.set_function(kFunction);
  one.set_epoch(epoch);
  one.set_version(version);
  proto::tree::StripeParents& stripe = *one.add_stripes();
  if (!parent.empty()) {
    stripe.mutable_parent()->set_node(parent);
    stripe.mutable_parent()->set_address("10.0.0.1");
    stripe.mutable_parent()->set_port(4640);
  }
  proto::tree::Peer& self = *stripe.add_spares();
  self.set_node("me");
  proto::tree::Peer& spare = *stripe.add_spares();
  spare.set_node("spare");
  return assignments;
}

class FunctionsTest : public ::testing::Test {
 protected:
  FunctionsTest() { Restart(); }
  void Restart() {
    functions_ =
        std::make_unique<Functions>("me", dir_->path() + "/trees.pb", blobs_, [this](proto::tree::NodeMessage message) {
          if (message.has_join()) sent_.push_back("join");
          if (message.has_leave()) sent_.push_back("leave");
        });
    functions_->Load();
  }
  std::string Parent() {
    const auto routes = functions_->RoutesOf(kFunction);
    if (!routes) return "no routes";
    return routes->stripes.at(0).parent ? routes->stripes.at(0).parent->node : "proxy";
  }

  Result<TempDir> dir_ = TempDir::Make("banyan-functions");
  BlobFunctions blobs_;
  std::vector<std::string> sent_;
  std::unique_ptr<Functions> functions_;
};

TEST_F(FunctionsTest, JoinsOnceAndFollowsTheManager) {
  EXPECT_EQ(Parent(), "no routes");
  functions_->Join(kFunction, kReference);
  functions_->Join(kFunction, kReference);
  EXPECT_THAT(sent_, ElementsAre("join"));
  EXPECT_TRUE(functions_->IsJoined(kFunction));
  EXPECT_FALSE(functions_->WaitForRoutes(kFunction, 1ms));
  functions_->Apply(Assigned(7, 1, "a"));
  EXPECT_TRUE(functions_->WaitForRoutes(kFunction, 1ms));
  EXPECT_EQ(Parent(), "a");
  const auto routes = functions_->RoutesOf(kFunction);
  ASSERT_EQ(routes->stripes.at(0).spares.size(), 1U) << "a node is no spare of its own";
  EXPECT_EQ(routes->stripes.at(0).spares[0].node, "spare");
}

TEST_F(FunctionsTest, ObeysOnlyWhatIsNewer) {
  functions_->Join(kFunction, kReference);
  functions_->Apply(Assigned(7, 5, "a"));
  functions_->Apply(Assigned(7, 4, "b"));
  functions_->Apply(Assigned(6, 9, "c"));
  EXPECT_EQ(Parent(), "a");
  functions_->Apply(Assigned(8, 1, ""));
  EXPECT_EQ(Parent(), "proxy");
}

TEST_F(FunctionsTest, TreesStandWhenNoParentHasChangedForAWhile) {
  const auto waited = [&] {
    const auto begun = std::chrono::steady_clock::now();
    functions_->WaitUntilSettled(kFunction, 300ms, 10s);
    return std::chrono::steady_clock::now() - begun;
  };
  functions_->Join(kFunction, kReference);
  functions_->Apply(Assigned(7, 1, "a"));
  EXPECT_GT(waited(), 200ms);
  functions_->Apply(Assigned(7, 2, "a"));
  EXPECT_LT(waited(), 200ms) << "the same parent";
  functions_->Apply(Assigned(7, 3, "b"));
  EXPECT_GT(waited(), 200ms);
}

TEST_F(FunctionsTest, AMembershipThatTheManagerEndedIsForgotten) {
  functions_->Join(kFunction, kReference);
  functions_->Apply(Assigned(7, 1, "a"));
  proto::tree::Assignments ended;
  ended.add_assignments()->set_function(kFunction);
  ended.mutable_assignments(0)->set_epoch(7);
  ended.mutable_assignments(0)->set_version(2);
  functions_->Apply(ended);
  EXPECT_FALSE(functions_->IsJoined(kFunction));
  EXPECT_EQ(Parent(), "no routes");
  functions_->Join(kFunction, kReference);
  EXPECT_THAT(sent_, ElementsAre("join", "join"));
}

TEST_F(FunctionsTest, ParentsSurviveARestart) {
  functions_->Join(kFunction, kReference);
  functions_->Apply(Assigned(7, 1, "a"));
  EXPECT_TRUE(functions_->dirty());
  functions_->Save();
  EXPECT_FALSE(functions_->dirty());
  Restart();
  EXPECT_EQ(Parent(), "a");
  EXPECT_EQ(functions_->ReferenceOf(kFunction), kReference);
  const auto joins = functions_->Joins();
  ASSERT_EQ(joins.size(), 1U);
  EXPECT_EQ(joins[0].known().version(), 1U);
  functions_->Apply(Assigned(7, 1, "b"));
  EXPECT_EQ(Parent(), "a");
}

TEST_F(FunctionsTest, ADamagedStateFileIsNone) {
  ASSERT_TRUE(WriteFileDurably(dir_->path() + "/trees.pb", "\xff\xff\xff"));
  Restart();
  EXPECT_THAT(functions_->Joins(), IsEmpty());
}

TEST_F(FunctionsTest, SwitchedOffThereAreNoPeers) {
  functions_->Join(kFunction, kReference);
  functions_->Apply(Assigned(7, 1, "a"));
  functions_->SetFleetSwitch(false);
  EXPECT_EQ(Parent(), "no routes");
  EXPECT_FALSE(functions_->IsJoined(kFunction));
  functions_->SetFleetSwitch(true);
  EXPECT_EQ(Parent(), "a");
  // The node's own switch leaves the trees, so that nobody is sent here; the next use joins again.
  functions_->SetNodeSwitch(false);
  EXPECT_EQ(Parent(), "no routes");
  EXPECT_THAT(functions_->Joins(), IsEmpty());
  EXPECT_THAT(sent_, ElementsAre("join", "leave"));
  functions_->SetNodeSwitch(true);
  EXPECT_EQ(Parent(), "no routes");
  EXPECT_THAT(sent_, ElementsAre("join", "leave", "join"));
  functions_->Apply(Assigned(7, 2, "b"));
  EXPECT_EQ(Parent(), "b");
}

TEST_F(FunctionsTest, PeersSeeOnlyWhatIsOfTheFunction) {
  const Digest map = Digest::Of("map");
  const Digest other = Digest::Of("other");
  using Kind = PeerCatalog::Found::Kind;
  EXPECT_EQ(functions_->Find(kFunction, map).kind, Kind::kNone);
  functions_->Join(kFunction, kReference);
  blobs_.Add(map, kFunction);
  EXPECT_EQ(functions_->Find(kFunction, map).kind, Kind::kWhole);
  EXPECT_EQ(functions_->Find(kFunction, other).kind, Kind::kPending) << "its map may name it";
  functions_->AddImage(kFunction, {}, {});
  blobs_.Add(other, "sha256:another");
  EXPECT_NE(functions_->Find(kFunction, other).kind, Kind::kWhole);
}

TEST_F(FunctionsTest, HoldersComeAndGo) {
  proto::tree::Holders holders;
  holders.set_function(kFunction);
  for (const char* name : {"me", "a", "b"}) holders.add_peers()->set_node(name);
  functions_->Apply(holders);  // of a function that is not joined
  functions_->Join(kFunction, kReference);
  functions_->Apply(holders);
  functions_->Apply(Assigned(7, 1, "p"));
  ASSERT_EQ(functions_->RoutesOf(kFunction)->holders.size(), 2U) << "a node does not ask itself";
  EXPECT_EQ(functions_->RoutesOf(kFunction)->holders[0].node, "a");
  functions_->Apply(Assigned(7, 2, "q"));
  EXPECT_EQ(functions_->RoutesOf(kFunction)->holders.size(), 2U);
  EXPECT_EQ(Parent(), "q");
  for (int i = 0; i < 1000; ++i) holders.add_peers()->set_node(std::to_string(i));
  functions_->Apply(holders);
  EXPECT_LE(functions_->RoutesOf(kFunction)->holders.size(), 16U);
  holders.clear_peers();
  functions_->Apply(holders);
  EXPECT_THAT(functions_->RoutesOf(kFunction)->holders, IsEmpty());
}

TEST_F(FunctionsTest, AHostileProfileIsTakenForWhatItIs) {
  functions_->Join(kFunction, kReference);
  functions_->Apply(Assigned(7, 1, "a"));
  const Digest blob = Digest::Of("layer");
  proto::tree::Profile profile;
  profile.set_function(kFunction);
  profile.set_version(1);
  proto::tree::ChunkList& chunks = *profile.mutable_chunks();
  chunks.add_blobs(blob.ToString());
  chunks.add_blobs("no digest");
  const std::vector<std::pair<uint32_t, uint32_t>> items = {{0, 3}, {1, 4}, {9, 5}, {0, UINT32_MAX}, {0, 6}};
  for (const auto& [index, chunk] : items) {
    chunks.add_blob(index);
    chunks.add_chunk(chunk);
  }
  chunks.add_chunk(7);
  profile.set_provisional(true);
  functions_->Apply(profile);
  EXPECT_FALSE(functions_->RoutesOf(kFunction)->profile) << "in a burst all goes by tree";
  EXPECT_EQ(functions_->counts().profile_chunks, 2U);
  profile.set_provisional(false);
  profile.set_version(2);
  functions_->Apply(profile);
  const auto routes = functions_->RoutesOf(kFunction);
  ASSERT_TRUE(routes->profile);
  EXPECT_TRUE(routes->profile->Contains(blob, 3));
  EXPECT_TRUE(routes->profile->Contains(blob, 6));
  EXPECT_FALSE(routes->profile->Contains(blob, 7));
  EXPECT_EQ(functions_->counts().profile_chunks, 2U);
}

}  // namespace
}  // namespace banyan::peer_agent
