#include "image-format/layer_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "image-format/layer_index_check.h"
#include "image-format/testing/convert_for_test.h"
#include "image-format/testing/tar_builder.h"
#include "image-format/zstd_sink.h"

namespace banyan::image_format {
namespace {

using testing::AsBytes;
using ::testing::HasSubstr;
using testing::TarBuilder;

std::string Encode(const LayerIndex& index) {
  std::string blob;
  AppendSink<std::string> sink(blob);
  EXPECT_TRUE(EncodeLayerIndex(index, sink));
  return blob;
}

Result<LayerIndex> Decode(std::string_view blob) {
  MemorySource source(AsBytes(blob));
  return DecodeLayerIndex(source);
}

LayerIndex Sample() {
  const auto layer = testing::ConvertForTest(TarBuilder()
                                                 .Directory("d")
                                                 .File("d/f", std::string(10000, 'x'))
                                                 .HardLink("d/h", "d/f")
                                                 .HardLink("low", "usr/bin/x")
                                                 .Symlink("s", "d/f")
                                                 .Whiteout("d", "w")
                                                 .Opaque("o")
                                                 .CharacterDevice("dev/null", 1, 3)
                                                 .Add({.name = "x", .mtime = -7, .pax = {{"SCHILY.xattr.user.k", "v"}}})
                                                 .Finish());
  EXPECT_TRUE(layer.has_value());
  return layer->index;
}

void ExpectSame(const LayerIndex& a, const LayerIndex& b) {
  EXPECT_EQ(a.converter_version, b.converter_version);
  EXPECT_EQ(a.source_digest, b.source_digest);
  EXPECT_EQ(a.diff_id, b.diff_id);
  EXPECT_EQ(a.blob_digest, b.blob_digest);
  EXPECT_EQ(a.blob_bytes, b.blob_bytes);
  EXPECT_EQ(a.device_blocks, b.device_blocks);
  EXPECT_EQ(a.chunking, b.chunking);
  EXPECT_EQ(a.chunks, b.chunks);
  EXPECT_EQ(a.entries, b.entries);
}

TEST(LayerIndex, RoundTripIsExactAndDeterministic) {
  const LayerIndex index = Sample();
  const std::string blob = Encode(index);
  EXPECT_EQ(blob, Encode(index));
  const auto decoded = Decode(blob);
  ASSERT_TRUE(decoded) << decoded.error().message;
  ExpectSame(*decoded, index);
  EXPECT_EQ(Encode(*decoded), blob);
}

TEST(LayerIndex, EveryTruncationIsRefused) {
  const std::string blob = Encode(Sample());
  for (size_t length = 0; length < blob.size(); ++length) EXPECT_FALSE(Decode(blob.substr(0, length))) << length;
}

TEST(LayerIndex, BrokenInvariantsAreRefused) {
  const auto expect_refused = [](const std::function<void(LayerIndex&)>& change, const std::string& text) {
    LayerIndex index = Sample();
    change(index);
    const auto decoded = Decode(Encode(index));
    ASSERT_FALSE(decoded) << text;
    EXPECT_EQ(decoded.error().code, Code::kInvalidArgument);
    EXPECT_THAT(decoded.error().message, HasSubstr(text));
  };
  const auto find = [](LayerIndex& index, std::string_view path) -> Entry& {
    uint32_t i = 0;
    while (PathOf(index, i) != path) ++i;
    return index.entries[i];
  };
  expect_refused([](LayerIndex& i) { i.entries.clear(); }, "0 entries");
  expect_refused([](LayerIndex& i) { i.entries[0].kind = EntryKind::kRegular; }, "root");
  expect_refused([](LayerIndex& i) { i.entries[1].parent = 1; }, "before its parent");
  expect_refused([](LayerIndex& i) { std::swap(i.entries[1], i.entries[2]); }, "sorted");
  expect_refused([](LayerIndex& i) { i.entries[2].name = i.entries[1].name; }, "sorted");
  expect_refused([](LayerIndex& i) { i.entries[1].name = ".."; }, "component");
  expect_refused([](LayerIndex& i) { i.entries[1].name = "a/b"; }, "component");
  expect_refused([&](LayerIndex& i) { find(i, "d/h").link_entry = 10000; }, "does not exist");
  expect_refused([&](LayerIndex& i) { find(i, "d/h").link_entry = 0; }, "cannot be linked");
  expect_refused([&](LayerIndex& i) { find(i, "d/f").first_block = 1; }, "beyond the device");
  expect_refused([&](LayerIndex& i) { find(i, "d/f").size = UINT64_MAX; }, "beyond the device");
  expect_refused([&](LayerIndex& i) { find(i, "low").target = "../x"; }, "clean path");
  expect_refused([&](LayerIndex& i) { find(i, "s").target.clear(); }, "symlink target");
  expect_refused([&](LayerIndex& i) { find(i, "x").mtime_nanoseconds = 1'000'000'000; }, "nanoseconds");
  expect_refused([&](LayerIndex& i) { find(i, "x").opaque = true; }, "mark of a directory");
  expect_refused([&](LayerIndex& i) { find(i, "x").mode = 010000; }, "mode");
  expect_refused([&](LayerIndex& i) { find(i, "x").xattrs.push_back({"trusted.overlay.opaque", "y"}); }, "not kept");
  expect_refused([&](LayerIndex& i) { find(i, "x").xattrs.push_back({"user.a", "y"}); }, "not sorted");
  expect_refused([](LayerIndex& i) { ++i.device_blocks; }, "its chunks have");
  expect_refused([](LayerIndex& i) { ++i.blob_bytes; }, "its chunks have");
  expect_refused([](LayerIndex& i) { i.chunking.min_blocks = 0; }, "chunking");
}

std::string Frame(std::string_view contents) {
  std::string blob;
  AppendSink<std::string> out(blob);
  ZstdSink sink(out, 1);
  EXPECT_TRUE(sink.Write(AsBytes(contents)));
  EXPECT_TRUE(sink.Finish());
  return blob;
}

TEST(LayerIndex, FramingLies) {
  EXPECT_FALSE(Decode("BYNLIDX1"));
  EXPECT_FALSE(Decode(Frame("WRONG!!!")));
  EXPECT_FALSE(Decode(Frame(std::string("BYNLIDX1\xff\xff\xff\xff\x7f", 13))));
  EXPECT_FALSE(Decode(Frame(std::string("BYNLIDX1\xff\xff\xff\x7f", 12) + "short")));
  const auto bomb = Decode(Frame("BYNLIDX1" + std::string("\x80\x80\x80\x80\x01", 5) + std::string(100 << 20, '\0')));
  ASSERT_FALSE(bomb);
  EXPECT_EQ(bomb.error().code, Code::kResourceExhausted);
  EXPECT_FALSE(Decode(Encode(Sample()) + Frame("more")));
}

}  // namespace
}  // namespace banyan::image_format
