// Real libtorrent sessions on loopback, each on a node store of its own.
#include "swarm/session.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <functional>
#include <random>
#include <stdexcept>
#include <thread>

#include <gtest/gtest.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wpedantic"
#include <libtorrent/add_torrent_params.hpp>
#include <libtorrent/session.hpp>
#include <libtorrent/torrent_info.hpp>
#pragma GCC diagnostic pop

#include "common/file_io.h"
#include "fetch/testing/test_layer.h"
#include "store/limited_disk.h"
#include "store/node_store.h"

namespace banyan::swarm {

struct SessionTestAccess {
  static void OnNetwork(Session& session, std::function<void()> job) { session.OnNetwork(std::move(job)); }
};

namespace {

namespace lt = libtorrent;
using std::chrono::milliseconds;
using std::chrono::seconds;

struct Source {
  explicit Source(uint32_t count, uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<uint32_t> blocks(count);
    for (uint32_t& each : blocks) each = static_cast<uint32_t>(1 + random() % 60);
    layer = fetch::testing::MakeTestLayer(blocks, seed);
    image_format::TorrentWriter writer;
    EXPECT_TRUE(writer.Write(layer.blob));
    torrent = *writer.Finish(layer.device->blob_digest);
  }
  uint32_t chunks() const { return layer.device->chunks.size(); }
  const Digest& digest() const { return layer.device->blob_digest; }

  fetch::testing::TestLayer layer;
  image_format::Torrent torrent;
};

// A layer whose store throws, while it is to, when it is given compressed bytes.
class ThrowingLayer final : public store::StoredLayer {
 public:
  explicit ThrowingLayer(std::shared_ptr<store::StoredLayer> inner) : inner_(std::move(inner)) {}
  std::atomic<bool> throws{true};

  Status PutCompressed(ChunkIndex chunk, std::span<const std::byte> compressed) override {
    if (throws) throw std::runtime_error("the test's store throws");
    return inner_->PutCompressed(chunk, compressed);
  }
  const image_format::Device& device() const override { return inner_->device(); }
  int device_fd() const override { return inner_->device_fd(); }
  const std::string& device_path() const override { return inner_->device_path(); }
  bool Has(ChunkIndex chunk) const override { return inner_->Has(chunk); }
  bool complete() const override { return inner_->complete(); }
  uint64_t present_bytes() const override { return inner_->present_bytes(); }
  std::optional<store::ChunkLease> Lease(ChunkRange range) override { return inner_->Lease(range); }
  Status PutBlocks(ChunkIndex chunk, std::span<const std::byte> blocks) override {
    return inner_->PutBlocks(chunk, blocks);
  }
  Result<std::vector<std::byte>> GetCompressed(ChunkIndex chunk) override { return inner_->GetCompressed(chunk); }
  bool HasCompressed(ChunkIndex chunk) const override { return inner_->HasCompressed(chunk); }
  uint64_t compressed_bytes_present() const override { return inner_->compressed_bytes_present(); }
  Result<store::CompressedChunk> LeaseCompressed(ChunkIndex chunk) override { return inner_->LeaseCompressed(chunk); }
  Result<bool> CopyFromOther(ChunkIndex chunk) override { return inner_->CopyFromOther(chunk); }
  Result<bool> CopyCompressedFromOther(ChunkIndex chunk) override { return inner_->CopyCompressedFromOther(chunk); }
  void Drop(ChunkIndex chunk) override { inner_->Drop(chunk); }
  void Touch() override { inner_->Touch(); }
  std::shared_ptr<void> HoldMounted() override { return inner_->HoldMounted(); }
  Result<std::shared_ptr<void>> PinWhole() override { return inner_->PinWhole(); }

 private:
  const std::shared_ptr<store::StoredLayer> inner_;
};

class Node {
 public:
  explicit Node(const Source& source, std::shared_ptr<store::Disk> disk = nullptr)
      : source_(source), dir_(TempDir::Make("swarm-node").value()) {
    store_ = store::NodeStore::Open({.root = dir_.path() + "/store", .disk = std::move(disk)}).value();
    layer_ = store_->OpenLayer(*source.layer.device).value();
  }

