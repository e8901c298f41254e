// Layers that are served lazily: the remote protocol, what is mounted for them, and crashes in between.
#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/file_io.h"
#include "lazyfs/mount_table.h"
#include "lazyfs/testing/sandbox.h"
#include "snapshotter/snapshotter.h"
#include "snapshotter/testing/fake_images.h"

namespace banyan::snapshotter {
namespace {

namespace fs = std::filesystem;
using lazyfs::testing::Eventually;
using testing::ChainId;
using ::testing::Contains;
using testing::CriLabels;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr std::chrono::seconds kPatience{10};

class ClaimTest : public ::testing::Test {
 protected:
  std::string Fs(uint64_t id) const { return fmt::format("{}/{}/fs", bench_.directory(), id); }
  std::string LowerOf(const Result<std::vector<Mount>>& mounts) const {
    if (!mounts) return mounts.error().message;
    for (const std::string& option : mounts->front().options) {
      if (option.starts_with("lowerdir=")) return option.substr(9);
    }
    return "no overlay";
  }
  template <typename T>
  static Code CodeOf(const Result<T>& result) {
    return result ? Code{} : result.error().code;
  }
  size_t CountCommitted() { return bench_->List({"kind==committed"})->size(); }

  testing::Bench bench_;
};

TEST_F(ClaimTest, EveryLayerIsClaimedAndTheTopOneIsWarmed) {
  bench_.images().AddImage("app", 3, 3);
  const std::string top = bench_.PullImage("app", 3);
  const auto info = bench_->Stat(top);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->kind, Kind::kCommitted);
  EXPECT_EQ(info->labels, CriLabels("app", 3));
  EXPECT_THAT(top, StartsWith("banyan:"));
  EXPECT_EQ(bench_->count(), 3u);
  EXPECT_EQ(bench_.images().CountCalls("find"), 3u);
  EXPECT_EQ(bench_.images().CountCalls("warm"), 1u);
  EXPECT_EQ(bench_.images().CountCalls("warm app/3"), 1u);
  EXPECT_EQ(bench_.images().CountCalls("mount"), 0u);
  EXPECT_EQ(bench_->UsageOf(top)->bytes, 3000u);

  EXPECT_EQ(LowerOf(bench_->Prepare("container", top, {})), Fs(3));
  EXPECT_THAT(bench_.images().mounted(), ElementsAre(Fs(3)));
  EXPECT_THAT(bench_.prepared(), ElementsAre(Fs(3)));
  EXPECT_EQ(LowerOf(bench_->Prepare("second", top, {})), Fs(3));
  EXPECT_THAT(*bench_->View("view", top, {}), ElementsAre(Mount{"bind", Fs(3), {"ro", "rbind"}}));

  const auto claimed = bench_->Claimed();
  ASSERT_EQ(claimed.size(), 3u);
  EXPECT_EQ(claimed.back().chain.layers, 3u);
  EXPECT_EQ(claimed.back().directory, Fs(3));
  EXPECT_EQ(claimed.back().children, 3u);
}

TEST_F(ClaimTest, AskingAgainFindsTheSameSnapshot) {
  bench_.images().AddImage("app", 2, 2);
  const std::string top = bench_.PullImage("app", 2);
  EXPECT_EQ(bench_.PullImage("app", 2), top);
  bench_.Reopen();
  EXPECT_EQ(bench_.PullImage("app", 2), top);  // another namespace, with other keys
  EXPECT_EQ(bench_->count(), 2u);
  EXPECT_EQ(bench_.images().CountCalls("find"), 2u);
}

TEST_F(ClaimTest, OneSnapshotHoweverManyAskAtOnce) {
  bench_.images().AddImage("app", 1, 1);
  bench_.images().Hang("app", true);
  std::vector<std::thread> threads;
  std::atomic<int> claimed = 0;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&, i] {
      const auto mounts = bench_->Prepare(fmt::format("key {}", i), "", CriLabels("app", 1));
      claimed += CodeOf(mounts) == Code::kAlreadyExists;
    });
  }
  ASSERT_TRUE(Eventually([&] { return bench_.images().hanging() > 0; }, kPatience));
  bench_.images().Hang("app", false);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(claimed, 16);
  EXPECT_EQ(bench_->count(), 1u);
}

TEST_F(ClaimTest, TheSameReferenceOnAnotherParentIsAnotherSnapshot) {
  bench_.images().AddImage("app", 2, 2);
  const std::string unpacked = bench_.Unpack("other", 1, "");
  const std::string base = bench_.Pull("app", 1, "");
  const std::string on_claimed = bench_.Pull("app", 2, base);
  const std::string on_unpacked = bench_.Pull("app", 2, unpacked);
  EXPECT_NE(on_claimed, on_unpacked);
  EXPECT_EQ(bench_->Stat(on_unpacked)->parent, unpacked);
  // A claimed layer above an unpacked one: its mount is the whole chain.
  EXPECT_EQ(LowerOf(bench_->Prepare("container", on_unpacked, {})), Fs(4));
}

