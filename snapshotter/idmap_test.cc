// Real mounts, in a mount namespace of the test's own.
#include "snapshotter/idmap.h"

#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/file_io.h"
#include "lazyfs/mount_table.h"
#include "lazyfs/testing/sandbox.h"
#include "snapshotter/testing/fake_images.h"

namespace banyan::snapshotter {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Labels Mappings(const std::string& uids, const std::string& gids) {
  return {{std::string(kUidMappingLabel), uids}, {std::string(kGidMappingLabel), gids}};
}

TEST(ParseIdMapping, OneAndSeveralRanges) {
  EXPECT_FALSE(ParseIdMapping({{"other", "label"}})->has_value());
  const auto mapping = ParseIdMapping(Mappings("0:100000:65536", "5:1:1,0:200000:5"));
  ASSERT_TRUE(mapping.has_value() && mapping->has_value());
  EXPECT_THAT((*mapping)->uids, ElementsAre(IdRange{0, 100000, 65536}));
  EXPECT_THAT((*mapping)->gids, ElementsAre(IdRange{5, 1, 1}, IdRange{0, 200000, 5}));
  EXPECT_EQ((*mapping)->root_uid, 100000u);
  EXPECT_EQ((*mapping)->root_gid, 200000u);
}

TEST(ParseIdMapping, RefusesWhatMakesNoSense) {
  for (const char* text : {"", "0", "0:1", "0:1:0", "0:1:2:3", "0:1:2,", ",0:1:2", "a:1:2", "0:1:-2", "0 :1:2",
                           "0:1:2 ", "0:4294967295:2", "4294967296:1:1", "1:100000:5"}) {
    const auto mapping = ParseIdMapping(Mappings(text, "0:100000:65536"));
    ASSERT_FALSE(mapping.has_value()) << text;
    EXPECT_EQ(mapping.error().code, Code::kInvalidArgument) << text;
  }
  EXPECT_FALSE(ParseIdMapping({{std::string(kUidMappingLabel), "0:100000:65536"}}).has_value());
  std::string many = "0:100000:1";
  for (int i = 1; i < 400; ++i) many += ",1:1:1";
  EXPECT_FALSE(ParseIdMapping(Mappings(many, "0:100000:65536")).has_value());
}

struct stat StatOf(const std::string& path) {
  struct stat status = {};
  EXPECT_EQ(::lstat(path.c_str(), &status), 0) << path;
  return status;
}

class IdMapTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!lazyfs::testing::EnterPrivateMounts()) GTEST_SKIP() << "needs root: mounts";
    bench_.emplace(/*real_mounts=*/true);
  }
  // With a file of 1000:0 in it.
  std::string UnpackBase() {
    const auto mounts = (*bench_)->Prepare("extract", "", {});
    EXPECT_TRUE(mounts.has_value());
    EXPECT_TRUE(WriteFileDurably(mounts->front().source + "/file", "x").has_value());
    EXPECT_EQ(::chown((mounts->front().source + "/file").c_str(), 1000, 0), 0);
    EXPECT_TRUE((*bench_)->Commit("base", "extract", {}).has_value());
    return "base";
  }

  const Labels labels_ = Mappings("0:100000:65536", "0:200000:65536");
  std::optional<testing::Bench> bench_;
};

