#include "image-format/oci.h"

#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace banyan::image_format {
namespace {

using ::testing::HasSubstr;

const std::string kDigest = Digest::Of("x").ToString();

std::string DescriptorText(std::string_view media_type, std::string_view more = "") {
  return fmt::format(R"({{"mediaType":"{}","digest":"{}","size":7{}}})", media_type, kDigest, more);
}

std::string ManifestText(std::string_view layers, std::string_view more = "") {
  return fmt::format(R"({{"schemaVersion":2,"config":{},"layers":[{}]{}}})", DescriptorText(kOciConfigMediaType),
                     layers, more);
}

TEST(Oci, ReadsAndWritesManifests) {
  const std::string layer = DescriptorText("application/vnd.oci.image.layer.v1.tar+gzip",
                                           R"(,"annotations":{"a":"b"},"unknown":[1,{"x":null}])");
  const auto manifest =
      ParseManifest(ManifestText(layer, fmt::format(R"(,"artifactType":"t","subject":{},"annotations":{{"k":"v"}})",
                                                    DescriptorText(kOciManifestMediaType))));
  ASSERT_TRUE(manifest.has_value()) << manifest.error().message;
  EXPECT_EQ(manifest->media_type, kOciManifestMediaType);
  EXPECT_EQ(manifest->artifact_type, "t");
  ASSERT_EQ(manifest->layers.size(), 1U);
  EXPECT_EQ(manifest->layers[0].size, 7U);
  EXPECT_EQ(manifest->layers[0].annotations.at("a"), "b");
  ASSERT_TRUE(manifest->subject.has_value());
  EXPECT_EQ(manifest->subject->digest.ToString(), kDigest);
  const std::string written = WriteManifest(*manifest);
  const auto again = ParseManifest(written);
  ASSERT_TRUE(again.has_value()) << again.error().message;
  EXPECT_EQ(WriteManifest(*again), written);
  EXPECT_EQ(again->layers, manifest->layers);
  EXPECT_EQ(again->annotations, manifest->annotations);
}

TEST(Oci, ReadsDockerManifests) {
  const auto manifest =
      ParseManifest(ManifestText(DescriptorText("application/vnd.docker.image.rootfs.diff.tar.gzip"),
                                 R"(,"mediaType":"application/vnd.docker.distribution.manifest.v2+json")"));
  ASSERT_TRUE(manifest.has_value()) << manifest.error().message;
  EXPECT_EQ(manifest->media_type, kDockerManifestMediaType);
}

TEST(Oci, RefusesBadDocumentsByName) {
  const std::string good = DescriptorText("m");
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += '[';
  const std::vector<std::pair<std::string, std::string>> cases{
      {"", "not JSON"},
      {"[]", "not a JSON object"},
      {"{", "not JSON"},
      {deep, "nested too deeply"},
      {"{\"a\":" + deep, "nested too deeply"},
      {"\xff\xfe", "not JSON"},
      {"{\"a\":\"\xff\"}", "not JSON"},
      {ManifestText(good, R"(,"layers":[])"), "key 'layers' twice"},
      {R"({"schemaVersion":1})", "schemaVersion 1"},
      {R"({"schemaVersion":2})", "config"},
      {R"({"schemaVersion":"2"})", "schemaVersion"},
      {ManifestText(R"("x")"), "layers[0]"},
      {ManifestText(R"({"mediaType":"m","digest":"sha256:00","size":1})"), "layers[0]"},
      {ManifestText(fmt::format(R"({{"mediaType":"m","digest":"{}"}})", kDigest)), "size"},
      {ManifestText(fmt::format(R"({{"mediaType":"m","digest":"{}","size":-1}})", kDigest)), "size"},
      {ManifestText(fmt::format(R"({{"mediaType":"m","digest":"{}","size":1.5}})", kDigest)), "size"},
      {ManifestText(fmt::format(R"({{"mediaType":"m","digest":"{}","size":1e99999}})", kDigest)), "not JSON"},
      {ManifestText(fmt::format(R"({{"mediaType":"m","digest":"{}","size":99999999999999999999}})", kDigest)), "size"},
      {ManifestText(fmt::format(R"({{"mediaType":"m","digest":"{}","size":18446744073709551615}})", kDigest)), "bytes"},
      {ManifestText(good, R"(,"annotations":{"a":1})"), "annotation 'a'"},
      {ManifestText(good, R"(,"manifests":[])"), "index as well"},
      {ManifestText(good, R"(,"mediaType":"application/vnd.oci.image.index.v1+json")"), "media type"},
      {std::string(5 << 20, ' '), "at most"}};
  for (const auto& [text, message] : cases) {
    const auto manifest = ParseManifest(text);
    ASSERT_FALSE(manifest.has_value()) << text.substr(0, 200);
    EXPECT_THAT(manifest.error().message, HasSubstr(message)) << text.substr(0, 200);
  }
}

TEST(Oci, ReadsImageConfigs) {
  const auto config = ParseImageConfig(fmt::format(
      R"({{"os":"linux","architecture":"arm64","variant":"v8","config":{{"Env":["A=b","C=d"],"Entrypoint":["/e"],"Cmd":["x","y"],
          "WorkingDir":"/w","User":"1:2","Labels":null}},"rootfs":{{"type":"layers","diff_ids":["{}"]}},"history":[{{}}]}})",
      kDigest));
  ASSERT_TRUE(config.has_value()) << config.error().message;
  EXPECT_EQ(ToString(config->platform), "linux/arm64/v8");
  EXPECT_EQ(config->env, (std::vector<std::string>{"A=b", "C=d"}));
  EXPECT_EQ(config->entrypoint, std::vector<std::string>{"/e"});
  EXPECT_EQ(config->cmd, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(config->working_dir, "/w");
  EXPECT_EQ(config->user, "1:2");
  EXPECT_EQ(config->diff_ids, std::vector<Digest>{Digest::Of("x")});
  EXPECT_TRUE(ParseImageConfig(R"({"config":{"Cmd":null,"Env":null},"rootfs":{"diff_ids":[]}})").has_value());
  EXPECT_FALSE(ParseImageConfig(R"({"config":{"Cmd":"sh"},"rootfs":{"diff_ids":[]}})").has_value());
  EXPECT_FALSE(ParseImageConfig(R"({"rootfs":{"diff_ids":["md5:1"]}})").has_value());
  EXPECT_FALSE(ParseImageConfig(R"({})").has_value());
}

