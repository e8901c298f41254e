#include "registry-proxy/authoriser.h"

#include <algorithm>
#include <random>
#include <utility>

#include <fmt/format.h>

#include "mirror/answers.h"
#include "net/auth.h"

namespace banyan::registry_proxy {
namespace {

constexpr size_t kMaxVerdicts = 10'000;
constexpr size_t kMaxIdentities = 10'000;

net::HttpResponse Challenge(std::string_view message) {
  net::HttpResponse response = mirror::ErrorAnswer(401, "UNAUTHORIZED", message);
  response.headers.emplace_back("WWW-Authenticate", "Basic realm=\"banyan-registry-proxy\"");
  return response;
}

// To a 401 that the upstream gave, the client is asked for (other) credentials; other failures are what they are.
net::HttpResponse RefusalFor(const Error& error, const std::string& repository) {
  if (error.code == Code::kUnauthenticated || error.code == Code::kPermissionDenied) {
    return Challenge(fmt::format("the registry lets nobody read {} with these credentials", repository));
  }
  return mirror::ErrorAnswer(error, "NAME_UNKNOWN");
}

}  // namespace

Authoriser::Authoriser(std::map<std::string, std::vector<std::string>> client_upstreams, Check check,
                       mirror::Workers& workers)
    : client_upstreams_(std::move(client_upstreams)), check_(std::move(check)), workers_(workers) {
  std::random_device random;
  own_identity_.username = "banyan-registry-proxy";
  for (int i = 0; i < 8; ++i) own_identity_.password += fmt::format("{:08x}", random());
}

std::optional<mirror::Identity> Authoriser::IdentityOf(const net::HttpRequest& request) {
  const std::string* header = request.headers.Find("authorization");
  if (header == nullptr || !header->starts_with("Basic ")) return std::nullopt;
  const auto login = net::Base64Decode(std::string_view(*header).substr(6));
  if (!login) return std::nullopt;
  const size_t colon = login->find(':');
  if (colon == std::string::npos || colon == 0) return std::nullopt;
  return mirror::Identity{login->substr(0, colon), login->substr(colon + 1)};
}

std::optional<net::HttpResponse> Authoriser::BaseChallenge(const net::HttpRequest& request,
                                                           const std::string& upstream) const {
  if (!client_upstreams_.contains(upstream) || IdentityOf(request)) return std::nullopt;
  return Challenge("log in with your credentials for " + upstream);
}

std::optional<Status> Authoriser::Known(const Key& key) const {
  const std::lock_guard lock(mutex_);
  const auto found = verdicts_.find(key);
  if (found == verdicts_.end() || found->second.until < Clock::now()) return std::nullopt;
  return found->second.status;
}

Status Authoriser::Ask(const Key& key, const mirror::Identity& identity) {
  Status status = check_(key.upstream, key.repository, identity);
  const bool decided = status || status.error().code == Code::kUnauthenticated ||
                       status.error().code == Code::kPermissionDenied || status.error().code == Code::kNotFound;
  if (!decided) return status;  // the upstream could not be asked: no verdict
  const std::lock_guard lock(mutex_);
  if (verdicts_.size() >= kMaxVerdicts) {
    std::erase_if(verdicts_, [now = Clock::now()](const auto& item) { return item.second.until < now; });
    if (verdicts_.size() >= kMaxVerdicts) verdicts_.clear();
  }
  verdicts_[key] = {status, Clock::now() + (status ? kGoodFor : kBadFor)};
  if (status) {
    if (last_identity_.size() >= kMaxIdentities) last_identity_.clear();
    last_identity_[{key.upstream, key.repository}] = identity;
  }
  return status;
}

void Authoriser::Authorise(const net::HttpRequest& request, const std::string& upstream, const std::string& repository,
                           std::shared_ptr<net::HttpReply> reply, mirror::Hooks::Proceed proceed) {
  const auto client = client_upstreams_.find(upstream);
  if (client == client_upstreams_.end()) return proceed({});
  const auto& open = client->second;
  if (std::any_of(open.begin(), open.end(), [&](const auto& glob) { return mirror::MatchesGlob(glob, repository); })) {
    return proceed({});
  }
  mirror::Identity identity = IdentityOf(request).value_or(mirror::Identity{});
  if (identity == own_identity_) {
    std::unique_lock lock(mutex_);
    const auto last = last_identity_.find({upstream, repository});
    identity = last == last_identity_.end() ? mirror::Identity{} : last->second;
    lock.unlock();
    return proceed(std::move(identity));
  }
  Key key{upstream, repository, Digest::Of(identity.username + '\0' + identity.password)};
  const auto answer = [repository, reply, proceed = std::move(proceed), identity](const Status& status) {
    if (status) return proceed(identity);
    reply->Send(RefusalFor(status.error(), repository));
  };
  if (const auto known = Known(key)) return answer(*known);
  const bool posted = workers_.Post([this, key = std::move(key), identity, answer] { answer(Ask(key, identity)); });
  if (!posted) reply->Send(mirror::ErrorAnswer(503, "UNKNOWN", "too busy"));
}

}  // namespace banyan::registry_proxy
