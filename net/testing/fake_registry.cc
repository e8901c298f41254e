#include "net/testing/fake_registry.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "net/auth.h"
#include "net/http_server.h"
#include "net/manifest_json.h"
#include "net/range_header.h"

namespace banyan::net::testing {

namespace {

using Clock = std::chrono::steady_clock;
using Headers = std::vector<std::pair<std::string, std::string>>;

constexpr size_t kSlowPieceBytes = 16 * 1024;

std::string HeaderOf(const HttpRequest& request, std::string_view name) {
  const std::string* value = request.headers.Find(name);
  return value != nullptr ? *value : std::string();
}

std::string After(std::string_view text, std::string_view marker) {
  const size_t at = text.find(marker);
  return at == std::string_view::npos ? std::string() : std::string(text.substr(at + marker.size()));
}

HttpResponse ErrorAnswer(int status, std::string_view code, Headers headers = {}) {
  headers.emplace_back("Content-Type", "application/json");
  return {status, std::move(headers),
          fmt::format(R"({{"errors":[{{"code":"{}","message":"as the test wants it"}}]}})", code)};
}

// Runs tasks after a delay, on one thread.
class DelayQueue {
 public:
  DelayQueue() : thread_([this] { Work(); }) {}
  ~DelayQueue() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }
  void Add(std::chrono::milliseconds delay, std::function<void()> task) {
    const std::lock_guard lock(mutex_);
    tasks_.emplace(Clock::now() + delay, std::move(task));
    wake_.notify_one();
  }

 private:
  void Work() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      if (tasks_.empty()) {
        wake_.wait(lock);
      } else if (tasks_.begin()->first > Clock::now()) {
        wake_.wait_until(lock, tasks_.begin()->first);
      } else {
        const auto task = std::move(tasks_.extract(tasks_.begin()).mapped());
        lock.unlock();
        task();
        lock.lock();
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::multimap<Clock::time_point, std::function<void()>> tasks_;  // guarded by mutex_
  bool stopping_ = false;                                          // guarded by mutex_
  std::thread thread_;
};

struct StoredManifest {
  std::string media_type;
  std::string body;
};

}  // namespace

struct FakeRegistry::State {
  explicit State(const FakeRegistryOptions& registry_options) : options(registry_options) {}

  const FakeRegistryOptions options;
  mutable std::mutex mutex;
  std::map<Digest, std::shared_ptr<const std::string>> blobs;  // guarded by mutex, as is all that follows
  std::map<std::string, StoredManifest> manifests;             // by tag and by digest
  std::map<std::string, std::string> uploads;
  std::map<std::string, Clock::time_point> tokens;  // with their ends
  std::vector<Fault> faults;
  std::vector<SeenRequest> seen;
  uint64_t next_id = 1;
  uint64_t redirect_epoch = 0;
  uint64_t blob_bytes_sent = 0;
  std::vector<std::shared_ptr<HttpReply>> stalled;

  DelayQueue delays;
  std::unique_ptr<HttpServer> registry;
  std::unique_ptr<HttpServer> storage;
  std::unique_ptr<HttpServer> token_endpoint;

  using ReplyPtr = std::shared_ptr<HttpReply>;
  enum class Port { kRegistry, kStorage, kToken };

