#include "net/registry_repository.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <mutex>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/file_io.h"
#include "net/blob_reader.h"
#include "net/manifest_json.h"
#include "net/range_fetcher.h"
#include "net/range_header.h"
#include "net/reference.h"
#include "net/registry_session.h"
#include "net/retry.h"

namespace banyan::net {

namespace {

constexpr uint64_t kMaxManifestBytes = 8 * kMiB;
constexpr int kMaxReferrerPages = 100;
constexpr auto kCommitTimeout = std::chrono::seconds(120);  // registries copy and hash before they answer a PUT

constexpr std::string_view kAccept =
    "Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.artifact.manifest.v1+json";

// Collects a body of at most `limit` bytes.
class Collector {
 public:
  explicit Collector(uint64_t limit) : limit_(limit) {}
  RegistryHandlers Handlers() {
    RegistryHandlers handlers;
    handlers.on_head = [this](int, const HeaderList&) -> Status {
      body_.clear();
      return {};
    };
    handlers.on_data = [this](std::span<const std::byte> data) {
      too_long_ = body_.size() + data.size() > limit_;
      if (too_long_) return Take::kStop;
      body_.append(reinterpret_cast<const char*>(data.data()), data.size());
      return Take::kTaken;
    };
    return handlers;
  }
  bool too_long() const { return too_long_; }
  std::string& body() { return body_; }

 private:
  const uint64_t limit_;
  bool too_long_ = false;
  std::string body_;
};

std::shared_ptr<const UploadBody> MemoryBody(std::string_view bytes) {
  auto body = std::make_shared<UploadBody>();
  body->size_bytes = bytes.size();
  body->read_at = [bytes](uint64_t offset, std::span<std::byte> buffer) -> Result<size_t> {
    return bytes.copy(reinterpret_cast<char*>(buffer.data()), buffer.size(), offset);
  };
  return body;
}

Result<std::shared_ptr<const UploadBody>> FileBody(const std::string& path) {
  BANYAN_ASSIGN(UniqueFd opened, OpenFile(path, O_RDONLY));
  struct stat info {};
  if (::fstat(opened.get(), &info) != 0) return FailErrno("stat " + path, errno);
  auto fd = std::make_shared<const UniqueFd>(std::move(opened));  // shared: std::function must be copyable
  auto body = std::make_shared<UploadBody>();
  body->size_bytes = static_cast<uint64_t>(info.st_size);
  body->read_at = [fd, path](uint64_t offset, std::span<std::byte> buffer) -> Result<size_t> {
    ssize_t count;
    do {
      count = ::pread(fd->get(), buffer.data(), buffer.size(), static_cast<off_t>(offset));
    } while (count < 0 && errno == EINTR);
    if (count < 0) return FailErrno("read " + path, errno);
    return static_cast<size_t>(count);
  };
  return body;
}

class RegistryRepository final : public Repository {
 public:
  RegistryRepository(const ImageReference& reference, const RepositoryOptions& options,
                     std::shared_ptr<RegistrySession> session)
      : options_(options),
        prefix_("/v2/" + reference.repository),
        session_(std::move(session)),
        ranges_(*session_, prefix_, options.range_connections) {}
  ~RegistryRepository() override { session_->Shutdown(); }

  void Shutdown() override { session_->Shutdown(); }

  Result<ManifestHead> HeadManifest(const std::string& reference) override;
  Result<uint64_t> BlobBytes(const Digest& digest) override;
  Result<OpenedBlob> OpenBlobAt(const Digest& digest, uint64_t offset) override;
  Result<TagList> ListTags(uint32_t n, const std::string& last) override;
  Result<RawManifest> GetManifest(const std::string& reference) override;
  Result<Digest> PutManifest(const std::string& reference, std::string_view media_type, std::string_view body) override;
  Result<std::vector<std::string>> Referrers(const Digest& subject, std::string_view artifact_type) override;
  Result<bool> HasBlob(const Digest& digest) override;
  Result<std::string> GetBlob(const Digest& digest, uint64_t limit_bytes) override;
  Result<std::unique_ptr<ByteSource>> OpenBlob(const Digest& digest) override;
  Status PutBlobFile(const Digest& digest, const std::string& path) override;
  Status PutBlob(const Digest& digest, std::string_view bytes) override;
  uint64_t FetchRange(const Digest& digest, ByteRange range, std::string_view priority, OnData on_data,
                      OnDone on_done) override {
    return ranges_.Fetch(digest, range, priority, std::move(on_data), std::move(on_done));
  }
  void CancelRange(uint64_t id) override { ranges_.Cancel(id); }
  const std::string& name() const override { return session_->name(); }

