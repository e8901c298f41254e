// The server of peers on loopback: a real HTTP server and client, and a layer that does as it is told.
#include "peer-agent/peer_server.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "fetch/testing/test_layer.h"
#include "net/http_client.h"
#include "net/range_header.h"
#include "peer-agent/peer_ask.h"
#include "peer-agent/testing/asked.h"
#include "peer-agent/testing/fake_relay_layer.h"

namespace banyan::peer_agent {
namespace {

using fetch::Clock;
using std::chrono::milliseconds;
using testing::Asked;
using Kind = PeerCatalog::Found::Kind;
using Headers = std::vector<std::pair<std::string, std::string>>;

constexpr const char* kToken = "a cluster's secret";
const std::string kFunction = "sha256:" + std::string(64, 'f');

class FakeCatalog final : public PeerCatalog {
 public:
  bool IsJoined(const std::string& function) override { return function == kFunction && joined; }
  Found Find(const std::string&, const Digest& blob) override {
    const std::lock_guard lock(mutex_);
    const auto found = blobs_.find(blob);
    return found != blobs_.end() ? found->second : Found();
  }
  void DropChunk(const std::string&, const Digest&, ChunkIndex chunk) override {
    const std::lock_guard lock(mutex_);
    dropped_.push_back(chunk);
    if (on_drop) on_drop(chunk);
  }
  void Set(const Digest& blob, Found found) {
    const std::lock_guard lock(mutex_);
    blobs_[blob] = std::move(found);
  }
  std::vector<ChunkIndex> dropped() {
    const std::lock_guard lock(mutex_);
    return dropped_;
  }

  std::atomic<bool> joined{true};
  std::function<void(ChunkIndex)> on_drop;

 private:
  std::mutex mutex_;
  std::map<Digest, Found> blobs_;
  std::vector<ChunkIndex> dropped_;
};

class PeerServerTest : public ::testing::Test {
 protected:
  void SetUp() override { catalog_.Set(blob(), {Kind::kLayer, layer_}); }
  void TearDown() override { server_.reset(); }

  void Serve(PeerServerOptions options = {}) {
    options.address = "127.0.0.1";
    options.token = kToken;
    options.chunk_waits = &waits_;
    options.blob_waits = &blob_waits_;
    auto started = PeerServer::Start(std::move(options), catalog_, timer_, executor_);
    ASSERT_TRUE(started) << started.error().message;
    server_ = *std::move(started);
  }