TEST_F(ClaimTest, UnconvertedLayersAboveAClaimedOneAreUnpackedOnItsMount) {
  bench_.images().AddImage("app", 3, 1);
  const std::string base = bench_.Pull("app", 1, "");
  const auto unpacking = bench_->Prepare("extract-2", base, CriLabels("app", 2));
  EXPECT_EQ(LowerOf(unpacking), Fs(1));
  EXPECT_THAT(bench_.prepared(), IsEmpty());  // Unpacking is no container's start.
  ASSERT_TRUE(bench_->Commit("two", "extract-2", CriLabels("app", 2)).has_value());
  const std::string three = bench_.Pull("app", 3, "two");
  EXPECT_EQ(LowerOf(bench_->Prepare("container", three, {})), fmt::format("{}:{}:{}", Fs(3), Fs(2), Fs(1)));
  EXPECT_THAT(bench_.prepared(), ElementsAre(Fs(1)));
  EXPECT_EQ(bench_.images().CountCalls("warm"), 0u);
}

TEST_F(ClaimTest, AnImageWhoseChainIsAPrefixOfAnothers) {
  // The same chain IDs by way of one name for both.
  bench_.images().AddImage("app", 3, 3);
  const std::string two = bench_.PullImage("app", 2);
  const std::string three = bench_.Pull("app", 3, two);
  EXPECT_EQ(LowerOf(bench_->Prepare("small", two, {})), Fs(2));
  EXPECT_EQ(LowerOf(bench_->Prepare("large", three, {})), Fs(3));
  EXPECT_THAT(bench_.images().mounted(), ElementsAre(Fs(2), Fs(3)));
}

TEST_F(ClaimTest, LayersUnpackedForAnotherNamespaceAreShared) {
  const std::string first = bench_.Pull("plain", 1, "");
  EXPECT_EQ(bench_.Pull("plain", 1, ""), first);
  bench_.images().AddImage("plain", 1, 1);
  EXPECT_EQ(bench_.Pull("plain", 1, ""), first);
  EXPECT_EQ(bench_->count(), 1u);
  // But not when the files are gone.
  bench_.Reopen([&] { fs::remove_all(fmt::format("{}/1", bench_.directory())); });
  EXPECT_THAT(bench_.Pull("plain", 1, ""), StartsWith("banyan:"));
}

TEST_F(ClaimTest, LabelsThatNameNoLayerMeanAnOrdinarySnapshot) {
  bench_.images().AddImage("app", 1, 1);
  const std::string reference(kReferenceLabel);
  const Labels full = CriLabels("app", 1);
  int keys = 0;
  const auto prepare = [&](const Labels& labels) { return bench_->Prepare(fmt::format("k{}", ++keys), "", labels); };
  Labels labels = full;
  labels.erase("containerd.io/snapshot/cri.image-ref");
  EXPECT_TRUE(prepare(labels).has_value());
  labels = full;
  labels[reference] = "no digest";
  EXPECT_TRUE(prepare(labels).has_value());
  labels = full;
  labels["containerd.io/snapshot/cri.manifest-digest"] = "sha256:12";
  EXPECT_TRUE(prepare(labels).has_value());
  labels = full;
  labels.erase(reference);
  EXPECT_TRUE(prepare(labels).has_value());
  EXPECT_EQ(bench_.images().CountCalls("find"), 0u);
  // ctr-remote names the image, not the manifest.
  labels = {{reference, ChainId("app", 1).ToString()}, {"containerd.io/snapshot/remote/stargz.reference", "app"}};
  EXPECT_EQ(CodeOf(prepare(labels)), Code::kAlreadyExists);
  // A View is never claimed.
  EXPECT_TRUE(bench_->View("view", "", full).has_value());
}

TEST_F(ClaimTest, MountsAreMadeAgainAfterAReboot) {
  bench_.images().AddImage("app", 2, 2);
  const std::string top = bench_.PullImage("app", 2);
  const auto mounts = bench_->Prepare("container", top, {});
  bench_.Reopen([&] { bench_.images().ForgetMounts(); });
  EXPECT_THAT(bench_.images().mounted(), IsEmpty());
  EXPECT_EQ(bench_->Mounts("container").value(), mounts.value());
  EXPECT_THAT(bench_.images().mounted(), ElementsAre(Fs(2)));
  // Nothing was asked for to restore the state, and nothing but the mount itself to use it.
  EXPECT_EQ(bench_.images().CountCalls("find"), 2u);
}

