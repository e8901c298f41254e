// The documents of an image that a mount needs, on this node's disk: the image map and the EROFS metadata, each checked
// against its digest whenever it is used, and mended (fetched again) when it is damaged or gone.
//
//   <data-root>/metadata/<digest of the map blob>.map
//   <data-root>/metadata/<digest of the metadata>.erofs
//
// Files of their own, because the node store may evict small blobs and a restart must not need the network. What no
// mount uses is removed at the start of the agent. Documents of a part of a chain (an unconverted layer lies above it)
// are made here, out of the layer indexes, by the same code that made the image's.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "common/digest.h"
#include "common/result.h"
#include "image-format/image_map.h"
#include "peer-agent/registries.h"
#include "store/node_store.h"

namespace banyan::peer_agent {

struct ImageDocuments {
  image_format::ImageMap map;
  Digest map_digest;
  std::string metadata_path;
};

// Internally synchronised; calls do disk I/O, and with origins also wait for the network.
class Documents {
 public:
  // Another place to get a small blob from, before the origins; kNotFound: not there.
  using GetFirst = std::function<Result<std::string>(const Digest& digest, uint64_t limit_bytes)>;

  // Makes the directory. `store` is borrowed; `get_first` may be null.
  static Result<std::unique_ptr<Documents>> Open(std::string data_root, store::NodeStore& store,
                                                 GetFirst get_first = nullptr);

  // A small blob: from the store, else from the first origin that has it (none: kNotFound), and then in the store.
  Result<std::string> Blob(const Origins& origins, const Digest& digest, uint64_t limit_bytes);

  // What is no good is kDataLoss. Without origins: from this node alone.
  Result<image_format::ImageMap> Map(const Origins& origins, const Digest& digest);
  // The path of the metadata, checked against the map.
  Result<std::string> Metadata(const Origins& origins, const image_format::ImageMap& map);
  // Map and metadata of the lowest `layers` (≥ 1) of the image; of all of them: the image's own. With `lower_layers`
  // (fewer) only what the layers above those change, to be stacked on a mount of those.
  Result<ImageDocuments> Prefix(const Origins& origins, const Digest& map_digest, uint32_t layers,
                                uint32_t lower_layers = 0);

  // Removes the documents of all other maps.
  void KeepOnly(const std::set<Digest>& map_digests, const std::set<Digest>& metadata_digests);

 private:
  Documents(std::string directory, store::NodeStore& store, GetFirst get_first)
      : directory_(std::move(directory)), store_(store), get_first_(std::move(get_first)) {}
  std::string MapPath(const Digest& digest) const;
  std::string MetadataPath(const Digest& digest) const;
  Result<ImageDocuments> Build(const Origins& origins, const image_format::ImageMap& map, uint32_t layers,
                               uint32_t lower_layers);

  const std::string directory_;
  store::NodeStore& store_;
  const GetFirst get_first_;
  std::mutex mutex_;
  // (map, layers, lower layers) → the map that was made; guarded by mutex_
  std::map<std::tuple<Digest, uint32_t, uint32_t>, Digest> built_;
};

}  // namespace banyan::peer_agent
