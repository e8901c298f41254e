#include "registry-proxy/proxy.h"

#include <algorithm>
#include <sstream>
#include <utility>

#include <fmt/format.h>

#include "common/file_io.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/settings.h"
#include "fetch/priority_header.h"
#include "image-format/oci.h"
#include "mirror/answers.h"
#include "mirror/metrics.h"
#include "net/url.h"
#include "store/metrics.h"

namespace banyan::registry_proxy {
namespace {

constexpr uint64_t kMaxKeyBytes = 16 * kKiB;
constexpr uint64_t kMaxPasswordBytes = 1 * kMiB;
constexpr std::chrono::hours kGarbageAge{24};
constexpr uint32_t kNotSentBytes = 32 * kKiB;     // what the kernel takes ahead of the link, a client
constexpr std::chrono::milliseconds kBacklog{4};  // and holds for one, by time: net::HttpServerOptions

mirror::EndpointOptions EndpointOf(const std::string& text, const std::string& ca_file) {
  const auto url = net::Url::Parse(text);  // checked with the configuration
  const bool plain = !url->secure();
  const bool usual_port = url->port() == (plain ? 80 : 443);
  return {usual_port ? url->host() : fmt::format("{}:{}", url->host(), url->port()), plain, ca_file};
}

std::vector<mirror::EndpointOptions> EndpointsOf(const std::string& name, const UpstreamConfig& config) {
  std::vector<mirror::EndpointOptions> endpoints;
  for (const std::string& text : config.endpoints) endpoints.push_back(EndpointOf(text, config.ca_file));
  if (endpoints.empty()) endpoints.push_back({name, false, config.ca_file});
  return endpoints;
}

mirror::UpstreamOptions UpstreamOptionsOf(const std::string& name, const UpstreamConfig& config) {
  mirror::UpstreamOptions options;
  options.name = name;
  options.endpoints = EndpointsOf(name, config);
  options.credentials_file = config.credentials_file;
  options.credentials_for = config.credentials_for;
  options.connect_timeout = config.connect_timeout;
  options.stall_timeout = config.stall_timeout;
  options.attempts = static_cast<uint32_t>(config.attempts);
  options.max_fills = static_cast<uint32_t>(config.max_fills);
  return options;
}

net::HttpResponse Text(int status, std::string body) {
  return {status, {{"Content-Type", "text/plain; charset=utf-8"}}, std::move(body)};
}

constexpr std::string_view kTorrentSuffix = ".torrent";

// A blob's bytes with the repository they come from.
class KeepingSource final : public ByteSource {
 public:
  KeepingSource(std::shared_ptr<net::Repository> repository, std::unique_ptr<ByteSource> source)
      : repository_(std::move(repository)), source_(std::move(source)) {}
  Result<size_t> Read(std::span<std::byte> buffer) override { return source_->Read(buffer); }