  const Digest& blob() const { return test_layer_.device->blob_digest; }
  ByteRange RangeOf(ChunkRange chunks) const {
    const auto& table = test_layer_.device->chunks;
    return {table[chunks.begin].compressed_offset, table[chunks.end - 1].blob_range().end};
  }
  std::string BytesOf(ChunkRange chunks) const {
    const ByteRange range = RangeOf(chunks);
    return {reinterpret_cast<const char*>(test_layer_.blob.data()) + range.begin, range.size()};
  }
  static Headers HeadersOf(const std::string& child, int urgency = 1) {
    return {{"Authorization", std::string("Bearer ") + kToken},
            {"Banyan-Node", child},
            {"Banyan-Function", kFunction},
            {"Priority", fmt::format("u={}", urgency)}};
  }
  std::shared_ptr<Asked> Start(Headers headers, const std::string& target = "", const std::string& method = "GET") {
    net::HttpClientRequest request;
    request.address = "127.0.0.1";
    request.port = server_->port();
    request.method = method;
    request.target = target.empty() ? "/v2/some/app/blobs/" + blob().ToString() + "?ns=docker.io" : target;
    request.headers = std::move(headers);
    request.stall_timeout = milliseconds(20'000);
    const auto asked = std::make_shared<Asked>();
    asked->id = client_->Start(std::move(request),
                               {.on_interim = [asked](int, const net::HeaderList& h) { asked->OnInterim(h); },
                                .on_head =
                                    [asked](int code, const net::HeaderList& h) {
                                      asked->OnHead(code, h);
                                      return Status();
                                    },
                                .on_data =
                                    [asked](std::span<const std::byte> data) {
                                      asked->OnData(data);
                                      return Status();
                                    },
                                .on_done = [asked](Status status) { asked->OnDone(std::move(status)); }});
    return asked;
  }
  std::shared_ptr<Asked> AskChunks(ChunkRange chunks, const std::string& child = "n1", int urgency = 1,
                                   const Headers& more = {}) {
    Headers headers = HeadersOf(child, urgency);
    headers.emplace_back("Range", net::FormatRange(RangeOf(chunks)));
    headers.insert(headers.end(), more.begin(), more.end());
    return Start(std::move(headers));
  }
  template <typename Condition>
  static bool Eventually(Condition condition) {
    for (int i = 0; i < 500; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(milliseconds(10));
    }
    return false;
  }
  bool AllOver() {
    return Eventually([&] { return server_->stats().open_asks == 0; });
  }

  const fetch::testing::TestLayer test_layer_ = fetch::testing::MakeTestLayer(std::vector<uint32_t>(40, 16));
  const std::shared_ptr<testing::FakeRelayLayer> layer_ = std::make_shared<testing::FakeRelayLayer>(test_layer_);
  FakeCatalog catalog_;
  fetch::WaitTable waits_;
  fetch::WaitTable blob_waits_;
  fetch::ThreadTimer timer_;
  ThreadPool executor_{1};
  std::unique_ptr<PeerServer> server_;
  std::unique_ptr<net::HttpClient> client_ = std::make_unique<net::HttpClient>();
};

TEST_F(PeerServerTest, ServesWhatIsHere) {
  Serve();
  for (const bool in_memory : {false, true}) {
    if (in_memory) layer_->UseMemory();
    for (const ChunkRange chunks : {ChunkRange{0, 1}, ChunkRange{3, 9}, ChunkRange{0, 40}, ChunkRange{39, 40}}) {
      const auto asked = AskChunks(chunks);
      ASSERT_TRUE(asked->ok());
      EXPECT_EQ(asked->code(), 206);
      EXPECT_EQ(asked->header("content-range"),
                net::FormatContentRange(RangeOf(chunks), test_layer_.device->blob_bytes));
      EXPECT_EQ(asked->body(), BytesOf(chunks));
      EXPECT_TRUE(asked->vias().empty()) << "no 102 for what is here";
    }
  }
  EXPECT_TRUE(AllOver());
  const PeerServerStats stats = server_->stats();
  EXPECT_EQ(stats.asks[0], 8U);
  EXPECT_EQ(stats.sent_bytes[0],
            2 * (BytesOf({0, 1}).size() + BytesOf({3, 9}).size() + BytesOf({0, 40}).size() + BytesOf({39, 40}).size()));
  EXPECT_EQ(stats.waited, 0U);
  EXPECT_EQ(stats.partial, 0U);
  EXPECT_EQ(stats.cut, 0U);
}

TEST_F(PeerServerTest, RefusesWhatItMust) {
  Serve();
  const auto code = [&](Headers headers, const std::string& target = "", const std::string& method = "GET") {
    return Start(std::move(headers), target, method)->code();
  };
  const auto with = [&](Headers headers, const std::string& name, const std::string& value) {
    std::erase_if(headers, [&](const auto& header) { return header.first == name; });
    if (!value.empty()) headers.emplace_back(name, value);
    return headers;
  };
  const Headers good = with(HeadersOf("n1"), "Range", net::FormatRange(RangeOf({0, 2})));
  EXPECT_EQ(code(good), 206);
  EXPECT_EQ(code(with(good, "Authorization", "")), 401);
  EXPECT_EQ(code(with(good, "Authorization", "Bearer a cluster's secreT")), 401);
  EXPECT_EQ(code(with(good, "Authorization", std::string("Basic ") + kToken)), 401);
  EXPECT_EQ(code(with(good, "Banyan-Function", "")), 404);
  EXPECT_EQ(code(with(good, "Banyan-Function", "another")), 404);
  EXPECT_EQ(code(with(good, "Banyan-Function", std::string(1000, 'x'))), 400);
  EXPECT_EQ(code(with(good, "Banyan-Node", "a, b")), 400);
  EXPECT_EQ(code(with(good, "Banyan-Node", "")), 206);
  EXPECT_EQ(code(good, "/v2/app/blobs/" + Digest::Of(std::string_view("x")).ToString()), 404);
  EXPECT_EQ(code(good, "/v2/app/manifests/latest"), 404);
  EXPECT_EQ(code(good, "/v2/app/blobs/sha256:short"), 400);
  EXPECT_EQ(code(good, "/etc/passwd"), 404);
  EXPECT_EQ(code(good, "", "DELETE"), 405);
  const ByteRange range = RangeOf({1, 3});
  const uint64_t size = test_layer_.device->blob_bytes;
  for (const ByteRange bad : {ByteRange{range.begin + 1, range.end}, ByteRange{range.begin, range.end - 1},
                              ByteRange{size, size + 10}, ByteRange{range.begin, range.begin + 1}}) {
    EXPECT_EQ(code(with(good, "Range", net::FormatRange(bad))), 416) << bad.begin;
  }
  EXPECT_EQ(code(with(good, "Range", "bytes=99999999999999999999-999999999999999999999")), 416);
  const auto head = Start(good, "", "HEAD");
  EXPECT_EQ(head->code(), 200);
  EXPECT_EQ(head->header("content-length"), std::to_string(size));
  catalog_.joined = false;
  EXPECT_EQ(code(good), 404);
  catalog_.joined = true;
  server_->SetServing(false);
  EXPECT_EQ(code(good), 404);
  server_->SetServing(true);
  EXPECT_EQ(code(good), 206);
  EXPECT_TRUE(AllOver());
  EXPECT_EQ(server_->stats().refused_token, 3U);
}

TEST_F(PeerServerTest, WaitsAndSaysForWhom) {
  PeerServerOptions options;
  options.interim_interval = milliseconds(30);
  Serve(options);
  layer_->SetAbsent({5, 7});
  waits_.Set(blob(), {5, 7}, "n7, n9");
  const auto asked = AskChunks({5, 8});
  ASSERT_TRUE(asked->WaitInterims(1));
  EXPECT_EQ(asked->vias()[0], "n7, n9");
  waits_.Clear(blob(), 5);
  ASSERT_TRUE(asked->WaitInterims(asked->vias().size() + 2));
  EXPECT_EQ(asked->vias().back(), "");
  EXPECT_FALSE(asked->done());
  layer_->Arrive(5);
  EXPECT_EQ(asked->code(), 206);
  EXPECT_EQ(asked->body(), BytesOf({5, 6})) << "6 is not here, so 7 must be asked for again";
  layer_->Arrive(6);
  const auto again = AskChunks({6, 8});
  EXPECT_EQ(again->body(), BytesOf({6, 8}));
  EXPECT_TRUE(AllOver());
  EXPECT_EQ(server_->stats().partial, 1U);
  EXPECT_EQ(server_->stats().waited, 1U);
  EXPECT_EQ(layer_->forgotten(), 0U) << "what was asked for goes on, for the next ask";
}

TEST_F(PeerServerTest, LaterChunksWaitForTheFirst) {
  Serve();
  layer_->SetAbsent({5, 8});
  const auto asked = AskChunks({5, 8}, "n1", 6);
  ASSERT_TRUE(asked->WaitInterims(1));
  layer_->Arrive(7);
  layer_->Arrive(6);
  EXPECT_FALSE(asked->done());
  layer_->Arrive(5);
  EXPECT_EQ(asked->body(), BytesOf({5, 8}));
  EXPECT_EQ(layer_->priorities(), std::vector<fetch::Priority>(3, fetch::Priority::kFill));
}

TEST_F(PeerServerTest, WhatCannotBeHad) {
  Serve();
  for (const auto& [error, code] : std::map<Code, int>{
           {Code::kUnavailable, 503}, {Code::kNotFound, 404}, {Code::kCancelled, 503}, {Code::kDataLoss, 503}}) {
    layer_->SetAbsent({2, 3});
    const auto asked = AskChunks({2, 4});
    ASSERT_TRUE(asked->WaitInterims(1));
    layer_->Fail(2, Error{error, "no"});
    EXPECT_EQ(asked->code(), code);
    EXPECT_EQ(asked->header("retry-after"), code == 503 ? "1" : "");
  }
  layer_->SetAbsent({3, 4});
  const auto asked = AskChunks({2, 5});
  EXPECT_EQ(asked->body(), BytesOf({2, 3}));
  layer_->Fail(3, Error{Code::kUnavailable, "no"});
  EXPECT_TRUE(AllOver());
}

TEST_F(PeerServerTest, OnlyIfCached) {
  Serve();
  const Headers only = {{"Cache-Control", "only-if-cached"}};
  layer_->SetAbsent({4, 6});
  EXPECT_EQ(AskChunks({4, 6}, "n1", 1, only)->code(), 504);
  EXPECT_EQ(AskChunks({3, 6}, "n1", 1, only)->body(), BytesOf({3, 4})) << "as far as it is here";
  EXPECT_EQ(layer_->waiting(), 0U) << "nothing was asked for on its account";
  const auto first = AskChunks({4, 5});
  ASSERT_TRUE(first->WaitInterims(1));
  const auto second = AskChunks({4, 6}, "n2", 1, only);
  ASSERT_TRUE(second->WaitInterims(1)) << "it is on its way";
  layer_->Arrive(4);
  EXPECT_EQ(first->body(), BytesOf({4, 5}));
  EXPECT_EQ(second->body(), BytesOf({4, 5}));
  EXPECT_EQ(server_->stats().missed, 1U);
  catalog_.Set(blob(), {Kind::kPending, nullptr});
  EXPECT_EQ(AskChunks({4, 6}, "n1", 1, only)->code(), 504);
}

TEST_F(PeerServerTest, WaitsForTheLayerToBeKnown) {
  PeerServerOptions options;
  options.layer_wait = milliseconds(700);
  Serve(options);
  catalog_.Set(blob(), {Kind::kPending, nullptr});
  const auto asked = AskChunks({1, 3});
  ASSERT_TRUE(asked->WaitInterims(2));
  catalog_.Set(blob(), {Kind::kLayer, layer_});
  server_->LayersChanged();
  EXPECT_EQ(asked->body(), BytesOf({1, 3}));

  catalog_.Set(blob(), {Kind::kPending, nullptr});
  const auto unheard = AskChunks({1, 3});
  ASSERT_TRUE(unheard->WaitInterims(1));
  catalog_.Set(blob(), {Kind::kLayer, layer_});
  EXPECT_EQ(unheard->body(), BytesOf({1, 3})) << "found without being told";

  catalog_.Set(blob(), {Kind::kPending, nullptr});
  const auto gone = AskChunks({1, 3});
  ASSERT_TRUE(gone->WaitInterims(1));
  catalog_.Set(blob(), {});
  EXPECT_EQ(gone->code(), 404);

  catalog_.Set(blob(), {Kind::kPending, nullptr});
  EXPECT_EQ(AskChunks({1, 3})->code(), 503) << "not for ever";
  EXPECT_TRUE(AllOver());
}

TEST_F(PeerServerTest, AChildThatGoesIsForgottenAtOnce) {
  PeerServerOptions options;
  options.interim_interval = milliseconds(60'000);  // so that no write notices it
  Serve(options);
  layer_->SetAbsent({0, 4});
  const auto asked = AskChunks({0, 4});
  ASSERT_TRUE(asked->WaitInterims(1));
  EXPECT_EQ(layer_->waiting(), 4U);
  client_->Cancel(asked->id);
  EXPECT_TRUE(Eventually([&] { return layer_->forgotten() == 4; }));
  EXPECT_EQ(layer_->waiting(), 0U);
  EXPECT_TRUE(AllOver());
  EXPECT_EQ(server_->stats().cut, 1U);

  catalog_.Set(blob(), {Kind::kPending, nullptr});
  const auto pending = AskChunks({0, 4});
  ASSERT_TRUE(pending->WaitInterims(1));
  client_->Cancel(pending->id);
  EXPECT_TRUE(AllOver());
}

TEST_F(PeerServerTest, LimitsOfAsks) {
  PeerServerOptions options;
  options.max_asks_per_child = 3;
  options.max_asks = 5;
  Serve(options);
  layer_->SetAbsent({0, 1});
  std::vector<std::shared_ptr<Asked>> asked;
  for (int i = 0; i < 3; ++i) asked.push_back(AskChunks({0, 1}, "greedy"));
  for (const auto& each : asked) ASSERT_TRUE(each->WaitInterims(1));
  const auto refused = AskChunks({0, 1}, "greedy");
  EXPECT_EQ(refused->code(), 503);
  EXPECT_EQ(refused->header("retry-after"), "1");
  for (int i = 0; i < 2; ++i) asked.push_back(AskChunks({0, 1}, "modest"));
  for (const auto& each : asked) ASSERT_TRUE(each->WaitInterims(1));
  EXPECT_EQ(AskChunks({3, 4}, "third")->code(), 503);
  EXPECT_EQ(server_->stats().refused_busy, 2U);
  layer_->Arrive(0);
  for (const auto& each : asked) EXPECT_EQ(each->code(), 206);
  EXPECT_TRUE(AllOver());
  EXPECT_EQ(AskChunks({3, 4}, "greedy")->code(), 206);
}

TEST_F(PeerServerTest, DemandOvertakesFill) {
  PeerServerOptions options;
  options.uplink.bytes_per_second = 2 * kMiB;
  Serve(options);
  std::vector<std::shared_ptr<Asked>> fills;
  for (int i = 0; i < 8; ++i) fills.push_back(AskChunks({0, 20}, fmt::format("n{}", i), 6));
  std::this_thread::sleep_for(milliseconds(200));
  const auto begin = Clock::now();
  const auto demand = AskChunks({0, 2}, "n9", 1);
  EXPECT_EQ(demand->body(), BytesOf({0, 2}));
  const auto took = demand->done_at() - begin;
  const auto done = std::count_if(fills.begin(), fills.end(), [](const auto& fill) { return fill->done(); });
  EXPECT_EQ(done, 0) << "8 × 0.9 MB at 2 MiB/s";
  EXPECT_LT(took, milliseconds(400));
  for (const auto& fill : fills) EXPECT_EQ(fill->body(), BytesOf({0, 20}));
  EXPECT_GT(Clock::now() - begin, milliseconds(2000)) << "the limit holds";
}

TEST_F(PeerServerTest, ChildrenShareByBytes) {
  PeerServerOptions options;
  options.uplink.bytes_per_second = 3 * kMiB;
  Serve(options);
  // One child keeps eight asks open, another one.
  std::atomic<bool> stop{false};
  std::map<std::string, std::atomic<uint64_t>> got;
  got["greedy"] = 0;
  got["modest"] = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 9; ++i) {
    threads.emplace_back([&, child = std::string(i < 8 ? "greedy" : "modest")] {
      while (!stop) got.at(child) += AskChunks({0, 3}, child, 3)->body().size();
    });
  }
  std::this_thread::sleep_for(milliseconds(2500));
  const auto greedy = static_cast<double>(got["greedy"]);
  const auto modest = static_cast<double>(got["modest"]);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  // One ask at a time leaves pauses of a round trip between them, in which the other one is served.
  EXPECT_GT(modest, 0.6 * greedy) << greedy << " and " << modest << " bytes";
}

TEST_F(PeerServerTest, SaysSoonAtFirstForWhomItWaits) {
  PeerServerOptions options;
  options.interim_interval = milliseconds(4'000);
  Serve(options);
  layer_->SetAbsent({5, 6});
  waits_.Set(blob(), {5, 6}, "n7");
  const auto begun = Clock::now();
  const auto asked = AskChunks({5, 6});
  ASSERT_TRUE(asked->WaitInterims(1));
  waits_.Set(blob(), {5, 6}, "n7, me");  // as n7 says now
  ASSERT_TRUE(asked->WaitInterims(3));
  EXPECT_EQ(asked->vias()[2], "n7, me");
  EXPECT_LT(Clock::now() - begun, options.interim_interval);
  layer_->Arrive(5);
  EXPECT_EQ(asked->body(), BytesOf({5, 6}));
}

TEST_F(PeerServerTest, AWaitingAskIsToldSoWhileTheUplinkIsBusy) {
  PeerServerOptions options;
  options.uplink.bytes_per_second = kMiB;
  options.interim_interval = milliseconds(50);
  Serve(options);
  const auto first = AskChunks({0, 20}, "n1", 1);
  Eventually([&] { return server_->stats().open_asks == 1; });
  const auto second = AskChunks({0, 1}, "n2", 6);
  EXPECT_TRUE(second->WaitInterims(3)) << "its bytes are here, and it is not served yet";
  EXPECT_FALSE(second->done());
  EXPECT_EQ(first->body(), BytesOf({0, 20}));
  EXPECT_EQ(second->body(), BytesOf({0, 1}));
}

TEST_F(PeerServerTest, RechecksItsOwnDisk) {
  Serve();
  layer_->Rot(3);
  catalog_.on_drop = [&](ChunkIndex chunk) {
    layer_->Restore();
    layer_->SetAbsent({chunk, chunk + 1});
  };
  EXPECT_NE(AskChunks({2, 5})->body(), BytesOf({2, 5})) << "the disk is not read for each ask";
  const auto asked = AskChunks({3, 5}, "n1", 1, {{"Banyan-Recheck", "1"}});
  ASSERT_TRUE(Eventually([&] { return layer_->waiting() == 1; }));
  EXPECT_EQ(catalog_.dropped(), std::vector<ChunkIndex>{3});
  layer_->Arrive(3);
  EXPECT_EQ(asked->body(), BytesOf({3, 5}));
  EXPECT_EQ(AskChunks({3, 5}, "n1", 1, {{"Banyan-Recheck", "1"}})->body(), BytesOf({3, 5}));
  EXPECT_EQ(server_->stats().rechecks, 2U);
  EXPECT_EQ(server_->stats().dropped_chunks, 1U);
}

TEST_F(PeerServerTest, WholeBlobsGoToTheHandler) {
  std::mutex mutex;
  std::vector<net::HttpRequest> requests;
  std::vector<std::shared_ptr<net::HttpReply>> replies;
  PeerServerOptions options;
  options.interim_interval = milliseconds(30);
  options.whole_blobs = [&](net::HttpRequest request, std::shared_ptr<net::HttpReply> reply) {
    const std::lock_guard lock(mutex);
    requests.push_back(std::move(request));
    replies.push_back(std::move(reply));
  };
  Serve(options);
  const auto next_reply = [&]() -> std::shared_ptr<net::HttpReply> {
    Eventually([&] {
      const std::lock_guard lock(mutex);
      return !replies.empty();
    });
    const std::lock_guard lock(mutex);
    auto reply = replies.back();
    replies.pop_back();
    return reply;
  };
  const Digest map = Digest::Of(std::string_view("a map"));
  catalog_.Set(map, {Kind::kWhole, nullptr});
  blob_waits_.Set(map, {0, 1}, "n5");
  const std::string target = "/v2/app/blobs/" + map.ToString() + "?ns=example.org";

  auto asked = Start(HeadersOf("n1"), target);
  auto reply = next_reply();
  ASSERT_TRUE(asked->WaitInterims(2));
  EXPECT_EQ(asked->vias()[0], "n5");
  EXPECT_EQ(requests[0].target, target);
  EXPECT_EQ(requests[0].headers.Find("authorization"), nullptr);
  EXPECT_EQ(*requests[0].headers.Find("banyan-node"), "n1");
  reply->SendHead(200, {{"X-From", "handler"}}, 300'010);
  std::atomic<int> written{0};
  reply->Write(std::string(300'000, 'a'), [&](bool alive) { written += alive ? 1 : 100; });
  ASSERT_TRUE(Eventually([&] { return written == 1; }));
  reply->Write(std::string(10, 'b'), [&](bool alive) { written += alive ? 1 : 100; });
  reply->End();
  reply.reset();
  EXPECT_EQ(asked->body(), std::string(300'000, 'a') + std::string(10, 'b'));
  EXPECT_EQ(asked->header("x-from"), "handler");
  EXPECT_TRUE(Eventually([&] { return written == 2; }));

  asked = Start(HeadersOf("n1"), target);
  next_reply()->Send({404, {}, std::string("no")});
  EXPECT_EQ(asked->code(), 404);

  asked = Start(HeadersOf("n1"), target);
  const auto file = std::make_shared<const UniqueFd>(::memfd_create("blob", 0));
  ASSERT_EQ(::write(file->get(), test_layer_.blob.data(), test_layer_.blob.size()),
            static_cast<ssize_t>(test_layer_.blob.size()));
  next_reply()->Send({200, {}, net::FileRange{file->get(), {0, test_layer_.blob.size()}, file}});
  EXPECT_EQ(asked->body(), BytesOf({0, 40}));

  asked = Start(HeadersOf("n1"), target);
  next_reply().reset();
  EXPECT_EQ(asked->code(), 500);

  asked = Start(HeadersOf("n1"), target);
  reply = next_reply();
  reply->SendHead(200, {}, 100);
  reply->Write("only this", nullptr);
  reply.reset();
  EXPECT_FALSE(asked->ok()) << "cut, not ended";

  asked = Start(HeadersOf("n1"), target);
  reply = next_reply();
  reply->SendHead(200, {}, std::nullopt);
  reply->Write("of unknown ", nullptr);
  reply->Write("length", nullptr);
  reply->End();
  EXPECT_EQ(asked->body(), "of unknown length");

  asked = Start(HeadersOf("n1"), target);
  reply = next_reply();
  client_->Cancel(asked->id);
  EXPECT_TRUE(AllOver());
  std::atomic<int> dead{0};
  reply->SendHead(200, {}, 10);
  reply->Write("0123456789", [&](bool alive) { dead += alive ? 100 : 1; });
  EXPECT_EQ(dead, 1);
  EXPECT_TRUE(AllOver());
  EXPECT_EQ(server_->stats().sent_bytes[0], 300'010 + test_layer_.blob.size() + 9 + 17);
}

TEST_F(PeerServerTest, EndsWhileAsksWait) {
  PeerServerOptions options;
  options.uplink.bytes_per_second = 100 * kKiB;
  Serve(options);
  layer_->SetAbsent({0, 2});
  std::vector<std::shared_ptr<Asked>> asked;
  for (int i = 0; i < 20; ++i) asked.push_back(AskChunks({0, 1}, "n1"));
  for (int i = 0; i < 20; ++i) asked.push_back(AskChunks({4, 30}, "n2", 6));
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(asked[static_cast<size_t>(i)]->WaitInterims(1));
  ASSERT_TRUE(Eventually([&] { return server_->stats().open_asks == 40; }));
  server_.reset();
  for (const auto& each : asked) EXPECT_TRUE(each->Wait());
  EXPECT_EQ(layer_->waiting(), 0U);
  layer_->Arrive(0);
}

TEST_F(PeerServerTest, FloodOfConnectionsAndNoise) {
  PeerServerOptions options;
  options.max_asks = 50;
  options.max_asks_per_child = 50;
  Serve(options);
  layer_->SetAbsent({0, 1});
  std::vector<std::shared_ptr<Asked>> asked;
  for (int i = 0; i < 400; ++i) asked.push_back(AskChunks({0, 1}, fmt::format("n{}", i % 7), i % 8));
  size_t refused = 0;
  ASSERT_TRUE(Eventually([&] { return server_->stats().refused_busy >= 350; }));
  EXPECT_EQ(layer_->waiting(), 50U);
  const std::string noise[] = {"GET / HTTP/1.1\r\n\r\n",
                               std::string(100'000, 'x'),
                               "GET /v2/a/blobs/sha256: HTTP/1.1\r\nAuthorization: Bearer \r\n\r\n",
                               "POST /v2/ HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
                               "GET /v2/ HTTP/1.1\r\nBanyan-Node: " + std::string(2, '\0') + "\r\n\r\n",
                               "\r\n\r\n\r\n\r\n"};
  for (const std::string& bytes : noise) {
    const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(server_->port());
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_GT(::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), 0);
  }
  layer_->Arrive(0);
  for (const auto& each : asked) refused += each->code() == 503 ? 1 : 0;
  EXPECT_EQ(refused, 350U);
  EXPECT_TRUE(AllOver());
  EXPECT_EQ(AskChunks({0, 1})->body(), BytesOf({0, 1}));
}

}  // namespace
}  // namespace banyan::peer_agent
