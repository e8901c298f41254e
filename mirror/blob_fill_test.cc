// Blobs on their way through: one fill, however many read it, whatever the upstream or the disk does.
#include <atomic>
#include <thread>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "mirror/testing/mirror_fixture.h"

namespace banyan::mirror {
namespace {

using net::testing::FakeRegistryOptions;
using net::testing::Fault;
using store::testing::LimitedDisk;
using testing::Answer;
using testing::Connection;
using testing::MirrorTest;
using testing::RandomText;

TEST_F(MirrorTest, FiftyReadersOfAColdBlobAreOneUpstreamGet) {
  stall_timeout_ = std::chrono::seconds(60);  // the registry makes copies of it, on a machine that is busy
  Start();
  const std::string blob = RandomText(64 * kMiB, 1);
  const Digest digest = registry_->AddBlob(blob);
  std::atomic<int> right{0};
  {
    std::vector<std::jthread> clients;
    for (size_t i = 0; i < 50; ++i) {
      clients.emplace_back([&] {
        Connection connection(server_->port());
        connection.Send("GET", BlobPath(digest), "");
        const Answer head = connection.ReadHead();
        if (head.status == 200 && head.Header("content-length") == std::to_string(blob.size()) &&
            connection.BodyIs(blob)) {
          ++right;
        }
      });
    }
  }
  EXPECT_EQ(right, 50);
  EXPECT_EQ(Count("GET", "/blobs/"), 1U);
  EXPECT_EQ(Count("HEAD", "/blobs/"), 0U);
  EXPECT_TRUE(AwaitStored(digest));
  EXPECT_TRUE(Get(BlobPath(digest)).body == blob);
  EXPECT_EQ(Count("GET", "/blobs/"), 1U);
  const Stats stats = mirror_->stats();
  EXPECT_EQ(stats.flights_started, 1U);
  EXPECT_EQ(stats.upstream_bytes, blob.size());
  EXPECT_EQ(stats.miss_bytes + stats.hit_bytes, 51 * blob.size());
  EXPECT_EQ(stats.readers_active, 0U);
}

TEST_F(MirrorTest, RangesAreExactWhileFillingAndAfter) {
  Start();
  const std::string blob = RandomText(4 * kMiB, 2);
  const Digest digest = registry_->AddBlob(blob);
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kSlow, .delay = std::chrono::milliseconds(3)});
  struct Case {
    std::string range;
    int status;
    uint64_t begin, end;
  };
  const uint64_t size = blob.size();
  const std::vector<Case> cases = {
      {"bytes=0-", 206, 0, size},
      {"bytes=1000000-", 206, 1000000, size},
      {"bytes=17-70000", 206, 17, 70001},
      {"bytes=-5", 206, size - 5, size},
      {fmt::format("bytes={}-{}", size - 1, size - 1), 206, size - 1, size},
      {fmt::format("bytes=2000000-{}", size + 100), 206, 2000000, size},
      {fmt::format("bytes={}-", size), 416, 0, 0},
      {"bytes=0-1,4-5", 200, 0, size},
      {"lines=1-2", 200, 0, size},
      {"", 200, 0, size},
  };
  const auto check = [&](const Case& one, const Answer& answer) {
    SCOPED_TRACE(one.range);
    EXPECT_EQ(answer.status, one.status);
    EXPECT_EQ(answer.Header("content-encoding"), "");
    if (one.status == 416) {
      EXPECT_EQ(answer.Header("content-range"), fmt::format("bytes */{}", size));
      return;
    }
    EXPECT_TRUE(answer.whole);
    EXPECT_TRUE(answer.body == blob.substr(one.begin, one.end - one.begin));
    EXPECT_EQ(answer.Header("content-length"), std::to_string(one.end - one.begin));
    EXPECT_EQ(answer.Header("docker-content-digest"), digest.ToString());
    EXPECT_EQ(answer.Header("etag"), "\"" + digest.ToString() + "\"");
    const std::string expected = one.status == 206 ? fmt::format("bytes {}-{}/{}", one.begin, one.end - 1, size) : "";
    EXPECT_EQ(answer.Header("content-range"), expected);
  };
  const auto headers = [](const Case& one) { return one.range.empty() ? "" : "Range: " + one.range + "\r\n"; };
  {
    std::vector<std::jthread> clients;
    for (const Case& one : cases) clients.emplace_back([&] { check(one, Get(BlobPath(digest), headers(one))); });
  }
  EXPECT_EQ(Count("GET", "/blobs/"), 1U);
  ASSERT_TRUE(AwaitStored(digest));
  for (const Case& one : cases) check(one, Get(BlobPath(digest), headers(one)));
  EXPECT_EQ(Get(BlobPath(digest), "Range: bytes=0-9\r\nIf-Range: \"another\"\r\n").status, 200);
  EXPECT_EQ(Count("GET", "/blobs/"), 1U);
}

