// The mirror over a store on disk, before a registry that misbehaves, asked over HTTP as clients do.
#include "mirror/mirror.h"

#include <atomic>
#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "common/file_io.h"
#include "mirror/testing/raw_client.h"
#include "net/manifest_json.h"
#include "net/testing/fake_registry.h"
#include "store/limited_disk.h"

namespace banyan::mirror {
namespace {

using net::testing::FakeRegistry;
using net::testing::FakeRegistryOptions;
using net::testing::Fault;
using store::testing::LimitedDisk;
using testing::Answer;
using testing::Ask;
using testing::Connection;
using ::testing::HasSubstr;

constexpr char kManifestType[] = "application/vnd.oci.image.manifest.v1+json";

std::string RandomText(size_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string text(size, '\0');
  for (size_t i = 0; i + 8 <= size; i += 8) {
    const uint64_t word = random();
    std::memcpy(text.data() + i, &word, 8);
  }
  return text;
}

class MirrorTest : public ::testing::Test {
 protected:
  void Start(FakeRegistryOptions registry = {}, uint64_t budget = kGiB) {
    registry_ = FakeRegistry::Start(registry).value();
    StartMirror(budget);
  }
  void StartMirror(uint64_t budget = kGiB) {
    store::NodeStore::Options store;
    store.root = dir_.path() + "/store";
    store.budget_bytes = budget;
    store.disk = disk_;
    store_ = store::NodeStore::Open(store).value();
    if (options_.upstreams.empty()) {
      UpstreamOptions upstream;
      upstream.name = "up.example";
      upstream.endpoints = {{.host = registry_->host(), .plain_http = true}};
      upstream.stall_timeout = stall_timeout_;
      options_.upstreams = {upstream};
      options_.default_upstream = "up.example";
    }
    mirror_ = Mirror::Create(options_, *store_, hooks_).value();
    server_ = net::HttpServer::Start({}, [this](net::HttpRequest request, std::shared_ptr<net::HttpReply> reply) {
                mirror_->Handle(std::move(request), std::move(reply));
              }).value();
  }
  void StopMirror() {
    if (server_) server_->Stop();
    mirror_.reset();
    server_.reset();
    store_.reset();
  }
  void TearDown() override { StopMirror(); }