 private:
  const std::shared_ptr<net::Repository> repository_;
  const std::unique_ptr<ByteSource> source_;
};

bool IsRead(const net::HttpRequest& request) { return request.method == "GET" || request.method == "HEAD"; }

}  // namespace

Proxy::Proxy(Config config, std::string version) : config_(std::move(config)), version_(std::move(version)) {}

Result<std::unique_ptr<Proxy>> Proxy::Start(Config config, std::string version) {
  std::unique_ptr<Proxy> proxy(new Proxy(std::move(config), std::move(version)));
  BANYAN_TRY(proxy->LoadKeys());
  BANYAN_TRY(proxy->OpenStores());
  BANYAN_TRY(proxy->StartTorrents());
  BANYAN_TRY(proxy->StartConversions());
  BANYAN_TRY(proxy->StartMirror());
  BANYAN_TRY(proxy->Serve());
  return proxy;
}

Proxy::~Proxy() {
  status_.reset();
  if (conversions_) conversions_->Stop();  // it reads through the server
  if (torrents_) torrents_->Stop();        // so do they
  if (server_) server_->Stop();
  uplink_.Close();
  if (disk_workers_) disk_workers_->Stop();
  if (check_workers_) check_workers_->Stop();
  mirror_.reset();
}

Status Proxy::LoadKeys() {
  const auto load = [](const std::string& path) -> Result<std::string> { return ReadFile(path, kMaxKeyBytes); };
  if (!config_.key_file.empty()) {
    BANYAN_ASSIGN(const std::string pem, load(config_.key_file));
    auto key = image_format::SigningKey::FromPem(pem);
    if (!key) return Fail(key.error().WithContext(config_.key_file));
    key_.emplace(std::move(*key));
    trust_.keys.push_back(key_->public_key());
  }
  for (const std::string& path : config_.trusted_keys) {
    BANYAN_ASSIGN(const std::string pem, load(path));
    const auto key = image_format::PublicKey::FromPem(pem);
    if (!key) return Fail(key.error().WithContext(path));
    trust_.keys.push_back(*key);
  }
  trust_.min_converter_version = config_.min_converter_version;
  return {};
}

Status Proxy::OpenStores() {
  BANYAN_TRY(MakeDirectories(config_.data_root, 0700));
  BANYAN_ASSIGN(store_, store::NodeStore::Open(
                            {.root = config_.data_root + "/store", .budget_bytes = config_.store_budget.bytes}));
  BANYAN_ASSIGN(content_, ContentStore::Open(config_.data_root + "/content"));
  disk_workers_ = std::make_unique<mirror::Workers>(8, 4096);
  check_workers_ = std::make_unique<mirror::Workers>(16, 1024);

  OwnRegistryOptions own{.push = config_.push, .remove = config_.remove, .logins = {}};
  if (!config_.password_file.empty()) {
    BANYAN_ASSIGN(const std::string text, ReadFile(config_.password_file, kMaxPasswordBytes));
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      if (!line.empty()) own.logins.push_back(line);
    }
    if (own.logins.empty()) return Fail(Code::kInvalidArgument, config_.password_file + ": nobody may log in");
  }
  own_ = std::make_unique<OwnRegistry>(std::move(own), *content_, *disk_workers_);

  std::map<std::string, std::vector<std::string>> client_upstreams;
  for (const auto& [name, upstream] : config_.upstreams) {
    if (upstream.auth == "client") client_upstreams[name] = upstream.credentials_for;
  }
  authoriser_ = std::make_unique<Authoriser>(
      std::move(client_upstreams),
      [this](const auto& upstream, const auto& repository, const auto& identity) {
        return CheckAccess(upstream, repository, identity);
      },
      *check_workers_);
  return {};
}

Status Proxy::StartTorrents() {
  std::string token;
  if (!config_.tracker_token_file.empty()) {
    BANYAN_ASSIGN(token, ReadToken(config_.tracker_token_file));
  }
  std::string announce;
  if (!config_.tracker.empty()) announce = config_.tracker + TrackerPath(token) + "/announce";
  torrents_ = std::make_unique<Torrents>(config_.data_root + "/torrents", std::move(announce));
  return {};
}

Status Proxy::StartConversions() {
  ConversionOptions options;
  options.root = config_.data_root + "/conversions";
  options.policy = {config_.convert, config_.images, config_.never, config_.min_size.bytes, config_.max_storage.bytes};
  options.workers = static_cast<uint32_t>(config_.convert_workers);
  options.threads = static_cast<uint32_t>(config_.convert_threads);
  options.settings.level = static_cast<int>(config_.level);
  options.trust = trust_;
  options.key = key_ ? &*key_ : nullptr;
  for (const auto& [name, upstream] : config_.upstreams) {
    if (upstream.push_artifacts) options.push_to.push_back(name);
  }
  BANYAN_ASSIGN(conversions_, Conversions::Open(std::move(options), *content_,
                                                [this](const auto& upstream, const auto& repository, bool push) {
                                                  return OpenRepository(upstream, repository, push);
                                                }));
  return {};
}

Status Proxy::StartMirror() {
  mirror::MirrorOptions options;
  for (const auto& [name, upstream] : config_.upstreams) {
    options.upstreams.push_back(UpstreamOptionsOf(name, upstream));
  }
  options.default_upstream = config_.default_upstream;
  options.tag_lifetime = config_.tag_lifetime;
  options.referrers_lifetime = config_.referrers_lifetime;
  options.stale_after = config_.stale_after;
  options.referrers_budget = config_.referrers_budget;

  mirror::Hooks hooks;
  hooks.answer_first = [this](auto& request, auto& reply) { return AnswerFirst(request, reply); };
  hooks.authorise = [this](const auto& request, const auto& upstream, const auto& route, auto reply, auto proceed) {
    authoriser_->Authorise(request, upstream, route.repository, std::move(reply), std::move(proceed));
  };
  hooks.on_manifest = [this](const mirror::ResolvedManifest& found) {
    conversions_->Offer(found.upstream, found.repository, found.reference, found.manifest);
  };
  hooks.extra_referrers = [this](const auto& upstream, const auto& repository, const Digest& subject) {
    return content_->Referrers(Conversions::StoreName(upstream, repository), subject);
  };
  BANYAN_ASSIGN(mirror_, mirror::Mirror::Create(std::move(options), *store_, std::move(hooks)));
  return {};
}