TEST_F(MirrorTest, FirstBytesGoOutBeforeTheUpstreamHasFinished) {
  Start();
  const std::string blob = RandomText(3 * kMiB, 3);
  const Digest digest = registry_->AddBlob(blob);
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kStall, .after_bytes = kMiB, .times = 1});
  Connection connection(server_->port());
  connection.Send("GET", BlobPath(digest), "");
  EXPECT_EQ(connection.ReadHead().Header("content-length"), std::to_string(blob.size()));
  EXPECT_EQ(connection.ReadBody(kMiB - 1), blob.substr(0, kMiB - 1));
  EXPECT_EQ(mirror_->stats().flights_active, 1U);
  // The stalled transfer is taken up again by a range.
  EXPECT_EQ(connection.ReadBody(blob.size()), blob.substr(kMiB - 1));
  EXPECT_EQ(Count("GET", "/blobs/"), 2U);
}

TEST_F(MirrorTest, ACutUpstreamIsResumedByRange) {
  Start();
  const std::string blob = RandomText(5 * kMiB, 4);
  const Digest digest = registry_->AddBlob(blob);
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kCut, .after_bytes = 2 * kMiB, .times = 1});
  EXPECT_TRUE(Get(BlobPath(digest)).body == blob);
  ASSERT_EQ(Count("GET", "/blobs/"), 2U);
  EXPECT_THAT(registry_->requests()[1].range, ::testing::StartsWith("bytes="));
  EXPECT_TRUE(AwaitStored(digest));
}

TEST_F(MirrorTest, WhenTheUpstreamStaysAwayReadersAreCutAndGoOnWhereTheyWere) {
  Start();
  const std::string blob = RandomText(5 * kMiB, 5);
  const Digest digest = registry_->AddBlob(blob);
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kCut, .after_bytes = 3 * kMiB, .times = 1});
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kStatus, .status = 503, .times = 4});
  const Answer cut = Get(BlobPath(digest));
  EXPECT_EQ(cut.status, 200);
  EXPECT_FALSE(cut.whole);
  EXPECT_FALSE(store_->BlobBytes(digest));
  ASSERT_GE(cut.body.size(), kMiB);
  EXPECT_TRUE(cut.body == blob.substr(0, cut.body.size()));
  registry_->ClearFaults();
  registry_->ClearRequests();
  const Answer rest = Get(BlobPath(digest), fmt::format("Range: bytes={}-\r\n", cut.body.size()));
  EXPECT_EQ(rest.status, 206);
  EXPECT_TRUE(cut.body + rest.body == blob);
  // What had come was not asked for again.
  ASSERT_EQ(Count("GET", "/blobs/"), 1U);
  EXPECT_NE(registry_->requests()[0].range, "");
  EXPECT_EQ(mirror_->stats().fills_resumed, 1U);
}

TEST_F(MirrorTest, ARestartInTheMiddleOfAFillGoesOnWhereItWas) {
  Start();
  const std::string blob = RandomText(6 * kMiB, 17);
  const Digest digest = registry_->AddBlob(blob);
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kStall, .after_bytes = 4 * kMiB, .times = 1});
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kStall});
  {
    Connection connection(server_->port());
    connection.Send("GET", BlobPath(digest), "");
    connection.ReadHead();
    connection.ReadBody(3 * kMiB);
    StopMirror();
  }
  registry_->ClearFaults();
  registry_->ClearRequests();
  StartMirror();
  EXPECT_FALSE(store_->BlobBytes(digest));
  EXPECT_TRUE(Get(BlobPath(digest)).body == blob);
  ASSERT_EQ(Count("GET", "/blobs/"), 1U);
  EXPECT_NE(registry_->requests()[0].range, "");
  EXPECT_TRUE(AwaitStored(digest));
  EXPECT_LT(mirror_->stats().upstream_bytes, 4 * kMiB);
}

TEST_F(MirrorTest, WrongBytesAreNeverWholeAndNeverStored) {
  Start();
  const std::string blob = RandomText(3 * kMiB, 6);
  const Digest digest = registry_->AddBlob(blob);
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kFlipByte, .after_bytes = 1000});
  const Answer whole = Get(BlobPath(digest));
  EXPECT_FALSE(whole.whole);
  EXPECT_LT(whole.body.size(), blob.size());
  const Answer tail = Get(BlobPath(digest), "Range: bytes=-100\r\n");
  EXPECT_FALSE(tail.whole);
  EXPECT_FALSE(store_->BlobBytes(digest));
  EXPECT_EQ(store_->usage().blob_bytes, 0U);
  registry_->ClearFaults();
  EXPECT_TRUE(Get(BlobPath(digest)).body == blob);
}

