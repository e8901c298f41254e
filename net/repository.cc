#include "net/repository.h"

#include "net/oci_layout_repository.h"
#include "net/registry_repository.h"

namespace banyan::net {

namespace {

tl::unexpected<Error> Lacks(const Repository& repository, std::string_view what) {
  return Fail(Code::kUnimplemented, repository.name() + ": " + std::string(what) + " is not offered");
}

}  // namespace

Result<ManifestHead> Repository::HeadManifest(const std::string&) { return Lacks(*this, "HEAD of a manifest"); }
Result<uint64_t> Repository::BlobBytes(const Digest&) { return Lacks(*this, "the size of a blob"); }
Result<OpenedBlob> Repository::OpenBlobAt(const Digest&, uint64_t) { return Lacks(*this, "a part of a blob"); }
Result<TagList> Repository::ListTags(uint32_t, const std::string&) { return Lacks(*this, "a list of tags"); }

Result<std::unique_ptr<Repository>> OpenRepository(const ImageReference& reference, const RepositoryOptions& options,
                                                   bool create) {
  if (reference.transport == ImageReference::Transport::kDocker) return OpenRegistryRepository(reference, options);
  return OpenOciLayoutRepository(reference.repository, create);
}

}  // namespace banyan::net
