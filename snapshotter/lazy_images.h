// The seam between the snapshotter and the node's lazy images: the snapshotter keeps containerd's state and asks here
// which layers need not be unpacked, and for the mounts that stand in for them. Implemented by peer-agent.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/digest.h"
#include "common/result.h"

namespace banyan::snapshotter {

// A layer that containerd is about to download, by the labels of its Prepare.
struct LayerRequest {
  std::string image_reference;            // as containerd writes it: "127.0.0.1:5000/app:1"
  std::optional<Digest> manifest_digest;  // of the platform's manifest; absent: the reference is to be resolved
  Digest chain_id;                        // of the chain up to and with this layer
};

// The lowest `layers` layers of a converted image, as one file system. A value; kept in the snapshot's record, so that
// everything a mount needs is known after a restart without a network.
struct LazyChain {
  std::string image_reference;
  Digest manifest_digest;  // of the original image
  Digest artifact_digest;
  Digest map_digest;
  Digest chain_id;
  uint32_t layers = 0;        // 1 … image_layers
  uint32_t image_layers = 0;  // of the whole image
  friend bool operator==(const LazyChain&, const LazyChain&) = default;
};

struct Usage {
  uint64_t bytes = 0;
  uint64_t inodes = 0;
  friend bool operator==(const Usage&, const Usage&) = default;
};

// Internally synchronised; every call may block, but on a network only where said.
class LazyImages {
 public:
  virtual ~LazyImages() = default;

  // The chain that serves this layer; nullopt when containerd shall unpack the layer itself: the image is not
  // converted, or it cannot be found out within a short time. Asks the registry at most once for each image (answers
  // are remembered; "not converted" for some seconds only).
  virtual std::optional<LazyChain> Find(const LayerRequest& request) = 0;

  // Begins to make the mount, without waiting: a container will want it soon. Errors are logged; Mount() then tries
  // again.
  virtual void Warm(const LazyChain& chain, const std::string& directory) = 0;
  // Mounts the chain at `directory` (absolute; exists) unless it is mounted there, and returns the directories that
  // stand for it in an overlay, the topmost first; `directory` is the first of them. May wait for the network for map
  // and metadata when they are not on the node. Concurrent calls for one directory join.
  virtual Result<std::vector<std::string>> Mount(const LazyChain& chain, const std::string& directory) = 0;
  // Unmounts, also when reads of it hang (they fail first); returns within 5 s. Not mounted: no error.
  virtual Status Unmount(const std::string& directory) = 0;

  // What the chain's topmost layer alone occupies on this node now.
  virtual Usage UsageOf(const LazyChain& chain) = 0;
};

}  // namespace banyan::snapshotter
