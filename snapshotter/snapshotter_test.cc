// Ordinary snapshots: containerd's contract, and what is left after a crash. (Claimed layers: claim_test.cc.)
#include "snapshotter/snapshotter.h"

#include <sys/stat.h>

#include <filesystem>
#include <thread>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/file_io.h"
#include "snapshotter/mount_shape.h"
#include "snapshotter/testing/fake_images.h"

namespace banyan::snapshotter {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class SnapshotterTest : public ::testing::Test {
 protected:
  std::string Directory(uint64_t id) const { return fmt::format("{}/{}", bench_.directory(), id); }
  std::string RecordFile(uint64_t id) const { return fmt::format("{}/meta/{}.json", bench_.directory(), id); }
  std::vector<std::string> Names(const std::vector<std::string>& filters = {}) {
    std::vector<std::string> names;
    const std::vector<SnapshotInfo> infos = bench_->List(filters).value();
    for (const SnapshotInfo& info : infos) names.push_back(info.name);
    return names;
  }
  template <typename T>
  static Code CodeOf(const Result<T>& result) {
    return result ? Code{} : result.error().code;
  }

  testing::Bench bench_;
};

TEST_F(SnapshotterTest, ShapesOfMounts) {
  EXPECT_THAT(*bench_->Prepare("k1", "", {}), ElementsAre(Mount{"bind", Directory(1) + "/fs", {"rw", "rbind"}}));
  EXPECT_THAT(*bench_->View("v0", "", {}), ElementsAre(Mount{"bind", Directory(2) + "/fs", {"ro", "rbind"}}));
  ASSERT_TRUE(bench_->Commit("base", "k1", {}).has_value());
  EXPECT_THAT(*bench_->View("v1", "base", {}), ElementsAre(Mount{"bind", Directory(1) + "/fs", {"ro", "rbind"}}));

  const auto active = bench_->Prepare("k2", "base", {});
  ASSERT_TRUE(active.has_value());
  EXPECT_THAT(active->front().options,
              AllOf(Contains("workdir=" + Directory(4) + "/work"), Contains("upperdir=" + Directory(4) + "/fs"),
                    Contains("lowerdir=" + Directory(1) + "/fs"), Not(Contains("userxattr"))));
  EXPECT_EQ(active->front().type, "overlay");
  EXPECT_EQ(bench_->Mounts("k2").value(), active.value());
  ASSERT_TRUE(bench_->Commit("top", "k2", {}).has_value());
  const auto view = bench_->View("v2", "top", {});
  EXPECT_THAT(view->front().options, AllOf(Contains("lowerdir=" + Directory(4) + "/fs:" + Directory(1) + "/fs"),
                                           Not(Contains(HasSubstr("upperdir")))));
}

TEST(ShapeMounts, IndexIsTurnedOffWhereTheKernelHasIt) {
  EXPECT_THAT(ShapeMounts({Kind::kActive, "/s/2", {"/s/1/fs"}, true}).front().options, Contains("index=off"));
  EXPECT_THAT(ShapeMounts({Kind::kActive, "/s/2", {"/s/1/fs"}, false}).front().options, Not(Contains("index=off")));
}

TEST_F(SnapshotterTest, CodesOfTheContract) {
  bench_.Unpack("img", 1, "");
  ASSERT_TRUE(bench_->Prepare("active", "img@1", {}).has_value());
  ASSERT_TRUE(bench_->View("view", "img@1", {}).has_value());

  EXPECT_EQ(CodeOf(bench_->Prepare("active", "", {})), Code::kAlreadyExists);
  EXPECT_EQ(CodeOf(bench_->Prepare("img@1", "", {})), Code::kAlreadyExists);
  EXPECT_EQ(CodeOf(bench_->Prepare("x", "absent", {})), Code::kNotFound);
  EXPECT_EQ(CodeOf(bench_->Prepare("x", "active", {})), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(bench_->View("x", "view", {})), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(bench_->Mounts("absent")), Code::kNotFound);
  EXPECT_EQ(CodeOf(bench_->Mounts("img@1")), Code::kFailedPrecondition);
  EXPECT_EQ(CodeOf(bench_->Commit("img@1", "active", {})), Code::kAlreadyExists);
  EXPECT_EQ(CodeOf(bench_->Commit("active", "active", {})), Code::kAlreadyExists);
  EXPECT_EQ(CodeOf(bench_->Commit("x", "absent", {})), Code::kNotFound);
  EXPECT_EQ(CodeOf(bench_->Commit("x", "view", {})), Code::kFailedPrecondition);
  EXPECT_EQ(CodeOf(bench_->Remove("absent")), Code::kNotFound);
  EXPECT_EQ(CodeOf(bench_->Remove("img@1")), Code::kFailedPrecondition);
  EXPECT_EQ(CodeOf(bench_->Stat("absent")), Code::kNotFound);
  EXPECT_EQ(CodeOf(bench_->UsageOf("absent")), Code::kNotFound);
  EXPECT_EQ(CodeOf(bench_->Update({.name = "absent"}, {})), Code::kNotFound);
  EXPECT_EQ(CodeOf(bench_->List({"name="})), Code::kInvalidArgument);
}

TEST_F(SnapshotterTest, RefusesAbsurdNamesAndLabels) {
  const std::string huge(16 << 20, 'x');
  for (const std::string& name :
       {std::string(), huge, std::string("a\0b", 3), std::string("\xff"), std::string("a\nb")}) {
    EXPECT_EQ(CodeOf(bench_->Prepare(name, "", {})), Code::kInvalidArgument);
    EXPECT_EQ(CodeOf(bench_->Commit(name, "x", {})), Code::kInvalidArgument);
    EXPECT_EQ(CodeOf(bench_->Mounts(name)), Code::kInvalidArgument);
    EXPECT_EQ(CodeOf(bench_->Stat(name)), Code::kInvalidArgument);
    EXPECT_EQ(CodeOf(bench_->Remove(name)), Code::kInvalidArgument);
    EXPECT_EQ(CodeOf(bench_->UsageOf(name)), Code::kInvalidArgument);
    EXPECT_EQ(CodeOf(bench_->Update({.name = name}, {})), Code::kInvalidArgument);
  }
  EXPECT_EQ(CodeOf(bench_->Prepare("k", huge, {})), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(bench_->Prepare("k", "", {{"a", huge}})), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(bench_->Prepare("k", "", {{"a", "\xc0\x80"}})), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(bench_->Prepare("banyan:1/x", "", {})), Code::kInvalidArgument);
  EXPECT_EQ(bench_->count(), 0u);
}

TEST_F(SnapshotterTest, CommitReplacesLabelsAndTimes) {
  ASSERT_TRUE(bench_->Prepare("k", "", {{"old", "1"}, {"empty", ""}}).has_value());
  const auto active = bench_->Stat("k");
  EXPECT_THAT(active->labels, ElementsAre(std::pair("old", "1")));
  EXPECT_EQ(active->created, active->updated);
  EXPECT_GT(active->created.time_since_epoch().count(), 0);
  ASSERT_TRUE(bench_->Commit("n", "k", {{"new", "2"}}).has_value());
  const auto committed = bench_->Stat("n");
  EXPECT_THAT(committed->labels, ElementsAre(std::pair("new", "2")));
  EXPECT_EQ(committed->kind, Kind::kCommitted);
  EXPECT_EQ(committed->created, committed->updated);
  EXPECT_EQ(CodeOf(bench_->Stat("k")), Code::kNotFound);
}

TEST_F(SnapshotterTest, UpdateFollowsTheMask) {
  ASSERT_TRUE(bench_->Prepare("k", "", {{"a", "1"}, {"b.c", "2"}, {"d", "3"}}).has_value());
  auto info = bench_->Update({.name = "k", .labels = {{"b.c", "new"}, {"other", "x"}}}, {"labels.b.c", "labels.d"});
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->labels, (Labels{{"a", "1"}, {"b.c", "new"}}));
  EXPECT_GT(info->updated, info->created);
  for (const std::vector<std::string>& mask : {std::vector<std::string>{}, {"labels"}}) {
    info = bench_->Update({.name = "k", .labels = {{"only", "1"}, {"no", ""}}}, mask);
    EXPECT_EQ(info->labels, (Labels{{"only", "1"}}));
  }
  for (const char* path : {"parent", "name", "kind", "labels.", "label", ""}) {
    EXPECT_EQ(CodeOf(bench_->Update({.name = "k"}, {path})), Code::kInvalidArgument) << path;
  }
  bench_.Reopen();
  EXPECT_EQ(bench_->Stat("k")->labels, info->labels);
}

