// What the store claims after a crash is there: after power cuts at random points (on a disk that loses what was not
// synced), and after kill -9.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include <gtest/gtest.h>

#include "common/bitmap.h"
#include "store/index.h"
#include "store/power_cut_disk.h"
#include "store/store_testing.h"

namespace banyan::store {
namespace {

using testing::ExpectOnlyTruth;
using testing::PowerCutDisk;
using testing::RandomLayer;
using testing::ReadRange;
using testing::TestLayer;

constexpr uint64_t kBudget = 400 * kKiB;  // of about 900 KiB that all layers have

std::vector<TestLayer> Layers() {
  std::vector<TestLayer> layers;
  for (uint64_t seed = 1; seed <= 4; ++seed) layers.push_back(RandomLayer(seed, 20));
  // Shares chunks with the first.
  std::vector<std::vector<std::byte>> shared(layers[0].blocks.begin(), layers[0].blocks.begin() + 10);
  layers.push_back(testing::MakeLayer(std::move(shared), 5));
  return layers;
}

// Reads the index and the files themselves: nothing of the store that might hide a lie. Returns the claims.
size_t ExpectTrueIndex(const std::string& root, const std::vector<TestLayer>& layers) {
  bool begun_anew = false;
  const auto index = Index::Open(root + "/index", begun_anew).value();
  EXPECT_FALSE(begun_anew);
  size_t claims = 0;
  for (const TestLayer& source : layers) {
    const Digest& blob = source.device.blob_digest;
    const auto record = index->GetPresence(blob);
    if (!record) continue;
    const Bitmap blocks(source.device.chunks.size(), record->blocks);
    const Bitmap compressed(source.device.chunks.size(), record->compressed);
    for (ChunkIndex i = 0; i < source.device.chunks.size(); ++i) {
      const image_format::Chunk& chunk = source.device.chunks[i];
      if (blocks.Test(i)) {
        EXPECT_TRUE(ReadRange(root + "/devices/" + blob.Hex(), chunk.device_range()) == source.blocks[i]) << i;
      }
      if (compressed.Test(i)) {
        EXPECT_TRUE(ReadRange(root + "/blobs/sha256/" + blob.Hex(), chunk.blob_range()) == source.compressed[i]) << i;
      }
    }
    claims += blocks.count() + compressed.count();
  }
  return claims;
}

// One random deed on the store. `open` holds some layers open, leases and mounts.
struct Held {
  std::shared_ptr<StoredLayer> layer;
  std::shared_ptr<void> mount;
  std::optional<ChunkLease> lease;
};

void Act(NodeStore& store, const std::vector<TestLayer>& layers, std::vector<Held>& held, std::mt19937_64& random) {
  const size_t which = random() % layers.size();
  const TestLayer& source = layers[which];
  const auto layer = store.OpenLayer(source.device).value();
  const ChunkIndex chunk = static_cast<ChunkIndex>(random() % source.blocks.size());
  switch (random() % 16) {
    case 0:
      layer->Drop(chunk);
      break;
    case 1:
      static_cast<void>(store.Flush());
      break;
    case 2:
      held[which] = {};
      break;
    case 3:
      held[which].layer = layer;
      held[which].mount = layer->HoldMounted();
      break;
    case 4:
      held[which].lease = layer->Lease({chunk, chunk + 1});
      break;
    case 5:
    case 6:
    case 7:
      static_cast<void>(layer->PutCompressed(chunk, source.compressed[chunk]));
      break;
    case 8:
      static_cast<void>(layer->CopyFromOther(chunk));
      break;
    default:
      static_cast<void>(layer->PutBlocks(chunk, source.blocks[chunk]));
  }
}

TEST(PowerCutTest, TheIndexNeverClaimsWhatThePowerCutTook) {
  if (std::filesystem::is_directory("/dev/shm")) ::setenv("TMPDIR", "/dev/shm", 1);
  const std::vector<TestLayer> layers = Layers();
  size_t claims = 0;
  size_t cuts = 0;
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    const TempDir dir = TempDir::Make("banyan-cut").value();
    std::mt19937_64 random(seed);
    const auto disk = std::make_shared<PowerCutDisk>();
    NodeStore::Options options;
    options.root = dir.path() + "/store";
    options.budget_bytes = kBudget;
    options.flush_interval = std::chrono::hours(1);  // Flush() is one of the random deeds: all runs on one thread
    options.disk = disk;
    const auto store = NodeStore::Open(options).value();
    disk->at_each_step = [&] {
      if (random() % 60 != 0) return;
      const std::string copy = dir.path() + "/cut";
      disk->Cut(options.root, copy, random);
      ++cuts;
      claims += ExpectTrueIndex(copy, layers);
      if (cuts % 4 == 0) {
        NodeStore::Options after;
        after.root = copy;
        ExpectOnlyTruth(*NodeStore::Open(after).value(), layers);
      }
      std::filesystem::remove_all(copy);
    };
    std::vector<Held> held(layers.size());
    for (int deed = 0; deed < 500; ++deed) Act(*store, layers, held, random);
    disk->at_each_step = [] {};
    ASSERT_FALSE(::testing::Test::HasFailure()) << "seed " << seed;
  }
  // The test would be empty if stores that were cut claimed nothing.
  EXPECT_GT(cuts, 50U);
  EXPECT_GT(claims, cuts * 5);
}

TEST(KillTest, DISABLED_Victim) {
  const std::vector<TestLayer> layers = Layers();
  NodeStore::Options options;
  options.root = ::getenv("BANYAN_STORE_ROOT");
  options.budget_bytes = kBudget;
  options.flush_interval = std::chrono::milliseconds(5);
  const auto store = NodeStore::Open(options).value();
  ASSERT_TRUE(OpenFile(options.root + ".ready", O_WRONLY | O_CREAT));
  std::vector<std::jthread> threads;
  for (unsigned seed = 0; seed < 3; ++seed) {
    threads.emplace_back([&, seed] {
      std::mt19937_64 random(static_cast<uint64_t>(::getpid()) * 10 + seed);
      std::vector<Held> held(layers.size());
      while (true) Act(*store, layers, held, random);
    });
  }
}

TEST(KillTest, WhatTheIndexClaimsIsThereAfterKills) {
  const std::vector<TestLayer> layers = Layers();
  const TempDir dir = TempDir::Make("banyan-kill").value();
  const std::string root = dir.path() + "/store";
  ASSERT_TRUE(MakeDirectories(root));
  std::mt19937_64 random(1);
  size_t claims = 0;
  for (int round = 0; round < 10; ++round) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      // A program of its own: threads of a database do not survive a fork.
      ::setenv("BANYAN_STORE_ROOT", root.c_str(), 1);
      ::execl("/proc/self/exe", "store_crash_test", "--gtest_filter=KillTest.DISABLED_Victim",
              "--gtest_also_run_disabled_tests", "--gtest_brief=1", nullptr);
      ::_exit(127);
    }
    for (int i = 0; i < 6000 && ::access((root + ".ready").c_str(), F_OK) != 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    std::filesystem::remove(root + ".ready");
    std::this_thread::sleep_for(std::chrono::milliseconds(50 + random() % 250));
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself";
    claims += ExpectTrueIndex(root, layers);
    NodeStore::Options options;
    options.root = root;
    options.budget_bytes = kBudget;
    ExpectOnlyTruth(*NodeStore::Open(options).value(), layers);
  }
  EXPECT_GT(claims, 20U);
}

}  // namespace
}  // namespace banyan::store
