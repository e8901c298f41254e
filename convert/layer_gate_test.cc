#include "convert/layer_gate.h"

#include <atomic>
#include <chrono>
#include <thread>

#include <gtest/gtest.h>

namespace banyan::convert {
namespace {

TEST(LayerGateTest, OneAtATimePerKey) {
  LayerGate gate;
  auto first = gate.Enter("a", {});
  auto other = gate.Enter("b", {});
  ASSERT_TRUE(first && other);
  std::atomic<bool> entered{false};
  std::jthread second([&] {
    const auto pass = gate.Enter("a", {});
    entered = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_FALSE(entered);
  first.reset();
  second.join();
  EXPECT_TRUE(entered);
}

TEST(LayerGateTest, StopEndsTheWait) {
  LayerGate gate;
  const auto held = gate.Enter("a", {});
  std::stop_source stop;
  std::jthread stopper([&] { stop.request_stop(); });
  EXPECT_EQ(gate.Enter("a", stop.get_token()), nullptr);
}

}  // namespace
}  // namespace banyan::convert
