#include "store/whole_blobs.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include <gtest/gtest.h>

#include "store/limited_disk.h"
#include "store/power_cut_disk.h"
#include "store/store_testing.h"

namespace banyan::store {
namespace {

using testing::LimitedDisk;
using testing::PowerCutDisk;
using testing::RandomBytes;

class RawBlobTest : public ::testing::Test {
 protected:
  std::unique_ptr<NodeStore> Open(uint64_t budget = kGiB) {
    NodeStore::Options options;
    options.root = root();
    options.budget_bytes = budget;
    options.flush_interval = std::chrono::hours(1);
    options.disk = disk_;
    options.clock = [this] { return now_; };
    return NodeStore::Open(options).value();
  }
  std::string root() const { return dir_.path() + "/store"; }
  std::string RawPath(const Digest& digest) const { return root() + "/raw/" + digest.Hex(); }
  std::vector<std::byte> Bytes(size_t size) { return RandomBytes(random_, size); }

  // Appends [from, to) in uneven pieces.
  static Status Feed(BlobFill& fill, std::span<const std::byte> data) {
    for (size_t piece = 70001; !data.empty(); piece += 977) {
      const size_t count = std::min(piece, data.size());
      BANYAN_TRY(fill.Append(data.first(count)));
      data = data.subspan(count);
    }
    return {};
  }
  static Digest Store(NodeStore& store, std::span<const std::byte> data) {
    const Digest digest = Digest::Of(data);
    const auto fill = store.BeginBlob(digest, data.size()).value();
    EXPECT_TRUE(Feed(*fill, data));
    EXPECT_TRUE(fill->Finish());
    EXPECT_TRUE(fill->Commit());
    return digest;
  }
  static std::vector<std::byte> ReadAll(const StoredBlob& blob) {
    std::vector<std::byte> bytes(blob.bytes);
    EXPECT_TRUE(PreadFull(blob.fd, bytes, 0, "blob"));
    return bytes;
  }

