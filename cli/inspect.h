// `banyan inspect`: what a converted image is made of, and what it shares.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "cli/loaded_image.h"
#include "common/digest.h"
#include "common/result.h"

namespace banyan::cli {

// Chunks that something else has as well, by their decompressed contents.
struct Sharing {
  uint64_t chunks = 0;
  uint64_t device_bytes = 0;
  uint64_t blob_bytes = 0;  // what a node that has the other need not fetch
};

struct LayerFacts {
  Digest blob_digest;
  Digest diff_id;
  uint64_t device_bytes = 0;
  uint64_t blob_bytes = 0;
  uint64_t index_bytes = 0;
  uint64_t chunks = 0;
  uint64_t entries = 0;
  Sharing with_lower;                 // with layers below it, and within itself
  std::optional<Sharing> with_other;  // with the other image
};

struct ImageFacts {
  Digest manifest_digest;
  Digest artifact_digest;
  std::string repository;
  std::string converter_version;
  bool tagged = false;  // an image of its own
  Digest chain_id;
  uint64_t inodes = 0;
  uint64_t map_bytes = 0;
  uint64_t metadata_bytes = 0;       // decompressed
  uint64_t metadata_blob_bytes = 0;  // as fetched
  std::vector<LayerFacts> layers;    // bottom first
};

using ChunkSet = std::unordered_set<Digest>;

// The chunks of `table` that `known` has; adds its own to `known` as it goes, if `add`.
Sharing CountShared(const image_format::ChunkTable& table, ChunkSet& known, bool add);

// `against`: another converted image, or empty.
Result<ImageFacts> InspectImage(const GlobalOptions& globals, const std::string& reference, const std::string& against,
                                const std::string& platform);

}  // namespace banyan::cli
