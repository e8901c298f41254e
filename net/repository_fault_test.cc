// Repository against a registry that misbehaves: every fault ends in a right result or a clear error, once.
#include <atomic>
#include <future>
#include <random>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "common/file_io.h"
#include "net/manifest_json.h"
#include "net/repository.h"
#include "net/testing/fake_registry.h"
#include "net/testing/fetch_waiter.h"

namespace banyan::net {
namespace {

using testing::FakeRegistry;
using testing::FakeRegistryOptions;
using testing::Fault;
using testing::FetchAndWait;
using testing::SeenRequest;

std::string Pattern(size_t size) {
  std::mt19937 random(7);
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

class RepositoryFaultTest : public ::testing::Test {
 protected:
  void Serve(const FakeRegistryOptions& options = {}) {
    auto started = FakeRegistry::Start(options);
    ASSERT_TRUE(started) << started.error().message;
    registry_ = *std::move(started);
    digest_ = registry_->AddBlob(blob_);
    Reopen();
  }
  void Reopen() {
    const auto reference = ImageReference::Parse("docker://" + registry_->host() + "/app");
    auto opened = OpenRepository(*reference, options_);
    ASSERT_TRUE(opened) << opened.error().message;
    repository_ = *std::move(opened);
  }
  std::string ReadAll(Status* status) {
    std::string all;
    auto stream = repository_->OpenBlob(digest_);
    if (!stream) {
      *status = Fail(stream.error());
      return all;
    }
    std::vector<std::byte> buffer(64 * 1024);
    while (true) {
      const Result<size_t> count = (*stream)->Read(buffer);
      if (!count) *status = Fail(count.error());
      if (!count || *count == 0) return all;
      all.append(reinterpret_cast<const char*>(buffer.data()), *count);
    }
  }

  RepositoryOptions options_ = [] {
    RepositoryOptions options;
    options.plain_http = true;
    options.stall_timeout_ms = 300;
    return options;
  }();
  const std::string blob_ = Pattern(1'000'000);
  Digest digest_;
  std::unique_ptr<FakeRegistry> registry_;
  std::unique_ptr<Repository> repository_;
};

TEST_F(RepositoryFaultTest, TransientErrorsOfBlockingCallsPass) {
  Serve();
  for (const int status : {500, 503, 429, 408}) {
    registry_->ClearFaults();
    registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kStatus, .status = status, .times = 2});
    const auto blob = repository_->GetBlob(digest_, 2'000'000);
    ASSERT_TRUE(blob) << blob.error().message;
    EXPECT_TRUE(*blob == blob_);
  }
  registry_->ClearFaults();
  registry_->AddFault({.kind = Fault::Kind::kCut, .after_bytes = 100, .times = 1});
  EXPECT_TRUE(repository_->GetBlob(digest_, 2'000'000));
  registry_->ClearFaults();
  registry_->AddFault({.kind = Fault::Kind::kStall, .after_bytes = 100, .times = 1});
  EXPECT_TRUE(repository_->GetBlob(digest_, 2'000'000));
  registry_->ClearFaults();
  registry_->AddFault({.kind = Fault::Kind::kFlipByte, .after_bytes = 100, .times = 1});
  const auto blob = repository_->GetBlob(digest_, 2'000'000);
  ASSERT_TRUE(blob);
  EXPECT_TRUE(*blob == blob_);
}

TEST_F(RepositoryFaultTest, RetryAfterIsObeyed) {
  Serve();
  registry_->AddFault({.kind = Fault::Kind::kStatus, .status = 503, .retry_after_s = 1, .times = 1});
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(repository_->HasBlob(digest_));
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
}

TEST_F(RepositoryFaultTest, FinalErrorsNameWhatFailedAndAreNotRetried) {
  Serve();
  const std::vector<std::pair<int, Code>> cases = {
      {401, Code::kUnauthenticated}, {403, Code::kPermissionDenied}, {404, Code::kNotFound}, {416, Code::kOutOfRange}};
  for (const auto& [status, code] : cases) {
    registry_->ClearFaults();
    registry_->ClearRequests();
    registry_->AddFault({.kind = Fault::Kind::kStatus, .status = status});
    const auto manifest = repository_->GetManifest("v1");
    ASSERT_FALSE(manifest);
    EXPECT_EQ(manifest.error().code, code);
    for (const std::string& part : {registry_->host(), std::string("app"), std::string("v1"), std::to_string(status)}) {
      EXPECT_NE(manifest.error().message.find(part), std::string::npos) << manifest.error().message;
    }
    EXPECT_EQ(registry_->requests().size(), 1u);
    const auto range = FetchAndWait(*repository_, digest_, {0, 100});
    ASSERT_FALSE(range);
    EXPECT_EQ(range.error().code, code);
  }
}

TEST_F(RepositoryFaultTest, GivesUpAfterItsAttempts) {
  options_.attempts = 2;
  Serve();
  registry_->AddFault({.kind = Fault::Kind::kStatus, .status = 500});
  const auto blob = repository_->GetBlob(digest_, 2'000'000);
  ASSERT_FALSE(blob);
  EXPECT_EQ(blob.error().code, Code::kUnavailable);
  EXPECT_EQ(registry_->requests().size(), 2u);
}

TEST_F(RepositoryFaultTest, StreamsResumeWhereTheyWereCut) {
  Serve();
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kCut, .after_bytes = 300'000, .times = 2});
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kStall, .after_bytes = 100'000, .times = 1});
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kIgnoreRange, .times = 1});
  Status status;
  EXPECT_TRUE(ReadAll(&status) == blob_);
  EXPECT_TRUE(status) << status.error().message;
  const auto seen = registry_->requests();
  ASSERT_EQ(seen.size(), 4u);
  EXPECT_EQ(seen[1].range, "bytes=300000-");
  EXPECT_EQ(seen[3].range, "bytes=700000-");
}

