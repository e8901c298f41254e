// Which layers of this node travel by swarm, and what the swarm cannot bring.
//
// transport = tree: none. hybrid: what is read, and the profile, come down the trees; what is to come whole (fill,
// preheat) comes by swarm, and what is read raises its pieces. swarm: the same without trees: reads go to proxy and
// registry.
//
// Nobody is born a seed: the bytes come from the origins first. So each node looks for pieces that neither it nor any
// peer has, and asks for those that are its own to bring (swarm::Lack) of the origins, past the trees: a tree would
// bring them through the uplinks of the very nodes that the swarm is to unburden. When seeds die this is also how the
// swarm goes on; what somebody ought to bring and does not, anybody brings after a while.
//
// A layer's torrent is named by the image's artifact (Learn) and fetched as a small blob. A layer that has none, whose
// swarm fails, or that others may not have, is filled the ordinary way: whatever happens here, the trees go on.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/digest.h"
#include "common/metrics.h"
#include "common/result.h"
#include "fetch/scheduler.h"
#include "image-format/artifact.h"
#include "peer-agent/config.h"
#include "peer-agent/documents.h"
#include "peer-agent/registries.h"
#include "peer-agent/swarm_announcer.h"
#include "proto/tree.pb.h"
#include "store/node_store.h"
#include "swarm/session.h"

namespace banyan::peer_agent {

enum class Transport : uint8_t { kTree, kSwarm, kHybrid };

// Who brings all of a layer when no swarm does.
enum class Whole : uint8_t {
  kNobody,     // only what is read
  kCaller,     // who acquired it prefetches what Brings() does not cover
  kScheduler,  // its background fill
};

// The first of the lists that has a matching glob over "<registry>/<repository>", else the default. Unknown words are
// the configuration's affair: here they are kTree.
Transport TransportOf(const SwarmConfig& config, const std::string& repository);

// Internally synchronised. No call waits for the network.
class Swarms {
 public:
  struct Options {
    SwarmConfig config;
    std::string data_root;
    std::string token;  // of the cluster
    std::string zone;
  };
  // Borrowed; they outlive it.
  struct Parts {
    store::NodeStore& store;
    fetch::Scheduler& scheduler;
    Documents& documents;
    std::function<bool(const Digest& blob)> may_offer;  // whether others may have the layer
    // To the tree-manager, by the node's session, if there is one; any thread. May be null.
    std::function<void(proto::tree::SwarmAnnounce)> announce = {};
  };
  // An error means that there is no swarm on this node.
  static Result<std::unique_ptr<Swarms>> Start(Options options, Parts parts);
  ~Swarms();

  // Remembers which torrents an image's layers have.
  void Learn(const image_format::Artifact& artifact);

  // Whether layers of this repository are to travel by swarm.
  bool Carries(const Origins& origins) const;

  // A layer is in use. False: it does not travel by swarm. Otherwise all of it will come by swarm or, if that fails, by
  // whom `whole` says; with kNobody it is offered once it is complete. Never by both caller and fill: a peer serves
  // fill behind prefetch, so fill's asks would run out of patience there and go to the origins.
  bool Use(const std::shared_ptr<store::StoredLayer>& stored, const std::shared_ptr<fetch::LazyLayer>& lazy,
           const Origins& origins, Whole whole);
  // Nothing on this node uses it any more: it is offered for a while.
  void Leave(const Digest& blob);
  // Whether the swarm is bringing the layer, so that nobody else needs to.
  bool Brings(const Digest& blob) const;
  // Says of a chunk whether this node is bringing it into the swarm now: it is to come from outside, not through nodes
  // of the swarm. Any thread; may outlive this.
  std::function<bool(ChunkIndex)> SuppliesOf(const Digest& blob) const;

  // What the tree-manager says in the node's session. Any thread.
  void OnManager(const proto::tree::ManagerMessage& message);

  void AddMetrics(MetricsPage& page) const;

 private:
  using Clock = std::chrono::steady_clock;
  enum class State : uint8_t { kWaiting, kIn, kGivenUp };
  struct Layer {
    std::shared_ptr<store::StoredLayer> stored;
    std::shared_ptr<fetch::LazyLayer> lazy;  // null: nobody uses it
    Origins origins;
    Whole whole = Whole::kNobody;  // the most of what its users said
    State state = State::kWaiting;
    Clock::time_point used{};
    Clock::time_point joined{};
    Clock::time_point end = Clock::time_point::max();
    size_t touches = 0;
    std::vector<ChunkRange> supplying;  // asked of the layer's source, and not all here yet
    size_t lacking = 0;                 // pieces of others, at the last look
    Clock::time_point lacking_since{};  // for how long that has been the number
    uint64_t last_bytes = 0;
    Clock::time_point last_progress{};
  };

  // What SuppliesOf() looks at.
  struct Supplies {
    std::mutex mutex;
    std::map<Digest, std::vector<ChunkRange>> chunks;  // guarded by mutex
  };

  Swarms(Options options, Parts parts);
  void Run();
  void Announce();
  void Join(const Digest& blob, Layer layer);
  Result<image_format::Torrent> TorrentOf(const Layer& layer);
  void GiveUp(const Digest& blob, const std::string& why);
  void Tick(const Digest& blob);
  void Supply(const Digest& blob, Layer layer);
  std::vector<ChunkRange> Choose(Layer& layer, swarm::Lack lack, Clock::time_point now);
  void StopSupplying(const Digest& blob);
  void RaiseTouched(const Digest& blob, const Layer& layer);

  const Options options_;
  const Parts parts_;
  const std::string own_address_;  // where peers of swarms call this node; empty: as for other peers
  std::unique_ptr<swarm::Session> session_;
  const std::shared_ptr<Supplies> supplies_ = std::make_shared<Supplies>();
  std::mt19937_64 random_;  // of the thread
  SwarmAnnouncer announcer_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::map<Digest, Layer> layers_;  // guarded by mutex_, as is all that follows
  bool stopping_ = false;
  uint64_t given_up_ = 0;
  uint64_t supplied_bytes_ = 0;
  std::thread thread_;
};

}  // namespace banyan::peer_agent
