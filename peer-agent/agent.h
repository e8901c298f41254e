// The node's agent: mounts images out of what the node store has and the registry gives, and takes up after a restart
// what its predecessor had mounted.
//
// A mount is: resolve the reference, get the image map and the EROFS metadata, open each layer in the store, expose
// those that are not complete as FUSE devices (complete ones are mounted from their files), mount. Layers are shared:
// two images with a common layer read through one LazyLayer and one device file.
//
// Order of effects, so that a crash at any point can be taken up: the record is durable before the mount is made, and
// goes after the mount has gone.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "common/executor.h"
#include "common/result.h"
#include "fetch/image_resolver.h"
#include "fetch/scheduler.h"
#include "image-format/image_map.h"
#include "lazyfs/device_server.h"
#include "lazyfs/image_mount.h"
#include "lazyfs/keeper.h"
#include "net/repository.h"
#include "peer-agent/layer_table.h"
#include "peer-agent/mount_table.h"
#include "proto/agent.pb.h"
#include "store/node_store.h"

namespace banyan::peer_agent {

// Internally synchronised; every call may block.
class Agent {
 public:
  struct Options {
    std::string data_root;
    std::string keeper_socket;  // empty: mounts die with the process
    uint64_t budget_bytes = 64 * kGiB;
    bool resend = true;  // use FUSE_NOTIFY_RESEND where the kernel has it
    std::chrono::milliseconds read_timeout{5 * 60 * 1000};
  };

  // Opens the store, takes over the FUSE session and restores recorded mounts. A mount that cannot be restored is
  // logged and hinders no other; no network is used. kFailedPrecondition when another agent holds the data root.
  static Result<std::unique_ptr<Agent>> Start(Options options);
  // Leaves mounts to a successor if there is a keeper.
  ~Agent();

  Result<proto::agent::MountReply> Mount(const proto::agent::MountRequest& request);
  // kNotFound when nothing of ours is mounted there; kFailedPrecondition when it is in use, no read waits, and not
  // `force`.
  Status Umount(const std::string& directory, bool force);
  proto::agent::ListReply List();
  Result<proto::agent::StatsReply> Stats(const std::string& directory);
  Result<proto::agent::ScrubReply> Scrub();

  // Unmounts what belongs to processes that have gone. To be called now and then.
  void ReapOrphans();

  size_t mount_count();
  // How long no image has been mounted and no mount was under way; zero while there is one.
  std::chrono::milliseconds idle_for();

 private:
  using SteadyTime = std::chrono::steady_clock::time_point;

  // An image's documents, in memory.
  struct Documents {
    image_format::ImageMap map;
    Digest map_digest;
    std::string metadata_path;
  };
  struct ActiveMount {
    MountRecord record;
    Digest metadata_digest;
    std::vector<std::shared_ptr<LiveLayer>> layers;  // in the order of the map
    lazyfs::MountedImage image;
  };

  explicit Agent(Options options) : options_(std::move(options)) {}

  Status Open();
  void Restore();
  Status RestoreOne(const MountRecord& record);

  Result<std::shared_ptr<net::Repository>> RepositoryFor(const net::ImageReference& reference,
                                                         const MountRecord& record);
  Result<std::string> CachedBlob(net::Repository* repository, const Digest& digest, uint64_t limit_bytes);
  Result<image_format::ImageMap> GetMap(net::Repository* repository, const Digest& digest);
  Result<std::string> GetMetadata(net::Repository* repository, const image_format::ImageMap& map);
  Result<fetch::ResolvedImage> Resolve(net::Repository& repository, const net::ImageReference& reference);
  Result<ActiveMount> MakeMount(const Documents& documents, MountRecord record, lazyfs::Form form,
                                const std::shared_ptr<net::Repository>& repository, bool restoring);
  void DropMount(ActiveMount& mount);
  Status Claim(const std::string& directory);
  void Unclaim(const std::string& directory);

  const Options options_;
  // Constant after Open(). Declared in the order of their dependence: later ones are destroyed first.
  std::unique_ptr<ThreadPool> executor_;
  std::unique_ptr<store::NodeStore> store_;
  std::unique_ptr<fetch::Scheduler> scheduler_;
  std::unique_ptr<lazyfs::KeeperClient> keeper_;
  std::unique_ptr<lazyfs::DeviceServer> devices_;
  std::unique_ptr<LayerTable> layers_;
  std::unique_ptr<MountTable> table_;

  std::mutex mutex_;
  std::map<std::string, ActiveMount> mounts_;                             // by directory; guarded by mutex_
  std::set<std::string> in_transition_;                                   // directories; guarded by mutex_
  std::map<std::string, std::shared_ptr<net::Repository>> repositories_;  // guarded by mutex_
  SteadyTime idle_since_ = std::chrono::steady_clock::now();              // guarded by mutex_
};

}  // namespace banyan::peer_agent