  Answer Get(const std::string& path, const std::string& headers = "") {
    return Ask(server_->port(), "GET", path, headers);
  }
  Answer Head(const std::string& path) { return Ask(server_->port(), "HEAD", path, ""); }
  static std::string BlobPath(const Digest& digest) { return "/v2/app/blobs/" + digest.ToString(); }
  size_t Count(std::string_view method, std::string_view in_target) const {
    size_t count = 0;
    for (const auto& request : registry_->requests()) {
      if (request.method == method && request.target.find(in_target) != std::string::npos) ++count;
    }
    return count;
  }
  static bool Await(const std::function<bool()>& holds) {
    for (int i = 0; i < 1000; ++i) {
      if (holds()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }
  // Until the blob is whole in the store.
  bool AwaitStored(const Digest& digest) {
    return Await([&] { return store_->BlobBytes(digest).has_value(); });
  }

  TempDir dir_ = TempDir::Make("banyan-mirror").value();
  std::shared_ptr<store::Disk> disk_;
  MirrorOptions options_;
  std::chrono::milliseconds stall_timeout_{1500};
  Hooks hooks_;
  std::unique_ptr<FakeRegistry> registry_;
  std::unique_ptr<store::NodeStore> store_;
  std::unique_ptr<Mirror> mirror_;
  std::unique_ptr<net::HttpServer> server_;
};

TEST_F(MirrorTest, FiftyReadersOfAColdBlobAreOneUpstreamGet) {
  stall_timeout_ = std::chrono::seconds(60);  // the registry makes copies of it, on a machine that is busy
  Start();
  const std::string blob = RandomText(64 * kMiB, 1);
  const Digest digest = registry_->AddBlob(blob);
  std::atomic<int> right{0};
  {
    std::vector<std::jthread> clients;
    for (size_t i = 0; i < 50; ++i) {
      clients.emplace_back([&] {
        Connection connection(server_->port());
        connection.Send("GET", BlobPath(digest), "");
        const Answer head = connection.ReadHead();
        if (head.status == 200 && head.Header("content-length") == std::to_string(blob.size()) &&
            connection.BodyIs(blob)) {
          ++right;
        }
      });
    }
  }
  EXPECT_EQ(right, 50);
  EXPECT_EQ(Count("GET", "/blobs/"), 1U);
  EXPECT_EQ(Count("HEAD", "/blobs/"), 0U);
  EXPECT_TRUE(AwaitStored(digest));
  EXPECT_TRUE(Get(BlobPath(digest)).body == blob);
  EXPECT_EQ(Count("GET", "/blobs/"), 1U);
  const Stats stats = mirror_->stats();
  EXPECT_EQ(stats.flights_started, 1U);
  EXPECT_EQ(stats.upstream_bytes, blob.size());
  EXPECT_EQ(stats.miss_bytes + stats.hit_bytes, 51 * blob.size());
  EXPECT_EQ(stats.readers_active, 0U);
}

TEST_F(MirrorTest, RangesAreExactWhileFillingAndAfter) {
  Start();
  const std::string blob = RandomText(4 * kMiB, 2);
  const Digest digest = registry_->AddBlob(blob);
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kSlow, .delay = std::chrono::milliseconds(3)});
  struct Case {
    std::string range;
    int status;
    uint64_t begin, end;
  };
  const uint64_t size = blob.size();
  const std::vector<Case> cases = {
      {"bytes=0-", 206, 0, size},
      {"bytes=1000000-", 206, 1000000, size},
      {"bytes=17-70000", 206, 17, 70001},
      {"bytes=-5", 206, size - 5, size},
      {fmt::format("bytes={}-{}", size - 1, size - 1), 206, size - 1, size},
      {fmt::format("bytes=2000000-{}", size + 100), 206, 2000000, size},
      {fmt::format("bytes={}-", size), 416, 0, 0},
      {"bytes=0-1,4-5", 200, 0, size},
      {"lines=1-2", 200, 0, size},
      {"", 200, 0, size},
  };
  const auto check = [&](const Case& one, const Answer& answer) {
    SCOPED_TRACE(one.range);
    EXPECT_EQ(answer.status, one.status);
    EXPECT_EQ(answer.Header("content-encoding"), "");
    if (one.status == 416) {
      EXPECT_EQ(answer.Header("content-range"), fmt::format("bytes */{}", size));
      return;
    }
    EXPECT_TRUE(answer.whole);
    EXPECT_TRUE(answer.body == blob.substr(one.begin, one.end - one.begin));
    EXPECT_EQ(answer.Header("content-length"), std::to_string(one.end - one.begin));
    EXPECT_EQ(answer.Header("docker-content-digest"), digest.ToString());
    EXPECT_EQ(answer.Header("etag"), "\"" + digest.ToString() + "\"");
    const std::string expected = one.status == 206 ? fmt::format("bytes {}-{}/{}", one.begin, one.end - 1, size) : "";
    EXPECT_EQ(answer.Header("content-range"), expected);
  };
  const auto headers = [](const Case& one) { return one.range.empty() ? "" : "Range: " + one.range + "\r\n"; };
  {
    std::vector<std::jthread> clients;
    for (const Case& one : cases) clients.emplace_back([&] { check(one, Get(BlobPath(digest), headers(one))); });
  }
  EXPECT_EQ(Count("GET", "/blobs/"), 1U);
  ASSERT_TRUE(AwaitStored(digest));
  for (const Case& one : cases) check(one, Get(BlobPath(digest), headers(one)));
  EXPECT_EQ(Get(BlobPath(digest), "Range: bytes=0-9\r\nIf-Range: \"another\"\r\n").status, 200);
  EXPECT_EQ(Count("GET", "/blobs/"), 1U);
}

TEST_F(MirrorTest, FirstBytesGoOutBeforeTheUpstreamHasFinished) {
  Start();
  const std::string blob = RandomText(3 * kMiB, 3);
  const Digest digest = registry_->AddBlob(blob);
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kStall, .after_bytes = kMiB, .times = 1});
  Connection connection(server_->port());
  connection.Send("GET", BlobPath(digest), "");
  EXPECT_EQ(connection.ReadHead().Header("content-length"), std::to_string(blob.size()));
  EXPECT_EQ(connection.ReadBody(kMiB - 1), blob.substr(0, kMiB - 1));
  EXPECT_EQ(mirror_->stats().flights_active, 1U);
  // The stalled transfer is taken up again by a range.
  EXPECT_EQ(connection.ReadBody(blob.size()), blob.substr(kMiB - 1));
  EXPECT_EQ(Count("GET", "/blobs/"), 2U);
}

