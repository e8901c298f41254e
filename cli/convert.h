// `banyan convert`: an OCI image in, a Banyan artifact beside it (or elsewhere) out.
//
// The rule that makes it safe to kill at any moment: everything a manifest names is in the destination before the
// manifest is, and the artifact's manifest goes last. Whatever is left by a run that did not end is blobs that nothing
// names, and files in a spool directory that the next command removes.
//
// Layers are converted one after another, on all cores, while the one before is uploaded; so memory holds one layer's
// chunks in flight and the indexes, and the spool two or three layers' data.
#pragma once

#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>

#include "cli/command.h"
#include "cli/progress.h"
#include "common/result.h"
#include "image-format/layer_converter.h"
#include "image-format/oci.h"

namespace banyan::cli {

struct ConvertCommandOptions {
  std::string source;
  std::string destination;  // empty: the source's repository
  std::string tag;          // not empty: push as an image of its own under this tag
  std::string platform;     // "os/architecture[/variant]"; empty: linux and this machine's
  int level = 3;
  uint32_t jobs = 0;  // 0: one a hardware thread
  bool force = false;
  // Limits of one layer, see image_format::ConvertOptions.
  uint64_t max_layer_bytes = image_format::ConvertOptions{}.max_device_bytes;
  uint64_t max_entries = image_format::ConvertOptions{}.max_entries;
  uint64_t max_ratio = image_format::ConvertOptions{}.max_ratio;
  uint64_t max_ratio_free_bytes = image_format::ConvertOptions{}.max_ratio_free_bytes;
};

struct ConvertReport {
  Digest manifest_digest;  // of the original
  Digest artifact_digest;
  std::string destination;         // the repository that holds the artifact
  bool already_converted = false;  // nothing was done; the counts below are 0
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

// Linux on this machine's architecture.
image_format::Platform HostPlatform();

// Blocks. kCancelled when stopped.
Result<ConvertReport> ConvertImage(const ConvertCommandOptions& options, const GlobalOptions& globals,
                                   const std::string& spool_directory, Progress& progress, std::stop_token stop);

}  // namespace banyan::cli
