// This node among its peers: everything that fetching from and serving to other nodes takes, put together.
//
//   tree-manager ◄─ TreeClient ─► Functions ── routes ──► TreeSource (one a layer) ──► PeerClient ──► parents
//                                    │  catalog                PeerBlobs ─────────────────────────┘
//   children ──► PeerServer ─────────┘──► RelayLayer (the scheduler), mirror (whole blobs)
//
// Without `peer.address` there is none of it, and the agent fetches from proxy and registry alone.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/executor.h"
#include "common/metrics.h"
#include "common/result.h"
#include "fetch/limited_source.h"
#include "fetch/peer_client.h"
#include "fetch/request_planner.h"
#include "fetch/scheduler.h"
#include "fetch/timer.h"
#include "fetch/wait_table.h"
#include "mirror/mirror.h"
#include "net/http_client.h"
#include "peer-agent/config.h"
#include "peer-agent/feed_meter.h"
#include "peer-agent/functions.h"
#include "peer-agent/peer_blobs.h"
#include "peer-agent/peer_faults.h"
#include "peer-agent/peer_server.h"
#include "peer-agent/registries.h"
#include "peer-agent/start_report.h"
#include "peer-agent/tree_client.h"
#include "proto/agent.pb.h"
#include "store/node_store.h"

namespace banyan::peer_agent {

// Internally synchronised.
class Peers final : public fetch::PeerReports {
 public:
  struct Options {
    PeerConfig config;
    std::string data_root;
    std::string version;
    // Whether an image that may be shared travels by tree; null: every one does. The others are only noted (MayOffer).
    std::function<bool(const net::ImageReference&)> by_tree = {};
  };
  // What it works on; borrowed.
  struct Parts {
    LayerTable& layers;
    fetch::Scheduler& scheduler;
    Registries& registries;
    Executor& executor;
    mirror::Mirror& mirror;
    // For the manager's dashboard; any thread, may be null.
    std::function<store::StoreUsage()> store_usage;
    std::function<std::vector<proto::agent::Start>(size_t limit)> latest_starts;  // the latest first
    // The manager tells this node to bring an image; reports go back by `send`, on any thread. May be null.
    std::function<void(const proto::tree::PreheatCommand&, std::function<void(proto::tree::PreheatReport)> send)>
        preheat;
    // What the manager says in this node's session, besides; on the session's thread. May be null.
    std::function<void(const proto::tree::ManagerMessage&)> on_manager;
  };

  // Listens to nobody yet. It must outlive the sources and hooks that it makes. Errors: the token cannot be read.
  static Result<std::unique_ptr<Peers>> Open(Options options, fetch::Timer& timer);
  // Stop()s.
  ~Peers() override;

  // For the mirror that Start() is given.
  mirror::Hooks MirrorHooks();
  // Serves, and keeps a session with the manager. Errors: the address cannot be bound.
  Status Start(Parts parts);
  // Serves nobody and lets go of all layers; what is read goes on.
  void Stop();
  // The switch of this node.
  void SetEnabled(bool enabled);

  // The node is about to use an image: joins its function if that may be shared, and waits a moment for the trees.
  // Blocks; the repository may be asked whether everyone may read it.
  void JoinImage(const Digest& manifest, const Digest& map_digest, const net::ImageReference& reference,
                 const Registries::Access& access);
  // Before much is fetched at once: waits, not for long, until the trees do not change any more. Blocks.
  void WaitUntilSettled(const Digest& manifest);
  // Its map is here.
  void AddImage(const Digest& manifest, const image_format::ImageMap& map, const Origins& origins);
  // Whether the layer is of an image that this node may share with others, by tree or otherwise.
  bool MayOffer(const Digest& blob);
  void Started(const Digest& manifest);
  void Leave(const Digest& manifest);
  void LeaveAll();

  // Where chunks of a layer come from: its trees, then `origins`; those that `brought` says yes to (any thread, cheap;
  // may be null) from the origins first. The lanes are its stripes.
  std::shared_ptr<fetch::ChunkSource> SourceOf(const image_format::Device& device,
                                               std::shared_ptr<fetch::ChunkSource> origins,
                                               std::function<bool(ChunkIndex)> brought = {});
  fetch::LanePlan LanesOf(const image_format::Device& device);
  // A small blob of a joined function by tree, shared with those who ask this node for it meanwhile. kNotFound: it is
  // of no such function.
  Result<std::string> GetBlob(const Digest& digest, uint64_t limit_bytes);

  // To the manager; dropped while there is no session.
  void Announce(proto::tree::SwarmAnnounce announce);

  void AddMetrics(MetricsPage& page) const;
  // "10.0.0.7:4640"
  const std::string& address() const { return address_; }

  void Report(const std::string& function, const std::string& node, fetch::PeerFault fault,
              const std::string& detail) override;

 private:
  Peers(Options options, std::string token, fetch::Timer& timer);
  bool MayShare(const std::string& function, const net::ImageReference& reference, const Registries::Access& access);
  Status StartServer();
  void ServeWhole(net::HttpRequest request, const std::shared_ptr<net::HttpReply>& reply);
  Result<mirror::BlobAsk> AskOf(const std::string& function, const Digest& digest);
  void JoinRaw(const mirror::BlobAsk& ask);
  std::chrono::steady_clock::time_point Tick();
  void OnMessage(const proto::tree::ManagerMessage& message);
  proto::tree::Hello MakeHello();
  proto::tree::Heartbeat MakeHeartbeat();
  void ReportStarts(std::chrono::steady_clock::time_point now);

  const Options options_;
  const std::string token_;
  const std::string node_;
  fetch::Timer& timer_;
  std::string address_;
  std::optional<Parts> parts_;  // set once, by Start()
  std::atomic<bool> enabled_{true};
  std::mutex private_mutex_;
  std::map<std::string, std::chrono::steady_clock::time_point> private_;  // functions, and until when that is believed
  std::mutex offered_mutex_;
  std::set<Digest> offered_images_;  // manifests of images that may be shared and do not travel by tree
  std::set<Digest> offered_layers_;  // of these
  PeerFaults faults_;
  uint64_t received_ = 0;                       // the sending thread's: what had come at the last beat
  std::chrono::steady_clock::time_point beat_;  // likewise

  fetch::WaitTable chunk_waits_;
  fetch::WaitTable blob_waits_;
  BlobFunctions blob_functions_;
  const std::shared_ptr<fetch::RateLimit> downlink_;
  const std::shared_ptr<FeedMeter> feeds_ = std::make_shared<FeedMeter>(FeedMeter::Clock::now());
  StartReports start_reports_;
  std::unique_ptr<TreeClient> tree_;
  std::shared_ptr<Functions> functions_;  // shared with a Save() under way
  const std::shared_ptr<std::atomic<bool>> saving_ = std::make_shared<std::atomic<bool>>(false);
  std::unique_ptr<fetch::PeerClient> client_;
  std::unique_ptr<net::HttpClient> http_;  // ends before client_
  std::unique_ptr<PeerBlobs> blobs_;
  std::unique_ptr<PeerServer> server_;
};

}  // namespace banyan::peer_agent