TEST_F(MirrorTest, ACutUpstreamIsResumedByRange) {
  Start();
  const std::string blob = RandomText(5 * kMiB, 4);
  const Digest digest = registry_->AddBlob(blob);
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kCut, .after_bytes = 2 * kMiB, .times = 1});
  EXPECT_TRUE(Get(BlobPath(digest)).body == blob);
  ASSERT_EQ(Count("GET", "/blobs/"), 2U);
  EXPECT_THAT(registry_->requests()[1].range, ::testing::StartsWith("bytes="));
  EXPECT_TRUE(AwaitStored(digest));
}

TEST_F(MirrorTest, WhenTheUpstreamStaysAwayReadersAreCutAndGoOnWhereTheyWere) {
  Start();
  const std::string blob = RandomText(5 * kMiB, 5);
  const Digest digest = registry_->AddBlob(blob);
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kCut, .after_bytes = 3 * kMiB, .times = 1});
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kStatus, .status = 503, .times = 4});
  const Answer cut = Get(BlobPath(digest));
  EXPECT_EQ(cut.status, 200);
  EXPECT_FALSE(cut.whole);
  EXPECT_FALSE(store_->BlobBytes(digest));
  ASSERT_GE(cut.body.size(), kMiB);
  EXPECT_TRUE(cut.body == blob.substr(0, cut.body.size()));
  registry_->ClearFaults();
  registry_->ClearRequests();
  const Answer rest = Get(BlobPath(digest), fmt::format("Range: bytes={}-\r\n", cut.body.size()));
  EXPECT_EQ(rest.status, 206);
  EXPECT_TRUE(cut.body + rest.body == blob);
  // What had come was not asked for again.
  ASSERT_EQ(Count("GET", "/blobs/"), 1U);
  EXPECT_NE(registry_->requests()[0].range, "");
  EXPECT_EQ(mirror_->stats().fills_resumed, 1U);
}

TEST_F(MirrorTest, ARestartInTheMiddleOfAFillGoesOnWhereItWas) {
  Start();
  const std::string blob = RandomText(6 * kMiB, 17);
  const Digest digest = registry_->AddBlob(blob);
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kStall, .after_bytes = 4 * kMiB, .times = 1});
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kStall});
  {
    Connection connection(server_->port());
    connection.Send("GET", BlobPath(digest), "");
    connection.ReadHead();
    connection.ReadBody(3 * kMiB);
    StopMirror();
  }
  registry_->ClearFaults();
  registry_->ClearRequests();
  StartMirror();
  EXPECT_FALSE(store_->BlobBytes(digest));
  EXPECT_TRUE(Get(BlobPath(digest)).body == blob);
  ASSERT_EQ(Count("GET", "/blobs/"), 1U);
  EXPECT_NE(registry_->requests()[0].range, "");
  EXPECT_TRUE(AwaitStored(digest));
  EXPECT_LT(mirror_->stats().upstream_bytes, 4 * kMiB);
}

TEST_F(MirrorTest, WrongBytesAreNeverWholeAndNeverStored) {
  Start();
  const std::string blob = RandomText(3 * kMiB, 6);
  const Digest digest = registry_->AddBlob(blob);
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kFlipByte, .after_bytes = 1000});
  const Answer whole = Get(BlobPath(digest));
  EXPECT_FALSE(whole.whole);
  EXPECT_LT(whole.body.size(), blob.size());
  const Answer tail = Get(BlobPath(digest), "Range: bytes=-100\r\n");
  EXPECT_FALSE(tail.whole);
  EXPECT_FALSE(store_->BlobBytes(digest));
  EXPECT_EQ(store_->usage().blob_bytes, 0U);
  registry_->ClearFaults();
  EXPECT_TRUE(Get(BlobPath(digest)).body == blob);
}

