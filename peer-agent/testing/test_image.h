// A converted image of a few layers in a FakeRegistry, for tests of what stands above the fetch path.
#pragma once

#include <string>
#include <vector>

#include "common/byte_stream.h"
#include "image-format/artifact.h"
#include "image-format/image_builder.h"
#include "image-format/oci.h"
#include "image-format/signature.h"
#include "image-format/testing/layer_builder.h"
#include "net/testing/fake_registry.h"

namespace banyan::peer_agent::testing {

struct TestImage {
  std::string tag;
  Digest manifest_digest;
  Digest artifact_digest;
  Digest map_digest;
  image_format::ImageMap map;
  std::vector<Digest> chain_ids;
  std::vector<Digest> index_digests;
};

// Layer i holds /layer<i> (`bytes` long) and replaces /common. `converted` false: no artifact is put; `key`: signs it.
inline TestImage AddTestImage(net::testing::FakeRegistry& registry, const std::string& tag, size_t layers,
                              size_t bytes = 300'000, bool converted = true,
                              const image_format::SigningKey* key = nullptr) {
  namespace format = image_format;
  std::vector<format::LayerIndex> indexes;
  std::vector<format::LayerInput> inputs;
  TestImage image{.tag = tag};
  format::Manifest manifest{.media_type = std::string(format::kOciManifestMediaType)};
  std::vector<Digest> diff_ids;
  indexes.reserve(layers);
  for (size_t i = 0; i < layers; ++i) {
    format::testing::LayerBuilder builder(tag + " layer " + std::to_string(i));
    std::string contents(bytes, '\0');
    for (size_t at = 0; at < bytes; ++at) contents[at] = static_cast<char>((at * 31 + at / 4096 + i) & 0xFF);
    builder.File("layer" + std::to_string(i), std::move(contents));
    builder.File("common", "of layer " + std::to_string(i));
    indexes.push_back(builder.Build());
    std::string index_blob;
    AppendSink sink(index_blob);
    (void)format::EncodeLayerIndex(indexes.back(), sink);
    registry.AddBlob(builder.blob());
    inputs.push_back({&indexes.back(), registry.AddBlob(index_blob), index_blob.size()});
    image.index_digests.push_back(inputs.back().index_digest);
    manifest.layers.push_back({.media_type = "application/vnd.oci.image.layer.v1.tar+gzip",
                               .digest = indexes.back().source_digest,
                               .size = 1});
    diff_ids.push_back(indexes.back().diff_id);
    image.chain_ids.push_back(format::ChainId(diff_ids));
  }
  const std::string config = R"({"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}})";
  manifest.config = {.media_type = std::string(format::kOciConfigMediaType),
                     .digest = registry.AddBlob(config),
                     .size = config.size()};
  const std::string body = format::WriteManifest(manifest);
  image.manifest_digest = registry.AddManifest(tag, manifest.media_type, body);
  const auto built = format::BuildImage(inputs, "test").value();
  image.map = built.map;
  image.map_digest = built.map_digest;
  if (!converted) return image;
  const auto text = [](const std::vector<std::byte>& blob) {
    return std::string(reinterpret_cast<const char*>(blob.data()), blob.size());
  };
  registry.AddBlob(text(built.map_blob));
  registry.AddBlob(text(built.metadata_blob));
  format::Artifact artifact = format::MakeArtifact(built, inputs);
  artifact.subject = {.media_type = manifest.media_type, .digest = image.manifest_digest, .size = body.size()};
  if (key != nullptr) (void)format::SignArtifact(artifact, *key, 1'700'000'000);
  image.artifact_digest =
      registry.AddManifest("", std::string(format::kOciManifestMediaType), format::WriteArtifact(artifact));
  return image;
}

}  // namespace banyan::peer_agent::testing
