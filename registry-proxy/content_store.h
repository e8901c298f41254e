// Content that the proxy keeps for good: images that were pushed to it, and artifacts that it made.
//
//   <root>/blobs/sha256/<hex>                           blobs and manifests, whole
//   <root>/repositories/<repository>/_manifests/<hex>   media type of a manifest of the repository
//   <root>/repositories/<repository>/_blobs/<hex>       empty: the blob is of the repository
//   <root>/repositories/<repository>/_tags/<tag>        digest of a manifest
//   <root>/repositories/<repository>/_referrers/<subject hex>/<manifest hex>   descriptor (JSON)
//   <root>/incoming/                                    files on their way; emptied at Open()
//
// Kept apart from the node store, whose contents are copies that eviction may take: nothing here is ever evicted. A
// file gets its name when it is whole, checked and on stable storage, and what names it is written after it; so a crash
// at any moment leaves at most blobs that nothing names, which CollectGarbage() removes.
//
// A repository here is a path of our own making: "own/<name>" or "upstream/<registry>/<name>".
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <vector>

#include "common/digest.h"
#include "common/result.h"
#include "common/unique_fd.h"
#include "net/repository.h"

namespace banyan::registry_proxy {

// Internally synchronised. Blocking calls do local disk I/O only.
class ContentStore {
 public:
  static Result<std::unique_ptr<ContentStore>> Open(const std::string& root);

  struct OpenedFile {
    UniqueFd fd;
    uint64_t bytes = 0;
  };
  bool HasBlob(const Digest& digest) const;
  // kNotFound when absent.
  Result<OpenedFile> OpenBlob(const Digest& digest) const;
  // kDataLoss when `bytes` are not the digest's.
  Status PutBlob(const Digest& digest, std::string_view bytes);
  // Moves a file of NewPath() in. The caller has checked its digest.
  Status TakeFile(const Digest& digest, const std::string& path);
  // A name for a file that does not exist yet.
  std::string NewPath();

  bool HasRepository(const std::string& repository) const;
  bool HasBlobIn(const std::string& repository, const Digest& digest) const;
  Status LinkBlob(const std::string& repository, const Digest& digest);
  // kNotFound when it is not of the repository.
  Status UnlinkBlob(const std::string& repository, const Digest& digest);

  // `reference` is a tag or a digest's text.
  Result<net::RawManifest> GetManifest(const std::string& repository, const std::string& reference) const;
  bool HasManifest(const std::string& repository, const Digest& digest) const;
  // Makes it known to the referrers of its subject, and points `tag` (may be empty) to it. The blobs that it names are
  // the caller's affair. kInvalidArgument for what is neither a manifest nor an index.
  Result<Digest> PutManifest(const std::string& repository, const std::string& tag, std::string_view media_type,
                             std::string_view body);
  // With its tags. kNotFound.
  Status DeleteManifest(const std::string& repository, const Digest& digest);
  Status DeleteTag(const std::string& repository, const std::string& tag);
  // Sorted.
  std::vector<std::string> Tags(const std::string& repository) const;
  // Descriptors, as text.
  std::vector<std::string> Referrers(const std::string& repository, const Digest& subject) const;

  // Removes blobs that no repository names and that nobody has put for `min_age`; returns the bytes. Walks everything.
  Result<uint64_t> CollectGarbage(std::chrono::seconds min_age);
  // Of all blobs; counted at Open() and kept since.
  uint64_t used_bytes() const { return used_bytes_.load(std::memory_order_relaxed); }

 private:
  explicit ContentStore(std::string root) : root_(std::move(root)) {}
  std::string BlobPath(const Digest& digest) const { return root_ + "/blobs/sha256/" + digest.Hex(); }
  std::string Directory(const std::string& repository) const { return root_ + "/repositories/" + repository; }
  Result<Digest> Resolve(const std::string& repository, const std::string& reference) const;

  const std::string root_;
  // Shared while content and its names are written, alone while garbage is collected.
  mutable std::shared_mutex collecting_;
  std::atomic<uint64_t> next_path_{0};
  std::atomic<uint64_t> used_bytes_{0};
};

// What a manifest or an index says of the content that it needs, read leniently enough for any OCI artifact.
struct ManifestLinks {
  std::vector<Digest> blobs;
  std::vector<Digest> manifests;
  std::optional<Digest> subject;
  std::string referrer;  // if it has a subject: its descriptor, as the referrers API lists it
};
Result<ManifestLinks> ReadManifestLinks(std::string_view media_type, std::string_view body);

}  // namespace banyan::registry_proxy
