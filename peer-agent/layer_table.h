// The layers that mounts use now: one LazyLayer and at most one device file for each, however many images share it.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "common/result.h"
#include "fetch/scheduler.h"
#include "fetch/timer.h"
#include "image-format/image_map.h"
#include "lazyfs/device_server.h"
#include "peer-agent/registries.h"
#include "peer-agent/swarms.h"
#include "store/node_store.h"

namespace banyan::peer_agent {

class Peers;

// Shared by the mounts that use the layer; the last one's release takes the device file away.
struct LiveLayer {
  std::shared_ptr<store::StoredLayer> stored;
  std::shared_ptr<fetch::LazyLayer> lazy;
  std::shared_ptr<void> hold;  // against eviction of the whole device
  std::shared_ptr<void> pin;   // set once the layer is mounted from its own file
};

// Internally synchronised.
class LayerTable {
 public:
  // All borrowed; they outlive the table. `peers` may be null: chunks come from the origins alone; `swarms` too:
  // nothing travels by swarm.
  LayerTable(store::NodeStore& store, fetch::Scheduler& scheduler, fetch::Timer& timer, lazyfs::DeviceServer& devices,
             Peers* peers, Swarms* swarms = nullptr)
      : store_(store), scheduler_(scheduler), timer_(timer), devices_(devices), peers_(peers), swarms_(swarms) {}

  // The live layer of `device`, made if nothing uses it yet; missing chunks come from the first of `origins` that has
  // them. A layer that is live already keeps the origins it was made with; `whole` holds for it as well.
  Result<std::shared_ptr<LiveLayer>> Acquire(const image_format::Device& device, const Origins& origins, Whole whole);

  // Where a mount finds the layer's data: its own file, pinned, if it is complete (`prefer_local`), else a FUSE device.
  struct Path {
    std::string path;
    bool local = false;
  };
  Result<Path> PathOf(const std::shared_ptr<LiveLayer>& layer, bool prefer_local);

  // Gives one Acquire() back. The last one removes the device file, failing whatever still reads through it.
  void Release(std::shared_ptr<LiveLayer> layer);

  // Whether this layer is used once only.
  bool IsSole(const LiveLayer& layer);
  // Whether anything uses the layer with this data blob.
  bool InUse(const Digest& blob_digest);

 private:
  struct Slot {
    std::shared_ptr<LiveLayer> layer;
    size_t users = 0;
    bool exposed = false;  // as a FUSE device
  };

  store::NodeStore& store_;
  fetch::Scheduler& scheduler_;
  fetch::Timer& timer_;
  lazyfs::DeviceServer& devices_;
  Peers* const peers_;
  Swarms* const swarms_;
  std::mutex mutex_;
  std::map<Digest, Slot> slots_;  // by data blob; guarded by mutex_
};

}  // namespace banyan::peer_agent
