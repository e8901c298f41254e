// From layer indexes to a whole image and back: map, metadata, artifact, and what damage to each of them gives.
#include "image-format/image_builder.h"

#include <algorithm>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "image-format/artifact.h"
#include "image-format/erofs_flatten.h"
#include "image-format/erofs_layout.h"
#include "image-format/erofs_reader.h"
#include "image-format/erofs_writer.h"
#include "image-format/testing/layer_builder.h"

namespace banyan::image_format {
namespace {

using ::testing::HasSubstr;
using testing::LayerBuilder;

class ImageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    LayerBuilder base("base");
    base.File("etc/os", std::string(5000, 'o'));
    base.Link("etc/link", "etc/os");
    base.Symlink("bin", "usr/bin");
    base.Directory("d").xattrs = {{"user.a", "b"}};
    base.Device("null", EntryKind::kCharacterDevice, 1, 3);
    LayerBuilder top("top");
    top.File("app", std::string(600'000, 'a'));
    LayerBuilder empty("empty");
    empty.Whiteout("null");
    for (LayerBuilder* builder : {&base, &top, &empty}) indexes_.push_back(builder->Build());
    for (const LayerIndex& index : indexes_) {
      layers_.push_back({&index, Digest::Of("index of " + index.diff_id.Hex()), 1000 + layers_.size()});
    }
    auto image = BuildImage(layers_, "banyan test");
    ASSERT_TRUE(image.has_value()) << image.error().message;
    image_ = std::move(*image);
  }

  static Result<ImageMap> Decode(const std::vector<std::byte>& blob) {
    MemorySource source(blob);
    return DecodeImageMap(source);
  }
  static Status Encode(const ImageMap& map) {
    std::vector<std::byte> blob;
    AppendSink sink(blob);
    return EncodeImageMap(map, sink);
  }

  std::vector<LayerIndex> indexes_;
  std::vector<LayerInput> layers_;
  BuiltImage image_;
};

TEST_F(ImageTest, MapComesBack) {
  const auto map = Decode(image_.map_blob);
  ASSERT_TRUE(map.has_value()) << map.error().message;
  EXPECT_EQ(map->converter_version, "banyan test");
  EXPECT_EQ(map->chain_id, image_.map.chain_id);
  EXPECT_EQ(map->metadata_digest, Digest::Of(image_.metadata));
  ASSERT_EQ(map->devices.size(), 3U);
  EXPECT_EQ(map->devices[0].first_block, image_.metadata.size() / kBlockBytes);
  EXPECT_EQ(map->devices[1].first_block, map->devices[0].first_block + map->devices[0].blocks);
  EXPECT_EQ(map->devices[2].blocks, 0U);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(map->devices[i].chunks, indexes_[i].chunks);
    EXPECT_EQ(map->devices[i].index_digest, layers_[i].index_digest);
    EXPECT_EQ(map->devices[i].index_bytes, layers_[i].index_bytes);
    EXPECT_EQ(map->devices[i].blob_digest, indexes_[i].blob_digest);
    EXPECT_EQ(map->devices[i].diff_id, indexes_[i].diff_id);
  }
  EXPECT_EQ(Digest::Of(image_.map_blob), image_.map_digest);
  EXPECT_TRUE(CheckMapAgainstMetadata(*map, image_.metadata).has_value());
}

TEST_F(ImageTest, SameLayersGiveSameBytes) {
  const auto again = BuildImage(layers_, "banyan test");
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->metadata, image_.metadata);
  EXPECT_EQ(again->map_blob, image_.map_blob);
  EXPECT_EQ(again->metadata_blob, image_.metadata_blob);
}

TEST_F(ImageTest, MetadataComeBackAndDamageIsSeen) {
  EXPECT_EQ(DecodeMetadata(image_.map, image_.metadata_blob).value(), image_.metadata);
  std::vector<std::byte> bad = image_.metadata_blob;
  bad[bad.size() / 2] ^= std::byte{1};
  EXPECT_EQ(DecodeMetadata(image_.map, bad).error().code, Code::kDataLoss);
  ImageMap lying = image_.map;
  lying.metadata_bytes -= kBlockBytes;
  EXPECT_EQ(DecodeMetadata(lying, image_.metadata_blob).error().code, Code::kDataLoss);
}

TEST_F(ImageTest, SwappedDevicesAreRefused) {
  ImageMap swapped = image_.map;
  std::swap(swapped.devices[0], swapped.devices[1]);
  EXPECT_FALSE(Encode(swapped).has_value());
  EXPECT_EQ(CheckMapAgainstMetadata(swapped, image_.metadata).error().code, Code::kDataLoss);
  // Swapped with starts that look right: only the metadata tell.
  std::swap(swapped.devices[0].first_block, swapped.devices[1].first_block);
  swapped.devices[1].first_block = swapped.devices[0].first_block + swapped.devices[0].blocks;
  EXPECT_TRUE(Encode(swapped).has_value());
  EXPECT_EQ(CheckMapAgainstMetadata(swapped, image_.metadata).error().code, Code::kDataLoss);
}

