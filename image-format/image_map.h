// The image map: everything a node needs, besides the EROFS metadata, to mount an image and to fetch and check its
// chunks. docs/format.md §"Image map".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/byte_stream.h"
#include "common/digest.h"
#include "common/result.h"
#include "image-format/chunk_table.h"

namespace banyan::image_format {

inline constexpr std::string_view kImageMapMediaType = "application/vnd.banyan.image.map.v1+zstd";
inline constexpr std::string_view kImageMetadataMediaType = "application/vnd.banyan.image.metadata.v1+zstd";
inline constexpr std::string_view kImageArtifactType = "application/vnd.banyan.image.v1";

// One layer's data, as an image uses it. Immutable; shared between the store, the fetch path and the file system as
// std::shared_ptr<const Device>, because each of them may outlive the mount that brought it.
struct Device {
  Digest blob_digest;
  uint64_t blob_bytes = 0;
  Digest diff_id;
  Digest index_digest;
  uint64_t index_bytes = 0;
  uint32_t first_block = 0;  // in the image's unified block space
  uint32_t blocks = 0;
  ChunkTable chunks;

  uint64_t device_bytes() const { return uint64_t{blocks} * kBlockBytes; }
};

struct ImageMap {
  std::string converter_version;
  Digest chain_id;
  Digest metadata_digest;  // decompressed
  uint64_t metadata_bytes = 0;
  Digest metadata_blob_digest;  // as fetched
  uint64_t metadata_blob_bytes = 0;
  std::vector<Device> devices;  // bottom layer first, in the order of the EROFS device table
};

// Writes the map as the blob that is stored (zstd). The same map gives the same bytes.
Status EncodeImageMap(const ImageMap& map, ByteSink& out);
// Any bytes give a map or an error. Checks framing, limits, chunk tables against lengths, and that devices lie one
// behind the other in the block space without overlap, behind the metadata.
Result<ImageMap> DecodeImageMap(ByteSource& in);

}  // namespace banyan::image_format
