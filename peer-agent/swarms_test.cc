#include "peer-agent/swarms.h"

#include <gtest/gtest.h>

namespace banyan::peer_agent {
namespace {

TEST(TransportTest, TheFirstListThatMatchesCounts) {
  SwarmConfig config;
  EXPECT_EQ(TransportOf(config, "r/app"), Transport::kTree);
  config.transport = "hybrid";
  config.tree_images = {"r/private/*"};
  config.hybrid_images = {"r/both", "r/mixed*"};
  config.swarm_images = {"r/*"};
  EXPECT_EQ(TransportOf(config, "r/private/app"), Transport::kTree);
  EXPECT_EQ(TransportOf(config, "r/both"), Transport::kHybrid);
  EXPECT_EQ(TransportOf(config, "r/mixed/1"), Transport::kHybrid);
  EXPECT_EQ(TransportOf(config, "r/app"), Transport::kSwarm);
  EXPECT_EQ(TransportOf(config, "other/app"), Transport::kHybrid);
  EXPECT_TRUE(config.on());
}

TEST(TransportTest, NothingIsOnByDefault) {
  SwarmConfig config;
  EXPECT_FALSE(config.on());
  config.tree_images = {"*"};
  EXPECT_FALSE(config.on());
  config.swarm_images = {"r/*"};
  EXPECT_TRUE(config.on());
}

}  // namespace
}  // namespace banyan::peer_agent
