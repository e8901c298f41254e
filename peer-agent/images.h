// What the node knows of images, beside mounting them: resolving a reference (and remembering the answer for when the
// registry is away), fetching an image whole, pinning it, and giving its room back.
//
//   <data-root>/resolved/<hash of the reference>.json   what it was resolved to last time
//   <data-root>/pins/<manifest digest>.json             images that stay
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/digest.h"
#include "common/result.h"
#include "fetch/image_resolver.h"
#include "fetch/scheduler.h"
#include "peer-agent/documents.h"
#include "peer-agent/layer_table.h"
#include "peer-agent/mounts.h"
#include "peer-agent/registries.h"
#include "peer-agent/trust.h"
#include "proto/agent.pb.h"
#include "store/node_store.h"

namespace banyan::peer_agent {

class Peers;
class Swarms;

// An image in its converted form.
struct KnownImage {
  std::string reference;  // as somebody gave it
  Digest manifest_digest;
  Digest artifact_digest;
  Digest map_digest;
};

// Internally synchronised; calls may block, and where origins are asked also on the network.
class Images {
 public:
  // Borrowed.
  struct Parts {
    store::NodeStore& store;
    fetch::Scheduler& scheduler;
    LayerTable& layers;
    Documents& documents;
    Registries& registries;
    Mounts& mounts;
    Trust& trust;
    Peers* peers;                        // may be null
    Swarms* swarms;                      // may be null
    std::chrono::milliseconds patience;  // of Prefetch(), without any progress
  };
  // Takes the pins up again; a damaged record is logged.
  static Result<std::unique_ptr<Images>> Open(const std::string& data_root, Parts parts);

  // Asks the origins in turn; when none can be reached, what the reference meant last time. kNotFound when the image
  // has not been converted.
  Result<fetch::ResolvedImage> Resolve(const Origins& origins, const net::ImageReference& reference);

  // Fetches what is missing of the image. `progress` is called at least once a second with what is here of how much;
  // false ends the call with kCancelled.
  Status Prefetch(const proto::agent::PrefetchRequest& request,
                  const std::function<bool(uint64_t present, uint64_t device_bytes)>& progress);

  // `name` is a reference or manifest digest of an image that `others` (what the snapshotter claims), a mount or a pin
  // has; kNotFound otherwise.
  Status Pin(const std::string& name, bool pinned, const std::vector<KnownImage>& others);
  // Frees layers that nothing uses: those of one image, or (empty name) all of the store's, and the mirror's blobs with
  // them. Images that are mounted or pinned keep theirs, and those in `claimed` unless they are asked for by name.
  Result<proto::agent::DropReply> Drop(const std::string& name, const std::vector<KnownImage>& claimed);
  // All that is known, by reference.
  proto::agent::ImagesReply List(const std::vector<KnownImage>& claimed);

  // Maps that must stay for pinned images.
  std::set<Digest> PinnedMaps();

 private:
  struct Pinned {
    KnownImage image;
    std::vector<std::shared_ptr<void>> holds;
  };

  Images(std::string data_root, Parts parts) : data_root_(std::move(data_root)), parts_(parts) {}
  Status LoadPins();
  Status HoldLayers(Pinned& pinned);
  std::string PinPath(const Digest& manifest) const;
  std::string MemoryPath(const std::string& reference) const;
  void Remember(const std::string& reference, const fetch::ResolvedImage& image);
  std::optional<KnownImage> Remembered(const std::string& path, Digest* config_digest);
  std::vector<KnownImage> Known(const std::vector<KnownImage>& claimed, bool remembered);
  uint64_t DropLayers(const image_format::ImageMap& map, const std::set<Digest>& keep);

  const std::string data_root_;
  const Parts parts_;
  std::mutex mutex_;
  std::map<Digest, Pinned> pins_;  // by manifest; guarded by mutex_
};

}  // namespace banyan::peer_agent