  TempDir dir_ = TempDir::Make("banyan-raw").value();
  std::shared_ptr<Disk> disk_;
  std::mt19937_64 random_{7};
  std::chrono::system_clock::time_point now_{std::chrono::hours(24 * 365 * 30)};
};

TEST_F(RawBlobTest, CountsOnlyWhenWholeAndCanBeReadWhileItGrows) {
  const auto data = Bytes(3 * kMiB + 17);
  const Digest digest = Digest::Of(data);
  const auto store = Open();
  auto fill = store->BeginBlob(digest, std::nullopt).value();
  EXPECT_EQ(store->BeginBlob(digest, std::nullopt).error().code, Code::kAborted);
  ASSERT_TRUE(Feed(*fill, std::span(data).first(2 * kMiB)));
  std::vector<std::byte> seen(2 * kMiB);
  ASSERT_TRUE(PreadFull(fill->fd(), seen, 0, "fill"));
  EXPECT_TRUE(std::equal(seen.begin(), seen.end(), data.begin()));
  EXPECT_FALSE(store->BlobBytes(digest));
  EXPECT_FALSE(store->OpenBlob(digest));
  EXPECT_EQ(fill->Commit().error().code, Code::kFailedPrecondition);
  ASSERT_TRUE(Feed(*fill, std::span(data).subspan(2 * kMiB)));
  ASSERT_TRUE(fill->Finish());
  EXPECT_FALSE(store->OpenBlob(digest));
  ASSERT_TRUE(fill->Commit());
  fill.reset();
  EXPECT_EQ(store->BlobBytes(digest), data.size());
  EXPECT_EQ(store->usage().blob_bytes, data.size());
  EXPECT_TRUE(ReadAll(store->OpenBlob(digest).value()) == data);
  EXPECT_EQ(store->BeginBlob(digest, std::nullopt).error().code, Code::kAlreadyExists);
}

TEST_F(RawBlobTest, SurvivesAReopenAndIsBesideALayerOfTheSameDigest) {
  const auto data = Bytes(100000);
  const Digest digest = Store(*Open(), data);
  const auto store = Open();
  EXPECT_TRUE(ReadAll(store->OpenBlob(digest).value()) == data);
  testing::TestLayer layer = testing::RandomLayer(3, 4);
  layer.device.blob_digest = digest;
  const auto opened = store->OpenLayer(layer.device).value();
  ASSERT_TRUE(opened->PutCompressed(0, layer.compressed[0]));
  EXPECT_TRUE(ReadAll(store->OpenBlob(digest).value()) == data);
}

TEST_F(RawBlobTest, WrongBytesLeaveNothing) {
  const auto data = Bytes(2 * kMiB);
  const Digest other = Digest::Of("something else");
  const auto store = Open();
  {
    const auto fill = store->BeginBlob(other, data.size()).value();
    ASSERT_TRUE(Feed(*fill, data));
    EXPECT_EQ(fill->Append(std::span(data).first(1)).error().code, Code::kDataLoss);
  }
  EXPECT_EQ(store->usage().blob_bytes, 0U);
  {
    const auto fill = store->BeginBlob(other, std::nullopt).value();
    EXPECT_EQ(fill->bytes(), 0U);
    ASSERT_TRUE(Feed(*fill, data));
    EXPECT_EQ(fill->Finish().error().code, Code::kDataLoss);
    EXPECT_EQ(fill->Commit().error().code, Code::kFailedPrecondition);
  }
  EXPECT_EQ(store->usage().blob_bytes, 0U);
  EXPECT_FALSE(std::filesystem::exists(RawPath(other) + ".partial"));
}

TEST_F(RawBlobTest, APartialFileIsTakenUpAgainWithinTheProcessAndAfterItsDeath) {
  const auto data = Bytes(4 * kMiB);
  const Digest digest = Digest::Of(data);
  {
    const auto store = Open();
    {
      const auto fill = store->BeginBlob(digest, data.size()).value();
      ASSERT_TRUE(Feed(*fill, std::span(data).first(2 * kMiB)));
    }
    EXPECT_EQ(store->usage().blob_bytes, 2 * kMiB);
    const auto fill = store->BeginBlob(digest, std::nullopt).value();
    EXPECT_EQ(fill->bytes(), 2 * kMiB);
    ASSERT_TRUE(Feed(*fill, std::span(data).subspan(2 * kMiB, kMiB)));
  }
  // As kill -9 leaves it: the store has no record of it.
  const auto store = Open();
  EXPECT_EQ(store->usage().blob_bytes, 3 * kMiB);
  const auto fill = store->BeginBlob(digest, data.size()).value();
  EXPECT_EQ(fill->bytes(), 3 * kMiB);
  ASSERT_TRUE(Feed(*fill, std::span(data).subspan(3 * kMiB)));
  ASSERT_TRUE(fill->Finish());
  ASSERT_TRUE(fill->Commit());
  EXPECT_TRUE(ReadAll(store->OpenBlob(digest).value()) == data);
}

TEST_F(RawBlobTest, AfterARebootOrWhenSmallAPartialFileIsDiscarded) {
  const auto data = Bytes(3 * kMiB);
  const Digest digest = Digest::Of(data);
  const auto begin = [&](NodeStore& store, size_t bytes) {
    const auto fill = store.BeginBlob(digest, data.size()).value();
    ASSERT_TRUE(Feed(*fill, std::span(data).first(bytes)));
  };
  begin(*Open(), 2 * kMiB);
  ASSERT_TRUE(WriteFileDurably(root() + "/raw.boot", "another boot"));
  const auto store = Open();
  EXPECT_EQ(store->usage().blob_bytes, 0U);
  EXPECT_FALSE(std::filesystem::exists(RawPath(digest) + ".partial"));
  begin(*store, 1000);
  EXPECT_EQ(store->usage().blob_bytes, 0U);
  EXPECT_FALSE(std::filesystem::exists(RawPath(digest) + ".partial"));
}

TEST_F(RawBlobTest, ARottenPrefixIsFoundAtTheEndAndTheNextFillBeginsAnew) {
  const auto data = Bytes(3 * kMiB);
  const Digest digest = Digest::Of(data);
  const auto store = Open();
  {
    const auto fill = store->BeginBlob(digest, data.size()).value();
    ASSERT_TRUE(Feed(*fill, std::span(data).first(2 * kMiB)));
  }
  const UniqueFd fd = OpenFile(RawPath(digest) + ".partial", O_WRONLY).value();
  ASSERT_TRUE(PwriteFull(fd.get(), std::as_bytes(std::span("rot")), 12345, "partial"));
  {
    const auto fill = store->BeginBlob(digest, data.size()).value();
    ASSERT_TRUE(Feed(*fill, std::span(data).subspan(fill->bytes())));
    EXPECT_EQ(fill->Finish().error().code, Code::kDataLoss);
  }
  EXPECT_EQ(store->BeginBlob(digest, data.size()).value()->bytes(), 0U);
}

TEST_F(RawBlobTest, TheLeastRecentlyUsedGoesButNoneThatIsHeld) {
  const auto store = Open(5 * kMiB);
  const auto first = Bytes(2 * kMiB);
  const auto second = Bytes(2 * kMiB);
  const auto third = Bytes(2 * kMiB);
  Store(*store, first);
  now_ += std::chrono::seconds(1);
  Store(*store, second);
  now_ += std::chrono::seconds(1);
  EXPECT_TRUE(store->OpenBlob(Digest::Of(first)));
  now_ += std::chrono::seconds(1);
  Store(*store, third);
  EXPECT_TRUE(store->BlobBytes(Digest::Of(first)));
  EXPECT_FALSE(store->BlobBytes(Digest::Of(second)));
  EXPECT_FALSE(std::filesystem::exists(RawPath(Digest::Of(second))));

  const StoredBlob held_first = store->OpenBlob(Digest::Of(first)).value();
  const StoredBlob held_third = store->OpenBlob(Digest::Of(third)).value();
  EXPECT_EQ(store->BeginBlob(Digest::Of(second), second.size()).error().code, Code::kResourceExhausted);
  EXPECT_TRUE(store->BlobBytes(Digest::Of(first)));
  // Erased under its reader: the reader keeps it.
  ASSERT_TRUE(store->EraseBlob(Digest::Of(first)));
  EXPECT_TRUE(ReadAll(held_first) == first);
  EXPECT_FALSE(store->OpenBlob(Digest::Of(first)));
  Store(*store, second);
  EXPECT_LE(store->usage().blob_bytes, store->usage().budget_bytes);
}

TEST_F(RawBlobTest, AFillLargerThanTheBudgetAndAFullDiskSayNoAndKeepWhatCanBeRead) {
  const auto disk = std::make_shared<LimitedDisk>();
  disk_ = disk;
  const auto store = Open(20 * kMiB);
  EXPECT_EQ(store->BeginBlob(Digest::Of("big"), 21 * kMiB).error().code, Code::kResourceExhausted);
  EXPECT_EQ(store->usage().blob_bytes, 0U);
  const auto data = Bytes(4 * kMiB);
  disk->room = 2 * kMiB;
  {
    const auto fill = store->BeginBlob(Digest::Of(data), std::nullopt).value();
    ASSERT_TRUE(Feed(*fill, std::span(data).first(2 * kMiB)));
    EXPECT_EQ(fill->Append(std::span(data).subspan(2 * kMiB)).error().code, Code::kResourceExhausted);
    EXPECT_EQ(fill->bytes(), 2 * kMiB);
    std::vector<std::byte> seen(2 * kMiB);
    EXPECT_TRUE(PreadFull(fill->fd(), seen, 0, "fill"));
    EXPECT_TRUE(std::equal(seen.begin(), seen.end(), data.begin()));
  }
  EXPECT_EQ(store->usage().blob_bytes, 2 * kMiB);
  disk->room = INT64_MAX;
  const auto fill = store->BeginBlob(Digest::Of(data), data.size()).value();
  ASSERT_TRUE(Feed(*fill, std::span(data).subspan(fill->bytes())));
  EXPECT_TRUE(fill->Finish());
  EXPECT_TRUE(fill->Commit());
}

TEST_F(RawBlobTest, ScrubNamesAndRemovesTheRotten) {
  const auto store = Open();
  const auto good = Bytes(kMiB + 5);
  const auto bad = Bytes(kMiB + 5);
  Store(*store, good);
  Store(*store, bad);
  const UniqueFd fd = OpenFile(RawPath(Digest::Of(bad)), O_WRONLY).value();
  ASSERT_TRUE(PwriteFull(fd.get(), std::as_bytes(std::span("rot")), kMiB, "raw"));
  const ScrubReport report = store->Scrub({}, 0).value();
  EXPECT_EQ(report.blobs_checked, 2U);
  EXPECT_EQ(report.bad_blobs, std::vector<std::string>{"blob " + Digest::Of(bad).ToString()});
  EXPECT_TRUE(store->OpenBlob(Digest::Of(good)));
  EXPECT_FALSE(store->OpenBlob(Digest::Of(bad)));
}

TEST_F(RawBlobTest, NotesAreKept) {
  {
    const auto store = Open();
    ASSERT_TRUE(store->PutNote("tag", "means this"));
    ASSERT_TRUE(store->PutNote("gone", "x"));
    ASSERT_TRUE(store->PutNote("gone", ""));
  }
  const auto store = Open();
  EXPECT_EQ(store->GetNote("tag").value(), "means this");
  EXPECT_EQ(store->GetNote("gone").error().code, Code::kNotFound);
}

// Run by the test below as a process of its own, which is killed.
TEST(RawBlobKillTest, DISABLED_Victim) {
  NodeStore::Options options;
  options.root = ::getenv("BANYAN_STORE_ROOT");
  const auto store = NodeStore::Open(options).value();
  std::mt19937_64 random(99);
  const std::vector<std::byte> data = RandomBytes(random, 64 * kMiB);
  const auto fill = store->BeginBlob(Digest::Of(data), data.size()).value();
  ASSERT_TRUE(OpenFile(options.root + ".ready", O_WRONLY | O_CREAT));
  for (uint64_t at = fill->bytes(); at < data.size(); at += 50000) {
    const size_t count = std::min<uint64_t>(50000, data.size() - at);
    ASSERT_TRUE(fill->Append(std::span(data).subspan(at, count)));
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  while (true) ::pause();
}

TEST(RawBlobKillTest, AFillThatWasKilledIsResumedAndRight) {
  const TempDir dir = TempDir::Make("banyan-raw-kill").value();
  const std::string root = dir.path() + "/store";
  std::mt19937_64 random(99);
  const std::vector<std::byte> data = RandomBytes(random, 64 * kMiB);
  const Digest digest = Digest::Of(data);
  uint64_t resumed = 0;
  for (int round = 0; round < 4; ++round) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::setenv("BANYAN_STORE_ROOT", root.c_str(), 1);
      ::execl("/proc/self/exe", "store_test", "--gtest_filter=RawBlobKillTest.DISABLED_Victim",
              "--gtest_also_run_disabled_tests", "--gtest_brief=1", nullptr);
      ::_exit(127);
    }
    for (int i = 0; i < 6000 && ::access((root + ".ready").c_str(), F_OK) != 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    std::filesystem::remove(root + ".ready");
    std::this_thread::sleep_for(std::chrono::milliseconds(30 + random() % 50));
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself";
    const auto store = NodeStore::Open({.root = root}).value();
    EXPECT_FALSE(store->OpenBlob(digest));
    const auto fill = store->BeginBlob(digest, data.size()).value();
    EXPECT_GE(fill->bytes(), resumed);
    resumed = fill->bytes();
  }
  EXPECT_GT(resumed, kMiB);
  const auto store = NodeStore::Open({.root = root}).value();
  const auto fill = store->BeginBlob(digest, data.size()).value();
  ASSERT_TRUE(fill->Append(std::span(data).subspan(fill->bytes())));
  ASSERT_TRUE(fill->Finish());
  ASSERT_TRUE(fill->Commit());
  EXPECT_EQ(store->BlobBytes(digest), data.size());
}

// The index speaks of no raw blob whose bytes the power cut took.
TEST_F(RawBlobTest, PowerCutsNeverMakeABlobOfHalfABlob) {
  const auto power = std::make_shared<PowerCutDisk>();
  disk_ = power;
  const auto store = Open();
  std::vector<std::vector<std::byte>> blobs;
  for (int i = 0; i < 6; ++i) blobs.push_back(Bytes(kMiB + random_() % (kMiB / 2)));
  size_t cuts = 0;
  size_t whole = 0;
  const auto cut = [&] {
    const std::string copy = dir_.path() + "/cut";
    power->Cut(root(), copy, random_);
    ++cuts;
    NodeStore::Options options;
    options.root = copy;
    const auto after = NodeStore::Open(options).value();
    for (const auto& blob : blobs) {
      const auto opened = after->OpenBlob(Digest::Of(blob));
      if (!opened) continue;
      ++whole;
      EXPECT_TRUE(ReadAll(*opened) == blob);
    }
    std::filesystem::remove_all(copy);
  };
  for (const auto& blob : blobs) {
    power->at_each_step = [&] {
      if (random_() % 6 == 0) cut();
    };
    Store(*store, blob);
    power->at_each_step = [] {};
    cut();
  }
  EXPECT_GT(cuts, 10U);
  EXPECT_GT(whole, cuts);
}

}  // namespace
}  // namespace banyan::store
