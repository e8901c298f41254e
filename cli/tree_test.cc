#include "cli/tree.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/device_stream.h"
#include "cli/extract.h"
#include "common/file_io.h"
#include "common/units.h"

namespace banyan::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// A root with a file `a`, which is also `d/b`, and a symlink `d/s`.
Tree SmallTree() {
  Tree tree;
  Inode directory;
  directory.mode = S_IFDIR | 0755;
  directory.uid = ::geteuid();
  directory.gid = ::getegid();
  Inode file = directory;
  file.mode = S_IFREG | 0640;
  file.size = 3 * kBlockBytes + 5;
  file.mtime_seconds = -7;
  file.mtime_nanoseconds = 123;
  Inode symlink = directory;
  symlink.mode = S_IFLNK | 0777;
  symlink.target = "../../../etc/passwd";
  tree.Add(directory);
  tree.Add(directory);
  tree.Add(file);
  tree.Add(symlink);
  tree.inodes[0].children = {{"a", 2}, {"d", 1}};
  tree.inodes[1].children = {{"b", 2}, {"s", 3}};
  tree.CountLinks();
  return tree;
}

std::vector<std::string> Differences(const Tree& expected, const Tree& actual) {
  std::vector<std::string> lines;
  const uint64_t count = CompareTrees(expected, actual, [&](const TreeDifference& difference) {
    lines.push_back(difference.path + " " + difference.what);
  });
  EXPECT_EQ(count, lines.size());
  return lines;
}

TEST(CompareTreesTest, EqualTreesHaveNoDifference) { EXPECT_THAT(Differences(SmallTree(), SmallTree()), IsEmpty()); }

TEST(CompareTreesTest, NamesEachDifference) {
  Tree other = SmallTree();
  other.inodes[2].mode = S_IFREG | 0600;
  other.inodes[2].mtime_nanoseconds = 0;
  other.inodes[2].xattrs = {{"user.x", "1"}};
  other.inodes[3].target = "elsewhere";
  other.inodes[1].children.emplace("new", 3);
  EXPECT_THAT(Differences(SmallTree(), other),
              ElementsAre("a mode is 0600, not 0640", "a mtime is -7.000000000, not -7.000000123",
                          "a has the xattr user.x, which the layers do not give",
                          "d/s links to 'elsewhere', not '../../../etc/passwd'", "d/new is not in the layers"));
}

TEST(CompareTreesTest, ACopyIsNoLink) {
  Tree other = SmallTree();
  other.Add(other.inodes[2]);
  other.inodes[1].children["b"] = 4;
  EXPECT_THAT(Differences(SmallTree(), other), ElementsAre("d/b is linked to other names"));
  // And the reverse: two files that should be apart are one.
  EXPECT_THAT(Differences(other, SmallTree()), ElementsAre("d/b is linked to other names"));
}

TEST(ExtentRouterTest, CutsBlocksIntoFiles) {
  const std::vector<FileExtent> extents = {{0, 10, 1}, {1, 2 * kBlockBytes, 2}, {4, 1, 3}};
  std::vector<std::string> pieces;
  ExtentRouter router(extents,
                      [&](const FileExtent& extent, uint64_t offset, std::span<const std::byte> bytes) -> Status {
                        pieces.push_back(std::to_string(extent.inode) + "@" + std::to_string(offset) + "+" +
                                         std::to_string(bytes.size()));
                        return {};
                      });
  const std::vector<std::byte> blocks(2 * kBlockBytes);
  ASSERT_TRUE(router.Feed(0, blocks));
  ASSERT_TRUE(router.Feed(2, blocks));
  ASSERT_TRUE(router.Feed(4, std::span(blocks).first(kBlockBytes)));
  EXPECT_THAT(pieces, ElementsAre("1@0+10", "2@0+4096", "2@4096+4096", "3@0+1"));
}

class TreeWriterTest : public ::testing::Test {
 protected:
  TempDir dir_ = TempDir::Make("tree-writer").value();
  std::string target_ = dir_.path() + "/out";
};

TEST_F(TreeWriterTest, WritesWhatReadDirectoryTreeReads) {
  Tree tree = SmallTree();
  ASSERT_TRUE(MakeDirectories(target_));
  auto writer = TreeWriter::Open(target_, tree);
  ASSERT_TRUE(writer);
  ASSERT_TRUE(writer->MakeDirectoriesAndFiles());
  // A hole, a block, and the tail.
  const std::string block(kBlockBytes, 'x');
  ASSERT_TRUE(writer->Write(2, 0, std::vector<std::byte>(kBlockBytes)));
  ASSERT_TRUE(writer->Write(2, kBlockBytes, std::as_bytes(std::span(block))));
  ASSERT_TRUE(writer->Write(2, 3 * kBlockBytes, std::as_bytes(std::span("tail!", 5))));
  ASSERT_TRUE(writer->Complete());
  tree.inodes[2].content =
      Digest::Of(std::string(kBlockBytes, '\0') + block + std::string(kBlockBytes, '\0') + "tail!");
  const auto read = ReadDirectoryTree(target_);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_THAT(Differences(tree, *read), IsEmpty());
  EXPECT_EQ(writer->report().left_out.total(), 0u);
  struct stat stat;
  ASSERT_EQ(::stat((target_ + "/a").c_str(), &stat), 0);
  EXPECT_LT(static_cast<uint64_t>(stat.st_blocks) * 512, 3 * kBlockBytes) << "holes were written";
}

TEST_F(TreeWriterTest, RefusesADirectoryWithSomethingInIt) {
  ASSERT_TRUE(MakeDirectories(target_ + "/there"));
  const Tree tree = SmallTree();
  EXPECT_EQ(TreeWriter::Open(target_, tree).error().code, Code::kInvalidArgument);
}

}  // namespace
}  // namespace banyan::cli
