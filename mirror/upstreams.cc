#include "mirror/upstreams.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "common/log.h"

namespace banyan::mirror {

namespace {

constexpr size_t kMaxQueuedCalls = 1024;
constexpr uint32_t kFailuresUntilDown = 3;
constexpr std::chrono::seconds kDown{5};

// Says nothing good of the endpoint, and another may do better.
bool IsEndpointTrouble(const Error& error) {
  switch (error.code) {
    case Code::kUnavailable:
    case Code::kDeadlineExceeded:
    case Code::kResourceExhausted:  // 429
    case Code::kUnknown:
      return true;
    default:
      return false;
  }
}

// Worth asking the next endpoint: mirrors of a registry may lack what it has, or refuse what it gives.
bool IsWorthAnother(const Error& error) {
  return IsEndpointTrouble(error) || error.code == Code::kNotFound || error.code == Code::kPermissionDenied ||
         error.code == Code::kUnauthenticated || error.code == Code::kDataLoss ||
         error.code == Code::kFailedPrecondition;
}

}  // namespace

bool MatchesGlob(std::string_view glob, std::string_view text) {
  size_t g = 0;
  size_t t = 0;
  size_t star = std::string_view::npos;
  size_t star_text = 0;
  while (t < text.size()) {
    if (g < glob.size() && (glob[g] == '?' || (glob[g] != '*' && glob[g] == text[t]))) {
      ++g;
      ++t;
    } else if (g < glob.size() && glob[g] == '*') {
      star = g++;
      star_text = t;
    } else if (star != std::string_view::npos) {
      g = star + 1;
      t = ++star_text;
    } else {
      return false;
    }
  }
  return glob.find_first_not_of('*', g) == std::string_view::npos;
}

Upstream::Upstream(UpstreamOptions options, size_t repositories)
    : options_(std::move(options)),
      max_handles_(std::max<size_t>(repositories, 1)),
      calls_(options_.max_calls, kMaxQueuedCalls),
      fills_(options_.max_fills, kMaxQueuedCalls) {
  for (const EndpointOptions& endpoint : options_.endpoints) {
    endpoints_.push_back(std::make_unique<Endpoint>());
    endpoints_.back()->options = endpoint;
  }
  if (!endpoints_.empty()) return;
  endpoints_.push_back(std::make_unique<Endpoint>());
  endpoints_.back()->options.host = options_.name;
}

Upstream::~Upstream() = default;

Result<std::shared_ptr<net::Repository>> Upstream::Handle(size_t endpoint, const std::string& repository,
                                                          const Identity& identity) {
  std::vector<std::shared_ptr<net::Repository>> closed;  // destroyed outside the lock: it joins a thread
  const std::scoped_lock lock(mutex_);
  if (shut_down_) return Fail(Code::kCancelled, "the mirror is being stopped");
  const Key key{endpoint, repository, identity};
  if (const auto found = by_key_.find(key); found != by_key_.end()) {
    handles_.splice(handles_.begin(), handles_, found->second);
    return found->second->second;
  }
  const EndpointOptions& place = endpoints_[endpoint]->options;
  net::RepositoryOptions options;
  options.plain_http = place.plain_http;
  options.ca_file = place.ca_file;
  if (place.is_mirror) options.mirrored_registry = options_.name;
  options.connect_timeout_ms = static_cast<uint32_t>(options_.connect_timeout.count());
  options.stall_timeout_ms = static_cast<uint32_t>(options_.stall_timeout.count());
  options.attempts = options_.attempts;
  options.username = identity.username;
  options.password = identity.password;
  options.credentials_file = options_.credentials_file;
  const bool may_use_file = !options_.credentials_file.empty() &&
                            std::any_of(options_.credentials_for.begin(), options_.credentials_for.end(),
                                        [&](const std::string& glob) { return MatchesGlob(glob, repository); });
  options.anonymous = identity.username.empty() && !may_use_file;
  net::ImageReference reference;
  reference.host = place.host;
  reference.repository = repository;
  BANYAN_ASSIGN(std::shared_ptr<net::Repository> opened, net::OpenRepository(reference, options));
  handles_.emplace_front(key, opened);
  by_key_[key] = handles_.begin();
  while (handles_.size() > max_handles_) {
    by_key_.erase(handles_.back().first);
    closed.push_back(std::move(handles_.back().second));
    handles_.pop_back();
  }
  return opened;
}

void Upstream::Note(Endpoint& endpoint, const Status& status) {
  if (status || !IsEndpointTrouble(status.error())) {
    endpoint.failures = 0;
    return;
  }
  if (++endpoint.failures < kFailuresUntilDown) return;
  endpoint.failures = 0;
  endpoint.down_until = Clock::now() + kDown;
  spdlog::warn("upstream {}: {} is left out for {} s: {}", options_.name, endpoint.options.host, kDown.count(),
               status.error().message);
}

Status Upstream::Try(const std::string& repository, const Identity& identity, const Call& call) {
  std::optional<Error> first;
  std::optional<Error> trouble;
  for (size_t i = 0; i < endpoints_.size(); ++i) {
    if (Clock::now() < endpoints_[i]->down_until.load()) continue;
    const auto handle = Handle(i, repository, identity);
    Status status = handle ? call(**handle) : Fail(handle.error());
    Note(*endpoints_[i], status);
    if (status) return {};
    if (!IsWorthAnother(status.error())) return status;
    if (!trouble && IsEndpointTrouble(status.error())) trouble = status.error();
    if (!first) first = status.error();
  }
  // One that could not be asked may have it: that is not "not found".
  if (trouble) return Fail(*trouble);
  if (first) return Fail(*first);
  return Fail(Code::kUnavailable, fmt::format("upstream {}: it failed a moment ago, and is left alone", options_.name));
}

void Upstream::Shutdown() {
  Handles handles;
  {
    const std::scoped_lock lock(mutex_);
    shut_down_ = true;
    by_key_.clear();
    handles.swap(handles_);
  }
  for (const auto& [key, repository] : handles) repository->Shutdown();
}

Result<std::shared_ptr<net::Repository>> Upstream::Open(const std::string& repository, const Identity& identity) {
  for (size_t i = 0; i < endpoints_.size(); ++i) {
    if (Clock::now() >= endpoints_[i]->down_until.load()) return Handle(i, repository, identity);
  }
  return Fail(Code::kUnavailable, fmt::format("upstream {}: it failed a moment ago, and is left alone", options_.name));
}

}  // namespace banyan::mirror
