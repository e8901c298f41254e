#include "fetch/door.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <vector>

namespace banyan::fetch {
namespace {

using namespace std::chrono_literals;

TEST(Door, ClosesWhenTheLastOneHasLeft) {
  Door door;
  std::optional<Door::Pass> outer(door.Enter());
  ASSERT_TRUE(*outer);
  std::optional<Door::Pass> inner(door.Enter());
  std::atomic<bool> closed = false;
  std::thread owner([&] {
    door.Close();
    closed = true;
  });
  while (door.Enter()) std::this_thread::sleep_for(1ms);
  inner.reset();
  std::this_thread::sleep_for(20ms);
  EXPECT_FALSE(closed);
  outer.reset();
  owner.join();
  EXPECT_TRUE(closed);
  EXPECT_FALSE(door.Enter());
}

TEST(Door, NobodyIsInsideAfterwards) {
  Door door;
  std::atomic<int> guarded = 1;
  std::atomic<int> seen_after = 0;
  std::vector<std::thread> visitors;
  for (int i = 0; i < 4; ++i) {
    visitors.emplace_back([&] {
      while (const auto inside = door.Enter()) {
        if (guarded == 0) ++seen_after;
      }
    });
  }
  std::this_thread::sleep_for(20ms);
  door.Close();
  guarded = 0;
  for (auto& visitor : visitors) visitor.join();
  EXPECT_EQ(seen_after, 0);
}

}  // namespace
}  // namespace banyan::fetch
