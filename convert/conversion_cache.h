// What this machine has converted before, so that a layer that another image shares is not converted again.
//
// The cache remembers, for a source layer and everything that decides the result (converter version, level, chunking),
// which data blob came out and keeps a copy of the layer index and of the torrent. It does not keep the data blob: a
// record only helps where the destination still has the blob, which the caller must ask it.
//
//   <root>/conversions/<key>        JSON: what was converted, into what
//   <root>/conversions/<key>.index  the layer index blob
//   <root>/conversions/<key>.torrent  the data blob's torrent, if it is not empty
//
// All are replaced atomically, the record last; whatever is damaged counts as absent.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "common/digest.h"
#include "common/result.h"
#include "image-format/layer_index.h"
#include "image-format/torrent.h"

namespace banyan::convert {

// Everything that decides the bytes of a conversion.
struct ConversionKey {
  Digest source_digest;
  std::string converter_version;
  int level = 3;
  image_format::Chunking chunking;

  // File name: hex digest over all fields.
  std::string Hex() const;
};

struct ConvertedLayer {
  Digest diff_id;
  Digest blob_digest;
  uint64_t blob_bytes = 0;
  std::string index_blob;                        // the layer index as it is stored
  std::optional<image_format::Torrent> torrent;  // none: the blob is empty, or beyond what a torrent can have
};

// Internally synchronised, also between processes.
class ConversionCache {
 public:
  explicit ConversionCache(std::string data_root) : directory_(std::move(data_root) + "/conversions") {}

  // Nothing: never converted with this key, or the record is damaged.
  std::optional<ConvertedLayer> Find(const ConversionKey& key) const;
  // Remembers a conversion. An index beyond 64 MiB is left out: checking it would cost about what it saves.
  Status Put(const ConversionKey& key, const ConvertedLayer& layer);

 private:
  std::string RecordPath(const ConversionKey& key) const { return directory_ + "/" + key.Hex(); }

  const std::string directory_;
};

}  // namespace banyan::convert