Status Proxy::Serve() {
  BANYAN_ASSIGN(const HostPort listen, ParseHostPort(config_.listen));
  net::HttpServerOptions options;
  options.address = listen.host;
  options.port = listen.port;
  options.threads = static_cast<uint32_t>(config_.threads);
  options.max_body_bytes = image_format::kMaxManifestBytes;
  options.open_body = [this](const net::HttpRequest& head) -> std::shared_ptr<net::HttpBody> {
    const auto route = mirror::ParseRoute(head.target, true);
    if (!route || !route->host.empty() || route->Parameter("ns")) return nullptr;
    return own_->OpenBody(head, *route);
  };
  options.notsent_bytes = kNotSentBytes;
  options.backlog = kBacklog;
  BANYAN_ASSIGN(server_, net::HttpServer::Start(options, [this](net::HttpRequest request, auto reply) {
                  auto by_turns = ByTurns(request, std::move(reply));
                  mirror_->Handle(std::move(request), std::move(by_turns));
                }));
  if (!net::IsLoopbackHost(listen.ToString())) {
    spdlog::warn("plain HTTP on {}: anyone on this network can read and change what goes over it", config_.listen);
  }
  conversions_->Start();
  if (config_.status.empty()) return {};
  const std::string status = config_.status == "unix" ? "unix:" + config_.data_root + "/status.sock" : config_.status;
  BANYAN_ASSIGN(status_, StatusService::Listen(*conversions_, status));
  return {};
}

void Proxy::CollectGarbage() {
  const auto freed = content_->CollectGarbage(kGarbageAge);
  if (!freed) return spdlog::warn("garbage: {}", freed.error().message);
  if (*freed > 0) spdlog::info("garbage: {} bytes removed", *freed);
}

std::string Proxy::UpstreamOf(const mirror::Route& route) const {
  if (const auto ns = route.Parameter("ns"); ns && !ns->empty()) return *ns;
  return route.host.empty() ? config_.default_upstream : route.host;
}

std::shared_ptr<net::HttpReply> Proxy::ByTurns(const net::HttpRequest& request, std::shared_ptr<net::HttpReply> reply) {
  if (request.method != "GET" || net::IsLoopbackHost(request.client)) return reply;
  const auto route = mirror::ParseRoute(request.target, true);
  if (!route || route->kind != mirror::Route::Kind::kBlob) return reply;
  const std::string* priority = request.headers.Find("priority");
  fetch::UplinkGate::Answer answer;
  answer.child = request.client;
  answer.function = route->repository;
  answer.priority = fetch::ParsePriority(priority == nullptr ? std::string_view() : *priority);
  return uplink_.Wrap(std::move(reply), std::move(answer));
}

bool Proxy::AnswerFirst(net::HttpRequest& request, std::shared_ptr<net::HttpReply>& reply) {
  const std::string_view path = request.path();
  if (path == "/healthz") return reply->Send(Text(200, "ok\n")), true;
  if (path == "/readyz") return reply->Send(Text(200, "ready\n")), true;
  if (path == "/metrics") return reply->Send(Metrics()), true;
  if (path.ends_with(kTorrentSuffix) && IsRead(request)) return AnswerTorrent(request, reply);
  const auto route = mirror::ParseRoute(request.target, true);
  if (!route) return false;
  if (route->kind == mirror::Route::Kind::kBase) {
    auto challenge = authoriser_->BaseChallenge(request, UpstreamOf(*route));
    if (challenge) reply->Send(std::move(*challenge));
    return challenge.has_value();
  }
  const bool names_upstream = !route->host.empty() || route->Parameter("ns");
  if (!names_upstream && (OwnRegistry::IsWrite(request, *route) || own_->Has(route->repository))) {
    own_->Handle(std::move(request), *route, std::move(reply));
    return true;
  }
  return IsRead(request) && AnswerArtifact(request, *route, reply);
}