TEST_F(MirrorTest, StatusesSendContainerdOn) {
  Start();
  const Digest digest = registry_->AddBlob("content");
  EXPECT_EQ(Get(BlobPath(Digest::Of("nobody has it"))).status, 404);
  EXPECT_THAT(Get(BlobPath(Digest::Of("nobody has it"))).body, HasSubstr("BLOB_UNKNOWN"));
  EXPECT_EQ(Head(BlobPath(Digest::Of("nobody has it"))).status, 404);
  EXPECT_EQ(Get("/v2/app/manifests/none").status, 404);
  EXPECT_THAT(Get("/v2/app/manifests/none").body, HasSubstr("MANIFEST_UNKNOWN"));
  EXPECT_EQ(Get("/v2/app/blobs/sha256:123").status, 400);
  EXPECT_THAT(Get("/v2/APP/tags/list").body, HasSubstr("NAME_INVALID"));
  EXPECT_EQ(Get("/v2/../../etc/passwd").status, 404);
  EXPECT_EQ(Get("/v2/_catalog").status, 404);
  EXPECT_EQ(Ask(server_->port(), "DELETE", BlobPath(digest), "").status, 405);
  EXPECT_EQ(Ask(server_->port(), "POST", "/v2/app/blobs/uploads/", "").status, 405);
  EXPECT_EQ(Get(BlobPath(digest) + "?ns=elsewhere.example").status, 404);
  EXPECT_EQ(Get(BlobPath(digest) + "?ns=a/b").status, 400);
  EXPECT_EQ(Get("/v2/").status, 200);
  EXPECT_EQ(Get("/metrics").status, 404);
  for (const auto& [from, to] : std::vector<std::pair<int, int>>{
           {401, 403}, {403, 403}, {404, 404}, {408, 504}, {429, 503}, {500, 502}, {503, 502}}) {
    registry_->ClearFaults();
    registry_->AddFault({.path_contains = "/v2/", .kind = Fault::Kind::kStatus, .status = from, .retry_after_s = 0});
    StopMirror();  // or it leaves the upstream alone for a while
    StartMirror();
    EXPECT_EQ(Get(BlobPath(digest)).status, to) << from;
    EXPECT_EQ(Get("/v2/app/manifests/latest").status, to) << from;
  }
}

TEST_F(MirrorTest, UpstreamsAreChosenByNsByPrefixOrByDefault) {
  registry_ = FakeRegistry::Start({}).value();
  const auto other = FakeRegistry::Start({}).value();
  const Digest here = registry_->AddBlob("in the default one");
  const Digest there = other->AddBlob("in the other one");
  UpstreamOptions first;
  first.name = "up.example";
  first.endpoints = {{.host = "127.0.0.1:1", .plain_http = true}, {.host = registry_->host(), .plain_http = true}};
  UpstreamOptions second;
  second.name = other->host();
  options_.upstreams = {first, second};
  options_.default_upstream = "up.example";
  StartMirror();
  EXPECT_EQ(Get(BlobPath(here)).body, "in the default one");  // at its second endpoint
  // The first endpoint cannot be asked and may have it: that is not "not found".
  EXPECT_EQ(Get(BlobPath(there)).status, 502);
  EXPECT_EQ(Get(BlobPath(there) + "?ns=elsewhere.example").status, 404);
  EXPECT_EQ(Get(BlobPath(there) + "?ns=" + other->host()).body, "in the other one");
  ASSERT_TRUE(AwaitStored(there));
  // Digests are served without an upstream that has them.
  EXPECT_EQ(Get(BlobPath(there)).body, "in the other one");
  EXPECT_EQ(Get(BlobPath(there) + "?ns=elsewhere.example").body, "in the other one");
  const Digest more = other->AddBlob("more");
  EXPECT_EQ(Get("/v2/" + other->host() + "/app/blobs/" + more.ToString()).body, "more");
  EXPECT_EQ(other->requests().back().target, "/v2/app/blobs/" + more.ToString());
}

