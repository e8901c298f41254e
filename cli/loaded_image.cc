#include "cli/loaded_image.h"

#include <algorithm>

#include <fmt/format.h>

#include "cli/convert.h"
#include "common/units.h"
#include "image-format/artifact.h"
#include "image-format/image_builder.h"

namespace banyan::cli {
namespace {

// What is believed of a size that an artifact claims; beyond, the blob is refused unread.
constexpr uint64_t kMaxDocumentBytes = 4 * kGiB;

Result<std::string> GetDocument(const LoadedImage& image, const Digest& digest, uint64_t bytes, std::string_view what) {
  auto blob = image.repository().GetBlob(digest, std::min(bytes, kMaxDocumentBytes));
  if (!blob) return Fail(blob.error().WithContext(what));
  return std::move(*blob);
}

// What a parser calls an invalid argument is, to the user, an image that is no good.
template <typename T>
Result<T> AsBadContent(Result<T> result) {
  if (!result && result.error().code == Code::kInvalidArgument) result.error().code = Code::kDataLoss;
  return result;
}

}  // namespace

Result<LoadedImage> LoadImageMap(const GlobalOptions& globals, const std::string& reference,
                                 const std::string& platform) {
  image_format::Platform wanted = HostPlatform();
  if (!platform.empty()) {
    BANYAN_ASSIGN(wanted, image_format::ParsePlatform(platform));
  }
  LoadedImage image;
  BANYAN_ASSIGN(image.opened, OpenImage(globals, reference));
  BANYAN_ASSIGN(image.resolved, fetch::ResolveConvertedImage(image.repository(), image.opened.selector(), wanted));
  const image_format::Artifact& artifact = image.artifact();
  BANYAN_ASSIGN(const std::string blob, GetDocument(image, artifact.map_digest, artifact.map_bytes, "image map"));
  image.map_bytes = blob.size();
  MemorySource source(std::as_bytes(std::span(blob)));
  BANYAN_ASSIGN(image.map, AsBadContent(image_format::DecodeImageMap(source)));
  BANYAN_TRY(image_format::CheckArtifactAgainstMap(artifact, image.map));
  return image;
}

Result<LoadedImage> LoadImage(const GlobalOptions& globals, const std::string& reference, const std::string& platform) {
  BANYAN_ASSIGN(LoadedImage image, LoadImageMap(globals, reference, platform));
  BANYAN_ASSIGN(const std::string blob,
                GetDocument(image, image.map.metadata_blob_digest, image.map.metadata_blob_bytes, "metadata"));
  BANYAN_ASSIGN(image.metadata, AsBadContent(image_format::DecodeMetadata(image.map, std::as_bytes(std::span(blob)))));
  BANYAN_TRY(AsBadContent(image_format::CheckMapAgainstMetadata(image.map, image.metadata)));
  return image;
}

Result<image_format::LayerIndex> LoadLayerIndex(const LoadedImage& image, const image_format::Device& device) {
  BANYAN_ASSIGN(const std::string blob, GetDocument(image, device.index_digest, device.index_bytes, "layer index"));
  MemorySource source(std::as_bytes(std::span(blob)));
  auto index = AsBadContent(image_format::DecodeLayerIndex(source));
  if (!index) return Fail(index.error().WithContext("layer index " + device.index_digest.ToString()));
  return std::move(*index);
}

}  // namespace banyan::cli