TEST_F(SnapshotterTest, ListFiltersAndKeepsTheOrderOfNames) {
  bench_.Unpack("img", 1, "");
  ASSERT_TRUE(bench_->Prepare("z", "img@1", {}).has_value());
  ASSERT_TRUE(bench_->View("a", "img@1", {}).has_value());
  EXPECT_THAT(Names(), ElementsAre("a", "img@1", "z"));
  EXPECT_THAT(Names({"kind==view", "name==z"}), ElementsAre("a", "z"));
  EXPECT_THAT(Names({"parent==img@1,kind==active"}), ElementsAre("z"));
}

TEST_F(SnapshotterTest, UsageIsScannedAndThenKept) {
  const auto mounts = bench_->Prepare("k", "", {});
  const std::string file = mounts->front().source + "/file";
  ASSERT_TRUE(WriteFileDurably(file, std::string(100'000, 'x')).has_value());
  const auto active = bench_->UsageOf("k");
  EXPECT_EQ(active->inodes, 2u);
  EXPECT_GE(active->bytes, 100'000u);
  ASSERT_TRUE(bench_->Commit("n", "k", {}).has_value());
  EXPECT_EQ(bench_->UsageOf("n")->bytes, active->bytes);
  fs::remove(file);
  bench_.Reopen();
  EXPECT_EQ(bench_->UsageOf("n")->bytes, active->bytes);
  ASSERT_TRUE(bench_->View("v", "n", {}).has_value());
  EXPECT_EQ(bench_->UsageOf("v")->bytes, 0u);
}

TEST_F(SnapshotterTest, RemoveDeletesInTheBackgroundAndCleanupWaits) {
  bench_.Unpack("img", 1, "");
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(WriteFileDurably(fmt::format("{}/fs/{}", Directory(1), i), "x").has_value());
  }
  ASSERT_TRUE(bench_->Remove("img@1").has_value());
  EXPECT_FALSE(fs::exists(RecordFile(1)));
  ASSERT_TRUE(bench_->Cleanup().has_value());
  EXPECT_FALSE(fs::exists(Directory(1)));
  EXPECT_TRUE(fs::is_empty(bench_.directory() + "/trash"));
}

TEST_F(SnapshotterTest, RemoveFromTheTopDown) {
  bench_.Unpack("img", 1, "");
  bench_.Unpack("img", 2, "img@1");
  ASSERT_TRUE(bench_->Prepare("c", "img@2", {}).has_value());
  bench_.Reopen();  // The children are counted anew.
  EXPECT_EQ(CodeOf(bench_->Remove("img@1")), Code::kFailedPrecondition);
  EXPECT_EQ(CodeOf(bench_->Remove("img@2")), Code::kFailedPrecondition);
  for (const char* name : {"c", "img@2", "img@1"}) EXPECT_TRUE(bench_->Remove(name).has_value()) << name;
  EXPECT_EQ(bench_->count(), 0u);
}

TEST_F(SnapshotterTest, AFailedPrepareHoldsNoParent) {
  bench_.Unpack("img", 1, "");
  ASSERT_TRUE(bench_->Prepare("k", "", {}).has_value());
  EXPECT_FALSE(bench_->Prepare("k", "img@1", {}).has_value());
  EXPECT_FALSE(bench_->Prepare("x", "img@1", {{"containerd.io/snapshot/uidmapping", "x"}}).has_value());
  EXPECT_TRUE(bench_->Remove("img@1").has_value());
}

TEST_F(SnapshotterTest, TheRootOfAnOverlayHasOwnerAndModeOfWhatItCovers) {
  bench_.Unpack("img", 1, "");
  ASSERT_EQ(::chmod((Directory(1) + "/fs").c_str(), 01751), 0);
  ASSERT_TRUE(bench_->Prepare("c", "img@1", {}).has_value());
  struct stat status;
  ASSERT_EQ(::stat((Directory(2) + "/fs").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 01751u);
}

TEST_F(SnapshotterTest, StateSurvivesARestart) {
  bench_.Unpack("img", 1, "");
  ASSERT_TRUE(bench_->Prepare("c", "img@1", {{"l", "v"}}).has_value());
  const auto before = bench_->List({});
  const auto mounts = bench_->Mounts("c");
  bench_.Reopen();
  EXPECT_EQ(bench_->List({}).value(), before.value());
  EXPECT_EQ(bench_->Mounts("c").value(), mounts.value());
  // Ids go on.
  EXPECT_THAT(*bench_->Prepare("d", "", {}), ElementsAre(Mount{"bind", Directory(3) + "/fs", {"rw", "rbind"}}));
}

TEST_F(SnapshotterTest, OneProcessOnly) {
  const auto second = Snapshotter::Open({.root = bench_.root(), .images = &bench_.images()});
  EXPECT_EQ(CodeOf(second), Code::kFailedPrecondition);
  EXPECT_EQ(CodeOf(Snapshotter::Open({.root = "relative", .images = &bench_.images()})), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(Snapshotter::Open({.root = bench_.root() + "/a:b", .images = &bench_.images()})),
            Code::kInvalidArgument);
}

// What a crash can leave: a directory whose record was not written, or is removed already; a temporary record; trash.
TEST_F(SnapshotterTest, CleansUpAfterACrash) {
  bench_.Unpack("img", 1, "");
  bench_.Reopen([&] {
    fs::create_directories(Directory(7) + "/fs/deep/er");
    fs::create_directories(Directory(8));
    fs::create_directories(bench_.directory() + "/trash/9/fs");
    fs::create_directories(bench_.directory() + "/stranger");
    ASSERT_TRUE(WriteFileDurably(RecordFile(7) + ".tmp.1", "{").has_value());
  });
  ASSERT_TRUE(bench_->Cleanup().has_value());
  EXPECT_FALSE(fs::exists(Directory(7)));
  EXPECT_FALSE(fs::exists(Directory(8)));
  EXPECT_TRUE(fs::is_empty(bench_.directory() + "/trash"));
  EXPECT_TRUE(fs::exists(bench_.directory() + "/stranger"));
  EXPECT_TRUE(fs::exists(Directory(1)));
  // A mount of a dead process may be there: it is asked for before anything is deleted.
  EXPECT_THAT(bench_.images().calls(), Contains("unmount " + Directory(7) + "/fs"));
  // Ids of what has been are not used again.
  ASSERT_TRUE(bench_->Prepare("k", "", {}).has_value());
  EXPECT_TRUE(fs::exists(Directory(10) + "/fs"));
}

TEST_F(SnapshotterTest, ADamagedRecordStopsNothingElse) {
  bench_.Unpack("img", 1, "");
  bench_.Unpack("img", 2, "img@1");
  bench_.Unpack("sane", 1, "");
  ASSERT_TRUE(bench_->Prepare("c", "img@2", {}).has_value());
  for (int restarts = 0; restarts < 2; ++restarts) {
    bench_.Reopen([&] {
      if (restarts > 0) return;
      ASSERT_TRUE(WriteFileDurably(RecordFile(1), "{\"id\":1,").has_value());
    });
    ASSERT_TRUE(bench_->Cleanup().has_value());
    EXPECT_TRUE(fs::exists(Directory(1) + "/fs"));
    EXPECT_THAT(Names(), ElementsAre("c", "img@2", "sane@1"));
    const auto mounts = bench_->Mounts("c");
    EXPECT_EQ(CodeOf(mounts), Code::kDataLoss);
    EXPECT_THAT(mounts.error().message, HasSubstr("img@1"));
    EXPECT_TRUE(bench_->Prepare(fmt::format("d{}", restarts), "sane@1", {}).has_value());
    ASSERT_TRUE(bench_->Remove(fmt::format("d{}", restarts)).has_value());
  }
  ASSERT_TRUE(bench_->Remove("c").has_value());
  EXPECT_TRUE(bench_->Remove("img@2").has_value());
}

TEST_F(SnapshotterTest, ALostDirectoryIsNamed) {
  bench_.Unpack("img", 1, "");
  bench_.Unpack("img", 2, "img@1");
  bench_.Reopen([&] { fs::remove_all(Directory(1)); });
  const auto mounts = bench_->Prepare("c", "img@2", {});
  EXPECT_EQ(CodeOf(mounts), Code::kDataLoss);
  EXPECT_THAT(mounts.error().message, HasSubstr(Directory(1)));
}

TEST_F(SnapshotterTest, RecordsThatGoRoundAreNoEndlessLoop) {
  bench_.Unpack("a", 1, "");
  bench_.Unpack("b", 1, "a@1");
  ASSERT_TRUE(bench_->Prepare("c", "b@1", {}).has_value());
  bench_.Reopen([&] {
    std::string text = *ReadFile(RecordFile(1));
    const std::string none = "\"parent\": \"\"";
    text.replace(text.find(none), none.size(), "\"parent\": \"b@1\"");
    ASSERT_TRUE(WriteFileDurably(RecordFile(1), text).has_value());
  });
  EXPECT_EQ(CodeOf(bench_->Mounts("c")), Code::kDataLoss);
}

TEST_F(SnapshotterTest, ManyAtOnce) {
  bench_.Unpack("img", 1, "");
  constexpr int kThreads = 8;
  constexpr int kRounds = 10;
  std::vector<std::thread> threads;
  std::atomic<int> won = 0;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < kRounds; ++round) {
        const std::string own = fmt::format("{}-{}", t, round);
        EXPECT_TRUE(bench_->Prepare(own, "img@1", {}).has_value());
        won += bench_->Prepare(fmt::format("shared {}", round), "img@1", {}).has_value();
        EXPECT_TRUE(bench_->Commit("committed " + own, own, {}).has_value());
        EXPECT_TRUE(bench_->UsageOf("committed " + own).has_value());
        EXPECT_TRUE(bench_->List({"kind==committed"}).has_value());
        EXPECT_TRUE(bench_->Update({.name = "img@1", .labels = {{"by", own}}}, {"labels.by"}).has_value());
        EXPECT_TRUE(bench_->Remove("committed " + own).has_value());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(won, kRounds);
  EXPECT_EQ(bench_->count(), 1u + kRounds);
  const auto before = bench_->List({});
  bench_.Reopen();
  EXPECT_EQ(bench_->List({}).value(), before.value());
}

}  // namespace
}  // namespace banyan::snapshotter
