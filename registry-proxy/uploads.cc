#include "registry-proxy/uploads.h"

#include <fcntl.h>
#include <unistd.h>

#include <random>
#include <utility>

#include <fmt/format.h>

#include "common/file_io.h"

namespace banyan::registry_proxy {
namespace {

std::string RandomId() {
  std::random_device random;
  std::string id;
  for (int i = 0; i < 4; ++i) id += fmt::format("{:08x}", random());
  return id;
}

}  // namespace

Result<std::shared_ptr<Upload>> Uploads::New(const std::string& repository) {
  auto upload = std::make_shared<Upload>();
  upload->id = RandomId();
  upload->repository = repository;
  upload->path = store_.NewPath();
  BANYAN_ASSIGN(upload->fd, OpenFile(upload->path, O_WRONLY | O_CREAT | O_EXCL, 0600));
  const std::lock_guard lock(mutex_);
  DropIdle();
  if (uploads_.size() >= kMaxUploads) {
    ::unlink(upload->path.c_str());
    return Fail(Code::kResourceExhausted, "too many uploads under way");
  }
  upload->busy = true;
  uploads_.emplace(upload->id, upload);
  return upload;
}

Result<std::shared_ptr<Upload>> Uploads::Begin(const std::string& repository, const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto found = uploads_.find(id);
  if (found == uploads_.end() || found->second->repository != repository) {
    return Fail(Code::kNotFound, fmt::format("no upload '{}' of {}", id, repository));
  }
  if (std::exchange(found->second->busy, true)) {
    return Fail(Code::kAborted, fmt::format("another request writes to upload '{}'", id));
  }
  return found->second;
}

void Uploads::End(const std::shared_ptr<Upload>& upload) {
  const std::lock_guard lock(mutex_);
  upload->busy = false;
  upload->used = std::chrono::steady_clock::now();
}

void Uploads::Drop(const std::shared_ptr<Upload>& upload) {
  ::unlink(upload->path.c_str());
  const std::lock_guard lock(mutex_);
  uploads_.erase(upload->id);
}

Result<uint64_t> Uploads::Size(const std::string& repository, const std::string& id) {
  BANYAN_ASSIGN(const auto upload, Begin(repository, id));
  const uint64_t bytes = upload->bytes;
  End(upload);
  return bytes;
}

Status Uploads::Commit(const std::shared_ptr<Upload>& upload, const Digest& digest) {
  const auto commit = [&]() -> Status {
    BANYAN_TRY(upload->status);
    if (upload->hash.Finish() != digest) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("the {} bytes that were sent are not {}'s", upload->bytes, digest.ToString()));
    }
    BANYAN_TRY(store_.TakeFile(digest, upload->path));
    return store_.LinkBlob(upload->repository, digest);
  };
  Status status = commit();
  Drop(upload);
  return status;
}

size_t Uploads::size() const {
  const std::lock_guard lock(mutex_);
  return uploads_.size();
}

void Uploads::DropIdle() {
  const auto oldest = std::chrono::steady_clock::now() - kIdle;
  std::erase_if(uploads_, [&](const auto& item) {
    if (item.second->busy || item.second->used > oldest) return false;
    ::unlink(item.second->path.c_str());
    return true;
  });
}

UploadBody::~UploadBody() {
  if (upload_) uploads_.End(upload_);
}

void UploadBody::OnData(std::string bytes, std::function<void()> resume) {
  if (!upload_) return resume();
  // Shared with the task, which may outlive the connection.
  const bool posted =
      uploads_.workers().Post([self = shared_from_this(), upload = upload_, bytes = std::move(bytes), resume]() {
        Write(*upload, bytes);
        resume();
      });
  if (posted) return;
  upload_->status = Fail(Code::kResourceExhausted, "too busy to take the upload");
  resume();
}

void UploadBody::Write(Upload& upload, const std::string& bytes) {
  if (!upload.status) return;
  upload.status = WriteFull(upload.fd.get(), std::as_bytes(std::span(bytes)), upload.path);
  if (!upload.status) return;
  upload.hash.Update(bytes);
  upload.bytes += bytes.size();
}

}  // namespace banyan::registry_proxy