  void Join(SessionOptions options = {}) {
    if (options.listen.empty()) options.listen = "127.0.0.1:0";
    options.stage_directory = dir_.path() + "/stage";
    auto session = Session::Start(std::move(options));
    ASSERT_TRUE(session) << session.error().message;
    session_ = std::move(*session);
    const Status added = session_->Add(joined_ ? joined_ : layer_, source_.torrent);
    ASSERT_TRUE(added) << added.error().message;
  }
  void Leave() { session_.reset(); }
  // What the session is given as the layer from now on.
  std::shared_ptr<ThrowingLayer> Throwing() {
    auto throwing = std::make_shared<ThrowingLayer>(layer_);
    joined_ = throwing;
    return throwing;
  }
  void RemoveStage() { std::filesystem::remove_all(dir_.path() + "/stage"); }
  void Meet(const Node& other) { Meet(other.session_->port()); }
  void Meet(uint16_t port) { session_->AddPeer(source_.digest(), "127.0.0.1", port); }

  void Put(ChunkRange chunks) {
    for (ChunkIndex chunk = chunks.begin; chunk < chunks.end; ++chunk) {
      (void)layer_->PutCompressed(chunk, source_.layer.Compressed(chunk));
    }
  }
  void PutAll() { Put({0, source_.chunks()}); }
  bool HasAll() const {
    for (ChunkIndex chunk = 0; chunk < source_.chunks(); ++chunk) {
      if (!layer_->HasCompressed(chunk)) return false;
    }
    return true;
  }
  // Every chunk that is here has the right bytes.
  void ExpectRight() const {
    for (ChunkIndex chunk = 0; chunk < source_.chunks(); ++chunk) {
      if (const auto bytes = layer_->GetCompressed(chunk)) {
        EXPECT_TRUE(*bytes == source_.layer.Compressed(chunk)) << "chunk " << chunk;
      }
    }
  }
  Session& session() { return *session_; }
  store::StoredLayer& layer() { return *layer_; }

 private:
  const Source& source_;
  TempDir dir_;
  std::unique_ptr<store::NodeStore> store_;
  std::shared_ptr<store::StoredLayer> layer_;
  std::shared_ptr<store::StoredLayer> joined_;  // null: layer_
  std::unique_ptr<Session> session_;
};

template <typename Condition>
bool Soon(Condition condition, seconds limit = seconds(60)) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(milliseconds(20));
  }
  return true;
}

// There is no tracker to name the seed again.
bool MeetsUntilWhole(Node& leech, const Node& seed) {
  return Soon([&] {
    leech.Meet(seed);
    std::this_thread::sleep_for(milliseconds(200));
    return leech.HasAll();
  });
}

TEST(SwarmSessionTest, LeechesGetAllFromASeedAndEachOther) {
  const Source source(200, 1);
  Node seed(source);
  Node first(source);
  Node second(source);
  seed.PutAll();
  seed.Join();
  first.Join();
  second.Join();
  EXPECT_TRUE(Soon([&] { return seed.session().Progress()[0].complete; }, seconds(10)));
  first.Meet(seed);
  second.Meet(first);  // of the seed it never hears
  EXPECT_TRUE(Soon([&] { return first.HasAll() && second.HasAll(); }));
  first.ExpectRight();
  second.ExpectRight();
  EXPECT_TRUE(Soon([&] { return first.session().stats().uploaded_bytes > source.layer.blob.size() / 2; }, seconds(5)));
  EXPECT_EQ(seed.session().stats().downloaded_bytes, 0U);
}

TEST(SwarmSessionTest, WhatComesByOtherWaysIsOffered) {
  const Source source(200, 2);
  Node seed(source);
  Node leech(source);
  seed.Join();
  leech.Join();
  leech.Meet(seed);
  std::this_thread::sleep_for(milliseconds(300));
  seed.PutAll();
  EXPECT_TRUE(Soon([&] { return leech.HasAll(); }));
  leech.ExpectRight();
}

