#include "fetch/image_resolver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "net/testing/fake_registry.h"

namespace banyan::fetch {
namespace {

namespace format = image_format;
using net::testing::FakeRegistry;
using net::testing::Fault;
using ::testing::HasSubstr;

class ImageResolverTest : public ::testing::Test {
 protected:
  ImageResolverTest() : registry_(FakeRegistry::Start({}).value()) {
    const auto reference = net::ImageReference::Parse("docker://" + registry_->host() + "/app:1").value();
    net::RepositoryOptions options;
    options.attempts = 1;
    repository_ = net::OpenRepository(reference, options).value();
  }

  // An image of one layer, named by its seed.
  format::Descriptor AddImage(const std::string& tag, const std::string& seed) {
    const format::Manifest manifest{.media_type = std::string(format::kOciManifestMediaType),
                                    .config = {.media_type = std::string(format::kOciConfigMediaType),
                                               .digest = Digest::Of("config of " + seed),
                                               .size = 2},
                                    .layers = {{.media_type = "application/vnd.oci.image.layer.v1.tar+gzip",
                                                .digest = Digest::Of("layer of " + seed),
                                                .size = 1}}};
    const std::string body = format::WriteManifest(manifest);
    return {.media_type = manifest.media_type,
            .digest = registry_->AddManifest(tag, manifest.media_type, body),
            .size = body.size()};
  }
  format::Artifact ArtifactOf(const format::Descriptor& subject, const std::string& seed, const std::string& version) {
    format::Artifact artifact;
    artifact.converter_version = version;
    artifact.chain_id = Digest::Of("chain");
    artifact.map_digest = Digest::Of("map of " + version);
    artifact.map_bytes = 10;
    artifact.metadata_blob_digest = Digest::Of("metadata");
    artifact.metadata_blob_bytes = 10;
    artifact.layers = {{.source_digest = Digest::Of("layer of " + seed),
                        .diff_id = Digest::Of("diff"),
                        .blob_digest = Digest::Of("blob"),
                        .blob_bytes = 5,
                        .index_digest = Digest::Of("index"),
                        .index_bytes = 5}};
    artifact.subject = subject;
    return artifact;
  }
  Digest Add(const std::string& body) {
    return registry_->AddManifest("", std::string(format::kOciManifestMediaType), body);
  }

  std::unique_ptr<FakeRegistry> registry_;
  std::unique_ptr<net::Repository> repository_;
};

TEST_F(ImageResolverTest, TakesTheNewestConvertersArtifact) {
  const auto image = AddImage("1", "a");
  Add(format::WriteArtifact(ArtifactOf(image, "a", "banyan 0.1.0")));
  const Digest newer = Add(format::WriteArtifact(ArtifactOf(image, "a", "banyan 0.2.0")));
  const auto resolved = ResolveImage(*repository_, "1");
  ASSERT_TRUE(resolved) << resolved.error().message;
  EXPECT_EQ(resolved->descriptor.digest, image.digest);
  EXPECT_EQ(resolved->config_digest, Digest::Of("config of a"));
  EXPECT_EQ(resolved->artifact_digest, newer);
  EXPECT_EQ(resolved->artifact->map_digest, Digest::Of("map of banyan 0.2.0"));
}

TEST_F(ImageResolverTest, PassesOverWhatIsNoGood) {
  const auto image = AddImage("1", "a");
  // Newer ones, each wrong in its way: another image's layers, and one that does not parse.
  Add(format::WriteArtifact(ArtifactOf(image, "another", "banyan 0.9.0")));
  std::string broken = format::WriteArtifact(ArtifactOf(image, "a", "banyan 0.8.0"));
  broken.replace(broken.find(format::kImageMapMediaType), format::kImageMapMediaType.size(), "application/other");
  Add(broken);
  const Digest good = Add(format::WriteArtifact(ArtifactOf(image, "a", "banyan 0.1.0")));
  EXPECT_EQ(ResolveImage(*repository_, "1")->artifact_digest, good);
  // With a check that refuses it there is none, and that is no error.
  const auto none = ResolveImage(*repository_, "1", {}, [](const auto&) { return Fail(Code::kUnauthenticated, "no"); });
  ASSERT_TRUE(none);
  EXPECT_FALSE(none->artifact);
  EXPECT_THAT(
      ResolveConvertedImage(*repository_, "1", {}, [](const auto&) { return Fail(Code::kUnauthenticated, "no"); })
          .error()
          .message,
      HasSubstr("has no Banyan artifact"));
}

TEST_F(ImageResolverTest, AnArtifactThatCannotBeReadNowIsAnError) {
  const auto image = AddImage("1", "a");
  const Digest artifact = Add(format::WriteArtifact(ArtifactOf(image, "a", "banyan 0.1.0")));
  registry_->AddFault(
      {.path_contains = "/manifests/" + artifact.ToString(), .kind = Fault::Kind::kStatus, .status = 503});
  EXPECT_EQ(ResolveImage(*repository_, "1").error().code, Code::kUnavailable)
      << "to say that the image is not converted would be wrong";
}

TEST_F(ImageResolverTest, ChoosesThePlatformOfAnIndex) {
  format::Descriptor amd64 = AddImage("", "amd64");
  amd64.platform = format::Platform{};
  format::Descriptor arm64 = AddImage("", "arm64");
  arm64.platform = format::Platform{"linux", "arm64", "v8"};
  const format::Index index{.media_type = std::string(format::kOciIndexMediaType), .manifests = {arm64, amd64}};
  registry_->AddManifest("multi", index.media_type, format::WriteIndex(index));
  EXPECT_EQ(ResolveImage(*repository_, "multi")->descriptor.digest, amd64.digest);
  EXPECT_EQ(ResolveImage(*repository_, "multi", {"linux", "arm64", ""})->descriptor.digest, arm64.digest);
  EXPECT_EQ(ResolveImage(*repository_, "multi", {"linux", "s390x", ""}).error().code, Code::kNotFound);
}

TEST_F(ImageResolverTest, ABanyanImageByItsOwnTagNeedsNoReferrer) {
  format::Artifact artifact = ArtifactOf({}, "a", "banyan 0.1.0");
  artifact.subject.reset();
  artifact.config = format::Descriptor{
      .media_type = std::string(format::kOciConfigMediaType), .digest = Digest::Of("config"), .size = 2};
  artifact.source_manifest = Digest::Of("original");
  const Digest digest =
      registry_->AddManifest("lazy", std::string(format::kOciManifestMediaType), format::WriteArtifact(artifact));
  const auto resolved = ResolveConvertedImage(*repository_, "lazy");
  ASSERT_TRUE(resolved) << resolved.error().message;
  EXPECT_EQ(resolved->artifact_digest, digest);
  EXPECT_EQ(resolved->config_digest, Digest::Of("config"));
}

TEST_F(ImageResolverTest, AnAbsentImageIsNotFound) {
  EXPECT_EQ(ResolveImage(*repository_, "absent").error().code, Code::kNotFound);
}

}  // namespace
}  // namespace banyan::fetch
