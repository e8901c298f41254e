// An image out of its layers' indexes: merged tree, EROFS metadata, image map, and both as the blobs that are stored.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/digest.h"
#include "common/result.h"
#include "image-format/image_map.h"
#include "image-format/layer_index.h"

namespace banyan::image_format {

// A layer's index, and the index as a blob.
struct LayerInput {
  const LayerIndex* index = nullptr;
  Digest index_digest;
  uint64_t index_bytes = 0;
};

struct BuiltImage {
  ImageMap map;
  std::vector<std::byte> metadata;       // EROFS; its digest is map.metadata_digest
  std::vector<std::byte> metadata_blob;  // zstd; its digest is map.metadata_blob_digest
  std::vector<std::byte> map_blob;
  Digest map_digest;  // of map_blob
};

struct BuildOptions {
  // More than 0: only what the layers above the lowest `lower_layers` change, to be stacked on a mount of those
  // (MergeOptions). The map lists the devices of the whole chain all the same: a new link to a file of the lower part
  // has its contents there.
  uint32_t lower_layers = 0;
  int metadata_level = 9;  // zstd's, of the metadata blob: compressed once, fetched at every first start
};

// `layers` bottom first. The same layers, version and options give the same bytes. Errors are those of MergeLayers and
// WriteErofs.
Result<BuiltImage> BuildImage(std::span<const LayerInput> layers, std::string_view converter_version,
                              const BuildOptions& options = {});

// The metadata blob, decompressed and checked against the map's length and digest (kDataLoss). Allocates
// map.metadata_bytes, which a decoded map bounds.
Result<std::vector<std::byte>> DecodeMetadata(const ImageMap& map, std::span<const std::byte> blob);

// Whether metadata and map agree: the same devices, in the same order, with the same starts and lengths. Swapped
// devices would mount and read wrong files, so check before every mount. kDataLoss.
Status CheckMapAgainstMetadata(const ImageMap& map, std::span<const std::byte> metadata);

}  // namespace banyan::image_format
