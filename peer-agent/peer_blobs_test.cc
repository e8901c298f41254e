// Whole blobs through real nodes on loopback: each a store, a mirror, a server of peers, and its place in a tree.
#include "peer-agent/peer_blobs.h"

#include <atomic>
#include <cstring>
#include <future>
#include <map>
#include <random>
#include <thread>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "common/executor.h"
#include "common/file_io.h"
#include "fetch/timer.h"
#include "mirror/mirror.h"
#include "net/testing/fake_registry.h"
#include "peer-agent/peer_server.h"
#include "peer-agent/peer_stream.h"
#include "store/node_store.h"

namespace banyan::peer_agent {
namespace {

using net::testing::FakeRegistry;
using net::testing::Fault;
using std::chrono::milliseconds;

constexpr const char* kFunction = "sha256:function";
constexpr const char* kToken = "secret";

std::string RandomText(size_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string text(size, '\0');
  for (size_t i = 0; i + 8 <= size; i += 8) {
    const uint64_t word = random();
    std::memcpy(text.data() + i, &word, 8);
  }
  return text;
}

class Reports final : public fetch::PeerReports {
 public:
  void Report(const std::string&, const std::string& node, fetch::PeerFault fault, const std::string&) override {
    const std::lock_guard lock(mutex_);
    faults_.emplace_back(node, fault);
  }
  std::vector<std::pair<std::string, fetch::PeerFault>> faults() {
    const std::lock_guard lock(mutex_);
    return faults_;
  }

 private:
  std::mutex mutex_;
  std::vector<std::pair<std::string, fetch::PeerFault>> faults_;  // guarded by mutex_
};

// Everything of an agent that passes whole blobs on.
class Node final : public PeerCatalog {
 public:
  Node(std::string name, const std::string& registry_host) : name_(std::move(name)) {
    store::NodeStore::Options store;
    store.root = dir_.path() + "/store";
    store_ = store::NodeStore::Open(store).value();
    blobs_.emplace(PeerBlobsOptions{.node = name_,
                                    .token = kToken,
                                    .routes = [this](const std::string&) { return routes(); },
                                    .health = &health_,
                                    .waits = &waits_,
                                    .reports = &reports_});
    mirror::MirrorOptions options;
    mirror::UpstreamOptions upstream;
    upstream.name = "up.example";
    upstream.endpoints = {{.host = registry_host, .plain_http = true}};
    upstream.attempts = 1;
    options.upstreams = {upstream};
    mirror::Hooks hooks;
    hooks.open_blob_first = [this](const mirror::BlobAsk& ask, uint64_t offset) {
      return blobs_->Open(kFunction, ask, offset);
    };
    hooks.on_bad_blob = [this](const mirror::BlobAsk& ask) { blobs_->OnBadBlob(ask.digest); };
    mirror_ = mirror::Mirror::Create(options, *store_, hooks).value();
    PeerServerOptions server;
    server.address = "127.0.0.1";
    server.token = kToken;
    server.whole_blobs = handler();
    server.blob_waits = &waits_;
    server.interim_interval = milliseconds(100);
    server_ = PeerServer::Start(server, *this, timer_, executor_).value();
  }
  ~Node() override {
    server_.reset();
    mirror_.reset();
  }

  bool IsJoined(const std::string& function) override { return function == kFunction; }
  Found Find(const std::string&, const Digest&) override { return {Found::Kind::kWhole, nullptr}; }
  void DropChunk(const std::string&, const Digest&, ChunkIndex) override {}

