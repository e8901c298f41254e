#include "net/registry_session.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/log.h"
#include "net/range_header.h"

namespace banyan::net {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMaxAuthRounds = 2;  // a token that the registry does not take is fetched anew once
constexpr int kMaxRedirects = 10;
constexpr size_t kMaxErrorBodyBytes = 64 * 1024;
constexpr size_t kMaxTokenBodyBytes = 256 * 1024;
constexpr size_t kMaxRedirectTargets = 1024;
constexpr auto kRedirectTargetLifetime = std::chrono::minutes(5);
constexpr auto kMaxRetryAfter = std::chrono::seconds(60);

bool IsRedirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

std::string Printable(std::string_view text, size_t limit) {
  std::string shown(text.substr(0, limit));
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = ' ';
  }
  return shown;
}

// "(DENIED: requested access to the resource is denied)" out of a distribution error body; else empty.
std::string ErrorDetail(std::string_view body) {
  const nlohmann::json root = nlohmann::json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return {};
  const auto errors = root.find("errors");
  if (errors == root.end() || !errors->is_array() || errors->empty() || !errors->front().is_object()) return {};
  const auto text = [&](const char* name) {
    const auto found = errors->front().find(name);
    return found != errors->front().end() && found->is_string() ? Printable(found->get<std::string>(), 200)
                                                                : std::string();
  };
  return fmt::format(" ({}: {})", text("code"), text("message"));
}

std::optional<std::chrono::seconds> RetryAfter(const HeaderList& headers) {
  const std::string* value = headers.Find("retry-after");
  const std::optional<uint64_t> seconds = value != nullptr ? ParseDecimal(*value) : std::nullopt;
  if (!seconds) return std::nullopt;  // dates are not understood: the caller's own backoff is used
  return std::min(std::chrono::seconds(static_cast<int64_t>(std::min<uint64_t>(*seconds, 3600))), kMaxRetryAfter);
}

struct TransportError {
  Code code;
  bool transient;
  std::string_view text;
};

TransportError Classify(TransferEnd end) {
  switch (end) {
    case TransferEnd::kConnect:
      return {Code::kUnavailable, true, "cannot connect"};
    case TransferEnd::kTlsHandshake:
      return {Code::kUnavailable, true, "the TLS handshake failed (for a plain HTTP registry, allow plain HTTP)"};
    case TransferEnd::kCertificate:
      return {Code::kFailedPrecondition, false,
              "the server's certificate is not trusted (give the CA's file, or install it)"};
    case TransferEnd::kCut:
      return {Code::kUnavailable, true, "the connection was cut"};
    case TransferEnd::kStalled:
      return {Code::kDeadlineExceeded, true, "stalled"};
    case TransferEnd::kCancelled:
      return {Code::kCancelled, false, "cancelled"};
    default:
      return {Code::kUnavailable, false, "the transfer failed"};
  }
}

Code CodeOfHttpStatus(int status) {
  switch (status) {
    case 400:
    case 405:
    case 413:
      return Code::kInvalidArgument;
    case 401:
      return Code::kUnauthenticated;
    case 403:
      return Code::kPermissionDenied;
    case 404:
    case 410:
      return Code::kNotFound;
    case 408:
    case 504:
      return Code::kDeadlineExceeded;
    case 416:
      return Code::kOutOfRange;
    case 429:
      return Code::kResourceExhausted;
    default:
      return status >= 500 ? Code::kUnavailable : Code::kUnknown;
  }
}

std::string_view HintOfHttpStatus(int status) {
  switch (status) {
    case 403:
      return ": access is denied; log in with an account that may do this, or check the name";
    case 404:
      return ": not found; is the reference right?";
    case 416:
      return ": the registry's copy is shorter than the bytes asked for";
    case 429:
      return ": the registry asks for fewer requests";
    default:
      return status >= 500 ? ": the registry has trouble; try again later" : "";
  }
}

}  // namespace

// A token request: one GET or POST, no redirects, no retries.
class RegistrySession::TokenFetch final : public TransferHandler {
 public:
  TokenFetch(RegistrySession& session, Access access, std::string realm_for_messages, bool had_credentials)
      : session_(session), access_(access), realm_(std::move(realm_for_messages)), had_credentials_(had_credentials) {}

