#include "mirror/mirror.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/log.h"
#include "mirror/alarms.h"
#include "mirror/answers.h"
#include "mirror/blob_flights.h"
#include "mirror/manifests.h"
#include "mirror/referrers.h"
#include "mirror/route.h"
#include "net/manifest_json.h"
#include "net/range_header.h"
#include "net/url.h"

namespace banyan::mirror {

namespace {

constexpr size_t kMaxOtherUpstreams = 256;
constexpr uint32_t kMaxTagsPage = 10'000;

RequestKind KindOf(Route::Kind kind) {
  switch (kind) {
    case Route::Kind::kBase:
      return RequestKind::kBase;
    case Route::Kind::kManifest:
      return RequestKind::kManifest;
    case Route::Kind::kBlob:
      return RequestKind::kBlob;
    case Route::Kind::kReferrers:
      return RequestKind::kReferrers;
    case Route::Kind::kTags:
      return RequestKind::kTags;
    default:
      return RequestKind::kOther;
  }
}

std::string HeaderOf(const net::HttpRequest& request, std::string_view name) {
  const std::string* value = request.headers.Find(name);
  return value != nullptr ? *value : std::string();
}

// docker-registry 2.8 gives the whole list, whatever page is asked for.
void TakePage(net::TagList& list, uint32_t n, const std::string& last) {
  const auto begin = last.empty() ? list.tags.end() : std::find(list.tags.begin(), list.tags.end(), last);
  if (begin != list.tags.end()) list.tags.erase(list.tags.begin(), begin + 1);
  if (n == 0 || list.tags.size() <= n) return;
  list.tags.resize(n);
  list.more = true;
}

Status CheckUpstream(const UpstreamOptions& options) {
  const auto check = [&](const std::string& host) -> Status {
    if (IsValidHost(host)) return {};
    return Fail(Code::kInvalidArgument, fmt::format("upstream '{}': '{}' is not a host", options.name, host));
  };
  BANYAN_TRY(check(options.name));
  for (const EndpointOptions& endpoint : options.endpoints) BANYAN_TRY(check(endpoint.host));
  return {};
}

}  // namespace

// One request, from its route to its answer.
struct Request {
  Route route;
  std::shared_ptr<Upstream> upstream;  // null: none that is ours
  std::string upstream_name;           // may be empty
  Identity identity;
  bool head = false;
  bool only_if_cached = false;
  std::string range;
  std::shared_ptr<net::HttpReply> reply;
};

class Mirror::Impl : public std::enable_shared_from_this<Mirror::Impl> {
 public:
  Impl(MirrorOptions options, store::NodeStore& store, Hooks hooks)
      : options_(std::move(options)),
        hooks_(std::move(hooks)),
        store_(store),
        flights_(store, counters_, hooks_, options_.max_orphans),
        manifests_(store, counters_, alarms_,
                   {options_.tag_lifetime, options_.stale_after, options_.manifest_cache_bytes}),
        referrers_(hooks_, alarms_, {options_.referrers_lifetime, options_.stale_after, options_.referrers_budget}) {}

  Status AddUpstreams();
  void Stop();
  void Handle(net::HttpRequest request, std::shared_ptr<net::HttpReply> reply);
  Stats stats() const { return counters_.Snapshot(); }

 private:
  Result<std::shared_ptr<Upstream>> FindUpstream(const std::string& name);
  void Choose(const net::HttpRequest& http, Request request);
  void Dispatch(Request request);
  void ServeManifest(const Request& request);
  void ServeBlob(const Request& request);
  void ServeStoredBlob(const Request& request, const store::StoredBlob& blob);
  void HeadBlob(const Request& request);
  void ServeReferrers(const Request& request);
  void ServeTags(const Request& request);
  void ListTags(const Request& request, uint32_t n, const std::string& last);
  void Answer(const Request& request, RequestResult result, net::HttpResponse response);
  void Refuse(const Request& request, net::HttpResponse response);