  net::HttpHandler handler() {
    return [this](net::HttpRequest request, std::shared_ptr<net::HttpReply> reply) {
      mirror_->Handle(std::move(request), std::move(reply));
    };
  }
  fetch::PeerAddress address() const { return {name_, "127.0.0.1", server_->port()}; }
  void SetParents(std::vector<fetch::PeerAddress> peers) {
    auto routes = std::make_shared<fetch::Routes>();
    routes->function = kFunction;
    routes->stripes.resize(1);
    if (!peers.empty()) {
      routes->stripes[0].parent = peers.front();
      peers.erase(peers.begin());
    }
    routes->stripes[0].spares = peers;
    const std::lock_guard lock(mutex_);
    routes_ = routes;
  }
  Result<std::string> Get(const Digest& digest) {
    return GetBlobFrom(handler(), {"up.example", "app", digest}, 64 * kMiB, milliseconds(20'000));
  }
  void StopServing() { server_.reset(); }
  PeerServer& server() { return *server_; }
  Reports& reports() { return reports_; }
  fetch::PeerHealth& health() { return health_; }
  PeerBlobs& blobs() { return *blobs_; }
  fetch::WaitTable& waits() { return waits_; }

 private:
  std::shared_ptr<const fetch::Routes> routes() {
    const std::lock_guard lock(mutex_);
    return routes_;
  }

  const std::string name_;
  TempDir dir_ = TempDir::Make("banyan-peer-blobs").value();
  std::mutex mutex_;
  std::shared_ptr<const fetch::Routes> routes_ = std::make_shared<fetch::Routes>();  // guarded by mutex_
  fetch::PeerHealth health_;
  fetch::WaitTable waits_;
  Reports reports_;
  fetch::ThreadTimer timer_;
  InlineExecutor executor_;
  std::unique_ptr<store::NodeStore> store_;
  std::optional<PeerBlobs> blobs_;
  std::unique_ptr<mirror::Mirror> mirror_;
  std::unique_ptr<PeerServer> server_;
};

class PeerBlobsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    registry_ = FakeRegistry::Start({}).value();
    digest_ = registry_->AddBlob(text_);
  }
  Node& Add(const std::string& name) {
    return *nodes_.emplace(name, std::make_unique<Node>(name, registry_->host())).first->second;
  }
  size_t Fetches() const {
    size_t count = 0;
    for (const auto& request : registry_->requests()) {
      if (request.method == "GET" && request.target.find("/blobs/") != std::string::npos) ++count;
    }
    return count;
  }

