#include "registry-proxy/content_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <mutex>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "common/file_io.h"
#include "common/log.h"
#include "common/units.h"
#include "image-format/oci.h"

namespace banyan::registry_proxy {
namespace {

namespace fs = std::filesystem;
using image_format::Descriptor;

bool Exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

std::string ParentOf(const std::string& path) { return path.substr(0, path.rfind('/')); }

Status WriteName(const std::string& path, std::string_view contents) {
  BANYAN_TRY(MakeDirectories(ParentOf(path), 0700));
  return WriteFileDurably(path, contents, 0600);
}

Status SyncDirectory(const std::string& path) {
  BANYAN_ASSIGN(const UniqueFd fd, OpenFile(path, O_RDONLY | O_DIRECTORY));
  if (::fsync(fd.get()) != 0) return FailErrno("sync " + path, errno);
  return {};
}

// The names in a directory; none when it is absent.
std::vector<std::string> NamesIn(const std::string& path) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& item : fs::directory_iterator(path, error)) {
    std::string name = item.path().filename().string();
    if (!name.starts_with('.')) names.push_back(std::move(name));
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Foreign layers lie elsewhere by design.
bool IsStoredHere(const Descriptor& layer) {
  return layer.media_type.find("nondistributable") == std::string::npos &&
         layer.media_type.find("foreign") == std::string::npos;
}

std::string ReferrerText(std::string_view media_type, std::string_view body, std::string artifact_type,
                         image_format::Annotations annotations) {
  Descriptor descriptor;
  descriptor.media_type = media_type;
  descriptor.digest = Digest::Of(body);
  descriptor.size = body.size();
  descriptor.artifact_type = std::move(artifact_type);
  descriptor.annotations = std::move(annotations);
  return image_format::WriteDescriptor(descriptor);
}

}  // namespace

Result<ManifestLinks> ReadManifestLinks(std::string_view media_type, std::string_view body) {
  ManifestLinks links;
  if (image_format::IsIndex(media_type)) {
    BANYAN_ASSIGN(const image_format::Index index, image_format::ParseIndex(body));
    for (const Descriptor& child : index.manifests) links.manifests.push_back(child.digest);
    if (!index.subject) return links;
    links.subject = index.subject->digest;
    links.referrer = ReferrerText(media_type, body, index.artifact_type, index.annotations);
    return links;
  }
  if (!image_format::IsManifest(media_type)) {
    return Fail(Code::kInvalidArgument, fmt::format("'{}' is no manifest that is known here", media_type));
  }
  BANYAN_ASSIGN(const image_format::Manifest manifest, image_format::ParseManifest(body));
  links.blobs.push_back(manifest.config.digest);
  for (const Descriptor& layer : manifest.layers) {
    if (IsStoredHere(layer)) links.blobs.push_back(layer.digest);
  }
  if (!manifest.subject) return links;
  links.subject = manifest.subject->digest;
  links.referrer = ReferrerText(media_type, body,
                                manifest.artifact_type.empty() ? manifest.config.media_type : manifest.artifact_type,
                                manifest.annotations);
  return links;
}

Result<std::unique_ptr<ContentStore>> ContentStore::Open(const std::string& root) {
  std::unique_ptr<ContentStore> store(new ContentStore(root));
  std::error_code ignored;
  fs::remove_all(root + "/incoming", ignored);
  for (const char* directory : {"/blobs/sha256", "/repositories", "/incoming"}) {
    BANYAN_TRY(MakeDirectories(root + directory, 0700));
  }
  uint64_t bytes = 0;
  for (const auto& item : fs::directory_iterator(root + "/blobs/sha256", ignored)) bytes += item.file_size(ignored);
  store->used_bytes_ = bytes;
  return store;
}

bool ContentStore::HasBlob(const Digest& digest) const { return Exists(BlobPath(digest)); }

Result<ContentStore::OpenedFile> ContentStore::OpenBlob(const Digest& digest) const {
  OpenedFile file;
  auto opened = OpenFile(BlobPath(digest), O_RDONLY);
  if (!opened && opened.error().code == Code::kNotFound) {
    return Fail(Code::kNotFound, fmt::format("no blob {}", digest.ToString()));
  }
  BANYAN_ASSIGN(file.fd, std::move(opened));
  struct stat info {};
  if (::fstat(file.fd.get(), &info) != 0) return FailErrno("stat " + BlobPath(digest), errno);
  file.bytes = static_cast<uint64_t>(info.st_size);
  return file;
}

std::string ContentStore::NewPath() { return fmt::format("{}/incoming/{}", root_, next_path_.fetch_add(1)); }

Status ContentStore::PutBlob(const Digest& digest, std::string_view bytes) {
  if (Digest::Of(bytes) != digest) {
    return Fail(Code::kDataLoss, fmt::format("blob {}: the bytes are another's", digest.ToString()));
  }
  const std::string path = NewPath();
  BANYAN_ASSIGN(const UniqueFd fd, OpenFile(path, O_WRONLY | O_CREAT | O_EXCL, 0600));
  Status status = WriteFull(fd.get(), std::as_bytes(std::span(bytes)), path);
  if (status) status = TakeFile(digest, path);
  ::unlink(path.c_str());
  return status;
}

Status ContentStore::TakeFile(const Digest& digest, const std::string& path) {
  BANYAN_ASSIGN(const UniqueFd fd, OpenFile(path, O_RDONLY));
  if (::fsync(fd.get()) != 0) return FailErrno("sync " + path, errno);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return FailErrno("stat " + path, errno);
  const std::shared_lock lock(collecting_);
  const std::string target = BlobPath(digest);
  const bool known = Exists(target);
  if (::rename(path.c_str(), target.c_str()) != 0) return FailErrno("rename " + path, errno);
  if (!known) used_bytes_ += static_cast<uint64_t>(info.st_size);
  return SyncDirectory(ParentOf(target));
}

bool ContentStore::HasRepository(const std::string& repository) const {
  const std::string directory = Directory(repository);
  return Exists(directory + "/_manifests") || Exists(directory + "/_blobs");
}

bool ContentStore::HasBlobIn(const std::string& repository, const Digest& digest) const {
  return Exists(Directory(repository) + "/_blobs/" + digest.Hex()) && HasBlob(digest);
}

Status ContentStore::LinkBlob(const std::string& repository, const Digest& digest) {
  const std::shared_lock lock(collecting_);
  if (!HasBlob(digest)) return Fail(Code::kNotFound, fmt::format("no blob {}", digest.ToString()));
  return WriteName(Directory(repository) + "/_blobs/" + digest.Hex(), {});
}

Status ContentStore::UnlinkBlob(const std::string& repository, const Digest& digest) {
  const std::string path = Directory(repository) + "/_blobs/" + digest.Hex();
  if (::unlink(path.c_str()) != 0) return FailErrno("remove " + path, errno);
  return {};
}

Result<Digest> ContentStore::Resolve(const std::string& repository, const std::string& reference) const {
  auto digest = Digest::Parse(reference);
  if (digest) return *digest;
  const auto text = ReadFile(Directory(repository) + "/_tags/" + reference, 4 * kKiB);
  if (!text) return Fail(Code::kNotFound, fmt::format("{}: no tag '{}'", repository, reference));
  return Digest::Parse(*text);
}

bool ContentStore::HasManifest(const std::string& repository, const Digest& digest) const {
  return Exists(Directory(repository) + "/_manifests/" + digest.Hex());
}

Result<net::RawManifest> ContentStore::GetManifest(const std::string& repository, const std::string& reference) const {
  net::RawManifest manifest;
  BANYAN_ASSIGN(manifest.digest, Resolve(repository, reference));
  auto media_type = ReadFile(Directory(repository) + "/_manifests/" + manifest.digest.Hex(), 4 * kKiB);
  if (!media_type) return Fail(Code::kNotFound, fmt::format("{}: no manifest '{}'", repository, reference));
  manifest.media_type = std::move(*media_type);
  BANYAN_ASSIGN(manifest.body, ReadFile(BlobPath(manifest.digest), image_format::kMaxManifestBytes));
  if (Digest::Of(manifest.body) == manifest.digest) return manifest;
  return Fail(Code::kDataLoss, fmt::format("{}: manifest {} is damaged", repository, manifest.digest.ToString()));
}

Result<Digest> ContentStore::PutManifest(const std::string& repository, const std::string& tag,
                                         std::string_view media_type, std::string_view body) {
  BANYAN_ASSIGN(const ManifestLinks links, ReadManifestLinks(media_type, body));
  const Digest digest = Digest::Of(body);
  const std::string directory = Directory(repository);
  BANYAN_TRY(PutBlob(digest, body));
  const std::shared_lock lock(collecting_);
  BANYAN_TRY(WriteName(directory + "/_manifests/" + digest.Hex(), media_type));
  if (links.subject) {
    BANYAN_TRY(
        WriteName(fmt::format("{}/_referrers/{}/{}", directory, links.subject->Hex(), digest.Hex()), links.referrer));
  }
  if (!tag.empty()) BANYAN_TRY(WriteName(directory + "/_tags/" + tag, digest.ToString()));
  return digest;
}

Status ContentStore::DeleteManifest(const std::string& repository, const Digest& digest) {
  BANYAN_ASSIGN(const net::RawManifest manifest, GetManifest(repository, digest.ToString()));
  const std::string directory = Directory(repository);
  for (const std::string& tag : Tags(repository)) {
    const auto target = Resolve(repository, tag);
    if (target && *target == digest) BANYAN_TRY(DeleteTag(repository, tag));
  }
  const auto links = ReadManifestLinks(manifest.media_type, manifest.body);
  if (links && links->subject) {
    ::unlink(fmt::format("{}/_referrers/{}/{}", directory, links->subject->Hex(), digest.Hex()).c_str());
  }
  const std::string path = directory + "/_manifests/" + digest.Hex();
  if (::unlink(path.c_str()) != 0) return FailErrno("remove " + path, errno);
  return {};
}

Status ContentStore::DeleteTag(const std::string& repository, const std::string& tag) {
  const std::string path = Directory(repository) + "/_tags/" + tag;
  if (::unlink(path.c_str()) != 0) return FailErrno(fmt::format("remove tag '{}' of {}", tag, repository), errno);
  return {};
}

std::vector<std::string> ContentStore::Tags(const std::string& repository) const {
  return NamesIn(Directory(repository) + "/_tags");
}

std::vector<std::string> ContentStore::Referrers(const std::string& repository, const Digest& subject) const {
  std::vector<std::string> descriptors;
  const std::string directory = Directory(repository) + "/_referrers/" + subject.Hex();
  for (const std::string& name : NamesIn(directory)) {
    auto text = ReadFile(directory + "/" + name, image_format::kMaxManifestBytes);
    if (text) descriptors.push_back(std::move(*text));
  }
  return descriptors;
}

Result<uint64_t> ContentStore::CollectGarbage(std::chrono::seconds min_age) {
  const std::unique_lock lock(collecting_);
  std::set<std::string> named;
  std::error_code error;
  for (auto it = fs::recursive_directory_iterator(root_ + "/repositories", error);
       !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    const std::string parent = it->path().parent_path().filename().string();
    const std::string name = it->path().filename().string();
    if (parent == "_blobs") named.insert(name);
    if (parent != "_manifests") continue;
    named.insert(name);
    const auto media_type = ReadFile(it->path().string(), 4 * kKiB);
    const auto body = ReadFile(root_ + "/blobs/sha256/" + name, image_format::kMaxManifestBytes);
    if (!media_type || !body) continue;
    const auto links = ReadManifestLinks(*media_type, *body);
    if (!links) continue;
    for (const Digest& blob : links->blobs) named.insert(blob.Hex());
  }
  if (error) return Fail(Code::kInternal, fmt::format("walk {}: {}", root_, error.message()));
  uint64_t freed = 0;
  const auto oldest = fs::file_time_type::clock::now() - min_age;
  for (const auto& item : fs::directory_iterator(root_ + "/blobs/sha256", error)) {
    if (named.contains(item.path().filename().string()) || item.last_write_time(error) > oldest) continue;
    const uint64_t bytes = item.file_size(error);
    if (!fs::remove(item.path(), error)) continue;
    freed += bytes;
  }
  used_bytes_ -= std::min(freed, used_bytes_.load());
  return freed;
}

}  // namespace banyan::registry_proxy
