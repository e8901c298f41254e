// A converted image as `inspect`, `verify` and `extract` start from it: artifact, map and metadata, fetched and
// checked.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"
#include "common/result.h"
#include "fetch/image_resolver.h"
#include "image-format/image_map.h"
#include "image-format/layer_index.h"

namespace banyan::cli {

struct LoadedImage {
  OpenedImage opened;
  fetch::ResolvedImage resolved;  // its artifact is set
  image_format::ImageMap map;
  uint64_t map_bytes = 0;           // as stored
  std::vector<std::byte> metadata;  // decompressed

  net::Repository& repository() const { return *opened.repository; }
  const image_format::Artifact& artifact() const { return *resolved.artifact; }
};

// `platform` as on the command line; empty: this machine's. Metadata that disagree with the map, or a map that
// disagrees with the artifact, are kDataLoss.
Result<LoadedImage> LoadImage(const GlobalOptions& globals, const std::string& reference, const std::string& platform);
// Artifact and map only, without metadata.
Result<LoadedImage> LoadImageMap(const GlobalOptions& globals, const std::string& reference,
                                 const std::string& platform);

// The index of a device's layer, checked against its digest.
Result<image_format::LayerIndex> LoadLayerIndex(const LoadedImage& image, const image_format::Device& device);

}  // namespace banyan::cli
