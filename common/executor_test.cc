#include "common/executor.h"

#include <atomic>

#include <gtest/gtest.h>

namespace banyan {
namespace {

TEST(ThreadPoolTest, RunsAllThatWasPostedBeforeItGoes) {
  std::atomic<int> ran{0};
  {
    ThreadPool pool(3);
    EXPECT_EQ(pool.concurrency(), 3U);
    for (int i = 0; i < 1000; ++i) pool.Post([&ran] { ++ran; });
  }
  EXPECT_EQ(ran, 1000);
}

TEST(ThreadPoolTest, TasksMayPost) {
  std::atomic<int> ran{0};
  {
    ThreadPool pool(1);
    pool.Post([&] { pool.Post([&] { ++ran; }); });
  }
  EXPECT_EQ(ran, 1);
}

}  // namespace
}  // namespace banyan
