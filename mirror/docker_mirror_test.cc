// The mirror before a real docker-registry, asked by a real client.
#include <unistd.h>

#include <thread>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "common/file_io.h"
#include "mirror/mirror.h"
#include "mirror/testing/raw_client.h"
#include "net/testing/docker_registry.h"

namespace banyan::mirror {
namespace {

using net::testing::DockerRegistry;
using net::testing::RunProgram;
using testing::Ask;

constexpr char kManifestType[] = "application/vnd.oci.image.manifest.v1+json";

class DockerMirrorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto started = DockerRegistry::Start();
    if (!started) GTEST_SKIP() << started.error().message;
    registry_ = std::move(*started);
    store_ = store::NodeStore::Open({.root = dir_.path() + "/store"}).value();
    MirrorOptions options;
    UpstreamOptions upstream;
    upstream.name = registry_->host();
    options.upstreams = {upstream};
    options.default_upstream = registry_->host();
    options.tag_lifetime = std::chrono::milliseconds(0);
    options.referrers_lifetime = std::chrono::milliseconds(100);
    mirror_ = Mirror::Create(options, *store_).value();
    server_ = net::HttpServer::Start({}, [this](net::HttpRequest request, std::shared_ptr<net::HttpReply> reply) {
                mirror_->Handle(std::move(request), std::move(reply));
              }).value();
    upstream_ =
        net::OpenRepository(*net::ImageReference::Parse("docker://" + registry_->host() + "/team/app"), {}).value();
  }
  void TearDown() override {
    if (server_) server_->Stop();
  }
  std::string MirrorHost() const { return fmt::format("127.0.0.1:{}", server_->port()); }

  // An image of two layers that are no tars: nobody here unpacks them.
  Digest PushImage(const std::string& tag) {
    const std::string config = R"({"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}})";
    nlohmann::json manifest = {{"schemaVersion", 2}, {"mediaType", kManifestType}, {"layers", nlohmann::json::array()}};
    const auto push = [&](const std::string& bytes, const char* type) {
      EXPECT_TRUE(upstream_->PutBlob(Digest::Of(bytes), bytes));
      return nlohmann::json{{"mediaType", type}, {"digest", Digest::Of(bytes).ToString()}, {"size", bytes.size()}};
    };
    manifest["config"] = push(config, "application/vnd.oci.image.config.v1+json");
    for (const std::string& layer : layers_) {
      manifest["layers"].push_back(push(layer, "application/vnd.oci.image.layer.v1.tar"));
    }
    return upstream_->PutManifest(tag, kManifestType, manifest.dump()).value();
  }

  const std::vector<std::string> layers_ = {std::string(3000000, 'a') + "1", std::string(100, 'b')};
  TempDir dir_ = TempDir::Make("banyan-docker-mirror").value();
  std::unique_ptr<DockerRegistry> registry_;
  std::unique_ptr<net::Repository> upstream_;
  std::unique_ptr<store::NodeStore> store_;
  std::unique_ptr<Mirror> mirror_;
  std::unique_ptr<net::HttpServer> server_;
};

TEST_F(DockerMirrorTest, SkopeoInspectsCopiesAndListsAlsoWhenTheRegistryIsGone) {
  if (::access("/usr/bin/skopeo", X_OK) != 0) GTEST_SKIP() << "skopeo is not installed";
  const Digest digest = PushImage("v1");
  PushImage("v2");
  const std::string log = dir_.path() + "/log";
  const std::string source = "docker://" + MirrorHost() + "/team/app:v1";
  const auto run = [&](std::vector<std::string> arguments) {
    const Status ran = RunProgram(arguments, log);
    EXPECT_TRUE(ran) << ReadFile(log).value_or("");
    return ReadFile(log).value_or("");
  };
  const auto tags = nlohmann::json::parse(
      run({"skopeo", "list-tags", "--tls-verify=false", "docker://" + MirrorHost() + "/team/app"}));
  EXPECT_EQ(tags["Tags"], (nlohmann::json{"v1", "v2"}));
  EXPECT_EQ(Digest::Of(run({"skopeo", "inspect", "--raw", "--tls-verify=false", source})), digest);
  for (const char* name : {"first", "second"}) {
    const std::string layout = dir_.path() + "/" + name;
    run({"skopeo", "copy", "--insecure-policy", "--preserve-digests", "--src-tls-verify=false", source,
         "oci:" + layout + ":v1"});
    for (const std::string& layer : layers_) {
      EXPECT_TRUE(ReadFile(layout + "/blobs/sha256/" + Digest::Of(layer).Hex()).value_or("") == layer);
    }
    EXPECT_TRUE(ReadFile(layout + "/blobs/sha256/" + digest.Hex()));
    registry_->Stop();
  }
}

