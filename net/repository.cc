#include "net/repository.h"

#include "net/oci_layout_repository.h"
#include "net/registry_repository.h"

namespace banyan::net {

Result<std::unique_ptr<Repository>> OpenRepository(const ImageReference& reference, const RepositoryOptions& options,
                                                   bool create) {
  if (reference.transport == ImageReference::Transport::kDocker) return OpenRegistryRepository(reference, options);
  return OpenOciLayoutRepository(reference.repository, create);
}

}  // namespace banyan::net
