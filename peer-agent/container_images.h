// The node's lazy images as containerd's snapshotter sees them: finds out which layers need not be unpacked, and makes
// the mounts that stand in for them.
#pragma once

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/executor.h"
#include "peer-agent/documents.h"
#include "peer-agent/image_lookup.h"
#include "peer-agent/mounts.h"
#include "peer-agent/prefix_mounts.h"
#include "peer-agent/registries.h"
#include "peer-agent/start_log.h"
#include "peer-agent/trust.h"
#include "snapshotter/lazy_images.h"
#include "store/node_store.h"

namespace banyan::peer_agent {

// Internally synchronised.
class ContainerImages final : public snapshotter::LazyImages {
 public:
  struct Options {
    std::chrono::milliseconds lookup_timeout{3000};
    std::string form = "auto";
    bool fill = false;
    uint32_t read_ahead_kib = 1024;
    PrefixMounts::Options prefixes;
  };
  // Borrowed.
  struct Parts {
    Mounts& mounts;
    Documents& documents;
    Registries& registries;
    StartLog& starts;
    Trust& trust;
    Peers* peers;  // may be null
    store::NodeStore& store;
  };

  ContainerImages(Parts parts, Options options);
  // Waits for mounts and look-ups under way.
  ~ContainerImages() override;

  // After the mounts were restored: prefixes that nobody stands on go.
  void SweepPrefixes() { prefixes_.Sweep(); }

  void set_lookup_timeout(std::chrono::milliseconds timeout);

  std::optional<snapshotter::LazyChain> Find(const snapshotter::LayerRequest& request) override;
  void Warm(const snapshotter::LazyChain& chain, const std::string& directory) override;
  Result<std::vector<std::string>> Mount(const snapshotter::LazyChain& chain, const std::string& directory) override;
  Status Unmount(const std::string& directory) override;
  snapshotter::Usage UsageOf(const snapshotter::LazyChain& chain) override;

 private:
  struct Flight {
    std::optional<Status> ended;
    bool unwanted = false;  // Unmount() came meanwhile
    size_t waiting = 0;
  };

  Status Make(const snapshotter::LazyChain& chain, const std::string& directory);
  std::vector<std::string> Lowers(const std::string& directory);
  std::shared_ptr<store::StoredLayer> TopLayer(const snapshotter::LazyChain& chain);
  void Log(const snapshotter::LazyChain& chain, const MountRecord& record, std::chrono::steady_clock::time_point asked,
           std::chrono::steady_clock::time_point documents);

  const Parts parts_;
  const Options options_;
  ImageLookup lookup_;
  std::mutex mutex_;
  std::condition_variable ended_;
  std::chrono::milliseconds lookup_timeout_;                          // guarded by mutex_
  std::map<std::string, Flight> flights_;                             // by directory; guarded by mutex_
  std::map<Digest, std::shared_ptr<const FoundImage>> latest_finds_;  // by map, of the last minutes; guarded by mutex_
  // By map and layers; guarded by mutex_.
  std::map<std::pair<Digest, uint32_t>, std::weak_ptr<store::StoredLayer>> top_layers_;
  PrefixMounts prefixes_;
  ThreadPool warmers_;  // last: its threads use what is above
};

}  // namespace banyan::peer_agent