// Artifacts lie where nothing is evicted; they are as private as the image that they were made of.
bool Proxy::AnswerArtifact(net::HttpRequest& request, const mirror::Route& route,
                           std::shared_ptr<net::HttpReply>& reply) {
  using Kind = mirror::Route::Kind;
  if (!route.digest || (route.kind != Kind::kManifest && route.kind != Kind::kBlob)) return false;
  const std::string upstream = UpstreamOf(route);
  const std::string repository = Conversions::StoreName(upstream, route.repository);
  if (upstream.empty() || !config_.upstreams.contains(upstream)) return false;
  const bool here = route.kind == Kind::kManifest ? content_->HasManifest(repository, *route.digest)
                                                  : content_->HasBlobIn(repository, *route.digest);
  if (!here) return false;
  const auto shared_request = std::make_shared<const net::HttpRequest>(std::move(request));  // copied with the task
  authoriser_->Authorise(*shared_request, upstream, route.repository, reply,
                         [this, shared_request, route, repository, reply](const mirror::Identity&) {
                           reply->Send(ArtifactAnswer(*shared_request, route, repository));
                         });
  return true;
}

// As private as the blob itself.
bool Proxy::AnswerTorrent(net::HttpRequest& request, std::shared_ptr<net::HttpReply>& reply) {
  const std::string_view path = request.path();
  const std::string target =
      std::string(path.substr(0, path.size() - kTorrentSuffix.size())) + request.target.substr(path.size());
  const auto route = mirror::ParseRoute(target, true);
  if (!route || route->kind != mirror::Route::Kind::kBlob) return false;
  const bool body = request.method == "GET";
  if (route->host.empty() && !route->Parameter("ns") && own_->Has(route->repository)) {
    torrents_->Answer(
        *route->digest, [this, route = *route] { return OpenBlob("", route.repository, *route.digest); }, body, reply);
    return true;
  }
  const std::string upstream = UpstreamOf(*route);
  if (!config_.upstreams.contains(upstream)) return false;
  const auto open = [this, upstream, route = *route] { return OpenBlob(upstream, route.repository, *route.digest); };
  authoriser_->Authorise(request, upstream, route->repository, reply,
                         [this, digest = *route->digest, open, body, reply](const mirror::Identity&) {
                           torrents_->Answer(digest, open, body, reply);
                         });
  return true;
}

// From the content store, else through the proxy's own mirror. No upstream: the own registry.
Result<std::unique_ptr<ByteSource>> Proxy::OpenBlob(const std::string& upstream, const std::string& repository,
                                                    const Digest& digest) const {
  const std::string name =
      upstream.empty() ? OwnRegistry::StoreName(repository) : Conversions::StoreName(upstream, repository);
  if (content_->HasBlobIn(name, digest)) {
    BANYAN_ASSIGN(auto file, content_->OpenBlob(digest));
    return std::make_unique<FdSource>(std::move(file.fd), digest.ToString());
  }
  if (upstream.empty()) return Fail(Code::kNotFound, fmt::format("{} has no blob {}", repository, digest.ToString()));
  BANYAN_ASSIGN(auto opened, OpenRepository(upstream, repository, false));
  const std::shared_ptr<net::Repository> shared = std::move(opened);
  BANYAN_ASSIGN(auto source, shared->OpenBlob(digest));
  return std::make_unique<KeepingSource>(shared, std::move(source));
}

net::HttpResponse Proxy::ArtifactAnswer(const net::HttpRequest& request, const mirror::Route& route,
                                        const std::string& repository) const {
  if (route.kind == mirror::Route::Kind::kBlob) return AnswerBlob(*content_, request, *route.digest);
  auto manifest = content_->GetManifest(repository, route.digest->ToString());
  if (!manifest) return mirror::ErrorAnswer(manifest.error(), "MANIFEST_UNKNOWN");
  return {200, mirror::ContentHeaders(manifest->digest, manifest->media_type), std::move(manifest->body)};
}

