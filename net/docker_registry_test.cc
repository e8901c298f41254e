// Repository against a real docker-registry: plain, with basic authentication, and over TLS.
#include <fcntl.h>

#include <condition_variable>
#include <map>
#include <mutex>
#include <random>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "common/file_io.h"
#include "net/auth.h"
#include "net/manifest_json.h"
#include "net/repository.h"
#include "net/testing/docker_registry.h"
#include "net/testing/fetch_waiter.h"

namespace banyan::net {
namespace {

using testing::DockerRegistry;
using testing::DockerRegistryOptions;
using testing::FetchAndWait;

std::string RandomBytes(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

std::unique_ptr<Repository> Open(const DockerRegistry& registry, const RepositoryOptions& options = {},
                                 const std::string& name = "team/app") {
  const auto reference = ImageReference::Parse("docker://" + registry.host() + "/" + name);
  EXPECT_TRUE(reference) << reference.error().message;
  auto repository = OpenRepository(*reference, options);
  EXPECT_TRUE(repository) << repository.error().message;
  return *std::move(repository);
}

std::string ReadAll(ByteSource& source) {
  std::string all;
  std::vector<std::byte> buffer(100'000);
  while (true) {
    const Result<size_t> count = source.Read(buffer);
    EXPECT_TRUE(count) << count.error().message;
    if (!count || *count == 0) return all;
    all.append(reinterpret_cast<const char*>(buffer.data()), *count);
  }
}

std::string ManifestFor(const std::string& config, const std::optional<std::string>& subject = std::nullopt) {
  nlohmann::json manifest = {{"schemaVersion", 2},
                             {"mediaType", kOciManifestType},
                             {"config",
                              {{"mediaType", "application/vnd.oci.image.config.v1+json"},
                               {"digest", Digest::Of(config).ToString()},
                               {"size", config.size()}}},
                             {"layers", nlohmann::json::array()}};
  if (subject) {
    manifest["artifactType"] = "application/vnd.test.artifact";
    manifest["annotations"] = {{"key", "value"}};
    manifest["subject"] = {
        {"mediaType", kOciManifestType}, {"digest", Digest::Of(*subject).ToString()}, {"size", subject->size()}};
  }
  return manifest.dump();
}

// Everything a Repository does, once.
void Exercise(Repository& repository) {
  const std::string blob = RandomBytes(9'000'000, 1);
  const Digest digest = Digest::Of(blob);
  auto has = repository.HasBlob(digest);
  ASSERT_TRUE(has) << has.error().message;
  EXPECT_FALSE(*has);
  const auto directory = TempDir::Make("banyan-net-test");
  ASSERT_TRUE(WriteFileDurably(directory->path() + "/blob", blob));
  Status put = repository.PutBlobFile(digest, directory->path() + "/blob");
  ASSERT_TRUE(put) << put.error().message;
  has = repository.HasBlob(digest);
  ASSERT_TRUE(has) << has.error().message;
  EXPECT_TRUE(*has);
  EXPECT_TRUE(repository.PutBlobFile(digest, directory->path() + "/blob"));

  const auto whole = repository.GetBlob(digest, 10'000'000);
  ASSERT_TRUE(whole) << whole.error().message;
  EXPECT_TRUE(*whole == blob);
  const auto limited = repository.GetBlob(digest, 1000);
  ASSERT_FALSE(limited);
  EXPECT_EQ(limited.error().code, Code::kResourceExhausted);
  auto stream = repository.OpenBlob(digest);
  ASSERT_TRUE(stream) << stream.error().message;
  EXPECT_TRUE(ReadAll(**stream) == blob);

  for (const ByteRange range :
       {ByteRange{0, 1}, ByteRange{5, 300'000}, ByteRange{8'000'000, 9'000'000}, ByteRange{0, 9'000'000}}) {
    const auto part = FetchAndWait(repository, digest, range);
    ASSERT_TRUE(part) << part.error().message;
    EXPECT_TRUE(*part == blob.substr(range.begin, range.size()));
  }
  const auto beyond = FetchAndWait(repository, digest, {9'000'000, 9'000'001});
  ASSERT_FALSE(beyond);
  EXPECT_EQ(beyond.error().code, Code::kOutOfRange) << beyond.error().message;
  const auto across = FetchAndWait(repository, digest, {8'999'990, 9'000'010});
  EXPECT_FALSE(across);

  const std::string config = "{}";
  put = repository.PutBlob(Digest::Of(config), config);
  ASSERT_TRUE(put) << put.error().message;
  EXPECT_FALSE(repository.PutBlob(digest, "other bytes"));
  const std::string manifest = ManifestFor(config);
  const auto pushed = repository.PutManifest("v1", kOciManifestType, manifest);
  ASSERT_TRUE(pushed) << pushed.error().message;
  EXPECT_EQ(*pushed, Digest::Of(manifest));
  for (const std::string& name : {std::string("v1"), pushed->ToString()}) {
    const auto got = repository.GetManifest(name);
    ASSERT_TRUE(got) << got.error().message;
    EXPECT_EQ(got->body, manifest);
    EXPECT_EQ(got->digest, *pushed);
    EXPECT_EQ(got->media_type, kOciManifestType);
  }
  const auto missing = repository.GetManifest("nothing");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, Code::kNotFound);
  EXPECT_NE(missing.error().message.find("nothing"), std::string::npos) << missing.error().message;
  EXPECT_NE(missing.error().message.find(repository.name()), std::string::npos) << missing.error().message;

  auto referrers = repository.Referrers(*pushed, "");
  ASSERT_TRUE(referrers) << referrers.error().message;
  EXPECT_TRUE(referrers->empty());
  const std::string artifact = ManifestFor(config, manifest);
  for (int i = 0; i < 2; ++i) {
    const auto attached = repository.PutManifest(Digest::Of(artifact).ToString(), kOciManifestType, artifact);
    ASSERT_TRUE(attached) << attached.error().message;
  }
  referrers = repository.Referrers(*pushed, "application/vnd.test.artifact");
  ASSERT_TRUE(referrers) << referrers.error().message;
  ASSERT_EQ(referrers->size(), 1u);
  const auto descriptor = nlohmann::json::parse(referrers->front());
  EXPECT_EQ(descriptor["digest"], Digest::Of(artifact).ToString());
  EXPECT_EQ(descriptor["size"], artifact.size());
  EXPECT_EQ(descriptor["annotations"]["key"], "value");
  referrers = repository.Referrers(*pushed, "application/other");
  ASSERT_TRUE(referrers);
  EXPECT_TRUE(referrers->empty());
}

#define START_OR_SKIP(variable, ...)                                             \
  auto variable##_result = DockerRegistry::Start(__VA_ARGS__);                   \
  if (!variable##_result && variable##_result.error().code == Code::kNotFound) { \
    GTEST_SKIP() << variable##_result.error().message;                           \
  }                                                                              \
  ASSERT_TRUE(variable##_result) << variable##_result.error().message;           \
  const auto variable = *std::move(variable##_result)

TEST(DockerRegistryTest, PlainHttpOnLoopbackWithoutAsking) {
  START_OR_SKIP(registry);
  Exercise(*Open(*registry));
}

TEST(DockerRegistryTest, PlainHttpWhenAsked) {
  START_OR_SKIP(registry);
  RepositoryOptions options;
  options.plain_http = true;
  Exercise(*Open(*registry, options));
}

TEST(DockerRegistryTest, TlsWithItsOwnAuthority) {
  START_OR_SKIP(registry, {"", "", true});
  RepositoryOptions options;
  options.ca_file = registry->ca_file();
  Exercise(*Open(*registry, options));

  options.attempts = 1;
  options.ca_file.clear();
  const auto untrusted = Open(*registry, options)->HasBlob(Digest::Of("x"));
  ASSERT_FALSE(untrusted);
  EXPECT_EQ(untrusted.error().code, Code::kFailedPrecondition) << untrusted.error().message;
}

TEST(DockerRegistryTest, BasicAuthentication) {
  START_OR_SKIP(registry, {"alice", "secret:word", false});
  const auto directory = TempDir::Make("banyan-net-test");
  RepositoryOptions options;
  options.attempts = 1;
  options.credentials_file = directory->path() + "/config.json";
  const auto write_password = [&](const std::string& password) {
    const nlohmann::json config = {{"auths", {{registry->host(), {{"auth", Base64Encode("alice:" + password)}}}}}};
    ASSERT_TRUE(WriteFileDurably(options.credentials_file, config.dump()));
  };
  write_password("wrong");
  const auto repository = Open(*registry, options);
  const auto refused = repository->GetManifest("v1");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kUnauthenticated);
  EXPECT_NE(refused.error().message.find("log in"), std::string::npos) << refused.error().message;
  EXPECT_EQ(refused.error().message.find("wrong"), std::string::npos) << refused.error().message;

  write_password("secret:word");  // taken up without a restart
  Exercise(*repository);
}

TEST(DockerRegistryTest, NoCredentials) {
  START_OR_SKIP(registry, {"alice", "secret", false});
  const auto directory = TempDir::Make("banyan-net-test");
  RepositoryOptions options;
  options.credentials_file = directory->path() + "/config.json";
  ASSERT_TRUE(WriteFileDurably(options.credentials_file, "{}"));
  const auto refused = Open(*registry, options)->GetManifest("v1");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kUnauthenticated);
  EXPECT_NE(refused.error().message.find("log in"), std::string::npos) << refused.error().message;
}

TEST(DockerRegistryTest, StreamSurvivesARestart) {
  START_OR_SKIP(registry);
  const std::string blob = RandomBytes(64'000'000, 2);
  const auto repository = Open(*registry);
  ASSERT_TRUE(repository->PutBlob(Digest::Of(blob), blob));
  auto stream = repository->OpenBlob(Digest::Of(blob));
  ASSERT_TRUE(stream) << stream.error().message;
  std::string head(1'000'000, '\0');
  ASSERT_TRUE(ReadFully(**stream, std::as_writable_bytes(std::span(head))));
  ASSERT_TRUE(registry->Restart());
  EXPECT_TRUE(head + ReadAll(**stream) == blob);
}

TEST(DockerRegistryTest, ManyRangesAtOnce) {
  START_OR_SKIP(registry);
  const std::string blob = RandomBytes(8'000'000, 3);
  const auto repository = Open(*registry);
  ASSERT_TRUE(repository->PutBlob(Digest::Of(blob), blob));
  constexpr size_t kRanges = 200;
  std::mutex mutex;
  std::condition_variable ended;
  size_t done = 0;
  std::vector<std::string> parts(kRanges);
  for (size_t i = 0; i < kRanges; ++i) {
    repository->FetchRange(
        Digest::Of(blob), {i * 40'000, (i + 1) * 40'000}, {},
        [&parts, i](std::span<const std::byte> data) {
          parts[i].append(reinterpret_cast<const char*>(data.data()), data.size());
        },
        [&](const Status& status) {
          EXPECT_TRUE(status) << status.error().message;
          const std::lock_guard lock(mutex);
          ++done;
          ended.notify_one();
        });
  }
  std::unique_lock lock(mutex);
  ASSERT_TRUE(ended.wait_for(lock, std::chrono::seconds(60), [&] { return done == kRanges; }));
  std::string joined;
  for (const std::string& part : parts) joined += part;
  EXPECT_TRUE(joined == blob);
}

TEST(OciLayoutTest, DoesAllThatARegistryDoes) {
  const auto directory = TempDir::Make("banyan-net-test");
  const auto reference = ImageReference::Parse("oci:" + directory->path() + "/a:b/layout");
  ASSERT_TRUE(reference);
  const auto missing = OpenRepository(*reference, {});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, Code::kNotFound);
  auto repository = OpenRepository(*reference, {}, /*create=*/true);
  ASSERT_TRUE(repository) << repository.error().message;
  Exercise(**repository);
}

}  // namespace
}  // namespace banyan::net