TEST_F(ClaimTest, AMountThatCannotBeMadeLeavesNothingBehind) {
  bench_.images().AddImage("app", 1, 1);
  const std::string top = bench_.PullImage("app", 1);
  bench_.images().FailMounts(true);
  const auto mounts = bench_->Prepare("container", top, {});
  EXPECT_EQ(CodeOf(mounts), Code::kUnavailable);
  EXPECT_THAT(mounts.error().message, HasSubstr("the registry does not answer"));
  EXPECT_EQ(CodeOf(bench_->Stat("container")), Code::kNotFound);
  EXPECT_EQ(bench_->Claimed().front().children, 0u);
  bench_.images().FailMounts(false);
  EXPECT_TRUE(bench_->Prepare("container", top, {}).has_value());
}

TEST_F(ClaimTest, AHungImageDelaysNoOther) {
  bench_.images().AddImage("hung", 1, 1);
  bench_.images().AddImage("other", 2, 2);
  const std::string hung_top = bench_.PullImage("hung", 1);
  bench_.images().Hang("hung", true);
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] { EXPECT_TRUE(bench_->Prepare(fmt::format("h{}", i), hung_top, {}).has_value()); });
    threads.emplace_back(
        [&, i] { EXPECT_FALSE(bench_->Prepare(fmt::format("f{}", i), hung_top, CriLabels("hung", 1)).has_value()); });
  }
  ASSERT_TRUE(Eventually([&] { return bench_.images().hanging() >= 9; }, kPatience));

  const std::string other = bench_.PullImage("other", 2);
  EXPECT_TRUE(bench_->Prepare("container", other, {}).has_value());
  EXPECT_TRUE(bench_->List({}).has_value());
  EXPECT_TRUE(bench_->Stat(hung_top).has_value());
  EXPECT_TRUE(bench_->UsageOf(hung_top).has_value());
  EXPECT_EQ(CodeOf(bench_->Remove("h0")), Code::kNotFound);
  EXPECT_EQ(CodeOf(bench_->Remove(hung_top)), Code::kFailedPrecondition);  // It is being mounted.
  EXPECT_TRUE(bench_->Remove("container").has_value());
  EXPECT_TRUE(bench_->Remove(other).has_value());
  EXPECT_TRUE(bench_->Cleanup().has_value());

  bench_.images().Hang("hung", false);
  for (std::thread& thread : threads) thread.join();
}

TEST_F(ClaimTest, RemoveForgetsThenUnmountsThenDeletes) {
  bench_.images().AddImage("app", 2, 2);
  const std::string top = bench_.PullImage("app", 2);
  ASSERT_TRUE(bench_->Prepare("container", top, {}).has_value());
  EXPECT_EQ(CodeOf(bench_->Remove(top)), Code::kFailedPrecondition);
  const std::string base = bench_->Stat(top)->parent;
  for (const std::string& name : {std::string("container"), top, base}) {
    EXPECT_TRUE(bench_->Remove(name).has_value()) << name;
  }
  ASSERT_TRUE(bench_->Cleanup().has_value());
  EXPECT_THAT(bench_.images().mounted(), IsEmpty());
  for (int id = 1; id <= 3; ++id) EXPECT_FALSE(fs::exists(Fs(id))) << id;
  // Pulled again, it is claimed again.
  EXPECT_NE(bench_.PullImage("app", 2), top);
}

TEST_F(ClaimTest, WhatCannotBeUnmountedIsKeptAndTriedAgain) {
  bench_.images().AddImage("app", 1, 1);
  const std::string top = bench_.PullImage("app", 1);
  ASSERT_TRUE(bench_->Prepare("container", top, {}).has_value());
  ASSERT_TRUE(bench_->Remove("container").has_value());
  ASSERT_TRUE(bench_->Cleanup().has_value());
  bench_.images().FailUnmounts(true);
  EXPECT_TRUE(bench_->Remove(top).has_value());
  ASSERT_TRUE(bench_->Cleanup().has_value());
  EXPECT_TRUE(fs::exists(Fs(1)));
  EXPECT_EQ(bench_->count(), 0u);
  bench_.images().FailUnmounts(false);
  ASSERT_TRUE(bench_->Cleanup().has_value());
  EXPECT_FALSE(fs::exists(Fs(1)));
  EXPECT_THAT(bench_.images().mounted(), IsEmpty());
}

