// Blob uploads under way (OCI distribution 1.1 §"Pushing blobs"): a file each, hashed while it grows.
//
// An upload lives in memory: after a restart its client is told that it is unknown, and begins again. A blob gets its
// name only when all bytes are here and have the digest that the client says (ContentStore::TakeFile), so half a blob
// is never served. One request at a time may write to an upload.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "common/digest.h"
#include "common/result.h"
#include "common/unique_fd.h"
#include "mirror/workers.h"
#include "net/http_server.h"
#include "registry-proxy/content_store.h"

namespace banyan::registry_proxy {

// One upload. While a request writes to it (Uploads::Begin to UploadBody's end) it is that request's; otherwise the
// state does not change.
struct Upload {
  std::string id;
  std::string repository;
  std::string path;
  UniqueFd fd;
  Sha256 hash;
  uint64_t bytes = 0;
  Status status;                               // of the last write
  bool busy = false;                           // guarded by Uploads' mutex
  std::chrono::steady_clock::time_point used;  // guarded by Uploads' mutex
};

// Internally synchronised.
class Uploads {
 public:
  static constexpr size_t kMaxUploads = 1024;
  static constexpr std::chrono::hours kIdle{1};

  Uploads(ContentStore& store, mirror::Workers& workers) : store_(store), workers_(workers) {}

  // kResourceExhausted when there are too many.
  Result<std::shared_ptr<Upload>> New(const std::string& repository);
  // kNotFound: no such upload of the repository. kAborted: a request is writing to it. Otherwise it is the caller's
  // until End() or Drop().
  Result<std::shared_ptr<Upload>> Begin(const std::string& repository, const std::string& id);
  void End(const std::shared_ptr<Upload>& upload);
  // Removes it and its file.
  void Drop(const std::shared_ptr<Upload>& upload);
  // How many bytes are here; kNotFound, kAborted.
  Result<uint64_t> Size(const std::string& repository, const std::string& id);
  // Makes it a blob of its repository; whatever the result, the upload is gone. kInvalidArgument: another digest.
  // Blocks.
  Status Commit(const std::shared_ptr<Upload>& upload, const Digest& digest);

  mirror::Workers& workers() { return workers_; }
  size_t size() const;

 private:
  void DropIdle();

  ContentStore& store_;
  mirror::Workers& workers_;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Upload>> uploads_;  // guarded by mutex_
};

// A request's body on its way into an upload, or to nowhere when the request is to be refused. On the workers' threads,
// one piece at a time.
class UploadBody final : public net::HttpBody, public std::enable_shared_from_this<UploadBody> {
 public:
  UploadBody(Uploads& uploads, std::shared_ptr<Upload> upload) : uploads_(uploads), upload_(std::move(upload)) {}
  // Swallows the body; the handler will answer `refusal`.
  UploadBody(Uploads& uploads, net::HttpResponse refusal) : uploads_(uploads), refusal_(std::move(refusal)) {}
  ~UploadBody() override;

  void OnData(std::string bytes, std::function<void()> resume) override;
  // What came before a cut stays: the client may go on from there. The destructor ends the request's use of the upload,
  // when the last write is done.
  void OnEnd(bool) override {}

  // After the end. The upload is the taker's then.
  std::shared_ptr<Upload> TakeUpload() { return std::exchange(upload_, nullptr); }
  const std::optional<net::HttpResponse>& refusal() const { return refusal_; }

 private:
  static void Write(Upload& upload, const std::string& bytes);

  Uploads& uploads_;
  std::shared_ptr<Upload> upload_;
  std::optional<net::HttpResponse> refusal_;
};

}  // namespace banyan::registry_proxy
