#include "common/file_io.h"

#include <fcntl.h>

#include <filesystem>

#include <gtest/gtest.h>

namespace banyan {
namespace {

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

TEST(FileIoTest, WriteFileDurablyReplacesAndLeavesNothingBeside) {
  const TempDir dir = TempDir::Make("banyan-file-io").value();
  const std::string path = dir.path() + "/f";
  ASSERT_TRUE(WriteFileDurably(path, "one"));
  ASSERT_TRUE(WriteFileDurably(path, "two"));
  EXPECT_EQ(ReadFile(path).value(), "two");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(FileIoTest, ReadFileHoldsItsLimit) {
  const TempDir dir = TempDir::Make("banyan-file-io").value();
  const std::string path = dir.path() + "/f";
  const std::string contents(300'000, 'x');
  ASSERT_TRUE(WriteFileDurably(path, contents));
  EXPECT_EQ(ReadFile(path, 300'000).value(), contents);
  EXPECT_EQ(ReadFile(path, 299'999).error().code, Code::kResourceExhausted);
  EXPECT_EQ(ReadFile(path + "-absent").error().code, Code::kNotFound);
}

TEST(FileIoTest, PreadFullSaysWhenTheFileEndsEarly) {
  const TempDir dir = TempDir::Make("banyan-file-io").value();
  const UniqueFd fd = OpenFile(dir.path() + "/f", O_RDWR | O_CREAT).value();
  ASSERT_TRUE(PwriteFull(fd.get(), Bytes("banyan"), 3, "f"));
  std::string buffer(6, '.');
  ASSERT_TRUE(PreadFull(fd.get(), std::as_writable_bytes(std::span(buffer)), 3, "f"));
  EXPECT_EQ(buffer, "banyan");
  EXPECT_EQ(PreadFull(fd.get(), std::as_writable_bytes(std::span(buffer)), 4, "f").error().code, Code::kDataLoss);
}

TEST(FileIoTest, MakeDirectoriesMakesAllAndRefusesAFileInTheWay) {
  const TempDir dir = TempDir::Make("banyan-file-io").value();
  ASSERT_TRUE(MakeDirectories(dir.path() + "/a/b/c"));
  ASSERT_TRUE(MakeDirectories(dir.path() + "/a/b/c"));
  EXPECT_TRUE(std::filesystem::is_directory(dir.path() + "/a/b/c"));
  ASSERT_TRUE(WriteFileDurably(dir.path() + "/file", ""));
  EXPECT_FALSE(MakeDirectories(dir.path() + "/file"));
}

TEST(TempDirTest, GoesWithWhatIsInIt) {
  std::string path;
  {
    const TempDir dir = TempDir::Make("banyan-file-io").value();
    path = dir.path();
    ASSERT_TRUE(MakeDirectories(path + "/a/b"));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace banyan
