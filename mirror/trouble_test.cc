// The mirror before upstreams that are slow, hung, redirect or lie about what they send. What status each refusal
// becomes, and what is done about cuts, stalls and wrong bytes, is in mirror_test.cc
// and blob_fill_test.cc.
#include <thread>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "common/file_io.h"
#include "mirror/mirror.h"
#include "mirror/testing/raw_client.h"
#include "net/testing/fake_registry.h"

namespace banyan::mirror {
namespace {

using net::testing::FakeRegistry;
using net::testing::FakeRegistryOptions;
using net::testing::Fault;
using std::chrono::milliseconds;
using testing::Answer;
using testing::Ask;
using ::testing::HasSubstr;
using Clock = std::chrono::steady_clock;

constexpr char kManifestType[] = "application/vnd.oci.image.manifest.v1+json";
constexpr char kOne[] = R"({"schemaVersion":2,"n":1})";
constexpr char kTwo[] = R"({"schemaVersion":2,"n":2})";

class TroubleTest : public ::testing::Test {
 protected:
  void Start(const FakeRegistryOptions& options = {}) {
    registry_ = FakeRegistry::Start(options).value();
    StartMirror(registry_->host());
  }
  void StartMirror(const std::string& upstream_host) {
    store_ = store::NodeStore::Open({.root = dir_.path() + "/store"}).value();
    upstream_.name = "up.example";
    upstream_.endpoints = {{.host = upstream_host, .plain_http = true}};
    upstream_.stall_timeout = milliseconds(8'000);
    options_.upstreams = {upstream_};
    options_.default_upstream = "up.example";
    mirror_ = Mirror::Create(options_, *store_, hooks_).value();
    server_ = net::HttpServer::Start({}, [this](net::HttpRequest request, std::shared_ptr<net::HttpReply> reply) {
                mirror_->Handle(std::move(request), std::move(reply));
              }).value();
  }
  void TearDown() override {
    if (server_) server_->Stop();
    mirror_.reset();
  }

  Answer Get(const std::string& path) { return Ask(server_->port(), "GET", path, ""); }
  // The answer, and that it came within the time.
  Answer GetWithin(milliseconds limit, const std::string& path) {
    const auto begin = Clock::now();
    Answer answer = Get(path);
    EXPECT_LT(Clock::now() - begin, limit) << path;
    return answer;
  }
  static std::string BlobPath(const Digest& digest) { return "/v2/app/blobs/" + digest.ToString(); }
  size_t Count(std::string_view in_target) const {
    size_t count = 0;
    for (const auto& request : registry_->requests()) count += request.target.find(in_target) != std::string::npos;
    return count;
  }
  void Hang() {
    registry_->AddFault({.path_contains = "/v2/", .kind = Fault::Kind::kDelay, .delay = milliseconds(6'000)});
  }
  // A manifest at the registry that refers to the subject.
  Digest AddReferrer(const Digest& subject) {
    return registry_->AddManifest(
        "", kManifestType,
        fmt::format(
            R"({{"schemaVersion":2,"artifactType":"theirs","subject":{{"mediaType":"m","digest":"{}","size":3}}}})",
            subject.ToString()));
  }
  static size_t Listed(const Answer& answer) { return nlohmann::json::parse(answer.body)["manifests"].size(); }
  void HookHasOwn() {
    hooks_.extra_referrers = [](const std::string&, const std::string&, const Digest&) {
      return std::vector<std::string>{fmt::format(R"({{"mediaType":"m","digest":"{}","size":1,"artifactType":"own"}})",
                                                  Digest::Of("own").ToString())};
    };
  }

  TempDir dir_ = TempDir::Make("banyan-mirror").value();
  UpstreamOptions upstream_;
  MirrorOptions options_;
  Hooks hooks_;
  std::unique_ptr<FakeRegistry> registry_;
  std::unique_ptr<store::NodeStore> store_;
  std::unique_ptr<Mirror> mirror_;
  std::unique_ptr<net::HttpServer> server_;
};

TEST_F(TroubleTest, AHungUpstreamIsNotWaitedForWhenTheTagIsKnown) {
  options_.tag_lifetime = milliseconds(0);
  options_.stale_after = milliseconds(300);
  Start();
  registry_->AddManifest("latest", kManifestType, kOne);
  EXPECT_EQ(Get("/v2/app/manifests/latest").body, kOne);
  registry_->AddManifest("latest", kManifestType, kTwo);
  Hang();
  Answer answer = GetWithin(milliseconds(4'000), "/v2/app/manifests/latest");
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.body, kOne);
  EXPECT_THAT(answer.Header("warning"), HasSubstr("110"));
  // Those who come next join no queue, and ask nothing more of the upstream.
  const size_t asked = Count("/manifests/latest");
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Get("/v2/app/manifests/latest").body, kOne);
  EXPECT_EQ(Count("/manifests/latest"), asked);
  // It answers at last, and is asked again.
  registry_->ClearFaults();
  for (int i = 0; i < 1500 && answer.body != kTwo; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
    answer = Get("/v2/app/manifests/latest");
  }
  EXPECT_EQ(answer.body, kTwo);
  EXPECT_EQ(answer.Header("warning"), "");
}

TEST_F(TroubleTest, OwnReferrersWaitForTheUpstreamsWithinABudget) {
  options_.referrers_lifetime = milliseconds(0);
  options_.referrers_budget = milliseconds(2'000);
  HookHasOwn();
  Start();
  const Digest subject = Digest::Of("subject");
  AddReferrer(subject);
  const std::string path = "/v2/app/referrers/" + subject.ToString();
  Answer answer = Get(path);
  EXPECT_EQ(Listed(answer), 2U);
  EXPECT_EQ(answer.Header("warning"), "");
  Hang();
  answer = GetWithin(milliseconds(5'000), path);  // with what the upstream said last
  EXPECT_EQ(Listed(answer), 2U);
  EXPECT_THAT(answer.Header("warning"), HasSubstr("110"));
  answer = GetWithin(milliseconds(5'000), "/v2/app/referrers/" + Digest::Of("other").ToString());
  EXPECT_EQ(Listed(answer), 1U);
}

TEST_F(TroubleTest, AHungUpstreamsReferrersAreServedStale) {
  options_.referrers_lifetime = milliseconds(0);
  options_.stale_after = milliseconds(300);
  Start();
  const Digest subject = Digest::Of("subject");
  AddReferrer(subject);
  const std::string path = "/v2/app/referrers/" + subject.ToString();
  EXPECT_EQ(Listed(Get(path)), 1U);
  Hang();
  const Answer answer = GetWithin(milliseconds(4'000), path);
  EXPECT_EQ(Listed(answer), 1U);
  EXPECT_THAT(answer.Header("warning"), HasSubstr("110"));
}

TEST_F(TroubleTest, ManyWhoAskForReferrersAreOneRequest) {
  Start();
  const Digest subject = Digest::Of("subject");
  AddReferrer(subject);
  registry_->AddFault({.path_contains = "/referrers/", .kind = Fault::Kind::kDelay, .delay = milliseconds(500)});
  {
    std::vector<std::jthread> clients;
    for (int i = 0; i < 20; ++i) {
      clients.emplace_back([&] { EXPECT_EQ(Listed(Get("/v2/app/referrers/" + subject.ToString())), 1U); });
    }
  }
  EXPECT_EQ(Count("/referrers/"), 1U);
}

TEST_F(TroubleTest, ARedirectTargetDoesNotGetTheCredentials) {
  ASSERT_TRUE(WriteFileDurably(dir_.path() + "/config.json", ""));  // its place; the host is known only then
  upstream_.credentials_file = dir_.path() + "/config.json";
  registry_ =
      FakeRegistry::Start({.token_auth = true, .username = "user", .password = "password", .redirect_blobs = true})
          .value();
  ASSERT_TRUE(
      WriteFileDurably(upstream_.credentials_file,
                       fmt::format(R"({{"auths":{{"{}":{{"auth":"dXNlcjpwYXNzd29yZA=="}}}}}})", registry_->host())));
  StartMirror(registry_->host());
  const Digest digest = registry_->AddBlob("content behind a redirect");
  EXPECT_EQ(Get(BlobPath(digest)).body, "content behind a redirect");
  size_t redirected = 0;
  size_t authorised = 0;
  for (const auto& request : registry_->requests()) {
    if (request.at_redirect_target) {
      ++redirected;
      EXPECT_EQ(request.authorization, "");
    } else if (!request.authorization.empty()) {
      ++authorised;
    }
  }
  EXPECT_GE(redirected, 1U);
  EXPECT_GE(authorised, 1U);
}

TEST_F(TroubleTest, WhatPassesIsTriedAgain) {
  Start();
  const Digest digest = registry_->AddBlob("content");
  for (const int status : {429, 500, 503}) {
    registry_->ClearFaults();
    registry_->AddFault(
        {.path_contains = "/v2/", .kind = Fault::Kind::kStatus, .status = status, .retry_after_s = 0, .times = 1});
    registry_->AddManifest(fmt::format("t{}", status), kManifestType, kOne);
    EXPECT_EQ(Get(fmt::format("/v2/app/manifests/t{}", status)).body, kOne) << status;
  }
  registry_->ClearFaults();
  registry_->AddFault(
      {.path_contains = "/blobs/", .kind = Fault::Kind::kStatus, .status = 503, .retry_after_s = 0, .times = 1});
  EXPECT_EQ(Get(BlobPath(digest)).body, "content");
}

// The upstream's own idea of a blob's length is wrong, with a Content-Length that fits what it sends.
TEST_F(TroubleTest, ABlobOfTheWrongLengthIsNeverWholeAndNeverStored) {
  const std::string blob(3 * kMiB, 'x');
  const Digest digest = Digest::Of(blob);
  for (const std::string& sent : {blob.substr(0, 2 * kMiB), blob + "more"}) {
    SCOPED_TRACE(sent.size());
    const auto liar = net::HttpServer::Start({}, [&](net::HttpRequest, std::shared_ptr<net::HttpReply> reply) {
                        reply->Send({200, {{"Content-Type", "application/octet-stream"}}, sent});
                      }).value();
    StartMirror(fmt::format("127.0.0.1:{}", liar->port()));
    const Answer answer = Get(BlobPath(digest));
    EXPECT_FALSE(answer.whole && answer.status == 200);
    EXPECT_FALSE(store_->BlobBytes(digest));
    server_->Stop();
    mirror_.reset();
    store_.reset();
  }
}

}  // namespace
}  // namespace banyan::mirror
