#include "registry-proxy/own_registry.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "image-format/oci.h"
#include "mirror/answers.h"
#include "net/auth.h"
#include "net/range_header.h"

namespace banyan::registry_proxy {
namespace {

using mirror::ErrorAnswer;
using mirror::Route;
using net::HttpRequest;
using net::HttpResponse;

std::string HeaderOf(const HttpRequest& request, std::string_view name) {
  const std::string* value = request.headers.Find(name);
  return value != nullptr ? *value : std::string();
}

std::string UploadLocation(const std::string& name, const std::string& id) {
  return fmt::format("/v2/{}/blobs/uploads/{}", name, id);
}

// "Range: 0-<last byte>"; of an empty upload "0-0", as docker's registry has it.
std::string UploadRange(uint64_t bytes) { return fmt::format("0-{}", bytes == 0 ? 0 : bytes - 1); }

HttpResponse UploadAnswer(int status, const std::string& name, const Upload& upload) {
  return {status,
          {{"Location", UploadLocation(name, upload.id)},
           {"Range", UploadRange(upload.bytes)},
           {"Docker-Upload-UUID", upload.id}},
          std::string()};
}

HttpResponse Created(const std::string& location, const Digest& digest) {
  return {201, {{"Location", location}, {"Docker-Content-Digest", digest.ToString()}}, std::string()};
}

HttpResponse UploadError(const Error& error) {
  switch (error.code) {
    case Code::kNotFound:
      return ErrorAnswer(404, "BLOB_UPLOAD_UNKNOWN", error.message);
    case Code::kInvalidArgument:
      return ErrorAnswer(400, "DIGEST_INVALID", error.message);
    case Code::kAborted:
      return ErrorAnswer(409, "BLOB_UPLOAD_INVALID", error.message);
    case Code::kResourceExhausted:
      return ErrorAnswer(507, "UNKNOWN", error.message);
    default:
      return ErrorAnswer(500, "BLOB_UPLOAD_INVALID", error.message);
  }
}

// "a-b" or "bytes a-b/n" of a chunk: its first byte and its length; nullopt when malformed.
std::optional<std::pair<uint64_t, uint64_t>> ParseChunkRange(std::string_view text) {
  if (text.starts_with("bytes ")) text.remove_prefix(6);
  text = text.substr(0, text.find('/'));
  const size_t dash = text.find('-');
  if (dash == std::string_view::npos) return std::nullopt;
  const auto first = net::ParseDecimal(text.substr(0, dash));
  const auto last = net::ParseDecimal(text.substr(dash + 1));
  if (!first || !last || *last < *first || *last - *first == UINT64_MAX) return std::nullopt;
  return std::pair(*first, *last - *first + 1);
}

bool SameSecret(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

HttpResponse AnswerTags(std::vector<std::string> tags, const Route& route) {
  HttpResponse response{200, {{"Content-Type", "application/json"}}, std::string()};
  if (const auto last = route.Parameter("last"); last && !last->empty()) {
    tags.erase(tags.begin(), std::upper_bound(tags.begin(), tags.end(), *last));
  }
  if (const auto text = route.Parameter("n"); text) {
    const auto n = net::ParseDecimal(*text);
    if (!n) return ErrorAnswer(400, "PAGINATION_NUMBER_INVALID", "n is no number");
    if (*n < tags.size()) {
      tags.resize(*n);
      if (!tags.empty()) {
        response.headers.emplace_back(
            "Link", fmt::format("</v2/{}/tags/list?n={}&last={}>; rel=\"next\"", route.repository, *n, tags.back()));
      }
    }
  }
  response.body = nlohmann::json{{"name", route.repository}, {"tags", tags}}.dump();
  return response;
}

}  // namespace

HttpResponse AnswerBlob(const ContentStore& store, const HttpRequest& request, const Digest& digest) {
  auto opened = store.OpenBlob(digest);
  if (!opened) return ErrorAnswer(opened.error(), "BLOB_UNKNOWN");
  const auto file = std::make_shared<const ContentStore::OpenedFile>(std::move(*opened));  // open while it is sent
  const auto range = net::ParseRange(HeaderOf(request, "range"), file->bytes);
  HttpResponse response{200, mirror::ContentHeaders(digest, "application/octet-stream"), std::string()};
  if (!range) {
    response = ErrorAnswer(416, "UNKNOWN", "the blob ends before the range");
    response.headers.emplace_back("Content-Range", fmt::format("bytes */{}", file->bytes));
    return response;
  }
  const ByteRange bytes = range->value_or(ByteRange{0, file->bytes});
  if (*range) {
    response.status = 206;
    response.headers.emplace_back("Content-Range", net::FormatContentRange(bytes, file->bytes));
  }
  response.body = net::FileRange{file->fd.get(), bytes, file};
  return response;
}

HttpResponse AnswerReferrers(const std::vector<std::string>& descriptors, const Route& route) {
  const std::string wanted = route.Parameter("artifactType").value_or("");
  nlohmann::json manifests = nlohmann::json::array();
  for (const std::string& text : descriptors) {
    auto descriptor = nlohmann::json::parse(text, nullptr, false);
    if (!descriptor.is_object()) continue;
    if (!wanted.empty() && descriptor.value("artifactType", "") != wanted) continue;
    manifests.push_back(std::move(descriptor));
  }
  HttpResponse response{200, {{"Content-Type", std::string(image_format::kOciIndexMediaType)}}, std::string()};
  if (!wanted.empty()) response.headers.emplace_back("OCI-Filters-Applied", "artifactType");
  response.body =
      nlohmann::json{
          {"schemaVersion", 2}, {"mediaType", image_format::kOciIndexMediaType}, {"manifests", std::move(manifests)}}
          .dump();
  return response;
}

bool OwnRegistry::IsWrite(const HttpRequest& request, const Route& route) {
  return route.kind == Route::Kind::kUpload || (request.method != "GET" && request.method != "HEAD");
}

bool OwnRegistry::LoggedIn(const HttpRequest& request) const {
  if (options_.logins.empty()) return true;
  const std::string header = HeaderOf(request, "authorization");
  if (header.size() < 6 || header.substr(0, 6) != "Basic ") return false;
  const auto login = net::Base64Decode(std::string_view(header).substr(6));
  if (!login) return false;
  bool known = false;
  for (const std::string& good : options_.logins) known |= SameSecret(good, *login);
  return known;
}

std::optional<HttpResponse> OwnRegistry::Refusal(const HttpRequest& request, const Route& route) const {
  if (!IsWrite(request, route)) return std::nullopt;
  if (!options_.push) return ErrorAnswer(405, "UNSUPPORTED", "this registry takes no pushes");
  if (!LoggedIn(request)) {
    HttpResponse challenge = ErrorAnswer(401, "UNAUTHORIZED", "log in to push");
    challenge.headers.emplace_back("WWW-Authenticate", "Basic realm=\"banyan-registry-proxy\"");
    return challenge;
  }
  const bool cancels = route.kind == Route::Kind::kUpload;
  if (request.method == "DELETE" && !cancels && !options_.remove) {
    return ErrorAnswer(405, "UNSUPPORTED", "deletion is not enabled here");
  }
  return std::nullopt;
}

std::shared_ptr<net::HttpBody> OwnRegistry::OpenBody(const HttpRequest& head, const Route& route) {
  if (route.kind != Route::Kind::kUpload) return nullptr;
  if (auto refusal = Refusal(head, route)) return std::make_shared<UploadBody>(uploads_, std::move(*refusal));
  const bool begins = head.method == "POST" && route.reference.empty();
  if (!begins && head.method != "PATCH" && head.method != "PUT") {
    return std::make_shared<UploadBody>(uploads_, ErrorAnswer(405, "UNSUPPORTED", "not a way to upload"));
  }
  const std::string repository = StoreName(route.repository);
  auto upload = begins ? uploads_.New(repository) : uploads_.Begin(repository, route.reference);
  if (!upload) return std::make_shared<UploadBody>(uploads_, UploadError(upload.error()));
  auto body = std::make_shared<UploadBody>(uploads_, *upload);
  const std::string chunk = HeaderOf(head, "content-range");
  if (chunk.empty() || begins) return body;
  const auto range = ParseChunkRange(chunk);
  const auto length = net::ParseDecimal(HeaderOf(head, "content-length"));
  if (range && range->first == (*upload)->bytes && (!length || *length == range->second)) return body;
  HttpResponse refusal = ErrorAnswer(416, "BLOB_UPLOAD_INVALID", "the chunk does not follow what is here");
  refusal.headers.emplace_back("Location", UploadLocation(route.repository, (*upload)->id));
  refusal.headers.emplace_back("Range", UploadRange((*upload)->bytes));
  return std::make_shared<UploadBody>(uploads_, std::move(refusal));
}

void OwnRegistry::Handle(HttpRequest request, Route route, std::shared_ptr<net::HttpReply> reply) {
  if (auto refusal = Refusal(request, route)) return reply->Send(std::move(*refusal));
  const auto shared_request = std::make_shared<HttpRequest>(std::move(request));  // std::function wants to be copied
  const bool posted = workers_.Post(
      [this, shared_request, route = std::move(route), reply] { reply->Send(Answer(*shared_request, route)); });
  if (!posted) reply->Send(ErrorAnswer(503, "UNKNOWN", "too busy"));
}

HttpResponse OwnRegistry::Answer(const HttpRequest& request, const Route& route) {
  const std::string repository = StoreName(route.repository);
  if (route.kind == Route::Kind::kUpload) return AnswerUpload(request, route);
  if (request.method == "DELETE") return Delete(route);
  if (route.kind == Route::Kind::kManifest) return AnswerManifest(request, route);
  if (request.method != "GET" && request.method != "HEAD") return ErrorAnswer(405, "UNSUPPORTED", "not a method here");
  if (route.kind == Route::Kind::kTags) return AnswerTags(store_.Tags(repository), route);
  if (route.kind == Route::Kind::kReferrers) return AnswerReferrers(store_.Referrers(repository, *route.digest), route);
  if (!store_.HasBlobIn(repository, *route.digest)) return ErrorAnswer(404, "BLOB_UNKNOWN", "no such blob");
  return AnswerBlob(store_, request, *route.digest);
}

HttpResponse OwnRegistry::AnswerUpload(const HttpRequest& request, const Route& route) {
  if (const auto body = std::dynamic_pointer_cast<UploadBody>(request.taken_body); body && body->refusal()) {
    return *body->refusal();
  }
  if (request.method == "POST") return BeginUpload(request, route);
  if (request.method == "PATCH" || request.method == "PUT") return EndUpload(request, route);
  const std::string repository = StoreName(route.repository);
  if (request.method == "GET" || request.method == "HEAD") {
    const auto bytes = uploads_.Size(repository, route.reference);
    if (!bytes) return UploadError(bytes.error());
    Upload upload;
    upload.id = route.reference;
    upload.bytes = *bytes;
    return UploadAnswer(204, route.repository, upload);
  }
  if (request.method != "DELETE") return ErrorAnswer(405, "UNSUPPORTED", "not a way to upload");
  const auto upload = uploads_.Begin(repository, route.reference);
  if (!upload) return UploadError(upload.error());
  uploads_.Drop(*upload);
  return {204, {}, std::string()};
}

// The upload that the request's body went to, or that it names, when it came without a body.
Result<std::shared_ptr<Upload>> OwnRegistry::UploadOf(const HttpRequest& request, const Route& route) {
  if (const auto body = std::dynamic_pointer_cast<UploadBody>(request.taken_body)) return body->TakeUpload();
  const std::string repository = StoreName(route.repository);
  return route.reference.empty() ? uploads_.New(repository) : uploads_.Begin(repository, route.reference);
}

HttpResponse OwnRegistry::BeginUpload(const HttpRequest& request, const Route& route) {
  if (!route.reference.empty()) return ErrorAnswer(405, "UNSUPPORTED", "POST begins an upload");
  if (const auto mount = route.Parameter("mount"); mount) {
    const auto digest = Digest::Parse(*mount);
    const std::string from = route.Parameter("from").value_or("");
    if (digest && !from.empty() && store_.HasBlobIn(StoreName(from), *digest) &&
        store_.LinkBlob(StoreName(route.repository), *digest)) {
      return Created(fmt::format("/v2/{}/blobs/{}", route.repository, digest->ToString()), *digest);
    }
  }
  auto upload = UploadOf(request, route);
  if (!upload) return UploadError(upload.error());
  if (const auto digest = route.Parameter("digest"); digest) return Commit(*upload, route.repository, *digest);
  HttpResponse response = UploadAnswer(202, route.repository, **upload);
  uploads_.End(*upload);
  return response;
}

HttpResponse OwnRegistry::EndUpload(const HttpRequest& request, const Route& route) {
  auto upload = UploadOf(request, route);
  if (!upload) return UploadError(upload.error());
  if (request.method == "PUT") return Commit(*upload, route.repository, route.Parameter("digest").value_or(""));
  if (!(*upload)->status) {
    HttpResponse response = UploadError((*upload)->status.error());
    uploads_.Drop(*upload);
    return response;
  }
  HttpResponse response = UploadAnswer(202, route.repository, **upload);
  uploads_.End(*upload);
  return response;
}

HttpResponse OwnRegistry::Commit(const std::shared_ptr<Upload>& upload, const std::string& name,
                                 const std::string& digest) {
  const auto parsed = Digest::Parse(digest);
  if (!parsed) {
    uploads_.End(upload);
    return ErrorAnswer(400, "DIGEST_INVALID", "not a sha256 digest");
  }
  const Status status = uploads_.Commit(upload, *parsed);
  if (!status) return UploadError(status.error());
  return Created(fmt::format("/v2/{}/blobs/{}", name, digest), *parsed);
}

HttpResponse OwnRegistry::AnswerManifest(const HttpRequest& request, const Route& route) {
  if (request.method == "PUT") return PutManifest(request, route);
  if (request.method != "GET" && request.method != "HEAD") return ErrorAnswer(405, "UNSUPPORTED", "not a method here");
  auto manifest = store_.GetManifest(StoreName(route.repository), route.reference);
  if (!manifest) return ErrorAnswer(manifest.error(), "MANIFEST_UNKNOWN");
  return {200, mirror::ContentHeaders(manifest->digest, manifest->media_type), std::move(manifest->body)};
}

Status OwnRegistry::CheckLinks(const std::string& repository, const ManifestLinks& links) const {
  for (const Digest& blob : links.blobs) {
    if (!store_.HasBlobIn(repository, blob)) return Fail(Code::kNotFound, "it names blob " + blob.ToString());
  }
  for (const Digest& child : links.manifests) {
    if (!store_.HasManifest(repository, child)) return Fail(Code::kNotFound, "it names manifest " + child.ToString());
  }
  return {};
}

HttpResponse OwnRegistry::PutManifest(const HttpRequest& request, const Route& route) {
  const auto media_type = image_format::DetectMediaType(request.body, HeaderOf(request, "content-type"));
  if (!media_type) return ErrorAnswer(400, "MANIFEST_INVALID", media_type.error().message);
  const auto links = ReadManifestLinks(*media_type, request.body);
  if (!links) return ErrorAnswer(400, "MANIFEST_INVALID", links.error().message);
  const Digest digest = Digest::Of(request.body);
  if (route.digest && *route.digest != digest)
    return ErrorAnswer(400, "DIGEST_INVALID", "the body's digest is another");
  const std::string repository = StoreName(route.repository);
  if (const Status present = CheckLinks(repository, *links); !present) {
    return ErrorAnswer(404, "MANIFEST_BLOB_UNKNOWN", present.error().message + ", which is not here");
  }
  const auto put = store_.PutManifest(repository, route.digest ? "" : route.reference, *media_type, request.body);
  if (!put) return UploadError(put.error());
  HttpResponse response = Created(fmt::format("/v2/{}/manifests/{}", route.repository, digest.ToString()), digest);
  if (links->subject) response.headers.emplace_back("OCI-Subject", links->subject->ToString());
  return response;
}

HttpResponse OwnRegistry::Delete(const Route& route) {
  const std::string repository = StoreName(route.repository);
  Status status;
  std::string_view unknown = "MANIFEST_UNKNOWN";
  if (route.kind == Route::Kind::kBlob) {
    unknown = "BLOB_UNKNOWN";
    status = store_.UnlinkBlob(repository, *route.digest);
  } else if (route.kind != Route::Kind::kManifest) {
    return ErrorAnswer(405, "UNSUPPORTED", "nothing to delete there");
  } else {
    status =
        route.digest ? store_.DeleteManifest(repository, *route.digest) : store_.DeleteTag(repository, route.reference);
  }
  if (!status) return ErrorAnswer(status.error(), unknown);
  return {202, {}, std::string()};
}

}  // namespace banyan::registry_proxy