TEST_F(ImageTest, MapsThatBreakRulesAreRefused) {
  const auto refused = [this](auto change) {
    ImageMap map = image_.map;
    change(map);
    return !Encode(map).has_value();
  };
  EXPECT_FALSE(refused([](ImageMap&) {}));
  EXPECT_TRUE(refused([](ImageMap& map) { map.metadata_bytes += 1; }));
  EXPECT_TRUE(refused([](ImageMap& map) { map.metadata_bytes = 0; }));
  EXPECT_TRUE(refused([](ImageMap& map) { map.devices.clear(); }));
  EXPECT_TRUE(refused([](ImageMap& map) { map.devices[0].blocks += 1; }));
  EXPECT_TRUE(refused([](ImageMap& map) { map.devices[0].blob_bytes += 1; }));
  EXPECT_TRUE(refused([](ImageMap& map) { map.devices[1].first_block -= 1; }));
  EXPECT_TRUE(refused([](ImageMap& map) { map.devices[1].first_block += 1; }));
}

TEST_F(ImageTest, TruncatedAndFlippedMapsAreErrors) {
  for (size_t length = 0; length < image_.map_blob.size(); ++length) {
    EXPECT_FALSE(
        Decode({image_.map_blob.begin(), image_.map_blob.begin() + static_cast<ptrdiff_t>(length)}).has_value());
  }
  for (size_t i = 0; i < image_.map_blob.size(); ++i) {
    std::vector<std::byte> blob = image_.map_blob;
    blob[i] ^= std::byte{0x10};
    const auto map = Decode(blob);  // zstd's checksum sees what the parser does not; two bits of its header say nothing
    EXPECT_TRUE(!map || map->metadata_digest == image_.map.metadata_digest) << i;
  }
}

TEST_F(ImageTest, ReaderNeverCrashesOnFlippedMetadata) {
  const auto reader = ErofsReader::Open(image_.metadata);
  ASSERT_TRUE(reader.has_value());
  ASSERT_TRUE(reader->Check().has_value());
  size_t accepted = 0;
  for (size_t i = erofs::kSuperblockOffset; i < image_.metadata.size(); ++i) {
    std::vector<std::byte> bad = image_.metadata;
    bad[i] ^= std::byte{0xFF};
    // Past the checksum, or the parser would see nothing else.
    erofs::Store(bad.data() + erofs::kSuperblockOffset + 4,
                 erofs::SuperblockChecksum(std::span(bad).first(kBlockBytes)));
    const auto damaged = ErofsReader::Open(bad);
    if (damaged && damaged->Check()) ++accepted;
  }
  // Attributes, names' bytes and padding have no redundancy; structure has.
  EXPECT_LT(accepted, image_.metadata.size());
}

