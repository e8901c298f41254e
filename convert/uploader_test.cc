#include "convert/uploader.h"

#include <atomic>
#include <chrono>
#include <thread>

#include <gtest/gtest.h>

namespace banyan::convert {
namespace {

TEST(UploaderTest, RunsAllInOrder) {
  std::string order;
  Uploader uploader;
  for (char c = 'a'; c <= 'e'; ++c) {
    ASSERT_TRUE(uploader.Add([&order, c]() -> Status {
      order += c;
      return {};
    }));
  }
  ASSERT_TRUE(uploader.Finish());
  EXPECT_EQ(order, "abcde");
}

TEST(UploaderTest, TheFirstErrorEndsIt) {
  std::atomic<int> runs = 0;
  Uploader uploader(8);
  for (int i = 0; i < 4; ++i) {
    static_cast<void>(uploader.Add([&runs]() -> Status {
      ++runs;
      return Fail(Code::kUnavailable, "upload " + std::to_string(runs));
    }));
  }
  const Status status = uploader.Finish();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().message, "upload 1");
  EXPECT_EQ(runs, 1);
  EXPECT_FALSE(uploader.Add([]() -> Status { return {}; }));
}

TEST(UploaderTest, AddWaitsWhileTheQueueIsFull) {
  std::atomic<bool> release = false;
  std::atomic<int> added = 0;
  Uploader uploader(1);
  const auto slow = [&release]() -> Status {
    while (!release) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return {};
  };
  std::thread producer([&] {
    for (int i = 0; i < 4; ++i, ++added) EXPECT_TRUE(uploader.Add(slow));
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_LE(added, 2);  // one under way, one queued
  release = true;
  producer.join();
  EXPECT_TRUE(uploader.Finish());
}

}  // namespace
}  // namespace banyan::convert