TEST_F(MirrorTest, AFullDiskStillPassesBytesOn) {
  const auto disk = std::make_shared<LimitedDisk>();
  disk_ = disk;
  Start();
  const std::string blob = RandomText(24 * kMiB, 9);
  const Digest digest = registry_->AddBlob(blob);
  for (const uint64_t room : {uint64_t{0}, 5 * kMiB}) {
    disk->room = static_cast<int64_t>(room);
    registry_->ClearRequests();
    std::vector<std::jthread> clients;
    std::atomic<int> right{0};
    for (int i = 0; i < 5; ++i) {
      clients.emplace_back([&] {
        const Answer answer = Get(BlobPath(digest));
        if (answer.whole && answer.body == blob) ++right;
      });
    }
    clients.clear();
    EXPECT_EQ(right, 5) << room;
    EXPECT_LE(Count("GET", "/blobs/"), 5U);
    EXPECT_FALSE(store_->BlobBytes(digest));
  }
  EXPECT_GE(mirror_->stats().fills_uncached, 2U);
  // Wrong bytes are not whole here either.
  registry_->AddFault(
      {.path_contains = "/blobs/", .kind = Fault::Kind::kFlipByte, .after_bytes = 20 * kMiB, .times = 1});
  disk->room = 0;
  EXPECT_FALSE(Get(BlobPath(digest)).whole);
  registry_->ClearFaults();
  disk->room = INT64_MAX;
  EXPECT_TRUE(Get(BlobPath(digest)).body == blob);
  EXPECT_TRUE(AwaitStored(digest));
}

TEST_F(MirrorTest, ABlobLargerThanTheBudgetIsPassedOnAndEvictsNothing) {
  Start({}, 8 * kMiB);
  const std::string small = RandomText(2 * kMiB, 10);
  const std::string large = RandomText(20 * kMiB, 11);
  const Digest small_digest = registry_->AddBlob(small);
  const Digest large_digest = registry_->AddBlob(large);
  EXPECT_TRUE(Get(BlobPath(small_digest)).body == small);
  ASSERT_TRUE(AwaitStored(small_digest));
  EXPECT_TRUE(Get(BlobPath(large_digest)).body == large);
  EXPECT_TRUE(store_->BlobBytes(small_digest));
  EXPECT_FALSE(store_->BlobBytes(large_digest));
}

TEST_F(MirrorTest, EvictionWaitsForReaders) {
  Start({}, 5 * kMiB);
  const std::string held = RandomText(4 * kMiB, 12);
  const std::string next = RandomText(3 * kMiB, 13);
  const Digest held_digest = registry_->AddBlob(held);
  const Digest next_digest = registry_->AddBlob(next);
  EXPECT_TRUE(Get(BlobPath(held_digest)).body == held);
  ASSERT_TRUE(AwaitStored(held_digest));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const store::StoredBlob hold = store_->OpenBlob(held_digest).value();
  EXPECT_TRUE(Get(BlobPath(next_digest)).body == next);  // not stored: there is no room
  EXPECT_FALSE(store_->BlobBytes(next_digest));
  EXPECT_TRUE(Get(BlobPath(held_digest)).body == held);
}

TEST_F(MirrorTest, AFillWithoutReadersGoesOnWithinABound) {
  options_.max_orphans = 1;
  Start();
  const std::string one = RandomText(3 * kMiB, 14);
  const std::string two = RandomText(3 * kMiB, 15);
  const Digest first = registry_->AddBlob(one);
  const Digest second = registry_->AddBlob(two);
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kSlow, .delay = std::chrono::milliseconds(5)});
  for (const Digest& digest : {first, second}) {
    {
      Connection connection(server_->port());
      connection.Send("GET", BlobPath(digest), "Range: bytes=0-\r\n");
      connection.ReadHead();
      EXPECT_EQ(connection.ReadBody(1000).size(), 1000U);
    }
    // The first is to be left alone before the second.
    EXPECT_TRUE(Await([&] { return mirror_->stats().readers_active == 0; }));
  }
  EXPECT_TRUE(AwaitStored(first));
  EXPECT_FALSE(store_->BlobBytes(second));
  EXPECT_EQ(mirror_->stats().readers_active, 0U);
}

TEST_F(MirrorTest, AShortRangeFarAheadDoesNotWait) {
  Start();
  const std::string blob = RandomText(32 * kMiB, 16);
  const Digest digest = registry_->AddBlob(blob);
  registry_->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kStall, .after_bytes = kMiB, .times = 1});
  const auto begin = std::chrono::steady_clock::now();
  const Answer answer = Get(BlobPath(digest), "Range: bytes=30000000-30000999\r\n");
  EXPECT_EQ(answer.status, 206);
  EXPECT_EQ(answer.Header("content-range"), fmt::format("bytes 30000000-30000999/{}", blob.size()));
  EXPECT_TRUE(answer.body == blob.substr(30000000, 1000));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(1200));
  EXPECT_TRUE(AwaitStored(digest));  // the fill goes on meanwhile
}

}  // namespace
}  // namespace banyan::mirror