TEST_F(ImageTest, ReaderFindsPaths) {
  const auto reader = ErofsReader::Open(image_.metadata);
  ASSERT_TRUE(reader.has_value());
  const auto os = reader->LookupPath("/etc/os");
  ASSERT_TRUE(os.has_value());
  EXPECT_EQ(reader->LookupPath("etc/link").value(), *os);
  EXPECT_EQ(reader->GetStat(*os)->link_count, 2U);
  EXPECT_EQ(reader->LookupPath("null").error().code, Code::kNotFound);
  EXPECT_EQ(reader->LookupPath("app/x").error().code, Code::kFailedPrecondition);
  EXPECT_EQ(reader->ReadDirectory(*os).error().code, Code::kFailedPrecondition);
  EXPECT_EQ(reader->ReadLink(*os).error().code, Code::kFailedPrecondition);
  EXPECT_EQ(reader->FileExtent(reader->root()).error().code, Code::kFailedPrecondition);
  const auto app = reader->FileExtent(reader->LookupPath("app").value());
  ASSERT_TRUE(app.has_value());
  EXPECT_EQ(app->device, 1U);
  EXPECT_EQ(app->first_block, 0U);
  EXPECT_EQ(app->size, 600'000U);
  EXPECT_FALSE(reader->GetStat(UINT64_MAX).has_value());
}

// A file's chunk format and index, each field of which is believed only when it fits the rest.
TEST_F(ImageTest, ReaderRefusesExtentsThatLie) {
  const auto refused = [this](size_t at, auto value) {
    std::vector<std::byte> bad = image_.metadata;
    const auto reader = ErofsReader::Open(bad);
    const uint64_t nid = reader->LookupPath("app").value();
    const auto super = erofs::Load<erofs::Superblock>(bad.data() + erofs::kSuperblockOffset);
    erofs::Store(bad.data() + super.meta_block * kBlockBytes + nid * erofs::kSlotBytes + at, value);
    const auto extent = reader->FileExtent(nid);
    return !extent && extent.error().code == Code::kDataLoss && !reader->Check() && !FlattenMetadata(bad);
  };
  constexpr size_t kFormat = offsetof(erofs::ExtendedInode, start);
  constexpr size_t kIndex = erofs::ChunkIndexOffset(0);
  EXPECT_TRUE(refused(0, uint16_t{1}));  // flat
  EXPECT_TRUE(refused(kFormat, uint32_t{0x27}));
  EXPECT_TRUE(refused(kFormat, uint32_t{8}));
  EXPECT_TRUE(refused(kFormat, uint32_t{0x10028}));
  EXPECT_TRUE(refused(kIndex, uint16_t{1}));
  EXPECT_TRUE(refused(kIndex + 2, uint16_t{0}));
  EXPECT_TRUE(refused(kIndex + 2, uint16_t{3}));
  EXPECT_TRUE(refused(kIndex + 2, uint16_t{4}));
  EXPECT_TRUE(refused(kIndex + 4, uint32_t{1}));
  EXPECT_TRUE(refused(kIndex + 4, uint32_t{UINT32_MAX}));
}

TEST_F(ImageTest, FlattenedFilesLieWhereTheDeviceTableSays) {
  const auto flat = FlattenMetadata(image_.metadata);
  ASSERT_TRUE(flat.has_value());
  EXPECT_EQ(flat->size(), image_.metadata.size());
  EXPECT_FALSE(ErofsReader::Open(*flat).has_value());
  const auto reader = ErofsReader::Open(image_.metadata);
  const auto super = erofs::Load<erofs::Superblock>(flat->data() + erofs::kSuperblockOffset);
  EXPECT_EQ(super.feature_incompat, 0U);
  EXPECT_EQ(super.blocks, image_.map.devices[2].first_block);
  const uint64_t app = reader->LookupPath("app").value();
  const auto inode =
      erofs::Load<erofs::ExtendedInode>(flat->data() + super.meta_block * kBlockBytes + app * erofs::kSlotBytes);
  EXPECT_EQ(inode.format, 1U);
  EXPECT_EQ(inode.start, image_.map.devices[1].first_block);
}

TEST_F(ImageTest, WriterRefusesWhatErofsCannotHold) {
  const auto refused = [](auto change, std::vector<ErofsDevice> devices = {{"tag", 10}}) {
    LayerBuilder builder;
    Entry& entry = builder.File("f", std::string(10 * kBlockBytes, 'x'));
    change(builder, entry);
    const LayerIndex index = builder.Build();
    const LayerIndex* pointer = &index;
    const auto tree = MergeLayers(std::span(&pointer, 1));
    EXPECT_TRUE(tree.has_value());
    const auto metadata = WriteErofs(*tree, devices);
    return metadata ? std::string() : metadata.error().message;
  };
  const auto nothing = [](LayerBuilder&, Entry&) {};
  EXPECT_EQ(refused(nothing), "");
  EXPECT_THAT(refused(nothing, {{"tag", 9}}), HasSubstr("outside the layer's device"));
  EXPECT_THAT(refused(nothing, {}), HasSubstr("fewer devices"));
  EXPECT_THAT(refused(nothing, {{"", 10}}), HasSubstr("tag"));
  EXPECT_THAT(refused(nothing, {{"a", 10}, {"b", 0xFFFFFFFF}}), HasSubstr("2^32"));
  EXPECT_THAT(refused(nothing, std::vector<ErofsDevice>(65536, {"t", 10})), HasSubstr("65,535"));
  EXPECT_THAT(refused([](LayerBuilder& b, Entry&) { b.Symlink("s", std::string(4096, 'x')); }), HasSubstr("symlink"));
  EXPECT_THAT(refused([](LayerBuilder& b, Entry&) { b.Device("d", EntryKind::kBlockDevice, 4096, 0); }),
              HasSubstr("device"));
  EXPECT_THAT(refused([](LayerBuilder&, Entry& e) {
                e.xattrs = {{"user.x", std::string(65536, 'v')}};
              }),
              HasSubstr("long"));
  EXPECT_THAT(refused([](LayerBuilder&, Entry& e) {
                for (int i = 0; i < 5; ++i) e.xattrs.push_back({fmt::format("user.{}", i), std::string(65000, 'v')});
              }),
              HasSubstr("many"));
  EXPECT_FALSE(FlattenMetadata(std::vector<std::byte>(kBlockBytes)).has_value());
  EXPECT_FALSE(FlattenMetadata({}).has_value());
}

TEST_F(ImageTest, ArtifactComesBackInBothForms) {
  Artifact artifact = MakeArtifact(image_, layers_);
  Descriptor subject;
  subject.media_type = kOciManifestMediaType;
  subject.digest = Digest::Of("subject");
  subject.size = 9;
  artifact.subject = subject;
  const std::string attached = WriteArtifact(artifact);
  const auto parsed = ParseArtifact(attached);
  ASSERT_TRUE(parsed.has_value()) << parsed.error().message;
  EXPECT_EQ(parsed->layers, artifact.layers);
  EXPECT_EQ(parsed->subject->digest, subject.digest);
  EXPECT_FALSE(parsed->config.has_value());
  EXPECT_EQ(parsed->map_digest, image_.map_digest);
  EXPECT_TRUE(CheckArtifactAgainstMap(*parsed, image_.map).has_value());
  EXPECT_EQ(WriteArtifact(*parsed), attached);
  // The empty layer's blob has no bytes and is not listed: map, metadata, two blobs, three indexes.
  EXPECT_EQ(ParseManifest(attached)->layers.size(), 7U);

  artifact.subject.reset();
  EXPECT_FALSE(ParseArtifact(WriteArtifact(artifact)).has_value());
  artifact.config = subject;
  artifact.config->media_type = kDockerConfigMediaType;
  artifact.source_manifest = Digest::Of("original");
  const auto tagged = ParseArtifact(WriteArtifact(artifact));
  ASSERT_TRUE(tagged.has_value()) << tagged.error().message;
  EXPECT_EQ(*tagged->config, *artifact.config);
  EXPECT_EQ(*tagged->source_manifest, Digest::Of("original"));
}

TEST_F(ImageTest, TorrentsAreOfListedBlobsAndOneEach) {
  Artifact artifact = MakeArtifact(image_, layers_);
  artifact.subject = Descriptor{};
  artifact.subject->digest = Digest::Of("subject");
  const auto blob = std::find_if(artifact.layers.begin(), artifact.layers.end(),
                                 [](const ArtifactLayer& layer) { return layer.blob_bytes > 0; });
  ASSERT_NE(blob, artifact.layers.end());
  artifact.torrents = {{blob->blob_digest, Digest::Of("torrent"), 100, {{7}}}};
  const auto read = ParseArtifact(WriteArtifact(artifact));
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->torrents, artifact.torrents);
  EXPECT_TRUE(CheckArtifactAgainstMap(*read, image_.map).has_value());

  Artifact bad = artifact;
  bad.torrents.push_back(bad.torrents[0]);
  EXPECT_FALSE(ParseArtifact(WriteArtifact(bad)));
  bad = artifact;
  bad.torrents[0].blob_digest = Digest::Of("not listed");
  EXPECT_FALSE(ParseArtifact(WriteArtifact(bad)));
  bad = artifact;
  bad.torrents[0].torrent_bytes = kMaxTorrentBytes + 1;
  EXPECT_FALSE(ParseArtifact(WriteArtifact(bad)));
}

