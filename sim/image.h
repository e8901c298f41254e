// What is fetched: the chunks of an image, which stripe each belongs to, and which of them a start reads. All functions
// of a scenario have images of this shape. Immutable.
#pragma once

#include <vector>

#include "image-format/chunk_table.h"
#include "sim/scenario.h"

namespace banyan::sim {

struct Image {
  image_format::ChunkTable table;  // map and metadata first
  std::vector<uint8_t> stripe_of;
  ChunkIndex metadata_chunks = 0;
  std::vector<ChunkIndex> start;  // what every start reads, in order
  std::vector<bool> in_start;

  uint64_t bytes() const { return table.blob_bytes(); }
};

Image MakeImage(const Scenario& scenario);

// The read number `read` of a node's start: of the image's start, or one of its own that no profile knows.
ChunkIndex ReadOf(const Image& image, const Scenario& scenario, uint32_t node, uint32_t function, uint32_t read);

}  // namespace banyan::sim