TEST(SwarmSessionTest, ARestartAsksForNothingAgain) {
  const Source source(100, 3);
  Node seed(source);
  Node leech(source);
  seed.PutAll();
  seed.Join();
  leech.Join();
  leech.Meet(seed);
  ASSERT_TRUE(Soon([&] { return leech.HasAll(); }));
  leech.Leave();
  leech.Join();
  EXPECT_TRUE(Soon([&] { return leech.session().Progress()[0].complete; }, seconds(10)));
  EXPECT_EQ(leech.session().stats().downloaded_bytes, 0U);
}

// A peer whose pieces are all wrong, which says it has them all.
class Liar {
 public:
  explicit Liar(const Source& source) : dir_(TempDir::Make("swarm-liar").value()) {
    std::string garbage(source.layer.blob.size(), 'g');
    EXPECT_TRUE(WriteFileDurably(dir_.path() + "/" + source.digest().Hex(), garbage));
    lt::settings_pack settings;
    settings.set_str(lt::settings_pack::listen_interfaces, "127.0.0.1:0");
    settings.set_bool(lt::settings_pack::disable_hash_checks, true);
    settings.set_bool(lt::settings_pack::allow_multiple_connections_per_ip, true);
    for (const auto off : {lt::settings_pack::enable_dht, lt::settings_pack::enable_lsd, lt::settings_pack::enable_upnp,
                           lt::settings_pack::enable_natpmp}) {
      settings.set_bool(off, false);
    }
    session_ = std::make_unique<lt::session>(lt::session_params(settings));
    lt::add_torrent_params params;
    const std::string& metainfo = source.torrent.metainfo;
    params.ti = std::make_shared<lt::torrent_info>(
        lt::span<const char>(metainfo.data(), static_cast<ptrdiff_t>(metainfo.size())), lt::from_span);
    params.save_path = dir_.path();
    params.flags = lt::torrent_flags::seed_mode;
    session_->add_torrent(params);
  }
  uint16_t port() const { return session_->listen_port(); }

 private:
  TempDir dir_;
  std::unique_ptr<lt::session> session_;
};

TEST(SwarmSessionTest, APeerThatSendsGarbageChangesNothingThatIsHere) {
  const Source source(300, 4);
  Node leech(source);
  Liar liar(source);
  leech.Join();
  leech.Meet(liar.port());
  // The tree fills the same blob meanwhile.
  for (ChunkIndex chunk = 0; chunk < source.chunks() / 2; chunk += 10) {
    leech.Put({chunk, chunk + 10});
    std::this_thread::sleep_for(milliseconds(30));
    leech.ExpectRight();
  }
  EXPECT_TRUE(Soon([&] { return leech.session().stats().failed_bytes > 0; }, seconds(20)));
  leech.ExpectRight();
  // And an honest seed is enough.
  Node seed(source);
  seed.PutAll();
  seed.Join();
  leech.Meet(seed);
  EXPECT_TRUE(Soon([&] { return leech.HasAll(); }));
  leech.ExpectRight();
}

TEST(SwarmSessionTest, AFullDiskEndsATorrentForAWhile) {
  const Source source(200, 5);
  auto disk = std::make_shared<store::testing::LimitedDisk>();
  disk->room = static_cast<int64_t>(source.layer.blob.size() / 2);
  Node seed(source);
  Node leech(source, disk);
  seed.PutAll();
  seed.Join();
  SessionOptions options;
  options.retry_after = milliseconds(500);
  leech.Join(options);
  leech.Meet(seed);
  EXPECT_TRUE(Soon([&] { return leech.session().stats().failures > 0; }));
  leech.ExpectRight();
  EXPECT_FALSE(leech.HasAll());
  disk->room = INT64_MAX;
  EXPECT_TRUE(MeetsUntilWhole(leech, seed));
  leech.ExpectRight();
}