TEST_F(RepositoryFaultTest, StreamsThatBringNothingEnd) {
  options_.attempts = 2;
  Serve();
  registry_->AddFault({.kind = Fault::Kind::kCut, .after_bytes = 10, .times = 1});
  registry_->AddFault({.kind = Fault::Kind::kCut, .after_bytes = 0});
  Status status;
  ReadAll(&status);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, Code::kUnavailable) << status.error().message;
}

TEST_F(RepositoryFaultTest, RangesFailClearlyAndOnlyOnce) {
  Serve();
  const auto fail = [&](Fault fault) {
    registry_->ClearFaults();
    registry_->AddFault(std::move(fault));
    const auto part = FetchAndWait(*repository_, digest_, {1000, 500'000});
    EXPECT_FALSE(part);
    return part ? Code::kUnknown : part.error().code;
  };
  EXPECT_EQ(fail({.kind = Fault::Kind::kStall, .after_bytes = 1000}), Code::kDeadlineExceeded);
  EXPECT_EQ(fail({.kind = Fault::Kind::kCut, .after_bytes = 1000}), Code::kUnavailable);
  EXPECT_EQ(fail({.kind = Fault::Kind::kStatus, .status = 503}), Code::kUnavailable);
  registry_->ClearFaults();
  registry_->AddFault({.kind = Fault::Kind::kIgnoreRange});
  const auto part = FetchAndWait(*repository_, digest_, {1000, 500'000});
  ASSERT_TRUE(part) << part.error().message;
  EXPECT_TRUE(*part == blob_.substr(1000, 499'000));
  registry_->ClearFaults();
  const auto beyond = FetchAndWait(*repository_, digest_, {999'999, 1'000'001});
  EXPECT_FALSE(beyond);
}

TEST_F(RepositoryFaultTest, TokensAreFetchedRefreshedAndFetchedAnew) {
  FakeRegistryOptions options;
  options.token_auth = true;
  options.token_lifetime = std::chrono::seconds(2);
  Serve(options);
  const auto tokens_fetched = [&] {
    const auto seen = registry_->requests();
    return std::count_if(seen.begin(), seen.end(),
                         [](const SeenRequest& request) { return request.at_token_endpoint; });
  };
  EXPECT_TRUE(FetchAndWait(*repository_, digest_, {0, 100}));
  EXPECT_TRUE(FetchAndWait(*repository_, digest_, {100, 200}));
  EXPECT_EQ(tokens_fetched(), 1);
  registry_->RevokeTokens();
  EXPECT_TRUE(FetchAndWait(*repository_, digest_, {0, 100}));
  EXPECT_EQ(tokens_fetched(), 2);
  std::this_thread::sleep_for(std::chrono::milliseconds(1700));
  registry_->ClearRequests();
  EXPECT_TRUE(FetchAndWait(*repository_, digest_, {0, 100}));
  ASSERT_EQ(registry_->requests().size(), 2u);  // no 401 in between: refreshed before its end
  EXPECT_TRUE(registry_->requests()[0].at_token_endpoint);
}

TEST_F(RepositoryFaultTest, ManyRangesShareOneTokenFetch) {
  FakeRegistryOptions options;
  options.token_auth = true;
  Serve(options);
  std::vector<std::future<bool>> results;
  for (int i = 0; i < 50; ++i) {
    auto promise = std::make_shared<std::promise<bool>>();
    results.push_back(promise->get_future());
    repository_->FetchRange(
        digest_, {0, 1000}, {}, [](std::span<const std::byte>) {},
        [promise](const Status& status) { promise->set_value(status.has_value()); });
  }
  for (auto& result : results) EXPECT_TRUE(result.get());
  const auto seen = registry_->requests();
  EXPECT_EQ(std::count_if(seen.begin(), seen.end(), [](const SeenRequest& r) { return r.at_token_endpoint; }), 1);
}

TEST_F(RepositoryFaultTest, CredentialsAreNeededAndNeverShown) {
  FakeRegistryOptions options;
  options.token_auth = true;
  options.username = "alice";
  options.password = "s3cret-word";
  options.redirect_blobs = true;
  const auto directory = TempDir::Make("banyan-net-test");
  options_.credentials_file = directory->path() + "/config.json";
  ASSERT_TRUE(WriteFileDurably(options_.credentials_file, "{}"));
  Serve(options);
  const auto refused = repository_->GetBlob(digest_, 2'000'000);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kUnauthenticated);
  EXPECT_NE(refused.error().message.find("log in"), std::string::npos) << refused.error().message;
  const nlohmann::json config = {
      {"auths", {{registry_->host(), {{"username", "alice"}, {"password", "s3cret-word"}}}}}};
  ASSERT_TRUE(WriteFileDurably(options_.credentials_file, config.dump()));
  registry_->ClearRequests();
  EXPECT_TRUE(repository_->GetBlob(digest_, 2'000'000));
  bool redirected = false;
  for (const SeenRequest& request : registry_->requests()) {
    if (request.at_redirect_target) {
      redirected = true;
      EXPECT_EQ(request.authorization, "");
    } else if (!request.at_token_endpoint) {
      EXPECT_EQ(request.authorization.find("Basic"), std::string::npos);
    }
  }
  EXPECT_TRUE(redirected);
  registry_->AddFault({.path_contains = "signature=", .kind = Fault::Kind::kStatus, .status = 403});
  const auto failed = repository_->GetBlob(digest_, 2'000'000);
  ASSERT_FALSE(failed);
  for (const char* secret : {"s3cret-word", "token-", "signature"}) {
    EXPECT_EQ(failed.error().message.find(secret), std::string::npos) << failed.error().message;
  }
}

TEST_F(RepositoryFaultTest, RedirectTargetsAreUsedAgainUntilTheyFail) {
  FakeRegistryOptions options;
  options.redirect_blobs = true;
  Serve(options);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(FetchAndWait(*repository_, digest_, {0, 100}));
  EXPECT_EQ(registry_->requests().size(), 4u);  // one redirect, three ranges
  registry_->ExpireRedirects();
  const auto part = FetchAndWait(*repository_, digest_, {0, 100});
  ASSERT_TRUE(part) << part.error().message;
  EXPECT_EQ(*part, blob_.substr(0, 100));
  EXPECT_EQ(registry_->requests().size(), 7u);  // 403, redirect, range
}

TEST_F(RepositoryFaultTest, UploadsSurviveErrors) {
  Serve();
  registry_->AddFault({.method = "PATCH", .kind = Fault::Kind::kStatus, .status = 500, .times = 1});
  registry_->AddFault({.method = "PUT", .kind = Fault::Kind::kStatus, .status = 404, .times = 1});
  const std::string bytes = Pattern(3'000'000) + "x";
  const Status put = repository_->PutBlob(Digest::Of(bytes), bytes);
  ASSERT_TRUE(put) << put.error().message;
  const auto stored = registry_->Blob(Digest::Of(bytes));
  ASSERT_TRUE(stored);
  EXPECT_TRUE(*stored == bytes);
  EXPECT_TRUE(repository_->PutBlob(Digest::Of(std::string()), ""));
}

TEST_F(RepositoryFaultTest, ReferrersByApiAndByTag) {
  const std::string subject = R"({"schemaVersion":2})";
  for (const bool api : {true, false}) {
    FakeRegistryOptions options;
    options.referrers_api = api;
    Serve(options);
    for (int i = 0; i < 3; ++i) {
      const nlohmann::json artifact = {{"schemaVersion", 2},
                                       {"artifactType", i == 2 ? "application/b" : "application/a"},
                                       {"annotations", {{"number", std::to_string(i)}}},
                                       {"subject", {{"digest", Digest::Of(subject).ToString()}}}};
      const std::string body = artifact.dump();
      EXPECT_TRUE(repository_->PutManifest(Digest::Of(body).ToString(), kOciManifestType, body));
      EXPECT_TRUE(repository_->PutManifest(Digest::Of(body).ToString(), kOciManifestType, body));
    }
    EXPECT_EQ(repository_->Referrers(Digest::Of(subject), "")->size(), 3u) << api;
    EXPECT_EQ(repository_->Referrers(Digest::Of(subject), "application/a")->size(), 2u) << api;
    EXPECT_EQ(registry_->Manifest(FallbackTag(Digest::Of(subject))).has_value(), !api);
  }
}

TEST_F(RepositoryFaultTest, WrongManifestBytesAreRefused) {
  options_.attempts = 1;
  Serve();
  const Digest digest = registry_->AddManifest("v1", std::string(kOciManifestType), R"({"schemaVersion":2})");
  EXPECT_TRUE(repository_->GetManifest("v1"));
  registry_->AddFault({.kind = Fault::Kind::kFlipByte});
  for (const std::string& name : {std::string("v1"), digest.ToString()}) {
    const auto manifest = repository_->GetManifest(name);
    ASSERT_FALSE(manifest);
    EXPECT_EQ(manifest.error().code, Code::kDataLoss);
  }
  EXPECT_EQ(repository_->GetManifest("../../etc").error().code, Code::kInvalidArgument);
}

TEST_F(RepositoryFaultTest, CancelAndDestructionAnswerOnce) {
  options_.stall_timeout_ms = 60'000;
  options_.range_connections = 2;
  Serve();
  registry_->AddFault({.kind = Fault::Kind::kStall, .after_bytes = 10});
  std::atomic<int> cancelled{0};
  std::atomic<int> others{0};
  std::vector<uint64_t> ids;
  for (int i = 0; i < 20; ++i) {
    ids.push_back(repository_->FetchRange(
        digest_, {0, 1000}, {}, [](std::span<const std::byte>) {},
        [&](const Status& status) { ++(!status && status.error().code == Code::kCancelled ? cancelled : others); }));
  }
  for (size_t i = 0; i < 10; ++i) repository_->CancelRange(ids[i]);
  repository_->CancelRange(ids[0]);
  repository_->CancelRange(987654321);
  for (int i = 0; i < 500 && cancelled < 10; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(cancelled, 10);
  repository_.reset();
  EXPECT_EQ(cancelled, 20);
  EXPECT_EQ(others, 0);
}

TEST_F(RepositoryFaultTest, AReaderMayOutliveItsRepository) {
  Serve();
  auto stream = repository_->OpenBlob(digest_);
  ASSERT_TRUE(stream);
  registry_->AddFault({.kind = Fault::Kind::kStall});
  repository_.reset();
  std::vector<std::byte> buffer(64 * 1024);
  Result<size_t> count = 1;
  while (count && *count > 0) count = (*stream)->Read(buffer);
  EXPECT_TRUE(count || count.error().code == Code::kCancelled);
}

TEST_F(RepositoryFaultTest, LoopbackFallsBackToPlainHttp) {
  options_.plain_http = false;
  Serve();
  EXPECT_TRUE(repository_->GetBlob(digest_, 2'000'000));
}

TEST_F(RepositoryFaultTest, DeadRegistryIsUnavailable) {
  options_.attempts = 1;
  Serve();
  registry_.reset();
  const auto blob = repository_->GetBlob(digest_, 2'000'000);
  ASSERT_FALSE(blob);
  EXPECT_EQ(blob.error().code, Code::kUnavailable);
  EXPECT_NE(blob.error().message.find("cannot connect"), std::string::npos) << blob.error().message;
}

}  // namespace
}  // namespace banyan::net