// The cheapest question that registries answer by the right to pull a repository.
Status Proxy::CheckAccess(const std::string& upstream, const std::string& repository,
                          const mirror::Identity& identity) const {
  const UpstreamConfig& config = config_.upstreams.at(upstream);
  Status status = Fail(Code::kUnavailable, upstream + " has no endpoint");
  for (const mirror::EndpointOptions& endpoint : EndpointsOf(upstream, config)) {
    net::ImageReference reference;
    reference.host = endpoint.host;
    reference.repository = repository;
    net::RepositoryOptions options;
    options.plain_http = endpoint.plain_http;
    options.ca_file = endpoint.ca_file;
    options.username = identity.username;
    options.password = identity.password;
    options.anonymous = identity.username.empty();
    options.attempts = 1;
    options.connect_timeout_ms = static_cast<uint32_t>(config.connect_timeout.count());
    BANYAN_ASSIGN(const auto opened, net::OpenRepository(reference, options));
    const auto tags = opened->ListTags(1, {});
    if (tags) return {};
    status = Fail(tags.error());
    if (tags.error().code != Code::kUnavailable && tags.error().code != Code::kDeadlineExceeded) return status;
  }
  return status;
}

Result<std::unique_ptr<net::Repository>> Proxy::OpenRepository(const std::string& upstream,
                                                               const std::string& repository, bool push) const {
  const auto known = config_.upstreams.find(upstream);
  if (known == config_.upstreams.end()) return Fail(Code::kNotFound, "no such upstream: " + upstream);
  net::ImageReference reference;
  net::RepositoryOptions options;
  reference.repository = repository;
  if (push) {
    const mirror::EndpointOptions endpoint = EndpointsOf(upstream, known->second).front();
    reference.host = endpoint.host;
    options.plain_http = endpoint.plain_http;
    options.ca_file = endpoint.ca_file;
    options.credentials_file = known->second.credentials_file;
    options.anonymous = known->second.credentials_file.empty();
    return net::OpenRepository(reference, options);
  }
  BANYAN_ASSIGN(const HostPort listen, ParseHostPort(config_.listen));
  const std::string host = listen.is_any() ? (listen.host == "::" ? "::1" : "127.0.0.1") : listen.host;
  reference.host = HostPort{host, server_->port()}.ToString();
  options.plain_http = true;
  options.mirrored_registry = upstream;
  options.username = authoriser_->own_identity().username;
  options.password = authoriser_->own_identity().password;
  options.stall_timeout_ms = 60'000;  // the mirror has its own idea of a stall
  return net::OpenRepository(reference, options);
}

net::HttpResponse Proxy::Metrics() const {
  MetricsPage page;
  page.Process(version_);
  mirror::AddMetrics(mirror_->stats(), page);
  const auto counter = [&](const char* name, const char* help, uint64_t value) {
    page.Counter(name, help, static_cast<double>(value));
  };
  const auto gauge = [&](const char* name, const char* help, uint64_t value) {
    page.Gauge(name, help, static_cast<double>(value));
  };
  store::AddMetrics(store_->usage(), page);
  gauge("banyan_content_bytes", "Artifacts and pushed images on disk.", content_->used_bytes());
  counter("banyan_torrents_made_total", "Torrents made of blobs because they were asked for.", torrents_->made());
  gauge("banyan_uploads_active", "Pushes of blobs under way.", own_->uploads());
  gauge("banyan_http_connections", "Connections of clients.", server_->connections());
  const ConversionStats conversions = conversions_->stats();
  gauge("banyan_conversions_queued", "Images that wait for their conversion.", conversions.queued);
  gauge("banyan_conversions_running", "Images being converted.", conversions.running);
  counter("banyan_conversions_done_total", "Images converted.", conversions.done);
  counter("banyan_conversions_present_total", "Images whose registry had an artifact.", conversions.present);
  counter("banyan_conversions_failed_total", "Images that could not be converted.", conversions.failed);
  counter("banyan_converted_layers_total", "Layers converted.", conversions.layers_converted);
  counter("banyan_reused_layers_total", "Layers that had been converted before.", conversions.layers_reused);
  counter("banyan_converted_source_bytes_total", "Compressed bytes of converted layers.", conversions.source_bytes);
  counter("banyan_untrusted_artifacts_total", "Artifacts at upstreams that no trusted key has signed.",
          conversions.untrusted_artifacts);
  return {200, {{"Content-Type", MetricsPage::kContentType}}, page.Text()};
}

}  // namespace banyan::registry_proxy
