#include "cli/spool.h"

#include <filesystem>
#include <optional>

#include <gtest/gtest.h>

#include "cli/command.h"
#include "common/file_io.h"

namespace banyan::cli {
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

TEST(CommandTest, ErrorsSayWhatToDo) {
  EXPECT_EQ(ErrorLine("convert docker://h/a:1", {Code::kUnauthenticated, "h refused"}),
            "banyan: convert docker://h/a:1: h refused: log in first (skopeo login, docker login) or name a file with "
            "--creds-file");
  EXPECT_EQ(ErrorLine("inspect x", {Code::kInvalidArgument, "bad reference"}), "banyan: inspect x: bad reference");
  EXPECT_EQ(ExitCodeOf(Code::kNotFound), kExitNotFound);
  EXPECT_EQ(ExitCodeOf(Code::kDataLoss), kExitBadData);
}

}  // namespace
}  // namespace banyan::cli