TEST_F(DockerMirrorTest, PagesTagsAndFindsReferrersUnderTheFallbackTag) {
  const Digest subject = PushImage("v1");
  for (const char* tag : {"v2", "v3"}) PushImage(tag);
  const auto first = Ask(server_->port(), "GET", "/v2/team/app/tags/list?n=2", "");
  EXPECT_EQ(nlohmann::json::parse(first.body)["tags"], (nlohmann::json{"v1", "v2"}));
  const std::string link = first.Header("link");
  ASSERT_EQ(link.find("</v2/team/app/tags/list?"), 0U) << link;
  const auto second = Ask(server_->port(), "GET", link.substr(1, link.find('>') - 1), "");
  EXPECT_EQ(nlohmann::json::parse(second.body)["tags"], (nlohmann::json{"v3"}));
  EXPECT_EQ(second.Header("link"), "");

  const std::string path = "/v2/team/app/referrers/" + subject.ToString();
  EXPECT_EQ(nlohmann::json::parse(Ask(server_->port(), "GET", path, "").body)["manifests"].size(), 0U);
  const nlohmann::json artifact = {
      {"schemaVersion", 2},
      {"mediaType", kManifestType},
      {"artifactType", "application/vnd.example"},
      {"config",
       {{"mediaType", "application/vnd.oci.empty.v1+json"}, {"digest", Digest::Of("{}").ToString()}, {"size", 2}}},
      {"layers", nlohmann::json::array()},
      {"subject", {{"mediaType", kManifestType}, {"digest", subject.ToString()}, {"size", 1}}}};
  ASSERT_TRUE(upstream_->PutBlob(Digest::Of("{}"), "{}"));
  const Digest pushed =
      upstream_->PutManifest(Digest::Of(artifact.dump()).ToString(), kManifestType, artifact.dump()).value();
  // The empty list is believed for a while.
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  const auto found = Ask(server_->port(), "GET", path + "?artifactType=application/vnd.example", "");
  EXPECT_EQ(nlohmann::json::parse(found.body)["manifests"][0]["digest"], pushed.ToString());
}

TEST_F(DockerMirrorTest, HeadsOfColdBlobsAndRangesAsTheRegistryItself) {
  PushImage("v1");
  const std::string& layer = layers_[0];
  const std::string path = "/v2/team/app/blobs/" + Digest::Of(layer).ToString();
  const auto head = Ask(server_->port(), "HEAD", path, "");
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.Header("content-length"), std::to_string(layer.size()));
  EXPECT_EQ(head.Header("docker-content-digest"), Digest::Of(layer).ToString());
  const uint16_t direct = static_cast<uint16_t>(std::stoi(registry_->host().substr(10)));
  for (const std::string range : {"bytes=0-", "bytes=100-199", "bytes=2999990-", "bytes=-7", "bytes=4000000-"}) {
    const auto ours = Ask(server_->port(), "GET", path, "Range: " + range + "\r\n");
    const auto theirs = Ask(direct, "GET", path, "Range: " + range + "\r\n");
    EXPECT_EQ(ours.status, theirs.status) << range;
    if (ours.status != 206) continue;
    EXPECT_EQ(ours.Header("content-range"), theirs.Header("content-range"));
    EXPECT_TRUE(ours.body == theirs.body);
  }
}

}  // namespace
}  // namespace banyan::mirror
