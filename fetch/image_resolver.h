// From an image reference to the Banyan artifact that stands beside it.
//
// A reference may name an index (a platform is chosen), an ordinary image (its referrers are asked for an artifact) or
// a Banyan image by its own tag. The first artifact of this format version that parses wins, newest converter first;
// one that does not parse, or that the caller does not trust, is passed over with a warning, as if it were not there.
// OCI distribution 1.1, §"Listing Referrers".
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "common/digest.h"
#include "common/result.h"
#include "image-format/artifact.h"
#include "image-format/oci.h"
#include "net/repository.h"

namespace banyan::fetch {

struct ResolvedImage {
  image_format::Descriptor descriptor;  // the platform's manifest, as to be used for a `subject`
  image_format::Manifest manifest;  // of the original image; of the artifact itself for a Banyan image by its own tag
  Digest config_digest;             // the image's configuration
  std::optional<Digest> artifact_digest;
  std::optional<image_format::Artifact> artifact;  // nullopt: the image has not been converted
};

// Whether an artifact may be used, as image_format::VerifyArtifact says; an error makes it count as absent. Not asked
// about a Banyan image that is named by its own tag. May be called on any thread; keeps the counts it wants.
using ArtifactCheck = std::function<Status(const image_format::Artifact&)>;

// Blocks: one request for the manifest (two through an index), one for the referrers, one for the artifact. An image
// without artifact is no error here; what is absent, refused or unreachable is, with the repository's message.
Result<ResolvedImage> ResolveImage(net::Repository& repository, const std::string& reference,
                                   const image_format::Platform& platform = {}, const ArtifactCheck& check = {});

// The same, for those who need the artifact: kNotFound that says how to convert the image.
Result<ResolvedImage> ResolveConvertedImage(net::Repository& repository, const std::string& reference,
                                            const image_format::Platform& platform = {},
                                            const ArtifactCheck& check = {});

}  // namespace banyan::fetch