TEST_F(MirrorTest, AnEndpointThatIsAMirrorItselfIsToldWhichRegistryIsMeant) {
  registry_ = FakeRegistry::Start({}).value();
  UpstreamOptions upstream;
  upstream.name = "up.example";
  upstream.endpoints = {{.host = registry_->host(), .plain_http = true, .is_mirror = true}};
  options_.upstreams = {upstream};
  options_.default_upstream = "up.example";
  StartMirror();
  const Digest digest = registry_->AddBlob("content");
  EXPECT_EQ(Get(BlobPath(digest)).body, "content");
  ASSERT_EQ(registry_->requests().size(), 1U);
  EXPECT_THAT(registry_->requests()[0].target, HasSubstr("ns=up.example"));
}

TEST_F(MirrorTest, ManifestsByTagAreRevalidatedAndServedStale) {
  options_.tag_lifetime = std::chrono::milliseconds(0);
  Start();
  const std::string one = R"({"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","n":1})";
  const std::string two = R"({"schemaVersion":2,"n":2})";
  const Digest digest = registry_->AddManifest("latest", kManifestType, one);
  Answer answer = Get("/v2/app/manifests/latest");
  EXPECT_EQ(answer.body, one);
  EXPECT_EQ(answer.Header("content-type"), kManifestType);
  EXPECT_EQ(answer.Header("docker-content-digest"), digest.ToString());
  answer = Head("/v2/app/manifests/latest");
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.Header("content-length"), std::to_string(one.size()));
  EXPECT_EQ(Count("GET", "/manifests/"), 1U);
  EXPECT_EQ(Count("HEAD", "/manifests/"), 1U);
  EXPECT_EQ(Get("/v2/app/manifests/" + digest.ToString()).body, one);
  EXPECT_EQ(Count("GET", "/manifests/"), 1U);
  // The tag moves; its media type cannot be told from the body.
  registry_->AddManifest("latest", "application/vnd.example.odd+json", two);
  answer = Get("/v2/app/manifests/latest");
  EXPECT_EQ(answer.body, two);
  EXPECT_EQ(answer.Header("content-type"), "application/vnd.example.odd+json");
  for (int i = 0; i < 500 && !store_->BlobBytes(Digest::Of(two)); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  // The upstream goes away, and the mirror is started anew.
  StopMirror();
  registry_->AddFault({.path_contains = "/v2/", .kind = Fault::Kind::kStatus, .status = 503});
  StartMirror();
  answer = Get("/v2/app/manifests/latest");
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.body, two);
  EXPECT_EQ(answer.Header("content-type"), "application/vnd.example.odd+json");
  EXPECT_THAT(answer.Header("warning"), HasSubstr("110"));
  EXPECT_EQ(Get("/v2/app/manifests/" + digest.ToString()).body, one);
  EXPECT_EQ(Get("/v2/app/manifests/other").status, 502);
  // It is back, and the tag is gone.
  registry_->ClearFaults();
  registry_->AddFault({.path_contains = "/manifests/latest", .kind = Fault::Kind::kStatus, .status = 404});
  StopMirror();
  StartMirror();
  EXPECT_EQ(Get("/v2/app/manifests/latest").status, 404);
}

TEST_F(MirrorTest, AsksForOneManifestAreOneRequest) {
  Start();
  registry_->AddManifest("latest", kManifestType, R"({"schemaVersion":2})");
  registry_->AddFault(
      {.path_contains = "/manifests/", .kind = Fault::Kind::kDelay, .delay = std::chrono::milliseconds(300)});
  {
    std::vector<std::jthread> clients;
    for (int i = 0; i < 20; ++i) {
      clients.emplace_back([&] { EXPECT_EQ(Get("/v2/app/manifests/latest").status, 200); });
    }
  }
  EXPECT_EQ(Count("GET", "/manifests/") + Count("HEAD", "/manifests/"), 1U);
}

