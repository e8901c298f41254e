#include "cli/reference_tree.h"

#include <sys/stat.h>

#include <gtest/gtest.h>

#include "image-format/testing/tar_builder.h"

namespace banyan::cli {
namespace {

using image_format::testing::TarBuilder;

Status Add(ReferenceTree& tree, const TarBuilder& tar) {
  const std::string bytes = tar.Finish();
  MemorySource source(std::as_bytes(std::span(bytes)));
  return tree.AddLayer(source);
}

Tree Apply(const std::vector<TarBuilder>& layers) {
  ReferenceTree tree;
  for (const TarBuilder& layer : layers) {
    const Status added = Add(tree, layer);
    EXPECT_TRUE(added) << added.error().message;
  }
  return tree.Finish();
}

std::string Names(const Tree& tree) {
  std::string names;
  tree.Walk([&](const std::string& path, uint32_t inode) {
    if (!path.empty()) names += path + (S_ISDIR(tree.inodes[inode].mode) ? "/ " : " ");
  });
  return names;
}

const Inode& At(const Tree& tree, const std::string& wanted) {
  uint32_t found = Tree::kRoot;
  tree.Walk([&](const std::string& path, uint32_t inode) { found = path == wanted ? inode : found; });
  return tree.inodes[found];
}

TEST(ReferenceTreeTest, UpperLayersReplaceAndWhiteoutsRemove) {
  const Tree tree = Apply({TarBuilder().Directory("d", 0700).File("d/a", "1").File("d/b", "2").File("e", "3"),
                           TarBuilder().File("d/a", "new").Whiteout("d", "b").Whiteout("", "e")});
  EXPECT_EQ(Names(tree), "d/ d/a ");
  EXPECT_EQ(At(tree, "d/a").content, Digest::Of("new"));
  // The second layer only implies `d`.
  EXPECT_EQ(At(tree, "d").mode, static_cast<uint32_t>(S_IFDIR | 0700));
}

TEST(ReferenceTreeTest, OpaqueMarksActOnLowerLayersWhereverTheyStand) {
  const Tree tree = Apply({TarBuilder().File("d/low", "").File("w/low", ""),
                           TarBuilder().File("d/up", "").Opaque("d").File("w/up", "").Whiteout("", "w")});
  EXPECT_EQ(Names(tree), "d/ d/up w/ w/up ");
}

TEST(ReferenceTreeTest, HardLinksReachLowerLayersEvenThroughTheirOwnWhiteout) {
  const Tree tree = Apply({TarBuilder().File("dir/a", "x").Symlink("way", "dir"),
                           TarBuilder().Whiteout("dir", "a").HardLink("b", "way/a").HardLink("c", "b")});
  EXPECT_EQ(Names(tree), "b c dir/ way ");
  EXPECT_EQ(At(tree, "b").link_count, 2u);
  EXPECT_EQ(At(tree, "b").content, Digest::Of("x"));
}

TEST(ReferenceTreeTest, NamesAreClampedToTheRootAndSymlinksOfTheLayerAreFollowedWithinIt) {
  const Tree tree =
      Apply({TarBuilder().Directory("usr").Directory("usr/lib").Symlink("lib", "/../usr/lib").File("../../lib/x", "")});
  EXPECT_EQ(Names(tree), "lib usr/ usr/lib/ usr/lib/x ");
}

TEST(ReferenceTreeTest, ADirectoryReplacesASymlinkOfALowerLayer) {
  const Tree tree = Apply(
      {TarBuilder().Directory("usr").Directory("usr/lib").Symlink("lib", "usr/lib"), TarBuilder().File("lib/x", "")});
  EXPECT_EQ(Names(tree), "lib/ lib/x usr/ usr/lib/ ");
}

TEST(ReferenceTreeTest, KeepsOnlyXattrsThatLinuxWouldShow) {
  const std::vector<std::pair<std::string, std::string>> pax = {{"SCHILY.xattr.user.a", "1"},
                                                                {"SCHILY.xattr.trusted.overlay.opaque", "y"},
                                                                {"SCHILY.xattr.security.capability", "2"}};
  const Tree tree =
      Apply({TarBuilder().Add({.name = "file", .pax = pax}).Add({.name = "pipe", .type = '6', .pax = pax})});
  ASSERT_EQ(At(tree, "file").xattrs.size(), 2u);
  EXPECT_EQ(At(tree, "file").xattrs[0].name, "security.capability");
  ASSERT_EQ(At(tree, "pipe").xattrs.size(), 1u);
}

TEST(ReferenceTreeTest, CountsLinksAsLinuxDoes) {
  const Tree tree =
      Apply({TarBuilder().File("a", "").HardLink("b", "a").Directory("d").Directory("d/e").File("d/f", "")});
  EXPECT_EQ(tree.inodes[Tree::kRoot].link_count, 3u);
  EXPECT_EQ(At(tree, "d").link_count, 3u);
  EXPECT_EQ(At(tree, "a").link_count, 2u);
}

TEST(ReferenceTreeTest, RefusesLinksToNothingAndToDirectories) {
  ReferenceTree nothing;
  EXPECT_EQ(Add(nothing, TarBuilder().HardLink("a", "missing")).error().code, Code::kInvalidArgument);
  ReferenceTree directory;
  EXPECT_EQ(Add(directory, TarBuilder().Directory("d").HardLink("a", "d")).error().code, Code::kInvalidArgument);
  ReferenceTree loop;
  EXPECT_EQ(Add(loop, TarBuilder().Symlink("l", "l/x").File("l/y", "")).error().code, Code::kInvalidArgument);
}

}  // namespace
}  // namespace banyan::cli