TEST_F(ImageTest, ArtifactsThatLieAreRefused) {
  Artifact artifact = MakeArtifact(image_, layers_);
  artifact.subject = Descriptor{};
  artifact.subject->digest = Digest::Of("subject");
  const std::string good = WriteArtifact(artifact);
  ASSERT_TRUE(ParseArtifact(good).has_value());
  const auto refused = [&good](std::string_view from, std::string_view to) {
    std::string bad = good;
    const size_t at = bad.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    bad.replace(at, from.size(), to);
    return !ParseArtifact(bad).has_value();
  };
  EXPECT_TRUE(refused(kImageArtifactType, "application/other"));
  EXPECT_TRUE(refused(R"("vnd.banyan.format.version":"1")", R"("vnd.banyan.format.version":"2")"));
  EXPECT_TRUE(refused(kImageMapMediaType, "application/other"));
  EXPECT_TRUE(refused(R"("vnd.banyan.layer.blob-bytes":")", R"("vnd.banyan.layer.blob-bytes":"9)"));
  EXPECT_TRUE(refused("vnd.banyan.layer.source", "vnd.banyan.layer.sauce"));
  EXPECT_FALSE(ParseArtifact("{}").has_value());

  ImageMap other = image_.map;
  other.chain_id = Digest::Of("other");
  EXPECT_EQ(CheckArtifactAgainstMap(artifact, other).error().code, Code::kDataLoss);
  other = image_.map;
  other.devices[0].blob_digest = Digest::Of("other");
  EXPECT_EQ(CheckArtifactAgainstMap(artifact, other).error().code, Code::kDataLoss);
  other = image_.map;
  other.devices.pop_back();
  EXPECT_EQ(CheckArtifactAgainstMap(artifact, other).error().code, Code::kDataLoss);
}

}  // namespace
}  // namespace banyan::image_format