TEST_F(MirrorTest, ReferrersAreMergedFilteredAndNever404) {
  const std::string subject_text = Digest::Of("subject").ToString();
  hooks_.extra_referrers = [&](const std::string& upstream, const std::string& repository, const Digest& subject) {
    EXPECT_EQ(upstream, "up.example");
    EXPECT_EQ(repository, "app");
    if (subject != Digest::Of("subject")) return std::vector<std::string>();
    return std::vector<std::string>{fmt::format(R"({{"mediaType":"m","digest":"{}","size":1,"artifactType":"own"}})",
                                                Digest::Of("own").ToString())};
  };
  for (const bool api : {true, false}) {
    SCOPED_TRACE(api);
    registry_ = FakeRegistry::Start({.referrers_api = api}).value();
    options_.upstreams.clear();
    StartMirror();
    std::vector<std::string> digests;
    nlohmann::json fallback = {{"schemaVersion", 2}, {"manifests", nlohmann::json::array()}};
    for (const std::string type : {"a", "b"}) {
      const std::string body = fmt::format(
          R"({{"schemaVersion":2,"artifactType":"{}","subject":{{"mediaType":"m","digest":"{}","size":3}}}})", type,
          subject_text);
      digests.push_back(registry_->AddManifest("", kManifestType, body).ToString());
      fallback["manifests"].push_back(net::DescriptorOf(kManifestType, body));
    }
    if (!api)
      registry_->AddManifest(net::FallbackTag(Digest::Of("subject")), std::string(net::kOciIndexType), fallback.dump());
    const std::string path = "/v2/app/referrers/" + subject_text;
    Answer answer = Get(path + "?artifactType=b");
    EXPECT_EQ(answer.status, 200);
    EXPECT_EQ(answer.Header("content-type"), net::kOciIndexType);
    EXPECT_EQ(answer.Header("oci-filters-applied"), "artifactType");
    EXPECT_THAT(answer.body, HasSubstr(digests[1]));
    EXPECT_EQ(answer.body.find(digests[0]), std::string::npos);
    answer = Get(path);
    EXPECT_EQ(answer.Header("oci-filters-applied"), "");
    EXPECT_EQ(nlohmann::json::parse(answer.body)["manifests"].size(), 3U);
    answer = Get("/v2/app/referrers/" + Digest::Of("unknown").ToString());
    EXPECT_EQ(answer.status, 200);
    EXPECT_EQ(nlohmann::json::parse(answer.body)["manifests"].size(), 0U);
    // What the hook has is there without the upstream.
    registry_->AddFault({.path_contains = "/v2/", .kind = Fault::Kind::kStatus, .status = 503});
    StopMirror();
    StartMirror();
    EXPECT_THAT(Get(path + "?artifactType=own").body, HasSubstr(Digest::Of("own").ToString()));
    EXPECT_EQ(Get(path + "?artifactType=b").status, 502);
    StopMirror();
  }
}

TEST_F(MirrorTest, HooksComeFirst) {
  hooks_.answer_first = [](net::HttpRequest& request, std::shared_ptr<net::HttpReply>& reply) {
    if (!request.path().starts_with("/own")) return false;
    reply->Send({200, {}, std::string("mine")});
    return true;
  };
  std::atomic<int> resolved{0};
  std::atomic<int> fetched{0};
  hooks_.on_manifest = [&](const ResolvedManifest& manifest) {
    EXPECT_EQ(manifest.upstream, "up.example");
    EXPECT_EQ(manifest.reference, "latest");
    ++resolved;
    if (manifest.fetched) ++fetched;
  };
  hooks_.authorise = [](const net::HttpRequest& request, const std::string& upstream, const Route& route,
                        std::shared_ptr<net::HttpReply> reply, Hooks::Proceed proceed) {
    EXPECT_EQ(upstream, "up.example");
    if (route.repository != "secret") return proceed({});
    const std::string* given = request.headers.Find("authorization");
    if (given == nullptr) return reply->Send({401, {{"WWW-Authenticate", "Basic realm=\"up\""}}, std::string()});
    proceed({"user", "password"});
  };
  const std::string tree_blob = "from a tree";
  hooks_.open_blob_first = [&](const BlobAsk& ask, uint64_t offset) -> Result<net::OpenedBlob> {
    if (ask.digest != Digest::Of(tree_blob)) return Fail(Code::kNotFound, "not in the tree");
    EXPECT_EQ(offset, 0U);
    return net::OpenedBlob{std::make_unique<MemorySource>(std::as_bytes(std::span(tree_blob))), tree_blob.size()};
  };
  Start({.token_auth = true, .username = "user", .password = "password"});
  registry_->AddManifest("latest", kManifestType, R"({"schemaVersion":2})");
  EXPECT_EQ(Get("/own/thing").body, "mine");
  EXPECT_EQ(Get("/v2/secret/manifests/latest").status, 401);
  EXPECT_EQ(Get("/v2/open/manifests/latest").status, 403);  // the upstream wants credentials
  EXPECT_EQ(Get("/v2/secret/manifests/latest", "Authorization: Basic x\r\n").status, 200);
  EXPECT_EQ(Get("/v2/secret/manifests/latest", "Authorization: Basic x\r\n").status, 200);
  EXPECT_TRUE(Await([&] { return resolved == 2; }));  // the hook comes behind the answer
  EXPECT_EQ(fetched, 1);
  EXPECT_EQ(Get(BlobPath(Digest::Of(tree_blob))).body, tree_blob);
  EXPECT_EQ(Count("GET", "/blobs/"), 0U);
}

