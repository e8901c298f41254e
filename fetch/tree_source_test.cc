#include "fetch/tree_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include <fmt/format.h>

#include "fetch/testing/fake_source.h"
#include "fetch/testing/scripted_peer.h"
#include "fetch/testing/test_layer.h"
#include "net/http_server.h"
#include "net/range_header.h"

namespace banyan::fetch {
namespace {

using namespace std::chrono_literals;

using ::testing::ElementsAre;

using ::testing::IsEmpty;

using testing::FakeSource;
using testing::MakeTestLayer;
using ::testing::Pair;
using testing::ScriptedPeer;
using testing::TestLayer;

class Reports final : public PeerReports {
 public:
  void Report(const std::string& function, const std::string& node, PeerFault fault, const std::string&) override {
    EXPECT_EQ(function, "sha256:f");
    const std::lock_guard lock(mutex_);
    reports_.emplace_back(node, fault);
  }
  std::vector<std::pair<std::string, PeerFault>> all() const {
    const std::lock_guard lock(mutex_);
    return reports_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::pair<std::string, PeerFault>> reports_;  // guarded by mutex_
};

// A request's answers.
struct Answers {
  std::mutex mutex;
  std::condition_variable came;
  std::map<ChunkIndex, Result<ChunkBytes>> chunks;        // guarded by mutex
  std::vector<std::pair<std::string, bool>> failed_ways;  // guarded by mutex
  bool WaitFor(size_t count) {
    std::unique_lock lock(mutex);
    return came.wait_for(lock, 20s, [&] { return chunks.size() >= count; });
  }
};

class TreeSourceTest : public ::testing::Test {
 protected:
  TreeSourceTest() { Open({}); }
  ~TreeSourceTest() override { Close(); }

  void Open(PeerClient::Options options) {
    Close();
    http_ = std::make_unique<net::HttpClient>();
    options.http = http_.get();
    options.timer = &timer_;
    options.waits = &waits_;
    options.reports = &reports_;
    options.node = "me";
    options.token = "secret";
    client_ = std::make_unique<PeerClient>(options);
    source_ = std::make_unique<TreeSource>(
        *client_, [this] { return CurrentRoutes(); }, origins_);
  }
  void Close() {
    source_.reset();
    http_.reset();
    client_.reset();
  }
  void Route(std::optional<PeerAddress> parent, std::vector<PeerAddress> spares = {}) {
    auto routes = std::make_shared<Routes>();
    routes->function = "sha256:f";
    routes->stripes.push_back({std::move(parent), std::move(spares)});
    SetRoutes(routes);
  }
  void SetRoutes(std::shared_ptr<const Routes> routes) {
    const std::lock_guard lock(routes_mutex_);
    routes_ = std::move(routes);
  }
  std::shared_ptr<const Routes> CurrentRoutes() {
    const std::lock_guard lock(routes_mutex_);
    return routes_;
  }

  std::shared_ptr<Answers> Ask(ChunkRange chunks, Priority priority = Priority::kPrefetch, Clock::duration time = 30s,
                               uint8_t lane = 0, std::optional<uint8_t> home = {}) {
    auto answers = std::make_shared<Answers>();
    ChunkRequest request;
    request.device = layer_.device;
    request.chunks = chunks;
    request.priority = priority;
    request.lane = lane;
    request.home = home.value_or(lane);
    request.deadline = Clock::now() + time;
    request.on_way_failed = [answers](std::string_view way, bool bad) {
      const std::lock_guard lock(answers->mutex);
      answers->failed_ways.emplace_back(way, bad);
    };
    source_->Fetch(std::move(request), [answers](ChunkIndex chunk, Result<ChunkBytes> answer) {
      const std::lock_guard lock(answers->mutex);
      EXPECT_TRUE(answers->chunks.emplace(chunk, std::move(answer)).second) << "answered twice";
      answers->came.notify_all();
    });
    return answers;
  }
  // Waits for all of them, checks the bytes, and says where they came from.
  std::vector<std::string> From(Answers& answers, ChunkRange chunks) {
    EXPECT_TRUE(answers.WaitFor(chunks.size()));
    std::vector<std::string> from;
    const std::lock_guard lock(answers.mutex);
    for (const auto& [chunk, answer] : answers.chunks) {
      if (!answer) {
        ADD_FAILURE() << answer.error().message;
        continue;
      }
      EXPECT_TRUE(*answer == layer_.Compressed(chunk)) << chunk;
      from.emplace_back(answer->from.empty() ? "origins" : answer->from);
    }
    return from;
  }
  std::vector<std::string> Fetched(ChunkRange chunks, Priority priority = Priority::kPrefetch) {
    return From(*Ask(chunks, priority), chunks);
  }