  void OnHead(int status, const HeaderList&) override { status_ = status; }

  Take OnData(std::span<const std::byte> data) override {
    if (body_.size() + data.size() > kMaxTokenBodyBytes) {
      too_long_ = true;
      return Take::kStop;
    }
    body_.append(reinterpret_cast<const char*>(data.data()), data.size());
    return Take::kTaken;
  }

  void OnDone(const TransferResult& result) override {
    const std::string context = fmt::format("{}: token from {}", session_.name_, realm_);
    if (result.end != TransferEnd::kComplete) {
      const TransportError error = Classify(result.end);
      return Finish(Fail(error.code, fmt::format("{}: {}: {}", context, error.text, result.reason)), error.transient);
    }
    if (status_ == 408 || status_ == 429 || status_ >= 500) {
      return Finish(Fail(Code::kUnavailable, fmt::format("{}: answered {}", context, status_)), true);
    }
    if (status_ != 200) {
      return Finish(Fail(Code::kUnauthenticated,
                         fmt::format("{}: answered {}: {}", context, status_, session_.LoginHint(had_credentials_))),
                    false);
    }
    Result<Token> token =
        too_long_ ? Fail(Code::kUnauthenticated, "the token endpoint's answer is too long") : ParseTokenResponse(body_);
    if (!token) return Finish(Fail(token.error().WithContext(context)), false);
    TokenSlot& slot = session_.slots_[static_cast<int>(access_)];
    slot.authorization = "Bearer " + token->value;
    // Early enough that a token does not expire on its way.
    const Clock::duration lifetime = token->lifetime;
    slot.refresh_at = Clock::now() + lifetime - std::min<Clock::duration>(lifetime / 4, std::chrono::seconds(30));
    Finish({}, false);
  }

 private:
  void Finish(const Status& status, bool transient) { session_.FinishAuthorize(access_, status, transient); }

  RegistrySession& session_;
  const Access access_;
  const std::string realm_;
  const bool had_credentials_;
  int status_ = 0;
  std::string body_;
  bool too_long_ = false;
};