TEST_F(MirrorTest, WithTheUpstreamDownWhatIsHereIsServed) {
  Start();
  const std::string blob = RandomText(2 * kMiB, 8);
  const Digest digest = registry_->AddBlob(blob);
  EXPECT_TRUE(Get(BlobPath(digest)).body == blob);
  ASSERT_TRUE(AwaitStored(digest));
  registry_.reset();
  EXPECT_TRUE(Get(BlobPath(digest)).body == blob);
  EXPECT_EQ(Head(BlobPath(digest)).Header("content-length"), std::to_string(blob.size()));
  EXPECT_EQ(Get(BlobPath(Digest::Of("other"))).status, 502);
}

TEST_F(MirrorTest, AHungUpstreamHoldsUpNeitherTheStoreNorAnotherUpstream) {
  registry_ = FakeRegistry::Start({}).value();
  const auto other = FakeRegistry::Start({}).value();
  const Digest there = other->AddBlob("there");
  const Digest stored = registry_->AddBlob("stored");
  UpstreamOptions first;
  first.name = "up.example";
  first.endpoints = {{.host = registry_->host(), .plain_http = true}};
  first.stall_timeout = std::chrono::milliseconds(3000);
  first.max_calls = 2;
  first.max_fills = 2;
  UpstreamOptions second;
  second.name = other->host();
  options_.upstreams = {first, second};
  options_.default_upstream = "up.example";
  StartMirror();
  EXPECT_EQ(Get(BlobPath(stored)).body, "stored");
  ASSERT_TRUE(AwaitStored(stored));
  registry_->AddFault({.path_contains = "/v2/", .kind = Fault::Kind::kStall});
  std::vector<std::jthread> hung;
  for (int i = 0; i < 30; ++i) {
    hung.emplace_back([&, i] {
      Get(i % 2 == 0 ? BlobPath(Digest::Of(std::to_string(i))) : fmt::format("/v2/app/manifests/t{}", i));
    });
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(Get(BlobPath(stored)).body, "stored");
  EXPECT_EQ(Get(BlobPath(there) + "?ns=" + other->host()).body, "there");
  EXPECT_EQ(Get("/v2/").status, 200);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(1500));
  StopMirror();  // breaks the rest off
}

TEST_F(MirrorTest, AFullDiskStillPassesBytesOn) {
  const auto disk = std::make_shared<LimitedDisk>();
  disk_ = disk;
  Start();
  const std::string blob = RandomText(24 * kMiB, 9);
  const Digest digest = registry_->AddBlob(blob);
  for (const uint64_t room : {uint64_t{0}, 5 * kMiB}) {
    disk->room = static_cast<int64_t>(room);
    registry_->ClearRequests();
    std::vector<std::jthread> clients;
    std::atomic<int> right{0};
    for (int i = 0; i < 5; ++i) {
      clients.emplace_back([&] {
        const Answer answer = Get(BlobPath(digest));
        if (answer.whole && answer.body == blob) ++right;
      });
    }
    clients.clear();
    EXPECT_EQ(right, 5) << room;
    EXPECT_LE(Count("GET", "/blobs/"), 5U);
    EXPECT_FALSE(store_->BlobBytes(digest));
  }
  EXPECT_GE(mirror_->stats().fills_uncached, 2U);
  // Wrong bytes are not whole here either.
  registry_->AddFault(
      {.path_contains = "/blobs/", .kind = Fault::Kind::kFlipByte, .after_bytes = 20 * kMiB, .times = 1});
  disk->room = 0;
  EXPECT_FALSE(Get(BlobPath(digest)).whole);
  registry_->ClearFaults();
  disk->room = INT64_MAX;
  EXPECT_TRUE(Get(BlobPath(digest)).body == blob);
  EXPECT_TRUE(AwaitStored(digest));
}

