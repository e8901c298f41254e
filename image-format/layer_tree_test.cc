#include "image-format/layer_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "image-format/testing/convert_for_test.h"
#include "image-format/testing/tar_builder.h"

namespace banyan::image_format {
namespace {

using testing::Converted;
using testing::ConvertForTest;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TarBuilder;

Converted Layer(const TarBuilder& tar) {
  auto layer = ConvertForTest(tar.Finish());
  EXPECT_TRUE(layer.has_value()) << layer.error().message;
  return layer.value_or(Converted());
}

std::vector<std::string> Paths(const Converted& layer) {
  std::vector<std::string> paths;
  for (uint32_t i = 0; i < layer.index.entries.size(); ++i) paths.push_back(PathOf(layer.index, i));
  return paths;
}

void ExpectRefused(const TarBuilder& tar, const std::string& text) {
  const auto layer = ConvertForTest(tar.Finish());
  ASSERT_FALSE(layer.has_value());
  EXPECT_EQ(layer.error().code, Code::kInvalidArgument);
  EXPECT_THAT(layer.error().message, HasSubstr(text));
  EXPECT_THAT(layer.error().message, HasSubstr("entry at byte"));
}

TEST(LayerTree, NamesAreCleanedAndClamped) {
  const auto layer =
      Layer(TarBuilder().File("../../x", "1").File("/abs/y", "2").File("a/../z", "3").File("./b//c", "4"));
  EXPECT_THAT(Paths(layer), ElementsAre("", "abs", "b", "x", "z", "abs/y", "b/c"));
  EXPECT_TRUE(layer.Find("abs")->implied);
  EXPECT_EQ(layer.Find("abs")->mode, 0755);
}

TEST(LayerTree, RootAttributesCountAndImpliedRootIsMarked) {
  EXPECT_TRUE(Layer(TarBuilder()).index.entries[0].implied);
  const auto layer = Layer(TarBuilder().Directory("./", 0700));
  EXPECT_FALSE(layer.index.entries[0].implied);
  EXPECT_EQ(layer.index.entries[0].mode, 0700);
  ExpectRefused(TarBuilder().File("a/..", "x"), "root is not a directory");
}

TEST(LayerTree, ParentsThatAreSymlinksAreFollowedWithinTheRoot) {
  const auto layer = Layer(TarBuilder()
                               .Directory("usr/lib")
                               .Symlink("lib", "usr/lib")
                               .Symlink("abs", "/usr")
                               .Symlink("out", "../../../etc")
                               .File("lib/f", "x")
                               .File("abs/g", "x")
                               .File("out/passwd", "x"));
  EXPECT_NE(layer.Find("usr/lib/f"), nullptr);
  EXPECT_NE(layer.Find("usr/g"), nullptr);
  EXPECT_NE(layer.Find("etc/passwd"), nullptr);
  EXPECT_EQ(layer.Find("lib")->kind, EntryKind::kSymlink);
  ExpectRefused(TarBuilder().Symlink("a", "b").Symlink("b", "a").File("a/x", ""), "too many symbolic links");
  ExpectRefused(TarBuilder().File("f", "").File("f/x", ""), "'f' is not a directory");
}

TEST(LayerTree, LaterEntriesReplaceEarlierOnes) {
  const auto layer = Layer(TarBuilder()
                               .Directory("d", 0700)
                               .File("d/kept", "k")
                               .Directory("d", 0750)
                               .Directory("gone")
                               .File("gone/child", "c")
                               .File("gone", "now a file")
                               .File("f", "1")
                               .Directory("f")
                               .File("f/x", "2")
                               .File("twice", "first")
                               .File("twice", "second"));
  EXPECT_THAT(Paths(layer), ElementsAre("", "d", "f", "gone", "twice", "d/kept", "f/x"));
  EXPECT_EQ(layer.Find("d")->mode, 0750);
  EXPECT_EQ(layer.Find("gone")->kind, EntryKind::kRegular);
  EXPECT_EQ(layer.Find("twice")->size, 6U);
  // A directory that comes back is a new one.
  const auto back = Layer(TarBuilder().Directory("d").File("d/old", "").File("d", "").Directory("d").File("d/new", ""));
  EXPECT_THAT(Paths(back), ElementsAre("", "d", "d/new"));
}

TEST(LayerTree, HardLinksShareInodes) {
  const auto layer = Layer(TarBuilder()
                               .File("z/first", "data", 0600)
                               .HardLink("a", "z/first")
                               .File("z/first", "other")
                               .HardLink("b", "/a")
                               .Symlink("s", "nowhere")
                               .HardLink("t", "s")
                               .HardLink("low", "../usr//bin/tool")
                               .HardLink("low2", "low"));
  const Entry* a = layer.Find("a");
  EXPECT_EQ(a->kind, EntryKind::kRegular);
  EXPECT_EQ(a->mode, 0600);
  EXPECT_EQ(a->size, 4U);
  EXPECT_EQ(layer.Find("b")->kind, EntryKind::kLinkToEntry);
  EXPECT_EQ(&layer.index.entries[layer.Find("b")->link_entry], a);
  EXPECT_EQ(layer.Find("z/first")->size, 5U);
  EXPECT_EQ(layer.Find("s")->kind, EntryKind::kSymlink);
  EXPECT_EQ(&layer.index.entries[layer.Find("t")->link_entry], layer.Find("s"));
  for (const char* name : {"low", "low2"}) {
    EXPECT_EQ(layer.Find(name)->kind, EntryKind::kLinkToLower);
    EXPECT_EQ(layer.Find(name)->target, "usr/bin/tool");
  }
  ExpectRefused(TarBuilder().Directory("d").HardLink("l", "d"), "directory 'd'");
  ExpectRefused(TarBuilder().HardLink("l", "/"), "directory");
  ExpectRefused(TarBuilder().File("f", "").HardLink("l", "f/x"), "below a non-directory");
}

TEST(LayerTree, WhiteoutsActOnLowerLayersWhereverTheyStand) {
  const auto layer = Layer(TarBuilder()
                               .Whiteout("etc", "gone")
                               .Whiteout("", "d")
                               .Directory("d")
                               .Directory("e")
                               .Whiteout("", "e")
                               .File("f", "")
                               .Whiteout("", "f")
                               .Whiteout("", "g")
                               .File("g/x", "")
                               .File("o/kept", "")
                               .Opaque("o"));
  EXPECT_EQ(layer.Find("etc/gone")->kind, EntryKind::kWhiteout);
  EXPECT_TRUE(layer.Find("etc")->implied);
  for (const char* name : {"d", "e", "g"}) {
    EXPECT_EQ(layer.Find(name)->kind, EntryKind::kDirectory) << name;
    EXPECT_TRUE(layer.Find(name)->opaque) << name;
    EXPECT_FALSE(layer.Find(name)->implied) << name;
  }
  EXPECT_EQ(layer.Find("f")->kind, EntryKind::kRegular);
  EXPECT_TRUE(layer.Find("o")->opaque);
  EXPECT_TRUE(layer.Find("o")->implied);
  EXPECT_NE(layer.Find("o/kept"), nullptr);
}

TEST(LayerTree, ReservedNames) {
  const auto layer =
      Layer(TarBuilder().Directory(".wh..wh.plnk").File(".wh..wh.plnk/1.2", "x").File("d/.wh..wh.aufs", ""));
  EXPECT_THAT(Paths(layer), ElementsAre(""));
  for (const char* name : {".wh.", ".wh...", ".wh..", "d/.wh.x/y"}) {
    ExpectRefused(TarBuilder().File(name, ""), "whiteout");
  }
}

TEST(LayerTree, XattrsAreFilteredAndSorted) {
  const auto layer = Layer(TarBuilder().Add({.name = "f",
                                             .pax = {{"SCHILY.xattr.user.b", "2"},
                                                     {"SCHILY.xattr.security.capability", "c"},
                                                     {"SCHILY.xattr.user.a", ""},
                                                     {"SCHILY.xattr.trusted.overlay.opaque", "y"},
                                                     {"SCHILY.xattr.user.overlay.whiteout", "y"},
                                                     {"SCHILY.xattr.system.nfs4_acl", "n"},
                                                     {"SCHILY.xattr.bogus", "n"},
                                                     {"LIBARCHIVE.xattr.user.c", "eA=="}}}));
  EXPECT_THAT(layer.Find("f")->xattrs,
              ElementsAre(Xattr{"security.capability", "c"}, Xattr{"user.a", ""}, Xattr{"user.b", "2"}));
  ExpectRefused(TarBuilder().Add({.name = "f", .pax = {{"SCHILY.xattr.user.x", std::string(70000, 'x')}}}),
                "too large");
}

TEST(LayerTree, SpecialFilesAndLimits) {
  const auto layer =
      Layer(TarBuilder().CharacterDevice("null", 1, 3).BlockDevice("sda", 8, 300).Fifo("p").CharacterDevice("w", 0, 0));
  EXPECT_EQ(layer.Find("null")->device_minor, 3U);
  EXPECT_EQ(layer.Find("sda")->device_minor, 300U);
  EXPECT_EQ(layer.Find("p")->kind, EntryKind::kFifo);
  EXPECT_EQ(layer.Find("w")->kind, EntryKind::kCharacterDevice);
  ExpectRefused(TarBuilder().CharacterDevice("c", 5000, 0), "beyond what Linux has");
  ExpectRefused(TarBuilder().File(std::string(256, 'n'), ""), "longer than 255");
  std::string deep;
  for (int i = 0; i < 30; ++i) deep += std::string(130, 'd') + "/";
  const auto deep_tar = [&](const std::string& rest) {
    return TarBuilder().Symlink("l", deep.substr(0, deep.size() - 1)).File("l/" + rest, "");
  };
  Layer(deep_tar("short"));
  ExpectRefused(deep_tar(std::string(200, 'x')), "longer than 4095");
  ExpectRefused(TarBuilder().Symlink("s", ""), "symlink target");
}

TEST(LayerTree, EntryLimit) {
  TarBuilder tar;
  for (int i = 0; i < 20; ++i) tar.File("same", "x");
  const auto layer = ConvertForTest(tar.Finish(), {.max_entries = 10});
  ASSERT_FALSE(layer.has_value());
  EXPECT_EQ(layer.error().code, Code::kResourceExhausted);
}

}  // namespace
}  // namespace banyan::image_format