// The state on disk as it is in the midst of a call, seen by a process that starts then.
class CrashTest : public ClaimTest {
 protected:
  // Ends this process' view without its doing anything more on disk, as far as that can be: the root is copied.
  std::string CopyOfRoot() {
    const std::string copy = fmt::format("{}/copy{}", copies_->path(), ++count_);
    fs::copy(bench_.root(), copy, fs::copy_options::recursive);
    return copy;
  }
  std::unique_ptr<Snapshotter> Open(const std::string& root) {
    auto opened = Snapshotter::Open({.root = root, .images = &images_});
    EXPECT_TRUE(opened.has_value()) << (opened ? "" : opened.error().message);
    return std::move(*opened);
  }

  Result<TempDir> copies_ = TempDir::Make("copies");
  testing::FakeImages images_;
  int count_ = 0;
};

TEST_F(CrashTest, DuringTheLookUpAndTheMount) {
  bench_.images().AddImage("app", 1, 1);
  bench_.images().Hang("app", true);
  std::thread claiming([&] { (void)bench_->Prepare("extract", "", CriLabels("app", 1)); });
  ASSERT_TRUE(Eventually([&] { return bench_.images().hanging() == 1; }, kPatience));
  EXPECT_EQ(Open(CopyOfRoot())->count(), 0u);
  bench_.images().Hang("app", false);
  claiming.join();

  const std::string top = bench_.Pull("app", 1, "");
  bench_.images().Hang("app", true);
  std::thread preparing([&] { (void)bench_->Prepare("container", top, {}); });
  ASSERT_TRUE(Eventually([&] { return bench_.images().hanging() == 1; }, kPatience));
  {
    const auto after = Open(CopyOfRoot());
    EXPECT_EQ(after->count(), 1u);
    EXPECT_TRUE(after->Prepare("container", top, {}).has_value());
  }
  bench_.images().Hang("app", false);
  preparing.join();
}

TEST_F(CrashTest, BetweenRecordAndDirectoryOfARemoval) {
  bench_.images().AddImage("app", 1, 1);
  const std::string top = bench_.PullImage("app", 1);
  bench_.images().FailUnmounts(true);  // Holds the removal there.
  ASSERT_TRUE(bench_->Remove(top).has_value());
  const std::string copy = CopyOfRoot();
  EXPECT_TRUE(fs::exists(copy + "/snapshots/1"));
  const auto after = Open(copy);
  EXPECT_EQ(after->count(), 0u);
  ASSERT_TRUE(after->Cleanup().has_value());
  EXPECT_THAT(images_.calls(), Contains("unmount " + copy + "/snapshots/1/fs"));
  EXPECT_FALSE(fs::exists(copy + "/snapshots/1"));
}

TEST_F(CrashTest, AnyFileOfTheStateCutShortCostsThatSnapshotOnly) {
  bench_.images().AddImage("app", 2, 2);
  const std::string top = bench_.PullImage("app", 2);
  bench_.Unpack("plain", 1, "");
  ASSERT_TRUE(bench_->Prepare("container", top, {}).has_value());
  for (int id = 1; id <= 4; ++id) {
    const std::string copy = CopyOfRoot();
    fs::resize_file(fmt::format("{}/snapshots/meta/{}.json", copy, id), 20);
    const auto after = Open(copy);
    EXPECT_EQ(after->count(), 3u);
    ASSERT_TRUE(after->Cleanup().has_value());
    for (int kept = 1; kept <= 4; ++kept) EXPECT_TRUE(fs::exists(fmt::format("{}/snapshots/{}/fs", copy, kept)));
    EXPECT_TRUE(after->Prepare("new", "", {}).has_value());
  }
}

// With mounts that are real: what containerd would see.
TEST(RealMounts, StaleMountsOfADeadProcessAreTakenAway) {
  if (!lazyfs::testing::EnterPrivateMounts()) GTEST_SKIP() << "needs root: mounts";
  testing::Bench bench(/*real_mounts=*/true);
  bench.images().AddImage("app", 1, 1);
  const std::string top = bench.PullImage("app", 1);
  ASSERT_TRUE(bench->Prepare("container", top, {}).has_value());
  const std::string mounted = bench.directory() + "/1/fs";
  EXPECT_TRUE(fs::exists(mounted + "/marker"));
  // The process died after it had removed both records.
  bench.Reopen([&] {
    fs::remove(bench.directory() + "/meta/1.json");
    fs::remove(bench.directory() + "/meta/2.json");
  });
  ASSERT_TRUE(bench->Cleanup().has_value());
  EXPECT_FALSE(fs::exists(bench.directory() + "/1"));
  EXPECT_FALSE(lazyfs::FindMount(mounted).value_or(std::nullopt).has_value());
}

}  // namespace
}  // namespace banyan::snapshotter