class RegistrySession::Exchange final : public TransferHandler, public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(RegistrySession& session, uint64_t id, RegistryRequest request, RegistryHandlers handlers)
      : session_(session), id_(id), request_(std::move(request)), handlers_(std::move(handlers)) {}

  void Send() {
    if (session_.transport_->stopping() || cancelled_) return Finish(Cancelled());
    TokenSlot& slot = session_.slots_[static_cast<int>(request_.access)];
    const bool refresh = slot.challenge && (slot.authorization.empty() || Clock::now() >= slot.refresh_at);
    if (!refresh || auth_rounds_ > 0) return SendNow();
    AuthorizeThenSend(*slot.challenge);
  }

  void Cancel() {
    cancelled_ = true;
    if (transfer_ == 0) return Finish(Cancelled());  // it waits for a token
    session_.transport_->Cancel(transfer_);
  }
  void Resume() { session_.transport_->Resume(transfer_); }

  void OnHead(int status, const HeaderList& headers) override {
    if (url_->secure()) session_.scheme_settled_ = true;
    outcome_.http_status = status;
    outcome_.headers = headers;
    outcome_.url = url_->text();
    mode_ = ModeFor(status, headers);
    if (mode_ != Mode::kDeliver || !handlers_.on_head) return;
    if (Status verdict = handlers_.on_head(status, headers); !verdict) {
      refused_ = verdict.error();
      mode_ = Mode::kRefused;
    }
  }

  Take OnData(std::span<const std::byte> data) override {
    if (mode_ == Mode::kRefused) return Take::kStop;
    if (mode_ == Mode::kDeliver && handlers_.on_data) return handlers_.on_data(data);
    // Short bodies are read so that the connection can be kept, and for what an error says.
    if (body_.size() + data.size() > kMaxErrorBodyBytes) return Take::kStop;
    body_.append(reinterpret_cast<const char*>(data.data()), data.size());
    return Take::kTaken;
  }

  void OnDone(const TransferResult& result) override {
    transfer_ = 0;
    if (cancelled_ || result.end == TransferEnd::kCancelled) return Finish(Cancelled());
    if (mode_ == Mode::kRefused) return Finish(Fail(refused_.WithContext(Context())));
    // What an answer's status decides stands, even if its body was cut (docker-registry does that with its 416).
    const bool decided = mode_ != Mode::kNone && mode_ != Mode::kDeliver && result.end == TransferEnd::kCut;
    if (result.end != TransferEnd::kComplete && !decided) return OnTransportFailure(result);
    const std::string body = std::exchange(body_, {});
    switch (std::exchange(mode_, Mode::kNone)) {
      case Mode::kAuthorize:
        return AuthorizeThenSend(*challenge_);
      case Mode::kRedirect:
        return Redirect();
      case Mode::kRetryAtOrigin:
        return SendToOrigin();
      case Mode::kDeliver:
        return Finish({});
      default:
        return FailWithStatus(body);
    }
  }

 private:
  enum class Mode { kNone, kDeliver, kRefused, kAuthorize, kRedirect, kRetryAtOrigin, kError };

  void SendNow() {
    mode_ = Mode::kNone;
    if (!url_) {
      if (request_.blob && !shuns_cached_target_) url_ = session_.CachedTarget(*request_.blob);
      used_cached_target_ = url_.has_value();
      if (!url_) {
        Result<Url> url = session_.UrlFor(request_.target);
        if (!url) return Finish(Fail(url.error().WithContext(Context())));
        url_ = *std::move(url);
      }
    }
    TransferRequest transfer;
    transfer.method = request_.method;
    transfer.url = url_->text();
    transfer.headers = request_.headers;
    transfer.body = request_.body;
    transfer.stall_timeout = request_.stall_timeout.count() > 0
                                 ? request_.stall_timeout
                                 : std::chrono::milliseconds(session_.options_.stall_timeout_ms);
    const std::string& authorization = session_.slots_[static_cast<int>(request_.access)].authorization;
    if (!authorization.empty() && session_.IsOwnOrigin(*url_)) {
      transfer.headers.push_back("Authorization: " + authorization);
      sent_authorization_ = authorization;
    }
    transfer_ = session_.transport_->Start(std::move(transfer), shared_from_this());
  }

  void SendToOrigin() {
    session_.redirect_targets_.erase(*request_.blob);
    shuns_cached_target_ = true;
    url_.reset();
    Send();
  }

  Mode ModeFor(int status, const HeaderList& headers) {
    if (status >= 200 && status < 300) return Mode::kDeliver;
    if (used_cached_target_ && redirects_ == 0) return Mode::kRetryAtOrigin;
    if (IsRedirect(status) && headers.Find("location") != nullptr) return Mode::kRedirect;
    if (status == 401 && auth_rounds_ < kMaxAuthRounds && session_.IsOwnOrigin(*url_)) {
      challenge_ = BestChallenge(headers);
      if (challenge_) return Mode::kAuthorize;
    }
    return Mode::kError;
  }

  static std::optional<Challenge> BestChallenge(const HeaderList& headers) {
    std::optional<Challenge> basic;
    for (const std::string& value : headers.FindAll("www-authenticate")) {
      for (Challenge& challenge : ParseChallenges(value)) {
        if (challenge.scheme == "bearer" && !challenge.Parameter("realm").empty()) return std::move(challenge);
        if (challenge.scheme == "basic" && !basic) basic = std::move(challenge);
      }
    }
    return basic;
  }

  void AuthorizeThenSend(const Challenge& challenge) {
    ++auth_rounds_;
    TokenSlot& slot = session_.slots_[static_cast<int>(request_.access)];
    // Another exchange may have fetched a newer one meanwhile.
    if (slot.authorization == sent_authorization_ || Clock::now() >= slot.refresh_at) {
      slot.authorization.clear();
    }
    if (!slot.authorization.empty()) return SendNow();
    const bool basic_refused = challenge.scheme == "basic" && sent_authorization_.starts_with("Basic ");
    session_.Authorize(
        request_.access, challenge, [self = shared_from_this(), basic_refused](const Status& status, bool transient) {
          if (self->finished_) return;
          const std::string& fresh = self->session_.slots_[static_cast<int>(self->request_.access)].authorization;
          if (status && basic_refused && fresh == self->sent_authorization_) {
            return self->Finish(
                Fail(Code::kUnauthenticated, fmt::format("{}: {}", self->Context(), self->session_.LoginHint(true))));
          }
          if (status) return self->url_ ? self->SendNow() : self->Send();
          self->outcome_.transient = transient;
          self->Finish(Fail(status.error().WithContext(self->request_.what)));
        });
  }

  void Redirect() {
    const auto fail = [&](std::string_view why) {
      Finish(Fail(Code::kUnavailable, fmt::format("{}: redirect from {}: {}", Context(), url_->ForMessages(), why)));
    };
    const bool keeps_method = outcome_.http_status == 307 || outcome_.http_status == 308;
    if (request_.method != "GET" && request_.method != "HEAD" && !keeps_method) return fail("not for this method");
    if (++redirects_ > kMaxRedirects) return fail("too many redirects");
    Result<Url> target = url_->Resolve(*outcome_.headers.Find("location"));
    if (!target) return fail(target.error().message);
    if (url_->secure() && !target->secure()) return fail("it leads from https to http, which is refused");
    if (request_.blob && request_.method == "GET") session_.RememberTarget(*request_.blob, *target);
    url_ = *std::move(target);
    SendNow();
  }

  void OnTransportFailure(const TransferResult& result) {
    if (result.end == TransferEnd::kTlsHandshake && session_.IsOwnOrigin(*url_) && session_.FallBackToHttp()) {
      url_.reset();
      return Send();
    }
    if (request_.blob) session_.redirect_targets_.erase(*request_.blob);
    if (used_cached_target_ && redirects_ == 0 && mode_ != Mode::kDeliver) {
      return SendToOrigin();
    }
    const TransportError error = Classify(result.end);
    outcome_.transient = error.transient;
    Finish(Fail(error.code, fmt::format("{}: {}: {}{}", Context(), url_->ForMessages(), error.text,
                                        result.reason.empty() ? "" : ": " + result.reason)));
  }

  void FailWithStatus(std::string_view body) {
    const int status = outcome_.http_status;
    if (request_.blob) session_.redirect_targets_.erase(*request_.blob);
    outcome_.transient = status == 408 || status == 429 || status >= 500;
    outcome_.retry_after = RetryAfter(outcome_.headers);
    const std::string hint =
        status == 401 ? ": " + session_.LoginHint(!sent_authorization_.empty()) : std::string(HintOfHttpStatus(status));
    const std::string where = session_.IsOwnOrigin(*url_) ? "the registry" : url_->ForMessages();
    Finish(Fail(CodeOfHttpStatus(status),
                fmt::format("{}: {} answered {}{}{}", Context(), where, status, ErrorDetail(body), hint)));
  }

  std::string Context() const { return fmt::format("{}: {}", session_.name_, request_.what); }
  Status Cancelled() const { return Fail(Code::kCancelled, Context() + ": cancelled"); }

  void Finish(Status status) {
    finished_ = true;
    outcome_.status = std::move(status);
    const auto keep = shared_from_this();
    session_.exchanges_.erase(id_);
    std::exchange(handlers_, {}).on_done(std::move(outcome_));
  }

  RegistrySession& session_;
  const uint64_t id_;
  const RegistryRequest request_;
  RegistryHandlers handlers_;
  RegistryOutcome outcome_;
  std::optional<Url> url_;
  CurlTransport::TransferId transfer_ = 0;
  Mode mode_ = Mode::kNone;
  std::optional<Challenge> challenge_;
  Error refused_;
  std::string sent_authorization_;
  std::string body_;
  int auth_rounds_ = 0;
  int redirects_ = 0;
  bool used_cached_target_ = false;
  bool shuns_cached_target_ = false;
  bool cancelled_ = false;
  bool finished_ = false;
};