  Status Listen();
  void Handle(Port port, const HttpRequest& request, const ReplyPtr& reply);
  std::optional<Fault> TakeFault(const HttpRequest& request);
  HttpResponse Answer(Port port, const HttpRequest& request, const std::optional<Fault>& fault);
  HttpResponse AnswerToken(const HttpRequest& request);
  HttpResponse AnswerRegistry(const HttpRequest& request, const std::optional<Fault>& fault);
  HttpResponse AnswerBlob(const HttpRequest& request, const std::optional<Fault>& fault);
  HttpResponse AnswerUpload(const HttpRequest& request);
  HttpResponse AnswerManifest(const HttpRequest& request);
  HttpResponse AnswerReferrers(const HttpRequest& request);
  bool IsAuthorized(const HttpRequest& request) const;
  void Reply(const HttpRequest& request, const ReplyPtr& reply, HttpResponse response,
             const std::optional<Fault>& fault);
  void SendSlowly(const ReplyPtr& reply, std::shared_ptr<const std::string> body, size_t offset,
                  std::chrono::milliseconds delay);
};

Status FakeRegistry::State::Listen() {
  HttpServerOptions server_options;
  server_options.max_body_bytes = 256 * kMiB;
  server_options.stop_grace = std::chrono::milliseconds(0);
  const auto serve = [&](Port port, std::unique_ptr<HttpServer>& server) -> Status {
    BANYAN_ASSIGN(server, HttpServer::Start(server_options, [this, port](HttpRequest request, ReplyPtr reply) {
                    Handle(port, request, reply);
                  }));
    return {};
  };
  BANYAN_TRY(serve(Port::kStorage, storage));
  BANYAN_TRY(serve(Port::kToken, token_endpoint));
  return serve(Port::kRegistry, registry);
}

std::optional<Fault> FakeRegistry::State::TakeFault(const HttpRequest& request) {
  for (Fault& fault : faults) {
    if (!fault.method.empty() && fault.method != request.method) continue;
    if (request.target.find(fault.path_contains) == std::string::npos) continue;
    if (fault.skip > 0) {
      --fault.skip;
      continue;
    }
    if (fault.times == 0) continue;
    --fault.times;
    return fault;
  }
  return std::nullopt;
}

void FakeRegistry::State::Handle(Port port, const HttpRequest& request, const ReplyPtr& reply) {
  std::optional<Fault> fault;
  HttpResponse response;
  {
    const std::lock_guard lock(mutex);
    seen.push_back({request.method, request.target, HeaderOf(request, "range"), HeaderOf(request, "authorization"),
                    port == Port::kStorage, port == Port::kToken});
    fault = TakeFault(request);
    response = Answer(port, request, fault);
    if (response.status / 100 == 2 && request.method == "GET" && request.target.find("/blobs/") != std::string::npos) {
      blob_bytes_sent += std::get<std::string>(response.body).size();
    }
  }
  Reply(request, reply, std::move(response), fault);
}

HttpResponse FakeRegistry::State::Answer(Port port, const HttpRequest& request, const std::optional<Fault>& fault) {
  if (fault && fault->kind == Fault::Kind::kStatus) {
    Headers headers;
    if (fault->retry_after_s >= 0) headers.emplace_back("Retry-After", std::to_string(fault->retry_after_s));
    return ErrorAnswer(fault->status, "FAULT", std::move(headers));
  }
  if (port == Port::kToken) return AnswerToken(request);
  if (port == Port::kStorage) {
    const bool current = After(request.target, "signature=") == std::to_string(redirect_epoch);
    return current ? AnswerBlob(request, fault) : ErrorAnswer(403, "EXPIRED");
  }
  return AnswerRegistry(request, fault);
}

HttpResponse FakeRegistry::State::AnswerToken(const HttpRequest& request) {
  const std::string expected = BasicAuthorization({options.username, options.password, ""});
  if (!options.username.empty() && HeaderOf(request, "authorization") != expected)
    return ErrorAnswer(401, "UNAUTHORIZED");
  const std::string token = fmt::format("token-{}", next_id++);
  tokens[token] = Clock::now() + options.token_lifetime;
  return {200,
          {{"Content-Type", "application/json"}},
          nlohmann::json{{"token", token}, {"expires_in", options.token_lifetime.count()}}.dump()};
}

bool FakeRegistry::State::IsAuthorized(const HttpRequest& request) const {
  if (!options.token_auth) return true;
  const auto token = tokens.find(After(HeaderOf(request, "authorization"), "Bearer "));
  return token != tokens.end() && Clock::now() < token->second;
}

HttpResponse FakeRegistry::State::AnswerRegistry(const HttpRequest& request, const std::optional<Fault>& fault) {
  if (!IsAuthorized(request)) {
    return ErrorAnswer(401, "UNAUTHORIZED",
                       {{"WWW-Authenticate", fmt::format(R"(Bearer realm="http://127.0.0.1:{}/token",service="fake")",
                                                         token_endpoint->port())}});
  }
  const std::string_view path = request.path();
  if (path == "/v2/" || path == "/v2") return {200, {}, std::string("{}")};
  if (path.find("/blobs/uploads") != std::string_view::npos) return AnswerUpload(request);
  if (path.find("/blobs/") != std::string_view::npos) {
    if (options.redirect_blobs && request.method == "GET") {
      return {307,
              {{"Location", fmt::format("http://127.0.0.1:{}{}?signature={}", storage->port(), path, redirect_epoch)}},
              std::string()};
    }
    return AnswerBlob(request, fault);
  }
  if (path.find("/manifests/") != std::string_view::npos) return AnswerManifest(request);
  if (path.find("/referrers/") != std::string_view::npos && options.referrers_api) return AnswerReferrers(request);
  return ErrorAnswer(404, "NOT_FOUND");
}

HttpResponse FakeRegistry::State::AnswerBlob(const HttpRequest& request, const std::optional<Fault>& fault) {
  const Result<Digest> digest = Digest::Parse(After(request.path(), "/blobs/"));
  const auto found = digest ? blobs.find(*digest) : blobs.end();
  if (found == blobs.end()) return ErrorAnswer(404, "BLOB_UNKNOWN");
  const std::string& blob = *found->second;
  Headers headers = {{"Docker-Content-Digest", digest->ToString()}, {"Accept-Ranges", "bytes"}};
  const bool ignore = fault && fault->kind == Fault::Kind::kIgnoreRange;
  const std::string range_header = ignore ? "" : HeaderOf(request, "range");
  const auto range = ParseRange(range_header, blob.size());
  if (!range) return ErrorAnswer(416, "RANGE_INVALID");
  if (!*range) return {200, std::move(headers), blob};
  headers.emplace_back("Content-Range", FormatContentRange(**range, blob.size()));
  return {206, std::move(headers), blob.substr((*range)->begin, (*range)->size())};
}

HttpResponse FakeRegistry::State::AnswerUpload(const HttpRequest& request) {
  const std::string path(request.path());
  if (request.method == "POST") {
    const std::string id = std::to_string(next_id++);
    uploads[id];
    // Relative, as the specification allows.
    return {202, {{"Location", fmt::format("{}{}?state=x", path, id)}}, std::string()};
  }
  const auto upload = uploads.find(After(path, "/uploads/"));
  if (upload == uploads.end()) return ErrorAnswer(404, "BLOB_UPLOAD_UNKNOWN");
  upload->second += request.body;
  if (request.method == "PATCH") {
    return {202, {{"Location", fmt::format("http://127.0.0.1:{}{}?state=y", registry->port(), path)}}, std::string()};
  }
  std::string text = After(request.target, "digest=");
  if (const size_t colon = text.find("%3A"); colon != std::string::npos) text.replace(colon, 3, ":");
  const Digest digest = Digest::Of(upload->second);
  if (digest.ToString() != text) return ErrorAnswer(400, "DIGEST_INVALID");
  blobs[digest] = std::make_shared<const std::string>(std::move(upload->second));
  uploads.erase(upload);
  return {201, {{"Docker-Content-Digest", digest.ToString()}}, std::string()};
}

HttpResponse FakeRegistry::State::AnswerManifest(const HttpRequest& request) {
  const std::string name = After(request.path(), "/manifests/");
  if (request.method == "PUT") {
    const StoredManifest manifest{HeaderOf(request, "content-type"), request.body};
    const std::string digest = Digest::Of(request.body).ToString();
    manifests[name] = manifests[digest] = manifest;
    Headers headers = {{"Docker-Content-Digest", digest}};
    const std::optional<Digest> subject = SubjectOf(request.body);
    if (subject && options.referrers_api) headers.emplace_back("OCI-Subject", subject->ToString());
    return {201, std::move(headers), std::string()};
  }
  const auto found = manifests.find(name);
  if (found == manifests.end()) return ErrorAnswer(404, "MANIFEST_UNKNOWN");
  return {200,
          {{"Content-Type", found->second.media_type},
           {"Docker-Content-Digest", Digest::Of(found->second.body).ToString()}},
          found->second.body};
}

// One descriptor a page, so that every client must follow links.
HttpResponse FakeRegistry::State::AnswerReferrers(const HttpRequest& request) {
  const std::string subject = After(request.path(), "/referrers/");
  const size_t page = ParseDecimal(After(request.target, "page=")).value_or(0);
  std::vector<nlohmann::json> found;
  for (const auto& [name, manifest] : manifests) {
    const std::optional<Digest> its_subject = SubjectOf(manifest.body);
    if (!Digest::Parse(name) || !its_subject || its_subject->ToString() != subject) continue;
    found.push_back(DescriptorOf(manifest.media_type, manifest.body));
  }
  nlohmann::json index = {{"schemaVersion", 2}, {"mediaType", kOciIndexType}, {"manifests", nlohmann::json::array()}};
  if (page < found.size()) index["manifests"].push_back(found[page]);
  Headers headers = {{"Content-Type", std::string(kOciIndexType)}};
  if (page + 1 < found.size()) {
    headers.emplace_back("Link", fmt::format("<{}?page={}>; rel=\"next\"", request.path(), page + 1));
  }
  return {200, std::move(headers), index.dump()};
}

void FakeRegistry::State::Reply(const HttpRequest& request, const ReplyPtr& reply, HttpResponse response,
                                const std::optional<Fault>& fault) {
  const Fault::Kind kind = fault ? fault->kind : Fault::Kind::kStatus;
  auto& body = std::get<std::string>(response.body);
  if (kind == Fault::Kind::kFlipByte && !body.empty()) {
    char& byte = body[std::min<uint64_t>(fault->after_bytes, body.size() - 1)];
    byte = static_cast<char>(~byte);
  }
  if (kind == Fault::Kind::kDelay) {
    const auto shared = std::make_shared<HttpResponse>(std::move(response));
    return delays.Add(fault->delay, [reply, shared] { reply->Send(std::move(*shared)); });
  }
  const bool partial = kind == Fault::Kind::kStall || kind == Fault::Kind::kCut;
  if (!partial && (kind != Fault::Kind::kSlow || request.method == "HEAD")) return reply->Send(std::move(response));
  reply->SendHead(response.status, std::move(response.headers), body.size());
  if (kind == Fault::Kind::kSlow) {
    return SendSlowly(reply, std::make_shared<const std::string>(std::move(body)), 0, fault->delay);
  }
  const bool cut = kind == Fault::Kind::kCut;
  reply->Write(body.substr(0, fault->after_bytes), [reply, cut](bool) {
    if (cut) reply->Abort();
  });
  if (!cut) {
    const std::lock_guard lock(mutex);
    stalled.push_back(reply);
  }
}

void FakeRegistry::State::SendSlowly(const ReplyPtr& reply, std::shared_ptr<const std::string> body, size_t offset,
                                     std::chrono::milliseconds delay) {
  if (offset >= body->size()) return reply->End();
  reply->Write(body->substr(offset, kSlowPieceBytes), [this, reply, body, offset, delay](bool alive) {
    if (!alive) return;
    delays.Add(delay, [this, reply, body, offset, delay] { SendSlowly(reply, body, offset + kSlowPieceBytes, delay); });
  });
}

FakeRegistry::FakeRegistry(std::unique_ptr<State> state) : state_(std::move(state)) {}

FakeRegistry::~FakeRegistry() {
  for (auto* server : {&state_->registry, &state_->storage, &state_->token_endpoint}) (*server)->Stop();
}

Result<std::unique_ptr<FakeRegistry>> FakeRegistry::Start(const FakeRegistryOptions& options) {
  auto state = std::make_unique<State>(options);
  BANYAN_TRY(state->Listen());
  return std::unique_ptr<FakeRegistry>(new FakeRegistry(std::move(state)));
}

std::string FakeRegistry::host() const { return fmt::format("127.0.0.1:{}", state_->registry->port()); }

Digest FakeRegistry::AddBlob(std::string bytes) {
  const Digest digest = Digest::Of(bytes);
  const std::lock_guard lock(state_->mutex);
  state_->blobs[digest] = std::make_shared<const std::string>(std::move(bytes));
  return digest;
}

Digest FakeRegistry::AddManifest(const std::string& tag, const std::string& media_type, const std::string& body) {
  const Digest digest = Digest::Of(body);
  const std::lock_guard lock(state_->mutex);
  state_->manifests[digest.ToString()] = {media_type, body};
  if (!tag.empty()) state_->manifests[tag] = {media_type, body};
  return digest;
}

Result<std::string> FakeRegistry::Blob(const Digest& digest) const {
  const std::lock_guard lock(state_->mutex);
  const auto found = state_->blobs.find(digest);
  if (found == state_->blobs.end()) return Fail(Code::kNotFound, "no such blob");
  return *found->second;
}

Result<std::string> FakeRegistry::Manifest(const std::string& tag_or_digest) const {
  const std::lock_guard lock(state_->mutex);
  const auto found = state_->manifests.find(tag_or_digest);
  if (found == state_->manifests.end()) return Fail(Code::kNotFound, "no such manifest");
  return found->second.body;
}

void FakeRegistry::AddFault(Fault fault) {
  const std::lock_guard lock(state_->mutex);
  state_->faults.push_back(std::move(fault));
}

void FakeRegistry::ClearFaults() {
  const std::lock_guard lock(state_->mutex);
  state_->faults.clear();
}

void FakeRegistry::RevokeTokens() {
  const std::lock_guard lock(state_->mutex);
  state_->tokens.clear();
}

void FakeRegistry::ExpireRedirects() {
  const std::lock_guard lock(state_->mutex);
  ++state_->redirect_epoch;
}

std::vector<SeenRequest> FakeRegistry::requests() const {
  const std::lock_guard lock(state_->mutex);
  return state_->seen;
}

void FakeRegistry::ClearRequests() {
  const std::lock_guard lock(state_->mutex);
  state_->seen.clear();
}

uint64_t FakeRegistry::blob_bytes_sent() const {
  const std::lock_guard lock(state_->mutex);
  return state_->blob_bytes_sent;
}

}  // namespace banyan::net::testing
