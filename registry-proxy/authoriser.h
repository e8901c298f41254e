// Who may read which repository of a private upstream.
//
// The store holds content of private repositories, and a digest is no secret. So, for an upstream with auth = "client",
// every request is answered only after the upstream itself has let this client's credentials read this repository; the
// verdict is kept for a minute. Upstreams with auth = "own" are open to whoever reaches the proxy, with the proxy's own
// credentials where credentials_for allows them.
//
// The proxy reads through itself when it converts. Such requests show a secret of this process; they may do what the
// last client that was let in to that repository may do, whose credentials are kept in memory for that, and nowhere
// else.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "common/digest.h"
#include "mirror/hooks.h"
#include "mirror/upstreams.h"
#include "mirror/workers.h"
#include "net/http_server.h"
#include "net/repository.h"

namespace banyan::registry_proxy {

// Internally synchronised.
class Authoriser {
 public:
  // Asks an upstream whether `identity` (empty: nobody) may read the repository. Blocks; kUnauthenticated and
  // kPermissionDenied mean no.
  using Check = std::function<Status(const std::string& upstream, const std::string& repository,
                                     const mirror::Identity& identity)>;
  static constexpr std::chrono::seconds kGoodFor{60};
  static constexpr std::chrono::seconds kBadFor{5};

  // `client_upstreams`: those with auth = "client", with the repositories (globs) that the proxy's own credentials
  // open.
  Authoriser(std::map<std::string, std::vector<std::string>> client_upstreams, Check check, mirror::Workers& workers);

  // mirror::Hooks::authorise.
  void Authorise(const net::HttpRequest& request, const std::string& upstream, const std::string& repository,
                 std::shared_ptr<net::HttpReply> reply, mirror::Hooks::Proceed proceed);
  // The challenge for a request of /v2/ without credentials, if the upstream wants some.
  std::optional<net::HttpResponse> BaseChallenge(const net::HttpRequest& request, const std::string& upstream) const;

  // What the proxy shows to itself.
  const mirror::Identity& own_identity() const { return own_identity_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Key {
    std::string upstream;
    std::string repository;
    Digest identity;
    friend auto operator<=>(const Key&, const Key&) = default;
  };
  struct Verdict {
    Status status;
    Clock::time_point until;
  };
  static std::optional<mirror::Identity> IdentityOf(const net::HttpRequest& request);
  std::optional<Status> Known(const Key& key) const;
  Status Ask(const Key& key, const mirror::Identity& identity);

  const std::map<std::string, std::vector<std::string>> client_upstreams_;
  const Check check_;
  mirror::Workers& workers_;
  mirror::Identity own_identity_;
  mutable std::mutex mutex_;
  std::map<Key, Verdict> verdicts_;                                                // guarded by mutex_
  std::map<std::pair<std::string, std::string>, mirror::Identity> last_identity_;  // guarded by mutex_
};

}  // namespace banyan::registry_proxy