 private:
  Error Problem(Code code, std::string_view what, std::string_view why) const {
    return Error{code, fmt::format("{}: {}: {}", name(), what, why)};
  }
  std::string BlobPath(const Digest& digest) const { return prefix_ + "/blobs/" + digest.ToString(); }
  Result<RegistryOutcome> Head(const std::string& target, const std::string& what, std::string header);
  Attempt GetManifestOnce(const std::string& reference, RawManifest& manifest);
  Attempt GetBlobOnce(const Digest& digest, uint64_t limit_bytes, std::string& body);
  Attempt PutBlobOnce(const Digest& digest, const std::shared_ptr<const UploadBody>& body);
  Status Upload(const Digest& digest, const std::shared_ptr<const UploadBody>& body);
  Result<RegistryOutcome> Put(const std::string& reference, std::string_view media_type, std::string_view body);
  Result<std::string> ReferrersFromTag(const Digest& subject);
  Status AddToFallbackTag(const Digest& subject, const nlohmann::json& descriptor);

  const RepositoryOptions options_;
  const std::string prefix_;
  std::mutex fallback_mutex_;                       // one read-modify-write of a fallback tag at a time
  const std::shared_ptr<RegistrySession> session_;  // shared with open blob readers
  RangeFetcher ranges_;
};

Attempt RegistryRepository::GetManifestOnce(const std::string& reference, RawManifest& manifest) {
  const std::string what = fmt::format("manifest '{}'", reference);
  Collector collector(kMaxManifestBytes);
  RegistryRequest request;
  request.target = prefix_ + "/manifests/" + reference;
  request.headers.emplace_back(kAccept);
  request.what = what;
  RegistryOutcome outcome = session_->Run(std::move(request), collector.Handlers());
  if (!outcome.status) return Attempt::Of(outcome);
  if (collector.too_long()) {
    return Attempt::Final(
        Problem(Code::kResourceExhausted, what, fmt::format("larger than {} bytes", kMaxManifestBytes)));
  }
  manifest.body = std::move(collector.body());
  manifest.digest = Digest::Of(manifest.body);
  const Result<Digest> asked = Digest::Parse(reference);
  const std::string* header = outcome.headers.Find("docker-content-digest");
  const Result<Digest> told = header != nullptr ? Digest::Parse(*header) : Fail(Code::kNotFound, "");
  if ((asked && *asked != manifest.digest) || (told && *told != manifest.digest)) {
    return Attempt::Transient(
        Problem(Code::kDataLoss, what,
                fmt::format("the registry sent wrong bytes (they hash to {})", manifest.digest.ToString())));
  }
  const std::string* type = outcome.headers.Find("content-type");
  manifest.media_type = ManifestMediaType(manifest.body, type != nullptr ? *type : "");
  return Attempt::Success();
}

Result<RawManifest> RegistryRepository::GetManifest(const std::string& reference) {
  if (!IsValidTag(reference) && !Digest::Parse(reference)) {
    return Fail(Problem(Code::kInvalidArgument, "manifest", "the reference is neither a tag nor a sha256 digest"));
  }
  RawManifest manifest;
  BANYAN_TRY(Retry(options_.attempts, [&] { return GetManifestOnce(reference, manifest); }));
  return manifest;
}

Result<RegistryOutcome> RegistryRepository::Put(const std::string& reference, std::string_view media_type,
                                                std::string_view body) {
  RegistryOutcome outcome;
  BANYAN_TRY(Retry(options_.attempts, [&] {
    RegistryRequest request;
    request.method = "PUT";
    request.target = prefix_ + "/manifests/" + reference;
    request.headers.push_back(fmt::format("Content-Type: {}", media_type));
    request.body = MemoryBody(body);
    request.access = Access::kPush;
    request.stall_timeout = kCommitTimeout;
    request.what = fmt::format("push of manifest '{}'", reference);
    outcome = session_->Run(std::move(request));
    return Attempt::Of(outcome);
  }));
  return outcome;
}

Result<Digest> RegistryRepository::PutManifest(const std::string& reference, std::string_view media_type,
                                               std::string_view body) {
  const Digest digest = Digest::Of(body);
  const bool clean_type =
      std::all_of(media_type.begin(), media_type.end(), [](char c) { return c > ' ' && c < '\x7f'; });
  if ((!IsValidTag(reference) && reference != digest.ToString()) || media_type.empty() || !clean_type) {
    return Fail(Problem(Code::kInvalidArgument, "push of a manifest",
                        "the reference is neither a tag nor the manifest's digest, or the media type is malformed"));
  }
  BANYAN_ASSIGN(const RegistryOutcome outcome, Put(reference, media_type, body));
  const std::string* told = outcome.headers.Find("docker-content-digest");
  if (told != nullptr && told->starts_with("sha256:") && *told != digest.ToString()) {
    return Fail(Problem(Code::kDataLoss, fmt::format("push of manifest '{}'", reference),
                        "the registry stored other bytes than were sent"));
  }
  const std::optional<Digest> subject = SubjectOf(body);
  if (!subject || outcome.headers.Find("oci-subject") != nullptr) return digest;
  BANYAN_TRY(AddToFallbackTag(*subject, DescriptorOf(media_type, body)));
  return digest;
}

// The specification has no compare-and-swap, so another client's update may undo ours: look, and do it again.
Status RegistryRepository::AddToFallbackTag(const Digest& subject, const nlohmann::json& descriptor) {
  const std::lock_guard lock(fallback_mutex_);
  const std::string tag = FallbackTag(subject);
  for (int round = 0; round < 3; ++round) {
    Result<RawManifest> current = GetManifest(tag);
    if (!current && current.error().code != Code::kNotFound) return Fail(current.error());
    BANYAN_ASSIGN(const std::optional<std::string> updated, AddDescriptor(current ? current->body : "", descriptor));
    if (!updated) return {};
    BANYAN_TRY(Put(tag, kOciIndexType, *updated));
  }
  return Fail(Problem(Code::kAborted, fmt::format("referrers tag '{}'", tag), "others keep overwriting it"));
}

Result<std::string> RegistryRepository::ReferrersFromTag(const Digest& subject) {
  Result<RawManifest> index = GetManifest(FallbackTag(subject));
  if (index) return std::move(index->body);
  if (index.error().code == Code::kNotFound) return std::string();
  return Fail(index.error());
}

Result<std::vector<std::string>> RegistryRepository::Referrers(const Digest& subject, std::string_view artifact_type) {
  std::vector<std::string> found;
  std::string target = fmt::format("{}/referrers/{}", prefix_, subject.ToString());
  if (!artifact_type.empty()) target += "?artifactType=" + PercentEncode(artifact_type);
  for (int page = 0; page < kMaxReferrerPages; ++page) {
    Collector collector(kMaxManifestBytes);
    RegistryOutcome outcome;
    const Status status = Retry(options_.attempts, [&] {
      RegistryRequest request;
      request.target = target;
      request.headers.push_back(fmt::format("Accept: {}", kOciIndexType));
      request.what = fmt::format("referrers of {}", subject.ToString());
      outcome = session_->Run(std::move(request), collector.Handlers());
      return Attempt::Of(outcome);
    });
    // Registries from before OCI 1.1 answer 404, 400 or 405, or something that is no index.
    const std::string* type = outcome.headers.Find("content-type");
    const bool lacks_api =
        page == 0 && (outcome.http_status == 404 || outcome.http_status == 400 || outcome.http_status == 405 ||
                      (status && (type == nullptr || !type->starts_with(kOciIndexType))));
    if (lacks_api) {
      BANYAN_ASSIGN(const std::string index, ReferrersFromTag(subject));
      if (!index.empty()) BANYAN_TRY(SelectDescriptors(index, artifact_type, found));
      return found;
    }
    BANYAN_TRY(status);
    if (collector.too_long()) return Fail(Problem(Code::kResourceExhausted, "referrers", "the list is too large"));
    BANYAN_TRY(SelectDescriptors(collector.body(), artifact_type, found));
    const std::optional<std::string> next = NextLink(outcome.headers.FindAll("link"));
    if (!next) return found;
    BANYAN_ASSIGN(const Url here, Url::Parse(outcome.url));
    BANYAN_ASSIGN(const Url there, here.Resolve(*next));
    if (!there.SameOrigin(here))
      return Fail(Problem(Code::kInvalidArgument, "referrers", "the next page is on another host"));
    target = there.text();
  }
  return Fail(Problem(Code::kResourceExhausted, "referrers", "too many pages"));
}

Result<RegistryOutcome> RegistryRepository::Head(const std::string& target, const std::string& what,
                                                 std::string header) {
  RegistryOutcome outcome;
  BANYAN_TRY(Retry(options_.attempts, [&] {
    RegistryRequest request;
    request.method = "HEAD";
    request.target = target;
    if (!header.empty()) request.headers.push_back(header);
    request.what = what;
    outcome = session_->Run(std::move(request));
    return Attempt::Of(outcome);
  }));
  return outcome;
}

Result<bool> RegistryRepository::HasBlob(const Digest& digest) {
  RegistryOutcome outcome;
  const Status status = Retry(options_.attempts, [&] {
    RegistryRequest request;
    request.method = "HEAD";
    request.target = BlobPath(digest);
    request.what = fmt::format("blob {}", digest.ToString());
    outcome = session_->Run(std::move(request));
    return Attempt::Of(outcome);
  });
  if (outcome.http_status == 404) return false;
  BANYAN_TRY(status);
  return true;
}

Attempt RegistryRepository::GetBlobOnce(const Digest& digest, uint64_t limit_bytes, std::string& body) {
  const std::string what = fmt::format("blob {}", digest.ToString());
  Collector collector(limit_bytes);
  RegistryRequest request;
  request.target = BlobPath(digest);
  request.what = what;
  request.blob = digest;
  const RegistryOutcome outcome = session_->Run(std::move(request), collector.Handlers());
  if (!outcome.status) return Attempt::Of(outcome);
  if (collector.too_long()) {
    return Attempt::Final(Problem(Code::kResourceExhausted, what, fmt::format("larger than {} bytes", limit_bytes)));
  }
  if (Digest::Of(collector.body()) != digest) {
    return Attempt::Transient(Problem(Code::kDataLoss, what, "the registry sent wrong bytes (digest mismatch)"));
  }
  body = std::move(collector.body());
  return Attempt::Success();
}

Result<std::string> RegistryRepository::GetBlob(const Digest& digest, uint64_t limit_bytes) {
  std::string body;
  BANYAN_TRY(Retry(options_.attempts, [&] { return GetBlobOnce(digest, limit_bytes, body); }));
  return body;
}

Result<std::unique_ptr<ByteSource>> RegistryRepository::OpenBlob(const Digest& digest) {
  BANYAN_ASSIGN(OpenedBlob opened, OpenBlobAt(digest, 0));
  return std::move(opened.source);
}

Attempt RegistryRepository::PutBlobOnce(const Digest& digest, const std::shared_ptr<const UploadBody>& body) {
  const std::string what = fmt::format("push of blob {}", digest.ToString());
  const auto push = [&](std::string method, std::string target, std::shared_ptr<const UploadBody> data) {
    RegistryRequest request;
    request.method = std::move(method);
    request.target = std::move(target);
    if (data != nullptr) request.headers.emplace_back("Content-Type: application/octet-stream");
    request.body = std::move(data);
    request.access = Access::kPush;
    request.stall_timeout = kCommitTimeout;
    request.what = what;
    return session_->Run(std::move(request));
  };
  // Where the upload goes on; an error when the answer does not say it.
  const auto location = [&](const RegistryOutcome& outcome) -> Result<std::string> {
    const std::string* header = outcome.headers.Find("location");
    if (header == nullptr) return Fail(Problem(Code::kUnavailable, what, "the registry's answer has no Location"));
    BANYAN_ASSIGN(const Url here, Url::Parse(outcome.url));
    BANYAN_ASSIGN(const Url there, here.Resolve(*header));
    if (here.secure() && !there.secure()) {
      return Fail(
          Problem(Code::kUnavailable, what, "the upload's Location leads from https to http, which is refused"));
    }
    return there.text();
  };
  RegistryOutcome outcome = push("POST", prefix_ + "/blobs/uploads/", nullptr);
  if (!outcome.status) return Attempt::Of(outcome);
  Result<std::string> target = location(outcome);
  if (!target) return Attempt::Final(target.error());
  if (body->size_bytes > 0) {
    outcome = push("PATCH", *target, body);
    if (!outcome.status) return Attempt::Of(outcome, /*restartable=*/true);
    target = location(outcome);
    if (!target) return Attempt::Final(target.error());
  }
  const char separator = target->find('?') == std::string::npos ? '?' : '&';
  outcome = push("PUT", fmt::format("{}{}digest={}", *target, separator, PercentEncode(digest.ToString())), nullptr);
  return Attempt::Of(outcome, /*restartable=*/true);
}

Status RegistryRepository::Upload(const Digest& digest, const std::shared_ptr<const UploadBody>& body) {
  BANYAN_ASSIGN(const bool present, HasBlob(digest));
  if (present) return {};
  return Retry(options_.attempts, [&] { return PutBlobOnce(digest, body); });
}

Result<OpenedBlob> RegistryRepository::OpenBlobAt(const Digest& digest, uint64_t offset) {
  return OpenBlobReader(session_, BlobPath(digest), digest, options_.attempts, offset);
}

Result<uint64_t> RegistryRepository::BlobBytes(const Digest& digest) {
  const std::string what = fmt::format("blob {}", digest.ToString());
  BANYAN_ASSIGN(const RegistryOutcome outcome, Head(BlobPath(digest), what, {}));
  const std::string* length = outcome.headers.Find("content-length");
  const std::optional<uint64_t> bytes = length != nullptr ? ParseDecimal(*length) : std::nullopt;
  if (!bytes) return Fail(Problem(Code::kUnimplemented, what, "the registry does not tell its size"));
  return *bytes;
}

Result<ManifestHead> RegistryRepository::HeadManifest(const std::string& reference) {
  const std::string what = fmt::format("manifest '{}'", reference);
  if (!IsValidTag(reference) && !Digest::Parse(reference)) {
    return Fail(Problem(Code::kInvalidArgument, what, "neither a tag nor a sha256 digest"));
  }
  BANYAN_ASSIGN(const RegistryOutcome outcome, Head(prefix_ + "/manifests/" + reference, what, std::string(kAccept)));
  const std::string* told = outcome.headers.Find("docker-content-digest");
  const Result<Digest> digest = told != nullptr ? Digest::Parse(*told) : Fail(Code::kNotFound, "");
  if (!digest) return Fail(Problem(Code::kUnimplemented, what, "the registry does not tell its digest"));
  const std::string* type = outcome.headers.Find("content-type");
  return ManifestHead{type != nullptr ? *type : "", *digest};
}

Result<TagList> RegistryRepository::ListTags(uint32_t n, const std::string& last) {
  std::string target = fmt::format("{}/tags/list?{}", prefix_, n > 0 ? fmt::format("n={}", n) : "");
  if (!last.empty()) target += fmt::format("{}last={}", target.ends_with('?') ? "" : "&", PercentEncode(last));
  if (target.ends_with('?')) target.pop_back();
  Collector collector(kMaxManifestBytes);
  RegistryOutcome outcome;
  BANYAN_TRY(Retry(options_.attempts, [&] {
    RegistryRequest request;
    request.target = target;
    request.what = "list of tags";
    outcome = session_->Run(std::move(request), collector.Handlers());
    return Attempt::Of(outcome);
  }));
  const auto malformed = [&] { return Fail(Problem(Code::kDataLoss, "list of tags", "the answer is malformed")); };
  const nlohmann::json root = collector.too_long() ? nlohmann::json() : ParseJson(collector.body());
  if (!root.is_object() || !root.contains("tags")) return malformed();
  TagList list{{}, NextLink(outcome.headers.FindAll("link")).has_value()};
  if (root["tags"].is_null()) return list;
  if (!root["tags"].is_array()) return malformed();
  for (const nlohmann::json& tag : root["tags"]) {
    if (!tag.is_string() || !IsValidTag(tag.get_ref<const std::string&>())) return malformed();
    list.tags.push_back(tag.get<std::string>());
  }
  return list;
}

Status RegistryRepository::PutBlobFile(const Digest& digest, const std::string& path) {
  BANYAN_ASSIGN(const auto body, FileBody(path));
  return Upload(digest, body);
}

Status RegistryRepository::PutBlob(const Digest& digest, std::string_view bytes) {
  if (Digest::Of(bytes) != digest) {
    return Fail(Problem(Code::kInvalidArgument, fmt::format("push of blob {}", digest.ToString()),
                        "the bytes are not the blob's"));
  }
  return Upload(digest, MemoryBody(bytes));
}

}  // namespace

Result<std::unique_ptr<Repository>> OpenRegistryRepository(const ImageReference& reference,
                                                           const RepositoryOptions& options) {
  BANYAN_ASSIGN(std::shared_ptr<RegistrySession> session, RegistrySession::Create(reference, options));
  return std::make_unique<RegistryRepository>(reference, options, std::move(session));
}

}  // namespace banyan::net
