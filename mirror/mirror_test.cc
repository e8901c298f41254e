// Which upstream is asked for what, and what its answers and its silence become.
#include "mirror/mirror.h"

#include <atomic>
#include <future>
#include <thread>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "mirror/testing/mirror_fixture.h"
#include "net/manifest_json.h"

namespace banyan::mirror {
namespace {

using net::testing::FakeRegistry;
using net::testing::Fault;
using testing::Answer;
using testing::Ask;
using ::testing::HasSubstr;
using testing::MirrorTest;
using testing::RandomText;

constexpr char kManifestType[] = "application/vnd.oci.image.manifest.v1+json";

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

TEST_F(MirrorTest, OnlyIfCachedAsksNobody) {
  Start();
  const std::string blob = RandomText(2 * kMiB, 8);
  const Digest digest = registry_->AddBlob(blob);
  const std::string only = "Cache-Control: only-if-cached\r\n";
  EXPECT_EQ(Get(BlobPath(digest), only).status, 504);
  EXPECT_EQ(Count("GET", "/blobs/") + Count("HEAD", "/blobs/"), 0U);
  registry_->AddFault(
      {.path_contains = "/blobs/", .kind = Fault::Kind::kDelay, .delay = std::chrono::milliseconds(500), .times = 1});
  auto first = std::async(std::launch::async, [&] { return Get(BlobPath(digest)).body; });
  EXPECT_TRUE(Await([&] { return Count("GET", "/blobs/") == 1; }));
  EXPECT_TRUE(Get(BlobPath(digest), only).body == blob) << "it is on its way";
  EXPECT_TRUE(first.get() == blob);
  ASSERT_TRUE(AwaitStored(digest));
  EXPECT_TRUE(Get(BlobPath(digest), only).body == blob);
  EXPECT_EQ(Count("GET", "/blobs/"), 1U);
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

TEST_F(MirrorTest, TagsArePassedOn) {
  Start();
  registry_->AddFault({.path_contains = "/tags/", .kind = Fault::Kind::kStatus, .status = 404, .times = 1});
  EXPECT_EQ(Get("/v2/app/tags/list").status, 404);
  EXPECT_EQ(Get("/v2/app/tags/list?n=x").status, 400);
}

}  // namespace
}  // namespace banyan::mirror
