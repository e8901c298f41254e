// The node's agent: what the daemon is made of, put together, and what `banyan` asks of it.
//
// A mount is: resolve the reference, get the image map and the EROFS metadata, open each layer in the store, expose
// those that are not complete as FUSE devices (complete ones are mounted from their files), mount. containerd's
// snapshotter (snapshotter/) and its registry mirror (mirror/) stand on the same parts.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/executor.h"
#include "common/result.h"
#include "fetch/scheduler.h"
#include "fetch/timer.h"
#include "lazyfs/device_server.h"
#include "lazyfs/keeper.h"
#include "peer-agent/config.h"
#include "peer-agent/container_images.h"
#include "peer-agent/documents.h"
#include "peer-agent/images.h"
#include "peer-agent/layer_table.h"
#include "peer-agent/mounts.h"
#include "peer-agent/node_http.h"
#include "peer-agent/peers.h"
#include "peer-agent/preheats.h"
#include "peer-agent/registries.h"
#include "peer-agent/start_log.h"
#include "peer-agent/swarms.h"
#include "peer-agent/trust.h"
#include "proto/agent.pb.h"
#include "snapshotter/service.h"
#include "snapshotter/snapshotter.h"
#include "store/node_store.h"

namespace banyan::peer_agent {

// Internally synchronised; every call may block.
class Agent {
 public:
  struct Options {
    Config config;
    std::string config_file;  // for Info(); may be empty
    bool resend = true;       // use FUSE_NOTIFY_RESEND where the kernel has it
  };

  // Opens the store, takes over the FUSE session, restores recorded mounts, and then listens for containerd. A mount
  // that cannot be restored is logged and hinders no other; no network is used. kFailedPrecondition when another agent
  // holds the data root.
  static Result<std::unique_ptr<Agent>> Start(Options options);
  // Leaves mounts to a successor if there is a keeper.
  ~Agent();

  Result<proto::agent::MountReply> Mount(const proto::agent::MountRequest& request);
  // See Mounts::Remove.
  Status Umount(const std::string& directory, bool force);
  proto::agent::ListReply List();
  Result<proto::agent::StatsReply> Stats(const std::string& directory);
  Result<proto::agent::ScrubReply> Scrub();
  proto::agent::InfoReply Info();
  proto::agent::ImagesReply ListImages();
  proto::agent::StartsReply Starts(uint32_t limit);
  Status Prefetch(const proto::agent::PrefetchRequest& request,
                  const std::function<bool(uint64_t present, uint64_t device_bytes)>& progress);
  Status Pin(const std::string& name, bool pinned);
  Result<proto::agent::DropReply> Drop(const std::string& name);

  // Takes what may change while it runs (log level, registries, trusted keys, look-up timeout) from a configuration
  // that was read again.
  void Reload(const Config& config);
  // Unmounts what belongs to processes that have gone. To be called now and then.
  void ReapOrphans();

  size_t mount_count() { return mounts_->List().size(); }
  // How long no image has been mounted and no mount was under way; zero while there is one.
  std::chrono::milliseconds idle_for() { return mounts_->idle_for(); }
  const std::string& control_socket() const { return control_socket_; }

 private:
  explicit Agent(Options options);

  Status OpenNode();
  Documents::GetFirst GetFirst();
  Status ServeContainerd();
  Status ServeHttp();
  Status ServePeers();
  Status JoinSwarms();
  void AddMetrics(MetricsPage& page);
  std::vector<KnownImage> ClaimedImages() const;

  const Options options_;
  const std::string control_socket_;
  const std::chrono::system_clock::time_point started_ = std::chrono::system_clock::now();
  // Constant after Start(). Declared in the order of their dependence: later ones are destroyed first.
  Trust trust_;
  std::unique_ptr<ThreadPool> executor_;
  std::unique_ptr<fetch::ThreadTimer> timer_;
  std::unique_ptr<Peers> peers_;  // null: none; outlives the sources that it makes
  std::unique_ptr<store::NodeStore> store_;
  std::unique_ptr<mirror::Mirror> mirror_;  // null: neither containerd, peers nor metrics need it
  std::unique_ptr<fetch::Scheduler> scheduler_;
  std::unique_ptr<lazyfs::SessionKeeper> keeper_;
  std::unique_ptr<lazyfs::DeviceServer> devices_;
  std::unique_ptr<Registries> registries_;
  std::unique_ptr<Documents> documents_;
  std::unique_ptr<Swarms> swarms_;  // null: none
  std::unique_ptr<LayerTable> layers_;
  std::unique_ptr<Mounts> mounts_;
  std::unique_ptr<StartLog> starts_;
  std::unique_ptr<Images> images_;
  std::unique_ptr<Preheats> preheats_;                           // null: no peers
  std::unique_ptr<ContainerImages> container_images_;            // null: no snapshotter
  std::unique_ptr<snapshotter::Snapshotter> snapshotter_;        // null: no snapshotter
  std::unique_ptr<snapshotter::SnapshotService> snapshots_rpc_;  // null: no snapshotter
  std::unique_ptr<NodeHttp> http_;                               // null: no mirror
  std::unique_ptr<NodeHttp> metrics_http_;                       // null: no address for metrics alone
};

}  // namespace banyan::peer_agent