RegistrySession::RegistrySession(const ImageReference& reference, const RepositoryOptions& options)
    : options_(options),
      host_(reference.host),
      repository_(reference.repository),
      connect_host_(reference.host == "docker.io" ? "registry-1.docker.io" : reference.host),
      name_(reference.host + "/" + reference.repository),
      scheme_(options.plain_http ? "http" : "https"),
      scheme_settled_(options.plain_http),
      credentials_file_(options.credentials_file) {}

Result<std::unique_ptr<RegistrySession>> RegistrySession::Create(const ImageReference& reference,
                                                                 const RepositoryOptions& options) {
  std::unique_ptr<RegistrySession> session(new RegistrySession(reference, options));
  CurlTransport::Options transport_options;
  transport_options.ca_file = options.ca_file;
  transport_options.connect_timeout = std::chrono::milliseconds(options.connect_timeout_ms);
  transport_options.kept_connections = options.range_connections + 8;
  BANYAN_TRY(session->UrlFor("/v2/"));
  BANYAN_ASSIGN(session->transport_, CurlTransport::Create(transport_options));
  if (options.plain_http && !IsLoopbackHost(session->connect_host_)) {
    spdlog::warn("{}: plain HTTP, as asked: contents are checked by digest, but credentials travel in the clear",
                 session->name_);
  }
  return session;
}