  const std::string text_ = RandomText(3 * kMiB, 7);
  Digest digest_;
  std::unique_ptr<FakeRegistry> registry_;
  std::map<std::string, std::unique_ptr<Node>> nodes_;
};

TEST_F(PeerBlobsTest, OneFetchForAChain) {
  Node& root = Add("n1");
  Node& middle = Add("n2");
  Node& leaf = Add("n3");
  middle.SetParents({root.address()});
  leaf.SetParents({middle.address()});
  EXPECT_EQ(leaf.Get(digest_).value_or(""), text_);
  EXPECT_EQ(Fetches(), 1U);
  EXPECT_EQ(middle.Get(digest_).value_or(""), text_) << "from its own store";
  EXPECT_EQ(root.server().stats().sent_bytes[0], text_.size());
  EXPECT_EQ(middle.server().stats().sent_bytes[0], text_.size());
  EXPECT_EQ(leaf.waits().Find(digest_, 0), "");
}

TEST_F(PeerBlobsTest, AParentThatWaitsSaysSoAndIsWaitedFor) {
  Node& root = Add("n1");
  Node& middle = Add("n2");
  Node& leaf = Add("n3");
  middle.SetParents({root.address()});
  leaf.SetParents({middle.address()});
  // Longer than the stall timeout, at the top.
  registry_->AddFault(
      {.path_contains = "/blobs/", .kind = Fault::Kind::kDelay, .delay = milliseconds(2500), .times = 1});
  auto got = std::async(std::launch::async, [&] { return leaf.Get(digest_); });
  for (int i = 0; i < 200 && leaf.waits().Find(digest_, 0) != "n2, n1"; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_EQ(leaf.waits().Find(digest_, 0), "n2, n1");
  EXPECT_EQ(got.get().value_or(""), text_);
  EXPECT_EQ(Fetches(), 1U);
  EXPECT_TRUE(leaf.reports().faults().empty());
}

TEST_F(PeerBlobsTest, ACircleIsLeft) {
  Node& one = Add("n1");
  Node& two = Add("n2");
  one.SetParents({two.address()});
  two.SetParents({one.address()});
  auto got = std::async(std::launch::async, [&] { return one.Get(digest_); });
  EXPECT_EQ(two.Get(digest_).value_or(""), text_);
  EXPECT_EQ(got.get().value_or(""), text_);
  EXPECT_LE(Fetches(), 2U);
  EXPECT_TRUE(one.reports().faults().empty()) << "nobody is at fault";
}

TEST_F(PeerBlobsTest, SparesThenTheUpstream) {
  Node& good = Add("n1");
  Node& dead = Add("n2");
  Node& leaf = Add("n3");
  const fetch::PeerAddress address = dead.address();
  dead.StopServing();
  leaf.SetParents({address, good.address()});
  EXPECT_EQ(leaf.Get(digest_).value_or(""), text_);
  EXPECT_EQ(good.server().stats().sent_bytes[0], text_.size());
  ASSERT_EQ(leaf.reports().faults().size(), 1U);
  EXPECT_EQ(leaf.reports().faults()[0], std::pair(std::string("n2"), fetch::PeerFault::kUnreachable));

  Node& alone = Add("n4");
  alone.SetParents({address});
  EXPECT_EQ(alone.Get(digest_).value_or(""), text_);
  EXPECT_EQ(Fetches(), 2U);
}

// A peer that answers as a test says.
class BadPeer {
 public:
  explicit BadPeer(net::HttpHandler handler) : server_(net::HttpServer::Start({}, std::move(handler)).value()) {}
  fetch::PeerAddress address() const { return {"bad", "127.0.0.1", server_->port()}; }

 private:
  std::unique_ptr<net::HttpServer> server_;
};

TEST_F(PeerBlobsTest, PeersThatMisbehave) {
  std::vector<std::shared_ptr<net::HttpReply>> held;
  std::mutex mutex;
  struct Case {
    net::HttpHandler handler;
    std::optional<fetch::PeerFault> reported;
    std::chrono::seconds avoided_for;  // at least
  };
  constexpr auto kUnreachable = fetch::PeerFault::kUnreachable;
  constexpr auto kBadBytes = fetch::PeerFault::kBadBytes;
  std::vector<std::thread> tricklers;
  std::atomic<bool> stop{false};
  const std::map<std::string, Case> peers = {
      {"cut in the middle",
       {[&](const net::HttpRequest&, const std::shared_ptr<net::HttpReply>& reply) {
          reply->SendHead(200, {}, text_.size());
          reply->Write(text_.substr(0, kMiB), [reply](bool) { reply->Abort(); });
        },
        kUnreachable, std::chrono::seconds(2)}},
      {"silent",
       {[&](const net::HttpRequest&, const std::shared_ptr<net::HttpReply>& reply) {
          const std::lock_guard lock(mutex);
          held.push_back(reply);
        },
        kUnreachable, std::chrono::seconds(2)}},
      {"silent in the middle",  // perhaps it waits for another's bytes
       {[&](const net::HttpRequest&, const std::shared_ptr<net::HttpReply>& reply) {
          reply->SendHead(200, {}, text_.size());
          reply->Write(text_.substr(0, 1000), nullptr);
          const std::lock_guard lock(mutex);
          held.push_back(reply);
        },
        std::nullopt, std::chrono::seconds(9)}},
      {"endless slow bytes",
       {[&](const net::HttpRequest&, const std::shared_ptr<net::HttpReply>& reply) {
          reply->SendHead(200, {}, text_.size());
          tricklers.emplace_back([&stop, this, reply] {
            for (size_t at = 0; !stop; at += 1000) {
              reply->Write(text_.substr(at, 1000), nullptr);
              std::this_thread::sleep_for(milliseconds(100));
            }
            reply->Abort();
          });
        },
        std::nullopt, std::chrono::seconds(9)}},
      {"another length",
       {[&](const net::HttpRequest&, const std::shared_ptr<net::HttpReply>& reply) {
          reply->Send({200, {}, text_.substr(0, 1000)});
        },
        kBadBytes, std::chrono::seconds(59)}},
      {"flipped bits",
       {[&](const net::HttpRequest&, const std::shared_ptr<net::HttpReply>& reply) {
          std::string bad = text_;
          bad[kMiB] = static_cast<char>(bad[kMiB] ^ 4);
          reply->Send({200, {}, bad});
        },
        kBadBytes, std::chrono::seconds(59)}},
      {"an error",
       {[](const net::HttpRequest&, const std::shared_ptr<net::HttpReply>& reply) {
          reply->Send({500, {}, std::string("oh")});
        },
        std::nullopt, std::chrono::seconds(0)}},
      {"a range that nobody asked for",
       {[&](const net::HttpRequest&, const std::shared_ptr<net::HttpReply>& reply) {
          reply->Send({206, {{"Content-Range", "bytes 5-9/10"}}, std::string("xxxxx")});
        },
        kBadBytes, std::chrono::seconds(59)}},
      {"no HTTP but its status",
       {[](const net::HttpRequest&, const std::shared_ptr<net::HttpReply>& reply) {
          reply->Send({206, {{"Content-Range", "rubbish"}}, std::string("xxxxx")});
        },
        kBadBytes, std::chrono::seconds(59)}},
  };
  int i = 0;
  for (const auto& [what, expected] : peers) {
    const BadPeer bad(expected.handler);
    Node& leaf = Add(fmt::format("n{}", ++i));
    leaf.SetParents({bad.address()});
    // Wrong bytes show only at the end; then the blob is asked for once more, and comes from elsewhere.
    EXPECT_TRUE(leaf.Get(digest_).value_or("") == text_) << what;
    const auto faults = leaf.reports().faults();
    ASSERT_EQ(faults.size(), expected.reported ? 1U : 0U) << what;
    if (expected.reported) {
      EXPECT_EQ(faults[0], std::pair(std::string("bad"), *expected.reported)) << what;
    }
    EXPECT_TRUE(leaf.health().Avoided("bad", fetch::Clock::now() + expected.avoided_for - milliseconds(500))) << what;
    stop = true;
    for (auto& thread : tricklers) thread.join();
    tricklers.clear();
    stop = false;
    const std::lock_guard lock(mutex);
    held.clear();
  }
}

TEST_F(PeerBlobsTest, GoesOnWithTheNextPeerInTheMiddle) {
  Node& good = Add("n1");
  const BadPeer bad([&](const net::HttpRequest&, const std::shared_ptr<net::HttpReply>& reply) {
    reply->SendHead(200, {}, text_.size());
    reply->Write(text_.substr(0, kMiB), [reply](bool) { reply->Abort(); });
  });
  ASSERT_TRUE(good.Get(digest_));
  Node& leaf = Add("n2");
  leaf.SetParents({bad.address(), good.address()});
  const auto opened = leaf.blobs().Open(kFunction, {"up.example", "app", digest_}, 0);
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_EQ(opened->blob_bytes, text_.size());
  std::string body(text_.size() + 10, '\0');
  const auto count = ReadFully(*opened->source, std::as_writable_bytes(std::span(body.data(), body.size())));
  ASSERT_TRUE(count) << count.error().message;
  body.resize(*count);
  EXPECT_TRUE(body == text_);
  EXPECT_LE(good.server().stats().sent_bytes[0], text_.size() - 500 * kKiB) << "only the rest";
}

TEST_F(PeerBlobsTest, FromAnOffset) {
  Node& root = Add("n1");
  Node& leaf = Add("n2");
  leaf.SetParents({root.address()});
  auto opened = leaf.blobs().Open(kFunction, {"up.example", "app", digest_}, 12345);
  ASSERT_TRUE(opened) << opened.error().message;
  std::string body(text_.size(), '\0');
  const auto count = ReadFully(*opened->source, std::as_writable_bytes(std::span(body.data(), body.size())));
  ASSERT_TRUE(count) << count.error().message;
  EXPECT_TRUE(body.substr(0, *count) == text_.substr(12345));
  EXPECT_EQ(leaf.blobs().Open("", {"up.example", "app", Digest::Of(std::string_view("no"))}, 0).error().code,
            Code::kNotFound);
  leaf.SetParents({});
  EXPECT_EQ(leaf.blobs().Open(kFunction, {"up.example", "app", digest_}, 0).error().code, Code::kNotFound);
}

TEST_F(PeerBlobsTest, OnlyIfCachedIsAnsweredAtOnce) {
  Node& root = Add("n1");
  const auto status = [&] {
    int answered = 0;
    const fetch::PeerAddress at = root.address();
    const auto stream = PeerStream::Open(
        {.address = at.address,
         .port = at.port,
         .target = fmt::format("/v2/app/blobs/{}?ns=up.example", digest_.ToString()),
         .headers = {{"Authorization", fmt::format("Bearer {}", kToken)},
                     {"Banyan-Node", "n9"},
                     {"Banyan-Function", kFunction},
                     {"Cache-Control", "only-if-cached"}}},
        [&](int code, const net::HeaderList&) {
          answered = code;
          return Status();
        },
        [](const net::HeaderList&) { return Status(); });
    EXPECT_TRUE(stream);
    return answered;
  };
  EXPECT_EQ(status(), 504);
  EXPECT_EQ(Fetches(), 0U);
  EXPECT_TRUE(root.Get(digest_));
  EXPECT_EQ(status(), 200);
}

TEST_F(PeerBlobsTest, AskersShareOneTransfer) {
  Node& root = Add("n1");
  Node& leaf = Add("n2");
  leaf.SetParents({root.address()});
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kDelay, .delay = milliseconds(300)});
  std::vector<std::future<Result<std::string>>> got;
  for (int i = 0; i < 4; ++i) got.push_back(std::async(std::launch::async, [&] { return leaf.Get(digest_); }));
  for (auto& each : got) EXPECT_TRUE(each.get().value_or("") == text_);
  EXPECT_EQ(Fetches(), 1U);
  EXPECT_EQ(root.server().stats().sent_bytes[0], text_.size());
}

TEST_F(PeerBlobsTest, GetBlobFromHandlers) {
  const auto get = [&](const net::HttpHandler& handler, uint64_t limit = kMiB) {
    return GetBlobFrom(handler, {"", "app", Digest::Of(std::string_view("hello"))}, limit, milliseconds(300));
  };
  const auto code = [&](const net::HttpHandler& handler, uint64_t limit = kMiB) {
    const auto got = get(handler, limit);
    return got ? Code::kUnknown : got.error().code;
  };
  EXPECT_EQ(get([](auto, auto reply) { reply->Send({200, {}, std::string("hello")}); }).value_or(""), "hello");
  int asked = 0;
  const auto wrong_once = [&](auto, auto reply) {
    reply->Send({200, {}, std::string(asked++ == 0 ? "hullo" : "hello")});
  };
  EXPECT_EQ(get(wrong_once).value_or(""), "hello");
  EXPECT_EQ(asked, 2);
  EXPECT_EQ(code([](auto, auto reply) { reply->Send({200, {}, std::string("hullo")}); }), Code::kDataLoss);
  EXPECT_EQ(code([](auto, auto reply) { reply->Send({200, {}, std::string("hello")}); }, 4), Code::kResourceExhausted);
  EXPECT_EQ(code([](auto, auto reply) { reply->Send({404, {}, std::string("no")}); }), Code::kNotFound);
  EXPECT_EQ(code([](auto, auto reply) { reply->Send({502, {}, std::string("no")}); }), Code::kUnavailable);
  EXPECT_EQ(code([](auto, auto) {}), Code::kUnavailable);
  std::shared_ptr<net::HttpReply> held;
  EXPECT_EQ(code([&](auto, auto reply) { held = reply; }), Code::kDeadlineExceeded);
  std::atomic<int> dead{0};
  held->SendHead(200, {}, 5);
  held->Write("hello", [&](bool alive) { dead += alive ? 100 : 1; });
  EXPECT_EQ(dead, 1) << "nobody waits any more";
  std::thread writer;
  EXPECT_EQ(get([&](auto, auto reply) {
              writer = std::thread([reply] {
                reply->SendHead(200, {}, std::nullopt);
                reply->Write("hel", [reply](bool alive) {
                  if (!alive) return;
                  reply->Write("lo", nullptr);
                  reply->End();
                });
              });
            }).value_or(""),
            "hello");
  writer.join();
}

TEST(BlobFunctionsTest, ManifestsTellWhoseABlobIs) {
  BlobFunctions functions(8);
  const auto manifest = [](const std::vector<std::string>& layers) {
    std::string body = R"({"schemaVersion":2,"config":{"digest":")" + Digest::Of(std::string_view("c")).ToString() +
                       R"("},"layers":[)";
    for (const std::string& layer : layers) body += (layer == layers[0] ? "" : ",") + layer;
    body += "]}";
    return mirror::ResolvedManifest{
        "up", "app", "latest",
        std::make_shared<net::RawManifest>(net::RawManifest{"", Digest::Of(std::string_view(body)), body}), true};
  };
  const auto layer = [](std::string_view name) { return R"({"digest":")" + Digest::Of(name).ToString() + R"("})"; };
  const auto find = [&](std::string_view name) { return functions.Find(Digest::Of(name)); };
  const auto first = manifest({layer("a"), layer("b")});
  functions.OnManifest(first);
  EXPECT_EQ(find("a"), first.manifest->digest.ToString());
  EXPECT_EQ(find("b"), first.manifest->digest.ToString());
  EXPECT_EQ(find("c"), first.manifest->digest.ToString());
  EXPECT_EQ(find("d"), std::nullopt);
  functions.OnManifest(manifest({layer("a"), "17", R"({"digest":5})", R"({"digest":"sha256:no"})", "null"}));
  EXPECT_EQ(find("a"), first.manifest->digest.ToString()) << "the first keeps it";
  functions.Add(Digest::Of(std::string_view("a")), "mine");
  EXPECT_EQ(find("a"), "mine");
  for (const char* body : {"", "[]", "{", R"({"layers":5})", R"({"layers":[[[]]]})"}) {
    functions.OnManifest(
        {"up", "app", "latest", std::make_shared<net::RawManifest>(net::RawManifest{"", Digest(), body}), true});
  }
  for (int i = 0; i < 8; ++i) functions.Add(Digest::Of(std::to_string(i)), "many");
  EXPECT_EQ(find("a"), std::nullopt) << "the least recently used is gone";
  EXPECT_EQ(find("0"), "many");
}

}  // namespace
}  // namespace banyan::peer_agent