// As libtorrent would, in a handler of its network thread.
TEST(SwarmSessionTest, AnExceptionOnTheNetworkThreadEndsNothing) {
  const Source source(200, 11);
  Node seed(source);
  Node leech(source);
  seed.PutAll();
  seed.Join();
  leech.Join();
  leech.Meet(seed);
  for (int i = 0; i < 10; ++i) {
    SessionTestAccess::OnNetwork(seed.session(), [] { throw std::runtime_error("thrown by the test"); });
    SessionTestAccess::OnNetwork(leech.session(), [] { throw std::runtime_error("thrown by the test"); });
  }
  EXPECT_TRUE(Soon([&] { return seed.session().stats().failures == 10 && leech.session().stats().failures == 10; }));
  EXPECT_TRUE(Soon([&] { return leech.HasAll(); }));
  leech.ExpectRight();
  EXPECT_TRUE(seed.session().stats().listening);
}

TEST(SwarmSessionTest, ABackendThatThrowsEndsATorrentForAWhile) {
  const Source source(200, 12);
  Node seed(source);
  Node leech(source);
  const auto layer = leech.Throwing();
  seed.PutAll();
  seed.Join();
  SessionOptions options;
  options.retry_after = milliseconds(500);
  leech.Join(options);
  leech.Meet(seed);
  EXPECT_TRUE(Soon([&] { return leech.session().stats().failures > 0; }));
  EXPECT_FALSE(leech.HasAll());
  leech.Put({0, source.chunks() / 2});  // what the trees bring goes in
  leech.ExpectRight();
  layer->throws = false;
  EXPECT_TRUE(MeetsUntilWhole(leech, seed));
  leech.ExpectRight();
}

TEST(SwarmSessionTest, ATorrentThatCannotBeAddedLeavesTheOthers) {
  const Source source(50, 13);
  const Source other(50, 14);
  Node seed(source);
  Node leech(source);
  seed.PutAll();
  seed.Join();
  leech.Join();
  TempDir dir = TempDir::Make("swarm-other").value();
  const auto store = store::NodeStore::Open({.root = dir.path()}).value();
  const auto layer = store->OpenLayer(*other.layer.device).value();
  leech.RemoveStage();
  EXPECT_FALSE(leech.session().Add(layer, other.torrent));
  EXPECT_FALSE(leech.session().Has(other.digest()));
  leech.Meet(seed);
  EXPECT_TRUE(Soon([&] { return leech.HasAll(); }));
}

TEST(SwarmSessionTest, WhoCannotListenStillCalls) {
  const Source source(50, 6);
  Node seed(source);
  Node leech(source);
  seed.PutAll();
  seed.Join();
  SessionOptions options;
  options.listen = "192.0.2.1:6881";  // of no interface here
  leech.Join(options);
  leech.Meet(seed);
  EXPECT_TRUE(Soon([&] { return leech.HasAll(); }));
  EXPECT_GT(leech.session().stats().failures, 0U);
  EXPECT_FALSE(leech.session().stats().listening);
}

TEST(SwarmSessionTest, ASeedThatLostAChunkDoesNotGiveWrongBytes) {
  const Source source(100, 7);
  Node seed(source);
  Node leech(source);
  seed.PutAll();
  SessionOptions options;
  options.retry_after = milliseconds(500);
  seed.Join(options);
  seed.layer().Drop(7);
  leech.Join();
  EXPECT_TRUE(Soon([&] {
    leech.Meet(seed);
    std::this_thread::sleep_for(milliseconds(100));
    return seed.session().stats().failures > 0;
  }));
  seed.Put({7, 8});
  EXPECT_TRUE(Soon([&] {
    leech.Meet(seed);
    std::this_thread::sleep_for(milliseconds(200));
    return leech.HasAll();
  }));
  leech.ExpectRight();
}

TEST(SwarmSessionTest, AnotherBlobsTorrentIsRefused) {
  const Source source(20, 8);
  const Source other(20, 9);
  Node node(source);
  node.Join();
  TempDir dir = TempDir::Make("swarm-other").value();
  const auto store = store::NodeStore::Open({.root = dir.path()}).value();
  EXPECT_FALSE(node.session().Add(store->OpenLayer(*other.layer.device).value(), source.torrent));
  EXPECT_TRUE(node.session().Has(source.digest()));
  node.session().Remove(source.digest());
  EXPECT_FALSE(node.session().Has(source.digest()));
}

}  // namespace
}  // namespace banyan::swarm