RegistrySession::~RegistrySession() { Shutdown(); }

uint64_t RegistrySession::Start(RegistryRequest request, RegistryHandlers handlers) {
  const uint64_t id = next_id_++;
  auto exchange = std::make_shared<Exchange>(*this, id, std::move(request), std::move(handlers));
  transport_->Post([this, id, exchange = std::move(exchange)] {
    exchanges_.emplace(id, exchange);
    exchange->Send();
  });
  return id;
}

void RegistrySession::Cancel(uint64_t id) {
  transport_->Post([this, id] {
    if (const auto found = exchanges_.find(id); found != exchanges_.end()) found->second->Cancel();
  });
}

void RegistrySession::Resume(uint64_t id) {
  transport_->Post([this, id] {
    if (const auto found = exchanges_.find(id); found != exchanges_.end()) found->second->Resume();
  });
}

RegistryOutcome RegistrySession::Run(RegistryRequest request, RegistryHandlers handlers) {
  std::mutex mutex;
  std::condition_variable ended;
  std::optional<RegistryOutcome> outcome;
  handlers.on_done = [&](RegistryOutcome result) {
    const std::lock_guard lock(mutex);
    outcome = std::move(result);
    ended.notify_one();
  };
  Start(std::move(request), std::move(handlers));
  std::unique_lock lock(mutex);
  ended.wait(lock, [&] { return outcome.has_value(); });
  return *std::move(outcome);
}

Result<Url> RegistrySession::UrlFor(const std::string& target) const {
  if (!target.starts_with('/')) return Url::Parse(target);
  if (options_.mirrored_registry.empty() || target.find("ns=") != std::string::npos) {
    return Url::Parse(fmt::format("{}://{}{}", scheme_, connect_host_, target));
  }
  const char separator = target.find('?') == std::string::npos ? '?' : '&';
  return Url::Parse(fmt::format("{}://{}{}{}ns={}", scheme_, connect_host_, target, separator,
                                PercentEncode(options_.mirrored_registry)));
}

bool RegistrySession::IsOwnOrigin(const Url& url) const {
  const Result<Url> own = UrlFor("/v2/");
  return own && own->SameOrigin(url);
}

// A loopback host without a CA of its own that does not speak TLS is a lab's registry: skopeo and docker treat it so as
// well. Nothing secret was sent before the handshake, and a registry that has spoken TLS once is never tried without.
bool RegistrySession::FallBackToHttp() {
  if (scheme_ == "http") return true;  // another exchange did
  if (scheme_settled_ || !options_.ca_file.empty() || !IsLoopbackHost(connect_host_)) return false;
  spdlog::info("{}: does not speak TLS; using plain HTTP, since it is this machine", name_);
  scheme_ = "http";
  scheme_settled_ = true;
  return true;
}

std::optional<Url> RegistrySession::CachedTarget(const Digest& blob) {
  const auto found = redirect_targets_.find(blob);
  if (found == redirect_targets_.end()) return std::nullopt;
  if (Clock::now() - found->second.since < kRedirectTargetLifetime) return found->second.url;
  redirect_targets_.erase(found);
  return std::nullopt;
}

void RegistrySession::RememberTarget(const Digest& blob, const Url& url) {
  if (redirect_targets_.size() >= kMaxRedirectTargets) redirect_targets_.clear();
  redirect_targets_.insert_or_assign(blob, RedirectTarget{url, Clock::now()});
}

