// Holds the code, tests/golden/ and the hexdumps in docs/format.md together: the tiny image that the document walks
// through is built here, and its bytes compared with both. BANYAN_UPDATE_GOLDEN=1 rewrites files, hexdumps and the
// fuzzers' seeds after a change that is meant.
#include <algorithm>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "common/file_io.h"
#include "image-format/artifact.h"
#include "image-format/decompress.h"
#include "image-format/erofs_flatten.h"
#include "image-format/erofs_reader.h"
#include "image-format/image_builder.h"
#include "image-format/testing/layer_builder.h"

namespace banyan::image_format {
namespace {

using testing::LayerBuilder;

const std::string kSource = BANYAN_SOURCE_DIR;

bool Updating() { return std::getenv("BANYAN_UPDATE_GOLDEN") != nullptr; }

std::string Text(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

// What a zstd blob holds. Golden files are kept decompressed, since another zstd may compress otherwise.
std::string Unpacked(std::string_view blob) {
  MemorySource in(std::as_bytes(std::span(blob)));
  auto source = Decompressor::Open(in);
  EXPECT_TRUE(source.has_value());
  std::vector<std::byte> bytes(1 << 20);
  const auto length = ReadFully(**source, bytes);
  EXPECT_TRUE(length.has_value());
  return Text(std::span(bytes).first(length.value_or(0)));
}

// One zstd frame of one raw block: 4096 bytes that no compressor chose.
std::string RawFrame(std::string_view block) {
  return std::string("\x28\xB5\x2F\xFD\x60\x00\x0F\x01\x80\x00", 10) + std::string(block);
}

// The example of docs/format.md: a layer of one file with two names, and a symlink.
struct Example {
  LayerIndex index;
  std::string device;
  std::string blob;

  Example() {
    LayerBuilder builder("example");
    builder.Directory("", 0755);
    builder.Directory("bin").mtime_seconds = 1;
    Entry& file = builder.File("bin/hello", "Hello, world\n", 0755);
    file.mtime_seconds = 1'700'000'000;
    file.mtime_nanoseconds = 5;
    file.xattrs = {{"user.a", "b"}};
    builder.Link("bin/hi", "bin/hello");
    builder.Symlink("link", "bin/hello").uid = 1000;
    index = builder.Build();
    device = builder.device();
    blob = RawFrame(device);
    index.chunks = ChunkTable();
    EXPECT_TRUE(index.chunks.Append(static_cast<uint32_t>(blob.size()), 1, Digest::Of(blob), Digest::Of(device)));
    index.blob_bytes = blob.size();
    index.blob_digest = Digest::Of(blob);
    index.converter_version = "banyan 0.1.0";
  }
};

// As `hexdump -C` prints, repeated lines as one "*".
std::string Hexdump(std::string_view bytes) {
  std::string out;
  std::string_view previous;
  bool starred = false;
  for (size_t at = 0; at < bytes.size(); at += 16) {
    const std::string_view line = bytes.substr(at, 16);
    if (at > 0 && line == previous) {
      if (!starred) out += "*\n";
      starred = true;
      continue;
    }
    starred = false;
    previous = line;
    std::string hex;
    std::string text;
    for (size_t i = 0; i < 16; ++i) {
      if (i == 8) hex += " ";
      hex += i < line.size() ? fmt::format("{:02x} ", static_cast<uint8_t>(line[i])) : "   ";
      if (i < line.size()) text += line[i] >= 0x20 && line[i] < 0x7F ? line[i] : '.';
    }
    out += fmt::format("{:08x}  {} |{}|\n", at, hex, text);
  }
  return out + fmt::format("{:08x}\n", bytes.size());
}

void CheckFile(const std::string& name, const std::string& bytes) {
  const std::string path = kSource + "/tests/golden/" + name;
  if (Updating()) {
    ASSERT_TRUE(WriteFileDurably(path, bytes).has_value());
  }
  const auto golden = ReadFile(path);
  ASSERT_TRUE(golden.has_value()) << golden.error().message;
  EXPECT_TRUE(*golden == bytes) << name << " is now\n" << Hexdump(bytes);
}

// The block in the document between "<!-- golden: NAME -->", a fence, and the closing fence.
void CheckDocument(const std::string& name, const std::string& block) {
  const std::string path = kSource + "/docs/format.md";
  auto document = ReadFile(path);
  ASSERT_TRUE(document.has_value()) << document.error().message;
  const std::string marker = "<!-- golden: " + name + " -->\n```\n";
  size_t begin = document->find(marker);
  ASSERT_NE(begin, std::string::npos) << "docs/format.md has no block for " << name;
  begin += marker.size();
  const size_t end = document->find("```\n", begin);
  ASSERT_NE(end, std::string::npos);
  if (Updating()) {
    std::string updated = *document;
    updated.replace(begin, end - begin, block);
    ASSERT_TRUE(WriteFileDurably(path, updated).has_value());
    return;
  }
  EXPECT_EQ(document->substr(begin, end - begin), block);
}

TEST(Golden, ExampleIsAsTheDocumentSays) {
  const Example example;
  std::vector<std::byte> decoded;
  ASSERT_TRUE(DecodeChunk(example.index.chunks[0], std::as_bytes(std::span(example.blob)), decoded).has_value());
  EXPECT_EQ(Text(decoded), example.device);

  std::string index_blob;
  AppendSink sink(index_blob);
  ASSERT_TRUE(EncodeLayerIndex(example.index, sink).has_value());
  const std::string index = Unpacked(index_blob);
  CheckFile("layer-index.bin", index);
  CheckDocument("layer-index.bin", Hexdump(index));

  // The digests of zstd blobs would change with zstd: the example names its blobs by their contents instead.
  const LayerInput layer{&example.index, Digest::Of(index), index.size()};
  auto image = BuildImage(std::span(&layer, 1), "banyan 0.1.0");
  ASSERT_TRUE(image.has_value()) << image.error().message;
  CheckFile("metadata.bin", Text(image->metadata));
  CheckDocument("metadata.bin", Hexdump(Text(image->metadata)));
  const auto flattened = FlattenMetadata(image->metadata);
  ASSERT_TRUE(flattened.has_value());
  CheckFile("flattened-metadata.bin", Text(*flattened));

  image->map.metadata_blob_digest = image->map.metadata_digest;
  image->map.metadata_blob_bytes = image->map.metadata_bytes;
  std::string map_blob;
  AppendSink map_sink(map_blob);
  ASSERT_TRUE(EncodeImageMap(image->map, map_sink).has_value());
  const std::string map = Unpacked(map_blob);
  CheckFile("image-map.bin", map);
  CheckDocument("image-map.bin", Hexdump(map));

  image->map_digest = Digest::Of(map);
  image->map_blob.resize(map.size());
  Artifact artifact = MakeArtifact(*image, std::span(&layer, 1));
  artifact.subject = Descriptor{};
  artifact.subject->media_type = kOciManifestMediaType;
  artifact.subject->digest = Digest::Of("original manifest");
  artifact.subject->size = 1234;
  CheckFile("artifact.json", WriteArtifact(artifact));
}

// Old golden files stay readable by new code.
TEST(Golden, FilesAreRead) {
  const auto metadata = ReadFile(kSource + "/tests/golden/metadata.bin");
  ASSERT_TRUE(metadata.has_value());
  const auto reader = ErofsReader::Open(std::as_bytes(std::span(*metadata)));
  ASSERT_TRUE(reader.has_value()) << reader.error().message;
  EXPECT_TRUE(reader->Check().has_value());
  EXPECT_EQ(reader->GetStat(reader->LookupPath("bin/hi").value())->link_count, 2U);
  const auto json = ReadFile(kSource + "/tests/golden/artifact.json");
  ASSERT_TRUE(json.has_value());
  EXPECT_TRUE(ParseArtifact(*json).has_value());
}

// Small inputs for the fuzzers to start from.
TEST(Golden, WritesFuzzSeeds) {
  if (!Updating()) return;
  const auto seed = [](const std::string& name, const std::string& bytes) {
    EXPECT_TRUE(WriteFileDurably(kSource + "/tests/corpus/" + name, bytes).has_value());
  };
  for (const unsigned layers : {1U, 3U, 25U}) {
    std::vector<LayerIndex> indexes;
    for (unsigned i = 0; i < layers; ++i) {
      LayerBuilder builder(fmt::format("seed {}", i));
      builder.File(fmt::format("d{}/file", i), std::string(5000 * (i % 2), 'x')).xattrs = {{"user.a", "b"},
                                                                                           {"security.c", ""}};
      builder.Link(fmt::format("d{}/link", i), fmt::format("d{}/file", i));
      builder.Symlink("symlink", "to");
      builder.Device("device", EntryKind::kBlockDevice, 8, 1);
      builder.Fifo("fifo");
      for (int n = 0; layers == 1 && n < 20; ++n) builder.File(fmt::format("many/{:0>240}", n), "");
      indexes.push_back(builder.Build());
    }
    std::vector<LayerInput> inputs;
    for (const LayerIndex& index : indexes) inputs.push_back({&index, index.source_digest, 10});
    const auto image = BuildImage(inputs, "seed");
    ASSERT_TRUE(image.has_value());
    seed(fmt::format("erofs_reader_fuzz/layers-{}", layers), Text(image->metadata));
    seed(fmt::format("image_map_fuzz/blob-{}", layers), Text(image->map_blob));
    seed(fmt::format("image_map_fuzz/message-{}", layers), Unpacked(Text(image->map_blob)));
    Artifact artifact = MakeArtifact(*image, inputs);
    artifact.subject = Descriptor{};
    artifact.subject->digest = image->map_digest;
    seed(fmt::format("manifest_fuzz/artifact-{}", layers), WriteArtifact(artifact));
  }
  const std::string digest = Digest::Of("x").ToString();
  const std::string descriptor = fmt::format(
      R"({{"mediaType":"{}","digest":"{}","size":7,"platform":{{"os":"linux","architecture":"arm","variant":"v7"}}}})",
      kOciManifestMediaType, digest);
  seed("manifest_fuzz/descriptor", descriptor);
  seed("manifest_fuzz/index",
       fmt::format(R"({{"schemaVersion":2,"mediaType":"{}","manifests":[{},{}],"annotations":{{"a":"b"}}}})",
                   kDockerIndexMediaType, descriptor, descriptor));
  seed(
      "manifest_fuzz/config",
      fmt::format(
          R"({{"os":"linux","architecture":"amd64","config":{{"Env":["A=b"],"Cmd":["sh"],"User":"1"}},"rootfs":{{"diff_ids":["{}"]}}}})",
          digest));
  seed("manifest_fuzz/deep", std::string(200, '[') + std::string(200, ']'));
  seed("manifest_fuzz/twice", R"({"schemaVersion":2,"schemaVersion":2})");
}

}  // namespace
}  // namespace banyan::image_format