  const MirrorOptions options_;
  const Hooks hooks_;
  store::NodeStore& store_;
  Counters counters_;
  std::mutex mutex_;
  bool stopped_ = false;                                        // guarded by mutex_
  std::map<std::string, std::shared_ptr<Upstream>> upstreams_;  // guarded by mutex_
  BlobFlights flights_;
  Alarms alarms_;
  Manifests manifests_;
  Referrers referrers_;
};

Status Mirror::Impl::AddUpstreams() {
  const std::scoped_lock lock(mutex_);
  for (const UpstreamOptions& upstream : options_.upstreams) {
    BANYAN_TRY(CheckUpstream(upstream));
    if (upstreams_.contains(upstream.name)) {
      return Fail(Code::kInvalidArgument, fmt::format("upstream '{}' is given twice", upstream.name));
    }
    upstreams_[upstream.name] = std::make_shared<Upstream>(upstream, options_.max_repositories);
  }
  if (!options_.default_upstream.empty() && !upstreams_.contains(options_.default_upstream)) {
    return Fail(Code::kInvalidArgument,
                fmt::format("the default upstream '{}' is not among the upstreams", options_.default_upstream));
  }
  return {};
}

void Mirror::Impl::Stop() {
  std::map<std::string, std::shared_ptr<Upstream>> upstreams;
  {
    const std::scoped_lock lock(mutex_);
    stopped_ = true;
    upstreams = upstreams_;
  }
  flights_.Stop();
  for (const auto& [name, upstream] : upstreams) upstream->Shutdown();
  for (const auto& [name, upstream] : upstreams) upstream->fills().Stop();
  manifests_.Stop();
  referrers_.Stop();
  for (const auto& [name, upstream] : upstreams) upstream->calls().Stop();
  alarms_.Stop();
}

Result<std::shared_ptr<Upstream>> Mirror::Impl::FindUpstream(const std::string& name) {
  const std::scoped_lock lock(mutex_);
  const auto found = upstreams_.find(name);
  if (found != upstreams_.end()) return found->second;
  if (!options_.any_upstream || name.empty()) return std::shared_ptr<Upstream>();
  if (stopped_ || upstreams_.size() >= options_.upstreams.size() + kMaxOtherUpstreams) {
    return Fail(Code::kResourceExhausted, "too many registries are in use here");
  }
  UpstreamOptions other = options_.other_upstreams;
  other.name = name;
  other.endpoints.clear();
  return upstreams_[name] = std::make_shared<Upstream>(std::move(other), options_.max_repositories);
}

void Mirror::Impl::Answer(const Request& request, RequestResult result, net::HttpResponse response) {
  counters_.Count(KindOf(request.route.kind), result);
  request.reply->Send(std::move(response));
}

void Mirror::Impl::Refuse(const Request& request, net::HttpResponse response) {
  Answer(request, ResultOfStatus(response.status), std::move(response));
}

void Mirror::Impl::Handle(net::HttpRequest http, std::shared_ptr<net::HttpReply> reply) {
  if (hooks_.answer_first && hooks_.answer_first(http, reply)) return;
  Request request;
  request.reply = std::move(reply);
  request.head = http.method == "HEAD";
  auto route = ParseRoute(http.target, options_.host_prefix);
  // With `ns`, the path is a name and nothing else.
  if (route && !route->host.empty() && route->Parameter("ns")) route = ParseRoute(http.target, false);
  if (!route) {
    counters_.Count(RequestKind::kOther, ResultOfStatus(route.error().status));
    return request.reply->Send(ErrorAnswer(route.error().status, route.error().code, route.error().message));
  }
  request.route = *std::move(route);
  const bool reads = http.method == "GET" || request.head;
  if (!reads || request.route.kind == Route::Kind::kUpload) {
    return Refuse(request, ErrorAnswer(405, "UNSUPPORTED", "this is a mirror: it is only read from"));
  }
  if (request.route.kind == Route::Kind::kBase) {
    return Answer(request, RequestResult::kHit,
                  {200,
                   {{"Content-Type", "application/json"}, {"Docker-Distribution-Api-Version", "registry/2.0"}},
                   std::string("{}")});
  }
  const std::string if_range = HeaderOf(http, "if-range");
  const bool same = if_range.empty() || if_range == "\"" + request.route.reference + "\"";
  if (same) request.range = HeaderOf(http, "range");
  request.only_if_cached = HeaderOf(http, "cache-control") == "only-if-cached";
  Choose(http, std::move(request));
}

void Mirror::Impl::Choose(const net::HttpRequest& http, Request request) {
  std::string name = request.route.Parameter("ns").value_or(request.route.host);
  if (name.empty()) name = options_.default_upstream;
  if (!name.empty() && !IsValidHost(name)) {
    return Refuse(request, ErrorAnswer(400, "UNSUPPORTED", "ns is not the name of a registry"));
  }
  Result<std::shared_ptr<Upstream>> upstream = FindUpstream(name);
  if (!upstream) return Refuse(request, ErrorAnswer(upstream.error(), "NAME_UNKNOWN"));
  request.upstream = *std::move(upstream);
  // Docker's own names without a user are under library/.
  if (name == "docker.io" && request.route.repository.find('/') == std::string::npos) {
    request.route.repository = "library/" + request.route.repository;
  }
  request.upstream_name = std::move(name);
  if (!hooks_.authorise) return Dispatch(std::move(request));
  const std::string upstream_name = request.upstream_name;
  const Route route = request.route;
  const auto reply = request.reply;
  hooks_.authorise(http, upstream_name, route, reply,
                   [self = shared_from_this(), request = std::move(request)](Identity identity) mutable {
                     request.identity = std::move(identity);
                     self->Dispatch(request);
                   });
}

void Mirror::Impl::Dispatch(Request request) {
  switch (request.route.kind) {
    case Route::Kind::kManifest:
      return ServeManifest(request);
    case Route::Kind::kBlob:
      return ServeBlob(request);
    case Route::Kind::kReferrers:
      return ServeReferrers(request);
    default:
      return ServeTags(request);
  }
}

void Mirror::Impl::ServeManifest(const Request& request) {
  const ManifestTarget target{request.upstream, request.route.repository, request.route.reference, request.route.digest,
                              request.identity};
  manifests_.Get(target, [self = shared_from_this(), request](const Result<FoundManifest>& found) {
    if (!found) return self->Refuse(request, ErrorAnswer(found.error(), "MANIFEST_UNKNOWN"));
    const net::RawManifest& manifest = *found->manifest;
    net::HttpResponse answer{200, ContentHeaders(manifest.digest, manifest.media_type), manifest.body};
    if (found->result == RequestResult::kStale) {
      answer.headers.emplace_back("Warning", "110 - \"the upstream cannot be asked; this is what it said last\"");
    }
    self->Answer(request, found->result, std::move(answer));
    if (!self->hooks_.on_manifest) return;
    self->hooks_.on_manifest({request.upstream_name, request.route.repository, request.route.reference, found->manifest,
                              found->result == RequestResult::kMiss});
  });
}

void Mirror::Impl::ServeBlob(const Request& request) {
  const Digest& digest = *request.route.digest;
  // More than once: it may come into the store, or go, between two looks.
  for (int attempt = 0; attempt < 3; ++attempt) {
    const Result<store::StoredBlob> stored = store_.OpenBlob(digest);
    if (stored) return ServeStoredBlob(request, *stored);
    if (!request.upstream) return Refuse(request, ErrorAnswer(404, "BLOB_UNKNOWN", "not here, and not of an upstream"));
    if (request.only_if_cached && !flights_.IsComing(digest)) {
      return Refuse(request, ErrorAnswer(504, "BLOB_UNKNOWN", "neither here nor on its way"));
    }
    if (request.head) return HeadBlob(request);
    const BlobTarget target{request.upstream, request.route.repository, request.identity, digest};
    if (flights_.Serve(target, request.range, request.reply))
      return counters_.Count(RequestKind::kBlob, RequestResult::kMiss);
  }
  Refuse(request, ErrorAnswer(503, "UNAVAILABLE", "the blob comes and goes"));
}

void Mirror::Impl::ServeStoredBlob(const Request& request, const store::StoredBlob& blob) {
  net::HttpResponse answer{200, BlobHeaders(*request.route.digest), {}};
  ByteRange range{0, blob.bytes};
  // A Range means nothing to HEAD (RFC 9110 §14.2).
  if (!request.head) {
    const Result<std::optional<ByteRange>> asked = net::ParseRange(request.range, blob.bytes);
    if (!asked) return Refuse(request, UnsatisfiableRange(blob.bytes));
    if (*asked) {
      range = **asked;
      answer.status = 206;
      answer.headers.emplace_back("Content-Range", net::FormatContentRange(range, blob.bytes));
    }
    counters_.hit_bytes += range.size();
  }
  answer.body = net::FileRange{blob.fd, range, blob.hold};
  Answer(request, RequestResult::kHit, std::move(answer));
}

void Mirror::Impl::HeadBlob(const Request& request) {
  const auto answer = [self = shared_from_this(), request](uint64_t blob_bytes) {
    // Only its length is used: an answer to HEAD has no body.
    self->Answer(request, RequestResult::kMiss,
                 {200, BlobHeaders(*request.route.digest), net::FileRange{-1, {0, blob_bytes}, nullptr}});
  };
  if (const auto known = flights_.BlobBytes(*request.route.digest)) return answer(*known);
  const bool posted = request.upstream->calls().Post([self = shared_from_this(), request, answer] {
    uint64_t blob_bytes = 0;
    const Status asked =
        request.upstream->Try(request.route.repository, request.identity, [&](net::Repository& repository) -> Status {
          BANYAN_ASSIGN(blob_bytes, repository.BlobBytes(*request.route.digest));
          return {};
        });
    if (!asked) return self->Refuse(request, ErrorAnswer(asked.error(), "BLOB_UNKNOWN"));
    answer(blob_bytes);
  });
  if (!posted) Refuse(request, ErrorAnswer(503, "UNAVAILABLE", "too much is waiting for this upstream already"));
}

void Mirror::Impl::ServeReferrers(const Request& request) {
  const ReferrersTarget target{request.upstream,         request.upstream_name,
                               request.route.repository, request.identity,
                               *request.route.digest,    request.route.Parameter("artifactType").value_or("")};
  referrers_.Get(target, [self = shared_from_this(), request,
                          filtered = !target.artifact_type.empty()](const Result<FoundReferrers>& found) {
    if (!found) return self->Refuse(request, ErrorAnswer(found.error(), "NAME_UNKNOWN"));
    net::HttpResponse answer{200, {{"Content-Type", std::string(net::kOciIndexType)}}, found->index};
    if (filtered) answer.headers.emplace_back("OCI-Filters-Applied", "artifactType");
    if (found->stale) {
      answer.headers.emplace_back("Warning", "110 - \"the upstream cannot be asked; this is what it said last\"");
    }
    self->Answer(request, found->stale ? RequestResult::kStale : RequestResult::kMiss, std::move(answer));
  });
}

void Mirror::Impl::ServeTags(const Request& request) {
  if (!request.upstream) return Refuse(request, ErrorAnswer(404, "NAME_UNKNOWN", "not of an upstream of this mirror"));
  uint32_t n = 0;
  if (const auto text = request.route.Parameter("n")) {
    const std::optional<uint64_t> number = net::ParseDecimal(*text);
    if (!number) return Refuse(request, ErrorAnswer(400, "PAGINATION_NUMBER_INVALID", "n is not a number"));
    n = static_cast<uint32_t>(std::min<uint64_t>(*number, kMaxTagsPage));
    if (n == 0) {
      return Answer(request, RequestResult::kMiss,
                    {200,
                     {{"Content-Type", "application/json"}},
                     nlohmann::json{{"name", request.route.repository}, {"tags", nlohmann::json::array()}}.dump()});
    }
  }
  const std::string last = request.route.Parameter("last").value_or("");
  const bool posted = request.upstream->calls().Post(
      [self = shared_from_this(), request, n, last] { self->ListTags(request, n, last); });
  if (!posted) Refuse(request, ErrorAnswer(503, "UNAVAILABLE", "too much is waiting for this upstream already"));
}

void Mirror::Impl::ListTags(const Request& request, uint32_t n, const std::string& last) {
  net::TagList list;
  const Status asked =
      request.upstream->Try(request.route.repository, request.identity, [&](net::Repository& repository) -> Status {
        BANYAN_ASSIGN(list, repository.ListTags(n, last));
        return {};
      });
  if (!asked) return Refuse(request, ErrorAnswer(asked.error(), "NAME_UNKNOWN"));
  TakePage(list, n, last);
  net::HttpResponse answer{200,
                           {{"Content-Type", "application/json"}},
                           nlohmann::json{{"name", request.route.repository}, {"tags", list.tags}}.dump()};
  if (list.more && !list.tags.empty()) {
    // Relative to what was asked: same path, same upstream.
    std::string next = fmt::format("?last={}", net::PercentEncode(list.tags.back()));
    if (n > 0) next += fmt::format("&n={}", n);
    if (const auto ns = request.route.Parameter("ns")) next += "&ns=" + net::PercentEncode(*ns);
    const std::string host = request.route.host.empty() ? "" : request.route.host + "/";
    answer.headers.emplace_back(
        "Link", fmt::format("</v2/{}{}/tags/list{}>; rel=\"next\"", host, request.route.repository, next));
  }
  Answer(request, RequestResult::kMiss, std::move(answer));
}

Mirror::Mirror(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

Mirror::~Mirror() { impl_->Stop(); }

Result<std::unique_ptr<Mirror>> Mirror::Create(MirrorOptions options, store::NodeStore& store, Hooks hooks) {
  auto impl = std::make_shared<Impl>(std::move(options), store, std::move(hooks));
  BANYAN_TRY(impl->AddUpstreams());
  return std::unique_ptr<Mirror>(new Mirror(std::move(impl)));
}

void Mirror::Handle(net::HttpRequest request, std::shared_ptr<net::HttpReply> reply) {
  impl_->Handle(std::move(request), std::move(reply));
}

Stats Mirror::stats() const { return impl_->stats(); }

}  // namespace banyan::mirror
