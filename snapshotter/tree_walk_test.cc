#include "snapshotter/tree_walk.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include <gtest/gtest.h>

#include "common/file_io.h"

namespace banyan::snapshotter {
namespace {

namespace fs = std::filesystem;

class TreeWalkTest : public ::testing::Test {
 protected:
  TreeWalkTest() { fs::create_directory(root_); }

  void Write(const std::string& name, size_t bytes) {
    ASSERT_TRUE(WriteFileDurably(root_ + "/" + name, std::string(bytes, 'x')).has_value());
  }
  uint64_t Blocks(const std::string& name) {
    struct stat status;
    EXPECT_EQ(::lstat((root_ + name).c_str(), &status), 0);
    return static_cast<uint64_t>(status.st_blocks) * 512;
  }

  Result<TempDir> directory_ = TempDir::Make("tree");
  const std::string root_ = directory_->path() + "/root";
  std::atomic<bool> stop_ = false;
};

TEST_F(TreeWalkTest, UsageIsWhatIsAllocatedAndCountsLinksOnce) {
  fs::create_directories(root_ + "/a/b");
  Write("a/file", 100'000);
  fs::create_hard_link(root_ + "/a/file", root_ + "/a/b/link");
  fs::create_symlink("/", root_ + "/a/outside");
  Write("sparse", 1);
  ASSERT_EQ(::truncate((root_ + "/sparse").c_str(), 1 << 30), 0);

  const auto usage = ScanUsage(root_);
  ASSERT_TRUE(usage.has_value()) << usage.error().message;
  EXPECT_EQ(usage->inodes, 6u);  // root, a, a/b, file, outside, sparse
  EXPECT_EQ(usage->bytes,
            Blocks("") + Blocks("/a") + Blocks("/a/b") + Blocks("/a/file") + Blocks("/a/outside") + Blocks("/sparse"));
  EXPECT_LT(usage->bytes, 1u << 20);
}

TEST_F(TreeWalkTest, RemovesTheTreeAndNothingBeyondItsLinks) {
  const std::string outside = directory_->path() + "/outside";
  fs::create_directories(outside);
  ASSERT_TRUE(WriteFileDurably(outside + "/kept", "x").has_value());
  fs::create_directories(root_ + "/a/b/c");
  Write("a/b/file", 10);
  fs::create_symlink(outside, root_ + "/a/link");
  ASSERT_EQ(::mkfifo((root_ + "/a/pipe").c_str(), 0600), 0);

  ASSERT_TRUE(RemoveTree(root_, stop_).has_value());
  EXPECT_FALSE(fs::exists(root_));
  EXPECT_TRUE(fs::exists(outside + "/kept"));
  EXPECT_TRUE(RemoveTree(root_, stop_).has_value());
}

TEST_F(TreeWalkTest, DirectoriesMayNestDeeperThanPathsReach) {
  constexpr size_t kDepth = 5000;
  UniqueFd at(::open(root_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (size_t i = 0; i < kDepth; ++i) {
    ASSERT_EQ(::mkdirat(at.get(), "d", 0755), 0);
    at.reset(::openat(at.get(), "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    ASSERT_TRUE(at.valid());
  }
  at.reset();
  const auto usage = ScanUsage(root_);
  EXPECT_EQ(usage ? usage->inodes : 0, kDepth + 1);
  const Status removed = RemoveTree(root_, stop_);
  EXPECT_TRUE(removed.has_value()) << removed.error().message;
  EXPECT_FALSE(fs::exists(root_));
}

TEST_F(TreeWalkTest, StopsWhenTold) {
  Write("file", 1);
  stop_ = true;
  EXPECT_EQ(RemoveTree(root_, stop_).error().code, Code::kCancelled);
  EXPECT_TRUE(fs::exists(root_ + "/file"));
}

TEST_F(TreeWalkTest, ScanningNothingIsAnError) {
  EXPECT_EQ(ScanUsage(root_ + "/absent").error().code, Code::kNotFound);
}

}  // namespace
}  // namespace banyan::snapshotter
