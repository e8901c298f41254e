#include "net/oci_layout_repository.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/file_io.h"
#include "net/manifest_json.h"

namespace banyan::net {

namespace {

constexpr uint64_t kMaxManifestBytes = 8 * kMiB;
constexpr size_t kCopyBufferBytes = 1 * kMiB;
constexpr std::string_view kRefName = "org.opencontainers.image.ref.name";
constexpr std::string_view kLayoutFile = R"({"imageLayoutVersion":"1.0.0"})";
constexpr std::string_view kEmptyIndex =
    R"({"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]})";

std::string RefNameOf(const nlohmann::json& descriptor) {
  const auto annotations = descriptor.find("annotations");
  if (annotations == descriptor.end() || !annotations->is_object()) return {};
  const auto name = annotations->find(kRefName);
  return name != annotations->end() && name->is_string() ? name->get<std::string>() : std::string();
}

std::string StringOf(const nlohmann::json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::optional<Digest> DigestOf(const nlohmann::json& descriptor) {
  const Result<Digest> digest = Digest::Parse(StringOf(descriptor, "digest"));
  return digest ? std::optional(*digest) : std::nullopt;
}

// Reads ranges of files on one thread, so that FetchRange never blocks its caller.
class RangeThread {
 public:
  struct Job {
    uint64_t id = 0;
    std::string path;
    std::string what;
    ByteRange range;
    Repository::OnData on_data;
    Repository::OnDone on_done;
  };

  RangeThread() : thread_([this] { Work(); }) {}
  ~RangeThread() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  uint64_t Add(Job job) {
    uint64_t id;
    {
      const std::lock_guard lock(mutex_);
      id = job.id = next_id_++;
      queue_.push_back(std::move(job));
    }
    wake_.notify_one();
    return id;
  }

  void Cancel(uint64_t id) {
    const std::lock_guard lock(mutex_);
    if (current_ == id) cancel_current_ = true;
    for (Job& job : queue_) {
      if (job.id == id) cancelled_.push_back(id);
    }
  }

 private:
  void Work() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      Job job = std::move(queue_.front());
      queue_.pop_front();
      current_ = job.id;
      cancel_current_ = std::erase(cancelled_, job.id) > 0 || stopping_;
      lock.unlock();
      Status status = Run(job);
      job.on_done(std::move(status));
      job = {};
      lock.lock();
      current_ = 0;
    }
  }

  bool IsCancelled() {
    const std::lock_guard lock(mutex_);
    return cancel_current_ || stopping_;
  }

  Status Run(const Job& job) {
    const auto cancelled = [&] { return Fail(Code::kCancelled, job.what + ": cancelled"); };
    if (IsCancelled()) return cancelled();
    if (job.range.begin > job.range.end) return Fail(Code::kInvalidArgument, job.what + ": no range");
    BANYAN_ASSIGN(const UniqueFd fd, OpenFile(job.path, O_RDONLY));
    struct stat info {};
    if (::fstat(fd.get(), &info) != 0) return FailErrno(job.what, errno);
    if (job.range.end > static_cast<uint64_t>(info.st_size)) {
      return Fail(Code::kOutOfRange, fmt::format("{}: the blob has only {} bytes", job.what, info.st_size));
    }
    std::vector<std::byte> buffer(std::min<uint64_t>(kCopyBufferBytes, job.range.size()));
    for (uint64_t offset = job.range.begin; offset < job.range.end;) {
      if (IsCancelled()) return cancelled();
      const auto piece = std::span(buffer).first(std::min<uint64_t>(buffer.size(), job.range.end - offset));
      BANYAN_TRY(PreadFull(fd.get(), piece, offset, job.path));
      job.on_data(piece);
      offset += piece.size();
    }
    return {};
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> queue_;            // guarded by mutex_, as is all that follows
  std::vector<uint64_t> cancelled_;  // of those queued
  uint64_t next_id_ = 1;
  uint64_t current_ = 0;
  bool cancel_current_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

// Holds the layout's lock file; other processes' writers wait.
class LayoutLock {
 public:
  static Result<LayoutLock> Take(const std::string& directory) {
    const std::string path = directory + "/.index.lock";
    BANYAN_ASSIGN(UniqueFd fd, OpenFile(path, O_RDWR | O_CREAT));
    while (::flock(fd.get(), LOCK_EX) != 0) {
      if (errno != EINTR) return FailErrno("lock " + path, errno);
    }
    return LayoutLock(std::move(fd));
  }

 private:
  explicit LayoutLock(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

class OciLayoutRepository final : public Repository {
 public:
  explicit OciLayoutRepository(const std::string& directory) : directory_(directory), name_("oci:" + directory) {}

  Result<RawManifest> GetManifest(const std::string& reference) override;
  Result<Digest> PutManifest(const std::string& reference, std::string_view media_type, std::string_view body) override;
  Result<std::vector<std::string>> Referrers(const Digest& subject, std::string_view artifact_type) override;
  Result<bool> HasBlob(const Digest& digest) override;
  Result<std::string> GetBlob(const Digest& digest, uint64_t limit_bytes) override;
  Result<std::unique_ptr<ByteSource>> OpenBlob(const Digest& digest) override;
  Status PutBlobFile(const Digest& digest, const std::string& path) override;
  Status PutBlob(const Digest& digest, std::string_view bytes) override;
  uint64_t FetchRange(const Digest& digest, ByteRange range, std::string_view, OnData on_data, OnDone on_done) override;
  void CancelRange(uint64_t id) override { ranges_.Cancel(id); }
  const std::string& name() const override { return name_; }

 private:
  std::string BlobPath(const Digest& digest) const { return directory_ + "/blobs/sha256/" + digest.Hex(); }
  std::string IndexPath() const { return directory_ + "/index.json"; }
  std::string TemporaryPath() {
    return fmt::format("{}/blobs/sha256/.tmp.{}.{}", directory_, ::getpid(), next_temporary_++);
  }
  std::string What(const Digest& digest) const { return fmt::format("{}: blob {}", name_, digest.ToString()); }
  Result<nlohmann::json> ReadIndex() const;
  Result<nlohmann::json> FindDescriptor(const std::string& reference) const;
  Status Store(const Digest& digest, ByteSource& source);

  const std::string directory_;
  const std::string name_;
  std::atomic<uint64_t> next_temporary_{0};
  RangeThread ranges_;
};

Result<nlohmann::json> OciLayoutRepository::ReadIndex() const {
  BANYAN_ASSIGN(const std::string text, ReadFile(IndexPath(), 64 * kMiB));
  nlohmann::json index = ParseJson(text);
  const bool usable = index.is_object() && index.contains("manifests") && index["manifests"].is_array();
  if (!usable) return Fail(Code::kDataLoss, name_ + ": index.json is not an image index");
  std::erase_if(index["manifests"].get_ref<nlohmann::json::array_t&>(),
                [](const auto& entry) { return !entry.is_object(); });
  return index;
}

// By digest, by tag, or (empty reference) the only image of the layout: manifests with a tag count before those
// without, so that artifacts beside an image do not make it ambiguous.
Result<nlohmann::json> OciLayoutRepository::FindDescriptor(const std::string& reference) const {
  BANYAN_ASSIGN(const nlohmann::json index, ReadIndex());
  const nlohmann::json* only = nullptr;
  size_t tagged = 0;
  for (const nlohmann::json& descriptor : index["manifests"]) {
    const std::string tag = RefNameOf(descriptor);
    if (!reference.empty() && (tag == reference || StringOf(descriptor, "digest") == reference)) return descriptor;
    if (!tag.empty()) {
      only = &descriptor;
      ++tagged;
    }
  }
  if (!reference.empty())
    return Fail(Code::kNotFound, fmt::format("{}:{}: index.json names no such manifest", name_, reference));
  if (tagged == 1) return *only;
  if (index["manifests"].size() == 1) return index["manifests"][0];
  return Fail(index["manifests"].empty() ? Code::kNotFound : Code::kInvalidArgument,
              fmt::format("{}: the layout holds {} manifests, so a tag must be given (oci:directory:tag)", name_,
                          index["manifests"].size()));
}

Result<RawManifest> OciLayoutRepository::GetManifest(const std::string& reference) {
  RawManifest manifest;
  const Result<nlohmann::json> descriptor = FindDescriptor(reference);
  // Manifests that an index names are blobs without an entry of their own.
  const Result<Digest> by_digest = Digest::Parse(reference);
  if (!descriptor && !(descriptor.error().code == Code::kNotFound && by_digest)) return Fail(descriptor.error());
  const std::optional<Digest> digest = descriptor ? DigestOf(*descriptor) : *by_digest;
  if (!digest)
    return Fail(Code::kDataLoss, fmt::format("{}: manifest '{}': its entry has no sha256 digest", name_, reference));
  Result<std::string> body = GetBlob(*digest, kMaxManifestBytes);
  if (!body) return Fail(body.error().WithContext(fmt::format("manifest '{}'", reference)));
  manifest.body = *std::move(body);
  manifest.digest = *digest;
  manifest.media_type = ManifestMediaType(manifest.body, descriptor ? StringOf(*descriptor, "mediaType") : "");
  return manifest;
}

Result<Digest> OciLayoutRepository::PutManifest(const std::string& reference, std::string_view media_type,
                                                std::string_view body) {
  const Digest digest = Digest::Of(body);
  const bool by_digest = reference == digest.ToString();
  const bool clean = !reference.empty() &&
                     std::all_of(reference.begin(), reference.end(), [](char c) { return c > ' ' && c != '\x7f'; });
  if (!clean || (!by_digest && reference.starts_with("sha256:"))) {
    return Fail(Code::kInvalidArgument, name_ + ": push of a manifest: the reference is neither a tag nor its digest");
  }
  BANYAN_TRY(PutBlob(digest, body));
  BANYAN_ASSIGN(const LayoutLock lock, LayoutLock::Take(directory_));
  BANYAN_ASSIGN(nlohmann::json index, ReadIndex());
  nlohmann::json descriptor = DescriptorOf(media_type, body);
  descriptor.erase("annotations");  // an entry's annotations are the layout's (the tag), not the manifest's
  if (!by_digest) descriptor["annotations"][std::string(kRefName)] = reference;
  auto& manifests = index["manifests"].get_ref<nlohmann::json::array_t&>();
  if (by_digest) {
    const bool present =
        std::any_of(manifests.begin(), manifests.end(), [&](const auto& entry) { return DigestOf(entry) == digest; });
    if (present) return digest;
  } else {
    // The tag moves; what it named stays reachable by digest only if another entry names it, as with skopeo.
    std::erase_if(manifests, [&](const auto& entry) { return RefNameOf(entry) == reference; });
  }
  manifests.push_back(std::move(descriptor));
  BANYAN_TRY(WriteFileDurably(IndexPath(), index.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)));
  return digest;
}

Result<std::vector<std::string>> OciLayoutRepository::Referrers(const Digest& subject, std::string_view artifact_type) {
  BANYAN_ASSIGN(const nlohmann::json index, ReadIndex());
  std::vector<std::string> found;
  std::vector<Digest> seen;
  for (const nlohmann::json& descriptor : index["manifests"]) {
    const std::optional<Digest> digest = DigestOf(descriptor);
    if (!digest || std::find(seen.begin(), seen.end(), *digest) != seen.end()) continue;
    seen.push_back(*digest);
    const Result<std::string> body = GetBlob(*digest, kMaxManifestBytes);
    if (!body || SubjectOf(*body) != subject) continue;
    const nlohmann::json full = DescriptorOf(StringOf(descriptor, "mediaType"), *body);
    if (!artifact_type.empty() && StringOf(full, "artifactType") != artifact_type) continue;
    found.push_back(full.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
  return found;
}

Result<bool> OciLayoutRepository::HasBlob(const Digest& digest) {
  struct stat info {};
  if (::stat(BlobPath(digest).c_str(), &info) == 0) return S_ISREG(info.st_mode);
  if (errno == ENOENT) return false;
  return FailErrno(What(digest), errno);
}

Result<std::string> OciLayoutRepository::GetBlob(const Digest& digest, uint64_t limit_bytes) {
  Result<std::string> body = ReadFile(BlobPath(digest), limit_bytes);
  if (!body) return Fail(body.error().WithContext(What(digest)));
  if (Digest::Of(*body) != digest)
    return Fail(Code::kDataLoss, What(digest) + ": the file's bytes hash to something else");
  return body;
}

Result<std::unique_ptr<ByteSource>> OciLayoutRepository::OpenBlob(const Digest& digest) {
  Result<UniqueFd> fd = OpenFile(BlobPath(digest), O_RDONLY);
  if (!fd) return Fail(fd.error().WithContext(What(digest)));
  return std::make_unique<FdSource>(*std::move(fd), BlobPath(digest));
}

Status OciLayoutRepository::Store(const Digest& digest, ByteSource& source) {
  const std::string temporary = TemporaryPath();
  const auto write = [&]() -> Status {
    BANYAN_ASSIGN(const UniqueFd fd, OpenFile(temporary, O_WRONLY | O_CREAT | O_TRUNC));
    std::vector<std::byte> buffer(kCopyBufferBytes);
    Sha256 hasher;
    while (true) {
      BANYAN_ASSIGN(const size_t count, source.Read(buffer));
      if (count == 0) break;
      hasher.Update(std::span(buffer).first(count));
      BANYAN_TRY(WriteFull(fd.get(), std::span(buffer).first(count), temporary));
    }
    if (hasher.Finish() != digest)
      return Fail(Code::kInvalidArgument, What(digest) + ": the bytes given are not the blob's");
    if (::fsync(fd.get()) != 0) return FailErrno("fsync " + temporary, errno);
    if (::rename(temporary.c_str(), BlobPath(digest).c_str()) != 0)
      return FailErrno("rename to " + BlobPath(digest), errno);
    return {};
  };
  const Status status = write();
  if (!status) ::unlink(temporary.c_str());
  return status;
}

Status OciLayoutRepository::PutBlobFile(const Digest& digest, const std::string& path) {
  BANYAN_ASSIGN(const bool present, HasBlob(digest));
  if (present) return {};
  BANYAN_ASSIGN(UniqueFd fd, OpenFile(path, O_RDONLY));
  FdSource source(std::move(fd), path);
  return Store(digest, source);
}

Status OciLayoutRepository::PutBlob(const Digest& digest, std::string_view bytes) {
  if (Digest::Of(bytes) != digest)
    return Fail(Code::kInvalidArgument, What(digest) + ": the bytes given are not the blob's");
  BANYAN_ASSIGN(const bool present, HasBlob(digest));
  if (present) return {};
  MemorySource source(std::as_bytes(std::span(bytes.data(), bytes.size())));
  return Store(digest, source);
}

uint64_t OciLayoutRepository::FetchRange(const Digest& digest, ByteRange range, std::string_view, OnData on_data,
                                         OnDone on_done) {
  const std::string what = fmt::format("{} bytes {}-{}", What(digest), range.begin, range.end);
  return ranges_.Add({0, BlobPath(digest), what, range, std::move(on_data), std::move(on_done)});
}

Status CreateLayout(const std::string& directory) {
  BANYAN_TRY(MakeDirectories(directory + "/blobs/sha256"));
  BANYAN_ASSIGN(const LayoutLock lock, LayoutLock::Take(directory));
  if (::access((directory + "/oci-layout").c_str(), F_OK) != 0) {
    BANYAN_TRY(WriteFileDurably(directory + "/oci-layout", kLayoutFile));
  }
  if (::access((directory + "/index.json").c_str(), F_OK) == 0) return {};
  return WriteFileDurably(directory + "/index.json", kEmptyIndex);
}

}  // namespace

Result<std::unique_ptr<Repository>> OpenOciLayoutRepository(const std::string& directory, bool create) {
  if (create) BANYAN_TRY(CreateLayout(directory));
  const Result<std::string> layout = ReadFile(directory + "/oci-layout", 64 * kKiB);
  if (!layout && layout.error().code == Code::kNotFound) {
    return Fail(Code::kNotFound, fmt::format("oci:{}: not an OCI image layout (it has no oci-layout file)", directory));
  }
  if (!layout) return Fail(layout.error().WithContext("oci:" + directory));
  const nlohmann::json version = ParseJson(*layout);
  if (!version.is_object() || !StringOf(version, "imageLayoutVersion").starts_with("1.")) {
    return Fail(Code::kInvalidArgument,
                fmt::format("oci:{}: its oci-layout file names no version 1 layout", directory));
  }
  return std::make_unique<OciLayoutRepository>(directory);
}

}  // namespace banyan::net
