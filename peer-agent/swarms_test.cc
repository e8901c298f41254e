#include "peer-agent/swarms.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "common/file_io.h"
#include "fetch/testing/fake_source.h"
#include "fetch/testing/test_layer.h"

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

// A layer that has no torrent, of a node whose images travel by swarm.
class FallbackTest : public ::testing::Test {
 protected:
  FallbackTest()
      : dir_(TempDir::Make("banyan-swarms").value()),
        source_layer_(fetch::testing::MakeTestLayer(std::vector<uint32_t>(16, 4))),
        store_(store::NodeStore::Open({.root = dir_.path() + "/store"}).value()),
        documents_(Documents::Open(dir_.path(), *store_).value()),
        scheduler_({.executor = executor_, .read_ahead_bytes = 0, .keep_compressed = true}),
        source_(std::make_shared<fetch::testing::FakeSource>(source_layer_)) {
    source_->Hold(true);
    stored_ = store_->OpenLayer(*source_layer_.device).value();
    lazy_ = scheduler_.AddLayer(stored_, source_);
    origins_ = Registries({}).Open(net::ImageReference::Parse("docker://127.0.0.1:1/app:1").value(), {}).value();
    Swarms::Options options;
    options.config.transport = "hybrid";
    options.config.address = "127.0.0.1:0";
    options.config.tracker = "http://127.0.0.1:1";
    options.data_root = dir_.path();
    swarms_ = Swarms::Start(options, {*store_, scheduler_, *documents_, [](const Digest&) { return true; }}).value();
  }
  ~FallbackTest() override {
    swarms_.reset();
    lazy_->CancelAll();
    (void)source_->TakeHeld();
  }

  // Until the swarm has given the layer up, with all that this entails.
  void UseUntilGivenUp(Whole whole) {
    ASSERT_TRUE(swarms_->Use(stored_, lazy_, origins_, whole));
    const Digest& blob = source_layer_.device->blob_digest;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (swarms_->Brings(blob) && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    ASSERT_FALSE(swarms_->Brings(blob));
    EXPECT_FALSE(swarms_->Use(stored_, lazy_, origins_, whole));
    swarms_.reset();  // its thread has ended
  }
  bool Fills() {
    const bool idle = scheduler_.WaitIdle(std::chrono::milliseconds(0));
    return !idle;
  }

  TempDir dir_;
  fetch::testing::TestLayer source_layer_;
  InlineExecutor executor_;
  std::unique_ptr<store::NodeStore> store_;
  std::unique_ptr<Documents> documents_;
  fetch::Scheduler scheduler_;
  std::shared_ptr<fetch::testing::FakeSource> source_;
  std::shared_ptr<store::StoredLayer> stored_;
  std::shared_ptr<fetch::LazyLayer> lazy_;
  Origins origins_;
  std::unique_ptr<Swarms> swarms_;
};

TEST_F(FallbackTest, TheSchedulerFillsWhatNobodyPrefetches) {
  UseUntilGivenUp(Whole::kScheduler);
  EXPECT_TRUE(Fills());
  ASSERT_FALSE(source_->requests().empty());
  EXPECT_EQ(source_->requests()[0].priority, fetch::Priority::kFill);
}

// Fill beside it would ask peers for the same chunks at the lowest priority, and the origins when they let it wait.
TEST_F(FallbackTest, ACallerThatPrefetchesIsLeftAlone) {
  UseUntilGivenUp(Whole::kCaller);
  EXPECT_FALSE(Fills());
  EXPECT_TRUE(source_->requests().empty());
}

}  // namespace
}  // namespace banyan::peer_agent