Index IndexOf(const std::vector<std::string>& platforms) {
  Index index;
  index.media_type = kOciIndexMediaType;
  for (const std::string& text : platforms) {
    Descriptor descriptor;
    descriptor.digest = Digest::Of(text);
    if (!text.empty()) descriptor.platform = *ParsePlatform(text);
    index.manifests.push_back(descriptor);
  }
  return index;
}

TEST(Oci, ChoosesPlatforms) {
  const Index index = IndexOf({"unknown/unknown", "windows/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8",
                               "linux/amd64", "linux/amd64/v3", "linux/386"});
  const auto chosen = [&index](std::string_view wanted) {
    const auto descriptor = ChoosePlatform(index, *ParsePlatform(wanted));
    return descriptor ? ToString(*descriptor->platform) : descriptor.error().message;
  };
  EXPECT_EQ(ToString(*ChoosePlatform(index)->platform), "linux/amd64");
  EXPECT_EQ(chosen("linux/amd64/v2"), "linux/amd64");
  EXPECT_EQ(chosen("linux/amd64/v4"), "linux/amd64/v3");
  EXPECT_EQ(chosen("linux/arm"), "linux/arm/v7");
  EXPECT_EQ(chosen("linux/arm/v6"), "linux/arm/v6");
  EXPECT_EQ(chosen("linux/arm64"), "linux/arm64/v8");
  EXPECT_THAT(chosen("linux/arm/v5"), HasSubstr("no manifest for linux/arm/v5"));
  EXPECT_THAT(chosen("linux/s390x"), HasSubstr("linux/386"));
  EXPECT_TRUE(ChoosePlatform(IndexOf({""})).has_value());
  EXPECT_FALSE(ChoosePlatform(IndexOf({"", ""})).has_value());
  EXPECT_FALSE(ChoosePlatform(IndexOf({})).has_value());
}

TEST(Oci, ReadsIndexes) {
  const std::string text =
      fmt::format(R"({{"schemaVersion":2,"manifests":[{}]}})",
                  DescriptorText(kOciManifestMediaType, R"(,"platform":{"os":"linux","architecture":"amd64"})"));
  const auto index = ParseIndex(text);
  ASSERT_TRUE(index.has_value()) << index.error().message;
  EXPECT_EQ(*index->manifests[0].platform, Platform{});
  EXPECT_EQ(DetectMediaType(text).value(), kOciIndexMediaType);
  EXPECT_EQ(DetectMediaType(text, "application/vnd.docker.distribution.manifest.list.v2+json; charset=utf-8").value(),
            kDockerIndexMediaType);
  EXPECT_EQ(DetectMediaType(ManifestText("")).value(), kOciManifestMediaType);
  EXPECT_FALSE(DetectMediaType("{}").has_value());
  EXPECT_FALSE(ParseIndex(ManifestText("")).has_value());
}

TEST(Oci, KnowsLayerMediaTypes) {
  EXPECT_EQ(LayerCompression("application/vnd.oci.image.layer.v1.tar").value(), Compression::kNone);
  EXPECT_EQ(LayerCompression("application/vnd.oci.image.layer.v1.tar+gzip").value(), Compression::kGzip);
  EXPECT_EQ(LayerCompression("application/vnd.oci.image.layer.v1.tar+zstd").value(), Compression::kZstd);
  EXPECT_EQ(LayerCompression("application/vnd.docker.image.rootfs.diff.tar.gzip").value(), Compression::kGzip);
  for (const char* foreign : {"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                              "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"}) {
    EXPECT_THAT(LayerCompression(foreign).error().message, HasSubstr("foreign"));
  }
  EXPECT_THAT(LayerCompression("application/vnd.oci.image.layer.v1.tar+gzip+encrypted").error().message,
              HasSubstr("encrypted"));
  EXPECT_FALSE(LayerCompression("text/html").has_value());
}

TEST(Oci, MakesChainIds) {
  const Digest a = Digest::Of("a");
  const Digest b = Digest::Of("b");
  EXPECT_TRUE(ChainId({}).is_zero());
  EXPECT_EQ(ChainId(std::vector{a}), a);
  EXPECT_EQ(ChainId(std::vector{a, b}), Digest::Of(a.ToString() + " " + b.ToString()));
}

TEST(Oci, RefusesBadPlatforms) {
  for (const char* text : {"", "linux", "/amd64", "linux/", "a/b/c/d"})
    EXPECT_FALSE(ParsePlatform(text).has_value()) << text;
}

}  // namespace
}  // namespace banyan::image_format