  TestLayer layer_ = MakeTestLayer(std::vector<uint32_t>(16, 4));
  ThreadTimer timer_;
  WaitTable waits_;
  Reports reports_;
  ScriptedPeer parent_{layer_, "parent-node"};
  ScriptedPeer spare_{layer_, "spare-node"};
  ScriptedPeer other_{layer_, "other-node"};
  std::shared_ptr<FakeSource> origins_ = std::make_shared<FakeSource>(layer_);
  std::mutex routes_mutex_;
  std::shared_ptr<const Routes> routes_;  // guarded by routes_mutex_
  std::unique_ptr<net::HttpClient> http_;
  std::unique_ptr<PeerClient> client_;
  std::unique_ptr<TreeSource> source_;
};

TEST_F(TreeSourceTest, AsksTheParentWithAllItNeedsToKnow) {
  Route(parent_.address(), {spare_.address()});
  EXPECT_THAT(Fetched({2, 5}), ElementsAre("parent", "parent", "parent"));
  EXPECT_THAT(Fetched({5, 6}, Priority::kDemand), ElementsAre("parent"));
  EXPECT_THAT(Fetched({6, 7}, Priority::kFill), ElementsAre("parent"));
  const auto seen = parent_.seen();
  ASSERT_EQ(seen.size(), 3U);
  const auto& chunks = layer_.device->chunks;
  EXPECT_EQ(seen[0].range, (ByteRange{chunks[2].blob_range().begin, chunks[4].blob_range().end}));
  EXPECT_EQ(seen[0].node, "me");
  EXPECT_EQ(seen[0].token, "Bearer secret");
  EXPECT_EQ(seen[0].function, "sha256:f");
  EXPECT_EQ(seen[0].priority, "u=3");
  EXPECT_EQ(seen[0].cache, "");
  EXPECT_EQ(seen[1].priority, "u=1");
  EXPECT_EQ(seen[2].priority, "u=6");
  EXPECT_THAT(spare_.seen(), IsEmpty());
  EXPECT_THAT(origins_->requests(), IsEmpty());
  EXPECT_THAT(reports_.all(), IsEmpty());
}

TEST_F(TreeSourceTest, WithoutRoutesOrParentTheOriginsAreAsked) {
  EXPECT_THAT(Fetched({0, 2}), ElementsAre("origins", "origins"));
  Route(std::nullopt, {spare_.address()});
  EXPECT_THAT(Fetched({2, 3}), ElementsAre("origins"));
  EXPECT_THAT(spare_.seen(), IsEmpty());
  client_->health().NoteOriginsFailed(Clock::now());
  EXPECT_THAT(Fetched({3, 4}), ElementsAre("spare")) << "better than nothing";
}

TEST_F(TreeSourceTest, ItNeverAsksItself) {
  PeerAddress self = parent_.address();
  self.node = "me";
  Route(self, {spare_.address()});
  EXPECT_THAT(Fetched({0, 1}), ElementsAre("spare"));
  EXPECT_THAT(parent_.seen(), IsEmpty());
}

TEST_F(TreeSourceTest, EachLaneHasItsStripesParent) {
  auto routes = std::make_shared<Routes>();
  routes->function = "sha256:f";
  routes->stripes = {{parent_.address(), {}}, {other_.address(), {}}};
  SetRoutes(routes);
  From(*Ask({0, 1}, Priority::kPrefetch, 30s, 0), {0, 1});
  EXPECT_EQ(parent_.seen().size(), 1U);
  EXPECT_EQ(other_.seen().size(), 0U);
  From(*Ask({1, 2}, Priority::kPrefetch, 30s, 1), {1, 2});
  EXPECT_EQ(parent_.seen().size(), 1U);
  EXPECT_EQ(other_.seen().size(), 1U);
}

TEST_F(TreeSourceTest, ALaneTakesNothingOfAStripeInWhichThisNodeFeedsOthers) {
  auto routes = std::make_shared<Routes>();
  routes->function = "sha256:f";
  routes->stripes = {{parent_.address(), {}, 0}, {other_.address(), {}, 2}};
  SetRoutes(routes);
  // Lane 1 took what belongs to stripe 0, in which this node is a leaf: as it likes.
  From(*Ask({0, 1}, Priority::kPrefetch, 30s, 1, 0), {0, 1});
  EXPECT_EQ(parent_.seen().size(), 0U);
  EXPECT_EQ(other_.seen().size(), 1U);
  // Lane 0 took what belongs to stripe 1: its parent may wait for this node there.
  From(*Ask({1, 2}, Priority::kPrefetch, 30s, 0, 1), {1, 2});
  EXPECT_EQ(parent_.seen().size(), 0U);
  EXPECT_EQ(other_.seen().size(), 2U);
}

TEST_F(TreeSourceTest, PartialAnswersAreAskedOnAtOnce) {
  parent_.Do(
      [](ScriptedPeer& peer, const auto& seen, const auto& reply) { peer.Give(peer.FirstChunk(seen.range), reply); });
  Route(parent_.address());
  const auto begun = Clock::now();
  EXPECT_EQ(Fetched({0, 16}), std::vector<std::string>(16, "parent"));
  EXPECT_LT(Clock::now() - begun, 2s);
  EXPECT_EQ(parent_.seen().size(), 16U);
  EXPECT_THAT(origins_->requests(), IsEmpty());
}

TEST_F(TreeSourceTest, APeerThatSaysItWaitsIsGivenTimeAndItsChainIsKnown) {
  parent_.Do([](ScriptedPeer& peer, const auto& seen, const auto& reply) {
    for (int i = 0; i < 8 && peer.Pause(300ms); ++i) reply->SendInterim(102, {{"Via", "grand, root"}});
    peer.Give(seen.range, reply);
  });
  Route(parent_.address(), {spare_.address()});
  const auto answers = Ask({3, 5});
  std::string chain;
  for (int i = 0; i < 100 && chain != "parent-node, grand, root"; ++i) {
    std::this_thread::sleep_for(20ms);
    chain = waits_.Find(layer_.device->blob_digest, 4);
  }
  EXPECT_EQ(chain, "parent-node, grand, root");
  EXPECT_THAT(From(*answers, {3, 5}), ElementsAre("parent", "parent")) << "2.4 s without a byte, but not silent";
  EXPECT_EQ(waits_.Find(layer_.device->blob_digest, 4), "");
}

TEST_F(TreeSourceTest, ALoopIsLeftAndHeldAgainstNobody) {
  parent_.Do([](ScriptedPeer& peer, const auto&, const auto& reply) {
    while (peer.Pause(100ms)) reply->SendInterim(102, {{"Via", "grand,me , root"}});
  });
  Route(parent_.address(), {spare_.address()});
  EXPECT_THAT(Fetched({0, 2}), ElementsAre("spare", "spare"));
  EXPECT_THAT(reports_.all(), IsEmpty());
  parent_.Do(nullptr);
  EXPECT_THAT(Fetched({2, 3}), ElementsAre("parent"));
}

TEST_F(TreeSourceTest, PatienceEnds) {
  parent_.Do([](ScriptedPeer& peer, const auto&, const auto& reply) {
    while (peer.Pause(100ms)) reply->SendInterim(102, {});
  });
  Route(parent_.address(), {spare_.address()});
  const auto begun = Clock::now();
  EXPECT_THAT(From(*Ask({0, 1}, Priority::kPrefetch, 2s), {0, 1}), ElementsAre("spare"));
  EXPECT_GT(Clock::now() - begun, 900ms) << "half of what was left";
  // Whoever does nothing but wait, whatever the reason, costs that time twice and no more.
  EXPECT_FALSE(client_->health().Avoided("parent-node", Clock::now()));
  EXPECT_THAT(From(*Ask({1, 2}, Priority::kPrefetch, 2s), {1, 2}), ElementsAre("spare"));
  EXPECT_TRUE(client_->health().Avoided("parent-node", Clock::now() + 9s));
  EXPECT_FALSE(client_->health().Avoided("parent-node", Clock::now() + 11s));
  EXPECT_THAT(Fetched({2, 3}), ElementsAre("spare"));
  EXPECT_EQ(parent_.seen().size(), 2U);
  EXPECT_THAT(reports_.all(), IsEmpty());
}

TEST_F(TreeSourceTest, ASilentPeerIsLeftReportedAndAvoided) {
  parent_.Do([](ScriptedPeer& peer, const auto&, const auto& reply) {
    peer.Pause(10s);
    reply->Abort();
  });
  Route(parent_.address(), {spare_.address()});
  const auto begun = Clock::now();
  EXPECT_THAT(Fetched({0, 2}), ElementsAre("spare", "spare"));
  EXPECT_LT(Clock::now() - begun, 2500ms);
  EXPECT_THAT(reports_.all(), ElementsAre(Pair("parent-node", PeerFault::kUnreachable)));
  EXPECT_THAT(Fetched({2, 3}), ElementsAre("spare"));
  EXPECT_EQ(parent_.seen().size(), 1U);
}

TEST_F(TreeSourceTest, ACutOrRefusedConnectionClimbsAtOnceAndOnlyForWhatIsMissing) {
  parent_.Do([](ScriptedPeer& peer, const auto& seen, const auto& reply) {
    reply->SendHead(206, {{"Content-Range", fmt::format("bytes {}-{}/*", seen.range.begin, seen.range.end - 1)}},
                    seen.range.size());
    const ByteRange first = peer.FirstChunk(seen.range);
    reply->Write(peer.Bytes({first.begin, first.end + 100}), nullptr);
    peer.Pause(100ms);
    reply->Abort();
  });
  spare_.Stop();
  Route(parent_.address(), {spare_.address(), other_.address()});
  const auto begun = Clock::now();
  EXPECT_THAT(Fetched({0, 3}), ElementsAre("parent", "spare", "spare"));
  EXPECT_LT(Clock::now() - begun, 1s);
  EXPECT_EQ(other_.seen().at(0).range.begin, layer_.device->chunks[1].compressed_offset);
  EXPECT_THAT(reports_.all(),
              ElementsAre(Pair("parent-node", PeerFault::kUnreachable), Pair("spare-node", PeerFault::kUnreachable)));
}

TEST_F(TreeSourceTest, NothingOfALiarsChunkIsPassedOn) {
  parent_.Do([this](ScriptedPeer& peer, const auto& seen, const auto& reply) {
    std::string body = peer.Bytes(seen.range);
    body[layer_.device->chunks[1].compressed_offset + 5] ^= 1;
    peer.Give(seen.range, body, reply);
  });
  Route(parent_.address(), {spare_.address()});
  const auto answers = Ask({0, 3});
  EXPECT_THAT(From(*answers, {0, 3}), ElementsAre("parent", "spare", "spare"));
  EXPECT_THAT(reports_.all(), ElementsAre(Pair("parent-node", PeerFault::kBadBytes)));
  EXPECT_THAT(answers->failed_ways, ElementsAre(Pair("parent", true)));
  for (int i = 0; i < 100 && parent_.seen().size() < 2; ++i) std::this_thread::sleep_for(10ms);
  ASSERT_EQ(parent_.seen().size(), 2U) << "it is told to look at its disk";
  EXPECT_EQ(parent_.seen()[1].recheck, "1");
  EXPECT_EQ(parent_.seen()[1].range, layer_.device->chunks[1].blob_range());
  EXPECT_TRUE(client_->health().Avoided("parent-node", Clock::now() + 59s));
  EXPECT_FALSE(client_->health().Avoided("parent-node", Clock::now() + 61s));
}

TEST_F(TreeSourceTest, WrongLengthsAndRangesAreLies) {
  const auto& chunks = layer_.device->chunks;
  const std::string total = std::to_string(layer_.blob.size());
  const std::vector<std::pair<std::string, uint64_t>> answers = {
      {fmt::format("bytes 0-{}/{}", chunks[1].blob_range().end - 1, total), chunks[1].blob_range().end - 9},  // short
      {fmt::format("bytes 0-{}/{}", chunks[0].blob_range().end - 2, total),
       chunks[0].blob_range().end - 1},                                                                   // not a chunk
      {fmt::format("bytes 0-{}/{}", chunks[3].blob_range().end - 1, total), chunks[3].blob_range().end},  // too many
      {fmt::format("bytes {}-{}/{}", chunks[1].compressed_offset, chunks[1].blob_range().end - 1, total),
       chunks[1].compressed_bytes},                                                                      // another
      {fmt::format("bytes 0-{}/99999999", chunks[0].blob_range().end - 1), chunks[0].compressed_bytes},  // another blob
      {"", 10},
      {"bytes 18446744073709551615-3/4", 10},
  };
  for (const auto& [header, length] : answers) {
    Open({});
    parent_.Do([header = header, length = length](ScriptedPeer& peer, const auto&, const auto& reply) {
      reply->Send({206, {{"Content-Range", header}}, peer.Bytes({0, length})});
    });
    Route(parent_.address(), {spare_.address()});
    const auto from = Fetched({0, 3});
    EXPECT_EQ(from.back(), "spare") << header;
    EXPECT_TRUE(client_->health().Avoided("parent-node", Clock::now() + 59s)) << header;
  }
}

TEST_F(TreeSourceTest, EndlessSlowBytesAreLeft) {
  Open({.slow_after = 500ms});
  parent_.Do([](ScriptedPeer& peer, const auto& seen, const auto& reply) {
    reply->SendHead(206, {{"Content-Range", fmt::format("bytes {}-{}/*", seen.range.begin, seen.range.end - 1)}},
                    seen.range.size());
    for (uint64_t at = seen.range.begin; at < seen.range.end && peer.Pause(50ms); ++at) {
      reply->Write(peer.Bytes({at, at + 1}), nullptr);
    }
  });
  Route(parent_.address(), {spare_.address()});
  EXPECT_THAT(Fetched({0, 2}), ElementsAre("spare", "spare"));
  EXPECT_THAT(reports_.all(), ElementsAre(Pair("parent-node", PeerFault::kSlow)));
}

TEST_F(TreeSourceTest, RefusalsClimbWithoutAReport) {
  for (int status : {404, 401, 416, 500, 503, 200}) {
    Open({});
    parent_.Do([status](ScriptedPeer&, const auto&, const auto& reply) {
      reply->Send({status, {{"Retry-After", "2"}}, std::string("no")});
    });
    Route(parent_.address());
    EXPECT_THAT(Fetched({0, 2}), ElementsAre("origins", "origins")) << status;
    EXPECT_EQ(client_->health().Avoided("parent-node", Clock::now() + 1s), status != 404) << status;
    EXPECT_THAT(reports_.all(), IsEmpty());
  }
}

TEST_F(TreeSourceTest, RareDemandAsksParentAndOneSpareForWhatTheyHold) {
  const auto miss = [](ScriptedPeer&, const auto&, const auto& reply) { reply->Send({504, {}, std::string()}); };
  parent_.Do(miss);
  spare_.Do(miss);
  auto profile = std::make_shared<ProfileSet>();
  profile->Add(layer_.device->blob_digest, 1);
  auto routes = std::make_shared<Routes>();
  routes->function = "sha256:f";
  routes->stripes = {{parent_.address(), {spare_.address(), other_.address()}}};
  routes->profile = profile;
  SetRoutes(routes);
  EXPECT_THAT(Fetched({4, 6}, Priority::kDemand), ElementsAre("origins", "origins"));
  EXPECT_THAT(other_.seen(), IsEmpty());
  EXPECT_EQ(parent_.seen().at(0).cache, "only-if-cached");
  EXPECT_EQ(spare_.seen().at(0).cache, "only-if-cached");
  EXPECT_FALSE(client_->health().Avoided("parent-node", Clock::now()));

  parent_.Do(nullptr);
  spare_.Do(nullptr);
  EXPECT_THAT(Fetched({6, 8}, Priority::kFill), ElementsAre("parent", "parent"));
  EXPECT_EQ(parent_.seen().back().cache, "") << "fill takes the tree";
  // One request of a rare, a common and another rare chunk.
  EXPECT_THAT(Fetched({0, 3}, Priority::kDemand), ElementsAre("parent", "parent", "parent"));
  std::map<uint64_t, std::string> cache;
  for (const auto& seen : parent_.seen()) cache[seen.range.begin] = seen.cache;
  EXPECT_EQ(cache.at(layer_.device->chunks[0].compressed_offset), "only-if-cached");
  EXPECT_EQ(cache.at(layer_.device->chunks[1].compressed_offset), "");
  EXPECT_EQ(cache.at(layer_.device->chunks[2].compressed_offset), "only-if-cached");

  // The origins fail: the tree carries everything.
  client_->health().NoteOriginsFailed(Clock::now());
  EXPECT_THAT(Fetched({9, 10}, Priority::kDemand), ElementsAre("parent"));
  EXPECT_EQ(parent_.seen().back().cache, "");
}

// A profile that holds nothing: every demand read is a rare one.
std::shared_ptr<Routes> RareRoutes(PeerAddress parent, std::vector<PeerAddress> spares,
                                   std::vector<PeerAddress> holders) {
  auto routes = std::make_shared<Routes>();
  routes->function = "sha256:f";
  routes->stripes = {{std::move(parent), std::move(spares)}};
  routes->profile = std::make_shared<ProfileSet>();
  routes->holders = std::move(holders);
  return routes;
}

TEST_F(TreeSourceTest, RareDemandAsksAHolderBeforeTheOriginsAndHoldersTakeTurns) {
  parent_.Do([](ScriptedPeer&, const auto&, const auto& reply) { reply->Send({504, {}, std::string()}); });
  ScriptedPeer third{layer_, "third-node"};
  SetRoutes(RareRoutes(parent_.address(), {spare_.address()}, {other_.address(), third.address()}));
  for (ChunkIndex chunk = 0; chunk < 10; ++chunk) {
    EXPECT_THAT(Fetched({chunk, chunk + 1}, Priority::kDemand), ElementsAre("holder"));
  }
  EXPECT_EQ(parent_.seen().size(), 10U);
  EXPECT_EQ(other_.seen().size(), 5U);
  EXPECT_EQ(third.seen().size(), 5U);
  EXPECT_EQ(third.seen().at(0).cache, "only-if-cached");
  EXPECT_THAT(spare_.seen(), IsEmpty());
  EXPECT_THAT(origins_->requests(), IsEmpty());
  // One that is busy is left alone, and the chunk comes from the origins: one more round trip, not one a holder.
  const auto busy = [](ScriptedPeer&, const auto&, const auto& reply) { reply->Send({503, {}, std::string()}); };
  other_.Do(busy);
  third.Do(busy);
  EXPECT_THAT(Fetched({10, 11}, Priority::kDemand), ElementsAre("origins"));
  EXPECT_THAT(Fetched({11, 12}, Priority::kDemand), ElementsAre("origins"));
  EXPECT_EQ(other_.seen().size() + third.seen().size(), 12U);
}

TEST_F(TreeSourceTest, AHolderThatLacksWhatItClaimsIsNotBelievedAndReportedOnce) {
  for (int status : {504, 404}) {
    Open({});
    const auto miss = [status](ScriptedPeer&, const auto&, const auto& reply) {
      reply->Send({status, {}, std::string()});
    };
    parent_.Do([](ScriptedPeer&, const auto&, const auto& reply) { reply->Send({504, {}, std::string()}); });
    other_.Do(miss);
    const size_t before = other_.seen().size();
    const size_t reports = reports_.all().size();
    SetRoutes(RareRoutes(parent_.address(), {}, {other_.address()}));
    EXPECT_THAT(Fetched({0, 1}, Priority::kDemand), ElementsAre("origins"));
    EXPECT_THAT(Fetched({1, 3}, Priority::kDemand), ElementsAre("origins", "origins"));
    EXPECT_EQ(other_.seen().size() - before, 1U);
    ASSERT_EQ(reports_.all().size() - reports, 1U);
    EXPECT_THAT(reports_.all().back(), Pair("other-node", PeerFault::kLied));
    EXPECT_TRUE(client_->health().Believed("parent-node", Clock::now())) << "it claimed nothing";
    // It is a parent as good as any.
    other_.Do(nullptr);
    Route(other_.address());
    EXPECT_THAT(Fetched({3, 4}), ElementsAre("parent"));
  }
}

TEST_F(TreeSourceTest, DemandIsHedgedAndTheFirstGoodAnswerCounts) {
  parent_.Do([](ScriptedPeer& peer, const auto& seen, const auto& reply) {
    peer.Pause(900ms);
    peer.Give(seen.range, reply);
  });
  Route(parent_.address(), {spare_.address()});
  const auto begun = Clock::now();
  EXPECT_THAT(Fetched({0, 1}, Priority::kDemand), ElementsAre("spare"));
  EXPECT_LT(Clock::now() - begun, 2s);
  // The budget is spent: this one waits.
  EXPECT_THAT(Fetched({1, 2}, Priority::kDemand), ElementsAre("parent"));
  EXPECT_EQ(spare_.seen().size(), 1U);
  EXPECT_THAT(reports_.all(), IsEmpty());
}

TEST_F(TreeSourceTest, APeerThatSaysItWaitsIsNotHedged) {
  parent_.Do([](ScriptedPeer& peer, const auto& seen, const auto& reply) {
    for (int i = 0; i < 9 && peer.Pause(100ms); ++i) reply->SendInterim(102, {});
    peer.Give(seen.range, reply);
  });
  Route(parent_.address(), {spare_.address()});
  EXPECT_THAT(Fetched({0, 1}, Priority::kDemand), ElementsAre("parent"));
  EXPECT_THAT(spare_.seen(), IsEmpty());
}

TEST_F(TreeSourceTest, AHedgeThatFailsIsNoHarm) {
  parent_.Do([](ScriptedPeer& peer, const auto& seen, const auto& reply) {
    peer.Pause(700ms);
    peer.Give(seen.range, reply);
  });
  origins_->SetAnswerer(
      [](const ChunkRequest&, ChunkIndex) -> Result<ChunkBytes> { return Fail(Code::kUnavailable, "down"); });
  Route(parent_.address());
  EXPECT_THAT(Fetched({0, 2}, Priority::kDemand), ElementsAre("parent", "parent"));
  EXPECT_EQ(origins_->requests().size(), 1U);
  // And when both fail, that is the end of this attempt.
  Open({});
  parent_.Do([](ScriptedPeer& peer, const auto&, const auto& reply) {
    peer.Pause(400ms);
    reply->Abort();
  });
  const auto answers = Ask({2, 4}, Priority::kDemand);
  ASSERT_TRUE(answers->WaitFor(2));
  EXPECT_EQ(answers->chunks.at(3).error().code, Code::kUnavailable);
}

TEST_F(TreeSourceTest, PrefetchIsNotHedged) {
  parent_.Do([](ScriptedPeer& peer, const auto& seen, const auto& reply) {
    peer.Pause(700ms);
    peer.Give(seen.range, reply);
  });
  Route(parent_.address(), {spare_.address()});
  EXPECT_THAT(Fetched({0, 1}), ElementsAre("parent"));
  EXPECT_THAT(spare_.seen(), IsEmpty());
}

TEST_F(TreeSourceTest, RoutesOfTheMomentCount) {
  parent_.Do([this](ScriptedPeer&, const auto&, const auto& reply) {
    Route(other_.address());
    reply->Abort();
  });
  Route(parent_.address(), {spare_.address()});
  EXPECT_THAT(Fetched({0, 1}), ElementsAre("parent"));
  EXPECT_EQ(other_.seen().size(), 1U);
  EXPECT_THAT(spare_.seen(), IsEmpty());
}

TEST_F(TreeSourceTest, ItsEndAnswersWhatIsOutstanding) {
  parent_.Do([](ScriptedPeer& peer, const auto&, const auto& reply) {
    while (peer.Pause(100ms)) reply->SendInterim(102, {});
  });
  Route(parent_.address());
  const auto waiting = Ask({0, 3});
  Route(std::nullopt);
  origins_->Hold(true);
  const auto held = Ask({3, 5});
  source_.reset();
  for (const auto& [answers, count] : {std::pair(waiting, 3U), std::pair(held, 2U)}) {
    const std::lock_guard lock(answers->mutex);
    ASSERT_EQ(answers->chunks.size(), count);
    for (const auto& [chunk, answer] : answers->chunks) EXPECT_EQ(answer.error().code, Code::kCancelled);
  }
}

TEST_F(TreeSourceTest, TheClientsEndAnswersWhatIsOutstanding) {
  parent_.Do([](ScriptedPeer& peer, const auto&, const auto& reply) {
    while (peer.Pause(100ms)) reply->SendInterim(102, {});
  });
  Route(parent_.address(), {spare_.address()});
  const auto waiting = Ask({0, 3});
  http_.reset();
  ASSERT_TRUE(waiting->WaitFor(3));
  EXPECT_EQ(waiting->chunks.at(2).error().code, Code::kCancelled);
}

}  // namespace
}  // namespace banyan::fetch