std::string RegistrySession::LoginHint(bool had_credentials) const {
  return had_credentials
             ? fmt::format("the registry does not accept the credentials; log in again (skopeo login {})", host_)
             : fmt::format(
                   "it wants credentials and there are none for {}; log in (skopeo login {}), and is "
                   "the name right?",
                   host_, host_);
}

Result<Credentials> RegistrySession::FindCredentials() {
  if (options_.anonymous) return Credentials{};
  if (!options_.username.empty()) return Credentials{options_.username, options_.password, ""};
  return credentials_file_.Find(host_, repository_);
}

void RegistrySession::FinishAuthorize(Access access, const Status& status, bool transient) {
  const auto waiting = std::exchange(slots_[static_cast<int>(access)].waiting, {});
  for (const auto& done : waiting) done(status, transient);
}

void RegistrySession::Authorize(Access access, const Challenge& challenge,
                                std::function<void(Status, bool transient)> done) {
  TokenSlot& slot = slots_[static_cast<int>(access)];
  slot.waiting.push_back(std::move(done));
  if (slot.waiting.size() > 1) return;  // one fetch serves all who wait
  slot.challenge = challenge;
  slot.refresh_at = Clock::time_point::max();
  const Result<Credentials> credentials = FindCredentials();
  if (challenge.scheme == "bearer") {
    // A credentials file that does not help need not hinder an anonymous pull.
    if (!credentials) spdlog::warn("{}: {}", name_, credentials.error().message);
    return StartTokenFetch(access, challenge, credentials ? *credentials : Credentials{});
  }
  if (!credentials) return FinishAuthorize(access, Fail(credentials.error().WithContext(name_)), false);
  if (credentials->username.empty()) {
    return FinishAuthorize(access, Fail(Code::kUnauthenticated, fmt::format("{}: {}", name_, LoginHint(false))), false);
  }
  slot.authorization = BasicAuthorization(*credentials);
  FinishAuthorize(access, {}, false);
}

void RegistrySession::StartTokenFetch(Access access, const Challenge& challenge, const Credentials& credentials) {
  const auto fail = [&](const std::string& why) {
    FinishAuthorize(access, Fail(Code::kUnauthenticated, fmt::format("{}: token endpoint: {}", name_, why)), false);
  };
  const Result<Url> realm = Url::Parse(challenge.Parameter("realm"));
  if (!realm) return fail(realm.error().message);
  if (scheme_ == "https" && !realm->secure())
    return fail(realm->ForMessages() + " is not https, while the registry is");
  std::string scope = challenge.Parameter("scope");
  if (scope.empty()) {
    scope = fmt::format("repository:{}:{}", repository_, access == Access::kPull ? "pull" : "pull,push");
  }
  std::string query = fmt::format("service={}", PercentEncode(challenge.Parameter("service")));
  for (size_t begin = 0; begin <= scope.size();) {  // several scopes are separated by spaces
    const size_t end = std::min(scope.find(' ', begin), scope.size());
    if (end > begin) query += "&scope=" + PercentEncode(scope.substr(begin, end - begin));
    begin = end + 1;
  }
  TransferRequest request;
  request.stall_timeout = std::chrono::milliseconds(options_.stall_timeout_ms);
  if (!credentials.identity_token.empty()) {
    auto form = std::make_shared<const std::string>(
        fmt::format("grant_type=refresh_token&client_id=banyan&refresh_token={}&service={}&scope={}",
                    PercentEncode(credentials.identity_token), PercentEncode(challenge.Parameter("service")),
                    PercentEncode(scope)));
    auto body = std::make_shared<UploadBody>();
    body->size_bytes = form->size();
    body->read_at = [form](uint64_t offset, std::span<std::byte> buffer) -> Result<size_t> {
      return form->copy(reinterpret_cast<char*>(buffer.data()), buffer.size(), offset);
    };
    request.method = "POST";
    request.url = realm->text();
    request.headers.push_back("Content-Type: application/x-www-form-urlencoded");
    request.body = std::move(body);
  } else {
    request.url = realm->text() + (realm->text().find('?') == std::string::npos ? "?" : "&") + query;
    if (!credentials.empty()) request.headers.push_back("Authorization: " + BasicAuthorization(credentials));
  }
  transport_->Start(std::move(request),
                    std::make_shared<TokenFetch>(*this, access, realm->ForMessages(), !credentials.empty()));
}

}  // namespace banyan::net
