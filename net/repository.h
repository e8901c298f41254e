// One repository of OCI content: a name on a registry (docker://host/name), or an OCI image layout on disk (oci:dir).
//
// Blocking calls are for the control path (manifests, uploads, whole blobs in conversion); FetchRange is the data path
// and is asynchronous. OCI distribution specification 1.1 and OCI image layout 1.0.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/byte_stream.h"
#include "common/digest.h"
#include "common/result.h"
#include "common/units.h"

namespace banyan::net {

// An image reference as skopeo writes them.
//   docker://[host[:port]/]name[:tag][@digest]   default host docker.io, default tag latest
//   oci:directory[:tag]
struct ImageReference {
  enum class Transport { kDocker, kOci };
  Transport transport = Transport::kDocker;
  std::string host;        // kDocker
  std::string repository;  // kDocker: the name; kOci: the directory
  std::string tag;         // may be empty when `digest` is given; kOci: may be empty when the layout holds one image
  std::optional<Digest> digest;

  static Result<ImageReference> Parse(std::string_view text);
  std::string ToString() const;
};

struct RawManifest {
  std::string media_type;
  Digest digest;  // of `body`, checked
  std::string body;
};

// What a HEAD of a manifest tells; the registry's word, not checked.
struct ManifestHead {
  std::string media_type;  // may be empty
  Digest digest;
};

struct OpenedBlob {
  std::unique_ptr<ByteSource> source;
  std::optional<uint64_t> blob_bytes;  // of the whole blob, when the other side tells
};

struct TagList {
  std::vector<std::string> tags;
  bool more = false;  // there are more than were asked for
};

// Internally synchronised.
class Repository {
 public:
  virtual ~Repository() = default;

  // Ends what is under way, and all later calls, with kCancelled: for an owner that goes while others still use it.
  // Does nothing by default.
  virtual void Shutdown() {}

  // The rest of this group is what a mirror of the repository needs; kUnimplemented by default.
  // kNotFound as GetManifest(). kUnimplemented also when the registry does not tell the digest.
  virtual Result<ManifestHead> HeadManifest(const std::string& reference);
  // kNotFound when the registry has no such blob.
  virtual Result<uint64_t> BlobBytes(const Digest& digest);
  // As OpenBlob(), from `offset` on. kOutOfRange when the blob ends there or before.
  virtual Result<OpenedBlob> OpenBlobAt(const Digest& digest, uint64_t offset);
  // One page: at most `n` tags (0: as many as the registry gives) after `last` (empty: from the start).
  virtual Result<TagList> ListTags(uint32_t n, const std::string& last);

  // `reference` is a tag or a digest's text. kNotFound when the registry has none; the message names the whole
  // reference.
  virtual Result<RawManifest> GetManifest(const std::string& reference) = 0;
  // Returns the manifest's digest. With a `subject` in the body, registries without a referrers API get the fallback
  // tag (sha256-<hex> index, OCI 1.1 §"Referrers tag schema") updated as well.
  virtual Result<Digest> PutManifest(const std::string& reference, std::string_view media_type,
                                     std::string_view body) = 0;
  // The descriptors (JSON objects, as text) of the manifests whose subject is `subject`, filtered by artifact type if
  // that is not empty; from the referrers API, else from the fallback tag. No referrers: empty.
  virtual Result<std::vector<std::string>> Referrers(const Digest& subject, std::string_view artifact_type) = 0;

  virtual Result<bool> HasBlob(const Digest& digest) = 0;
  // A small blob, whole and checked; kResourceExhausted beyond `limit_bytes`.
  virtual Result<std::string> GetBlob(const Digest& digest, uint64_t limit_bytes) = 0;
  // A blob as a stream. NOT checked: the reader hashes. Resumes by ranges when a connection is cut.
  virtual Result<std::unique_ptr<ByteSource>> OpenBlob(const Digest& digest) = 0;
  // Uploads a file's bytes as blob `digest`; no upload when the registry has it. Retries from the start.
  virtual Status PutBlobFile(const Digest& digest, const std::string& path) = 0;
  virtual Status PutBlob(const Digest& digest, std::string_view bytes) = 0;

  // Bytes of a blob. `on_data` is called in order with what arrives, `on_done` once at the end, both on one thread of
  // the repository's choosing; neither may block. Exactly range.size() bytes were given when on_done gets success. No
  // retries: the caller has other sources. After the repository's destruction began, on_done gets kCancelled.
  using OnData = std::function<void(std::span<const std::byte>)>;
  using OnDone = std::function<void(Status)>;
  // `priority` is the value of a Priority header (RFC 9218); empty: none. Returns an id for CancelRange().
  virtual uint64_t FetchRange(const Digest& digest, ByteRange range, std::string_view priority, OnData on_data,
                              OnDone on_done) = 0;
  // The request's on_done is called with kCancelled soon, unless it has been called. Unknown ids are ignored.
  virtual void CancelRange(uint64_t id) = 0;

  // "127.0.0.1:5000/app" or "oci:/path", for messages.
  virtual const std::string& name() const = 0;
};

struct RepositoryOptions {
  bool plain_http = false;       // docker: http:// (loopback hosts are tried with https first only when false)
  std::string credentials_file;  // docker-style config.json; empty: $REGISTRY_AUTH_FILE, $DOCKER_CONFIG/config.json,
                                 // ~/.docker/config.json
  std::string ca_file;           // empty: the system's
  std::string
      mirrored_registry;  // not empty: the host is a mirror, and this registry is the one meant (`ns=` on requests)
  uint32_t connect_timeout_ms = 5000;
  uint32_t stall_timeout_ms = 10000;  // a transfer that moves no byte for so long fails with kDeadlineExceeded
  uint32_t attempts = 4;  // of blocking calls, with backoff, on errors that may pass (connection, 408, 429, 5xx)
  // Not empty: used in place of the credentials file.
  std::string username;
  std::string password;
  bool anonymous = false;          // use no credentials at all
  uint32_t range_connections = 8;  // at most so many FetchRange transfers at once; the rest queue
};

// Opens the repository that `reference` names. Touches no network (docker:) but the directory must exist (oci:, unless
// `create`).
Result<std::unique_ptr<Repository>> OpenRepository(const ImageReference& reference, const RepositoryOptions& options,
                                                   bool create = false);

}  // namespace banyan::net