TEST_F(MirrorTest, ABlobLargerThanTheBudgetIsPassedOnAndEvictsNothing) {
  Start({}, 8 * kMiB);
  const std::string small = RandomText(2 * kMiB, 10);
  const std::string large = RandomText(20 * kMiB, 11);
  const Digest small_digest = registry_->AddBlob(small);
  const Digest large_digest = registry_->AddBlob(large);
  EXPECT_TRUE(Get(BlobPath(small_digest)).body == small);
  ASSERT_TRUE(AwaitStored(small_digest));
  EXPECT_TRUE(Get(BlobPath(large_digest)).body == large);
  EXPECT_TRUE(store_->BlobBytes(small_digest));
  EXPECT_FALSE(store_->BlobBytes(large_digest));
}

TEST_F(MirrorTest, EvictionWaitsForReaders) {
  Start({}, 5 * kMiB);
  const std::string held = RandomText(4 * kMiB, 12);
  const std::string next = RandomText(3 * kMiB, 13);
  const Digest held_digest = registry_->AddBlob(held);
  const Digest next_digest = registry_->AddBlob(next);
  EXPECT_TRUE(Get(BlobPath(held_digest)).body == held);
  ASSERT_TRUE(AwaitStored(held_digest));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const store::StoredBlob hold = store_->OpenBlob(held_digest).value();
  EXPECT_TRUE(Get(BlobPath(next_digest)).body == next);  // not stored: there is no room
  EXPECT_FALSE(store_->BlobBytes(next_digest));
  EXPECT_TRUE(Get(BlobPath(held_digest)).body == held);
}

TEST_F(MirrorTest, AFillWithoutReadersGoesOnWithinABound) {
  options_.max_orphans = 1;
  Start();
  const std::string one = RandomText(3 * kMiB, 14);
  const std::string two = RandomText(3 * kMiB, 15);
  const Digest first = registry_->AddBlob(one);
  const Digest second = registry_->AddBlob(two);
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kSlow, .delay = std::chrono::milliseconds(5)});
  for (const Digest& digest : {first, second}) {
    {
      Connection connection(server_->port());
      connection.Send("GET", BlobPath(digest), "Range: bytes=0-\r\n");
      connection.ReadHead();
      EXPECT_EQ(connection.ReadBody(1000).size(), 1000U);
    }
    // The first is to be left alone before the second.
    EXPECT_TRUE(Await([&] { return mirror_->stats().readers_active == 0; }));
  }
  EXPECT_TRUE(AwaitStored(first));
  EXPECT_FALSE(store_->BlobBytes(second));
  EXPECT_EQ(mirror_->stats().readers_active, 0U);
}

TEST_F(MirrorTest, AShortRangeFarAheadDoesNotWait) {
  Start();
  const std::string blob = RandomText(32 * kMiB, 16);
  const Digest digest = registry_->AddBlob(blob);
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kStall, .after_bytes = kMiB, .times = 1});
  const auto begin = std::chrono::steady_clock::now();
  const Answer answer = Get(BlobPath(digest), "Range: bytes=30000000-30000999\r\n");
  EXPECT_EQ(answer.status, 206);
  EXPECT_EQ(answer.Header("content-range"), fmt::format("bytes 30000000-30000999/{}", blob.size()));
  EXPECT_TRUE(answer.body == blob.substr(30000000, 1000));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(1200));
  EXPECT_TRUE(AwaitStored(digest));  // the fill goes on meanwhile
}

TEST_F(MirrorTest, TagsArePassedOn) {
  Start();
  registry_->AddFault({.path_contains = "/tags/", .kind = Fault::Kind::kStatus, .status = 404, .times = 1});
  EXPECT_EQ(Get("/v2/app/tags/list").status, 404);
  EXPECT_EQ(Get("/v2/app/tags/list?n=x").status, 400);
}

}  // namespace
}  // namespace banyan::mirror
