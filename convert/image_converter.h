// An OCI image in, a Banyan artifact beside it (or elsewhere) out.
//
// The rule that makes it safe to kill at any moment: everything a manifest names is in the destination before the
// manifest is, and the artifact's manifest goes last. Whatever is left by a run that did not end is blobs that nothing
// names, and files in the spool directory.
//
// Layers are converted one after another, on the executor's threads, while the one before is uploaded; so memory holds
// one layer's chunks in flight and the indexes, and the spool two or three layers' data.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>

#include "common/executor.h"
#include "common/result.h"
#include "convert/conversion_cache.h"
#include "convert/layer_gate.h"
#include "image-format/layer_converter.h"
#include "image-format/oci.h"
#include "image-format/signature.h"
#include "net/repository.h"

namespace banyan::convert {

// The image to convert, resolved to one platform's manifest. Borrows the repository.
struct ConvertSource {
  net::Repository& repository;
  image_format::Descriptor descriptor;  // of the manifest
  image_format::Manifest manifest;
};

// Where the result goes. Borrows the repository, which may be the source's own object: then it is the same repository.
struct ConvertTarget {
  net::Repository& repository;
  std::string tag;  // not empty: push the artifact as an image of its own under this tag
  // Copy the original as well, so that the artifact has something to be attached to: under this tag or digest. Empty:
  // no.
  std::string copy_original_as;
};

struct ConvertSettings {
  int level = 3;
  bool force = false;  // convert again what has been converted
  // Limits of one layer, see image_format::ConvertOptions.
  uint64_t max_layer_bytes = image_format::ConvertOptions{}.max_device_bytes;
  uint64_t max_entries = image_format::ConvertOptions{}.max_entries;
  uint64_t max_ratio = image_format::ConvertOptions{}.max_ratio;
  uint64_t max_ratio_free_bytes = image_format::ConvertOptions{}.max_ratio_free_bytes;
};

struct LayerStep {
  size_t number = 0;  // from 0, bottom first
  size_t count = 0;   // of the image
  Digest digest;
  uint64_t bytes = 0;  // compressed
};
enum class LayerOutcome { kConverted, kReused, kSameAsBelow, kFailed, kInterrupted };

// Told of what happens, on the converting thread. A layer that is converted has one OnLayerBegin, then OnLayerBytes,
// then OnLayerEnd; any other layer has OnLayerEnd alone.
class ConvertListener {
 public:
  virtual ~ConvertListener() = default;
  virtual void OnLayerBegin(const LayerStep&) {}
  // More compressed bytes of the layer have been read.
  virtual void OnLayerBytes(uint64_t) {}
  // `index`: what it became; null if kFailed, kInterrupted or kSameAsBelow.
  virtual void OnLayerEnd(const LayerStep&, LayerOutcome, const image_format::LayerIndex* index) { (void)index; }
};

// What a conversion works with; all borrowed. Several conversions may share all but the spool directory and the
// listener.
struct ConvertTools {
  std::string spool_directory;
  ConversionCache& cache;
  Executor& executor;
  LayerGate* gate = nullptr;                      // if others convert at the same time
  ConvertListener* listener = nullptr;            // may be null
  const image_format::SigningKey* key = nullptr;  // signs the artifact, unless it is a tagged one
  std::function<int64_t()> unix_seconds;          // of signatures; empty: the system's clock
};

struct ConvertReport {
  Digest manifest_digest;  // of the original
  Digest artifact_digest;
  std::string destination;         // the repository that holds the artifact
  bool already_converted = false;  // the caller's: nothing was done; the counts below are 0
  uint32_t layers = 0;
  uint32_t layers_converted = 0;  // the rest were here already
  uint64_t source_bytes = 0;      // compressed layers, as the original has them
  uint64_t device_bytes = 0;      // data devices: the layers' contents, uncompressed
  uint64_t blob_bytes = 0;        // data blobs
  uint64_t index_bytes = 0;
  uint64_t map_bytes = 0;
  uint64_t metadata_bytes = 0;  // as stored
  uint64_t chunks = 0;
  uint64_t shared_chunks = 0;  // of them, those that an earlier chunk of the image equals
};

// Blocks. kCancelled when stopped.
Result<ConvertReport> ConvertImage(const ConvertSource& source, const ConvertTarget& target,
                                   const ConvertSettings& settings, const ConvertTools& tools, std::stop_token stop);

// Copies the image itself, as ConvertTarget::copy_original_as says. Blocks.
Status CopyImage(const ConvertSource& source, const ConvertTarget& target, const std::string& spool_directory,
                 std::stop_token stop);

}  // namespace banyan::convert
