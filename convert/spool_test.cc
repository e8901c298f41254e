#include "convert/spool.h"

#include <filesystem>
#include <optional>

#include <gtest/gtest.h>

#include "common/file_io.h"

namespace banyan::convert {
namespace {

TEST(SpoolTest, IsRemovedWithItsContents) {
  const TempDir root = TempDir::Make("spool").value();
  std::string directory;
  {
    auto spool = Spool::Open(root.path());
    ASSERT_TRUE(spool);
    directory = spool->directory();
    ASSERT_TRUE(WriteFileDurably(spool->Path("0.data"), "x"));
  }
  EXPECT_FALSE(std::filesystem::exists(directory));
}

TEST(SpoolTest, TheNextCommandBuriesTheDeadAndLeavesTheLiving) {
  const TempDir root = TempDir::Make("spool").value();
  auto living = Spool::Open(root.path());
  ASSERT_TRUE(living);
  const std::string dead = root.path() + "/spool/dead00";
  ASSERT_TRUE(MakeDirectories(dead));
  ASSERT_TRUE(WriteFileDurably(dead + "/.lock", ""));
  ASSERT_TRUE(WriteFileDurably(dead + "/0.data", "x"));
  ASSERT_TRUE(Spool::Open(root.path()));
  EXPECT_FALSE(std::filesystem::exists(dead));
  EXPECT_TRUE(std::filesystem::exists(living->directory()));
}

}  // namespace
}  // namespace banyan::convert