TEST_F(IdMapTest, LowersAreClonesWithOtherOwnersAndNothingOnDiskChanges) {
  UnpackBase();
  const auto mounts = (*bench_)->Prepare("container", "base", labels_);
  ASSERT_TRUE(mounts.has_value()) << mounts.error().message;
  const std::string own = bench_->directory() + "/2";
  EXPECT_THAT(mounts->front().options, ::testing::Contains("lowerdir=" + own + "/m0"));
  EXPECT_EQ(StatOf(own + "/m0/file").st_uid, 101000u);
  EXPECT_EQ(StatOf(own + "/m0/file").st_gid, 200000u);
  EXPECT_EQ(StatOf(own + "/fs").st_uid, 100000u);
  EXPECT_EQ(StatOf(own + "/fs").st_gid, 200000u);
  EXPECT_EQ(StatOf(bench_->directory() + "/1/fs/file").st_uid, 1000u);

  // A copy up through the overlay keeps the mapped owner.
  const std::string merged = bench_->root() + "/merged";
  std::filesystem::create_directory(merged);
  std::string options = "lowerdir=" + own + "/m0,upperdir=" + own + "/fs,workdir=" + own + "/work";
  ASSERT_EQ(::mount("overlay", merged.c_str(), "overlay", 0, options.c_str()), 0) << strerror(errno);
  EXPECT_EQ(StatOf(merged).st_uid, 100000u);
  EXPECT_EQ(::chmod((merged + "/file").c_str(), 0600), 0);
  EXPECT_EQ(StatOf(own + "/fs/file").st_uid, 101000u);
  EXPECT_EQ(::umount2(merged.c_str(), MNT_DETACH), 0);

  // Removing it must not reach through the clone.
  ASSERT_TRUE((*bench_)->Remove("container").has_value());
  ASSERT_TRUE((*bench_)->Cleanup().has_value());
  EXPECT_FALSE(std::filesystem::exists(own));
  EXPECT_TRUE(std::filesystem::exists(bench_->directory() + "/1/fs/file"));
  EXPECT_FALSE(lazyfs::FindMount(own + "/m0").value_or(std::nullopt).has_value());
}

TEST_F(IdMapTest, MountsMakesAgainWhatARebootTookAway) {
  bench_->images().AddImage("app", 1, 1);
  const std::string top = bench_->PullImage("app", 1);
  const auto mounts = (*bench_)->Prepare("container", top, labels_);
  ASSERT_TRUE(mounts.has_value()) << mounts.error().message;
  const std::string clone = bench_->directory() + "/2/m0";
  EXPECT_EQ(StatOf(clone + "/marker").st_uid, 100000u);
  EXPECT_EQ(StatOf(bench_->directory() + "/2/fs").st_mode & 07777, 0751u);

  bench_->Reopen([&] {
    bench_->images().ForgetMounts();
    EXPECT_EQ(::umount2(clone.c_str(), MNT_DETACH), 0);
  });
  EXPECT_FALSE(std::filesystem::exists(clone + "/marker"));
  EXPECT_EQ((*bench_)->Mounts("container").value(), mounts.value());
  EXPECT_EQ(StatOf(clone + "/marker").st_uid, 100000u);

  // The chain mounted anew is another file system; a clone of the old one is stale.
  bench_->images().ForgetMounts();
  EXPECT_EQ((*bench_)->Mounts("container").value(), mounts.value());
  EXPECT_EQ(StatOf(clone).st_dev, StatOf(bench_->directory() + "/1/fs").st_dev);
  size_t clones = 0;
  for (const auto& entry : lazyfs::ParseMountInfo(*ReadFile("/proc/self/mountinfo")))
    clones += entry.mount_point == clone;
  EXPECT_EQ(clones, 1u);
  ASSERT_TRUE((*bench_)->Remove("container").has_value());
  ASSERT_TRUE((*bench_)->Cleanup().has_value());
  EXPECT_FALSE(std::filesystem::exists(clone));
}

TEST_F(IdMapTest, RefusesWithAReasonWhereTheFileSystemCannot) {
  UnpackBase();
  // Overlay itself has no id-mapped mounts.
  const std::string lower = bench_->directory() + "/1/fs";
  std::filesystem::create_directories(bench_->root() + "/other");
  const std::string options = "lowerdir=" + lower + ":" + bench_->root() + "/other";
  ASSERT_EQ(::mount("overlay", lower.c_str(), "overlay", 0, options.c_str()), 0) << strerror(errno);
  const auto mounts = (*bench_)->Prepare("container", "base", labels_);
  EXPECT_EQ(::umount2(lower.c_str(), MNT_DETACH), 0);
  ASSERT_FALSE(mounts.has_value());
  EXPECT_EQ(mounts.error().code, Code::kFailedPrecondition);
  EXPECT_THAT(mounts.error().message, HasSubstr("overlay"));
  EXPECT_EQ((*bench_)->Stat("container").error().code, Code::kNotFound);
}

TEST_F(IdMapTest, ASnapshotWithoutParentBelongsToTheMappedRoot) {
  ASSERT_TRUE((*bench_)->Prepare("container", "", labels_).has_value());
  EXPECT_EQ(StatOf(bench_->directory() + "/1/fs").st_uid, 100000u);
}

}  // namespace
}  // namespace banyan::snapshotter
