// Any text is a document or an error; what was accepted comes back the same after writing.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "image-format/artifact.h"
#include "image-format/oci.h"

using namespace banyan;                // NOLINT
using namespace banyan::image_format;  // NOLINT

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto manifest = ParseManifest(text)) {
    const std::string written = WriteManifest(*manifest);
    const auto again = ParseManifest(written);
    if (!again || WriteManifest(*again) != written) std::abort();
  }
  if (const auto index = ParseIndex(text)) {
    (void)ChoosePlatform(*index);
    const auto again = ParseIndex(WriteIndex(*index));
    if (!again || again->manifests != index->manifests) std::abort();
  }
  if (const auto descriptor = ParseDescriptor(text)) {
    const auto again = ParseDescriptor(WriteDescriptor(*descriptor));
    if (!again || *again != *descriptor) std::abort();
  }
  (void)ParseImageConfig(text);
  (void)DetectMediaType(text);
  if (const auto artifact = ParseArtifact(text)) {
    const auto again = ParseArtifact(WriteArtifact(*artifact));
    if (!again || again->layers != artifact->layers) std::abort();
  }
  return 0;
}
