// Repository on an OCI image layout directory (image specification 1.1, "image-layout"): oci-layout, index.json,
// blobs/sha256/<hex>.
//
// Writes are a temporary file and a rename; index.json is replaced under a lock file, so that several processes may
// write. Tags are the org.opencontainers.image.ref.name annotations of index.json. Referrers are the manifests listed
// there whose subject matches: the layout has no other place for them.
#pragma once

#include <memory>
#include <string>

#include "common/result.h"
#include "net/repository.h"

namespace banyan::net {

// kNotFound when `directory` is no layout, unless `create`.
Result<std::unique_ptr<Repository>> OpenOciLayoutRepository(const std::string& directory, bool create);

}  // namespace banyan::net
