// Requests to one repository of one registry, with what every one of them needs: the scheme, authentication, redirects,
// and errors that say what failed. One attempt each; retrying is the caller's.
//
// Idea: an Exchange is a small state machine on the transport's thread that sends, reads the head, and then either
// delivers, or fetches a token and sends again, or follows a redirect. All state (tokens, redirect targets, scheme) is
// confined to that thread, so none of it is locked. Invariant: an Authorization header goes to the registry's own
// origin or, as Basic, to the token endpoint that the registry named; never to a redirect's target elsewhere, never
// from https to http, never into a message.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/digest.h"
#include "common/result.h"
#include "net/auth.h"
#include "net/curl_transport.h"
#include "net/repository.h"
#include "net/url.h"

namespace banyan::net {

enum class Access { kPull = 0, kPush = 1 };

struct RegistryRequest {
  std::string method = "GET";
  std::string target;                // "/v2/…", or an absolute URL (an upload's Location, a Link)
  std::vector<std::string> headers;  // "Name: value"
  std::shared_ptr<const UploadBody> body;
  Access access = Access::kPull;
  std::string what;                            // "blob sha256:…", for messages
  std::optional<Digest> blob;                  // a GET of this blob's bytes: a redirect's target may be used again
  std::chrono::milliseconds stall_timeout{0};  // 0: the session's
};

struct RegistryOutcome {
  Status status;
  int http_status = 0;     // of the last answer; 0 when none came
  bool transient = false;  // with an error: trying again may help
  std::optional<std::chrono::seconds> retry_after;
  HeaderList headers;  // of the last answer
  std::string url;     // that answered, against which Location is resolved
};

// On the transport's thread. None may block, nor destroy the session.
struct RegistryHandlers {
  // A 2xx answer; an error ends the exchange with it. May be null.
  std::function<Status(int http_status, const HeaderList&)> on_head;
  // The 2xx answer's body; may be null (then bodies beyond 64 KiB end the exchange early, as success).
  std::function<Take(std::span<const std::byte>)> on_data;
  // Once, at the end.
  std::function<void(RegistryOutcome)> on_done;
};

// Internally synchronised by confinement: Start, Cancel and Resume may be called on any thread, and act later.
class RegistrySession {
 public:
  static Result<std::unique_ptr<RegistrySession>> Create(const ImageReference& reference,
                                                         const RepositoryOptions& options);
  // Not from a handler.
  ~RegistrySession();
  RegistrySession(const RegistrySession&) = delete;
  RegistrySession& operator=(const RegistrySession&) = delete;

  // Ids are never 0 and never used twice.
  uint64_t Start(RegistryRequest request, RegistryHandlers handlers);
  void Cancel(uint64_t id);
  void Resume(uint64_t id);

  // Runs `task` on the session's thread (after Shutdown: at once).
  void Post(std::function<void()> task) { transport_->Post(std::move(task)); }
  // Ends every exchange with kCancelled, also those that are started later. Not from a handler.
  void Shutdown() { transport_->Shutdown(); }

  // Starts, and waits for the end. Not from a handler.
  RegistryOutcome Run(RegistryRequest request, RegistryHandlers handlers = {});

  const std::string& name() const { return name_; }

 private:
  class Exchange;
  class TokenFetch;
  struct TokenSlot {
    std::optional<Challenge> challenge;  // what to answer without being asked again
    std::string authorization;           // a header value; empty: none yet
    std::chrono::steady_clock::time_point refresh_at = std::chrono::steady_clock::time_point::max();
    std::vector<std::function<void(Status, bool transient)>> waiting;  // for the fetch under way
  };
  struct RedirectTarget {
    Url url;
    std::chrono::steady_clock::time_point since;
  };

  RegistrySession(const ImageReference& reference, const RepositoryOptions& options);

  Result<Url> UrlFor(const std::string& target) const;
  bool IsOwnOrigin(const Url& url) const;
  bool FallBackToHttp();
  std::optional<Url> CachedTarget(const Digest& blob);
  void RememberTarget(const Digest& blob, const Url& url);
  // Makes slots_[access] hold an authorization for `challenge`; `done` may be called before the return.
  void Authorize(Access access, const Challenge& challenge, std::function<void(Status, bool transient)> done);
  void StartTokenFetch(Access access, const Challenge& challenge, const Credentials& credentials);
  void FinishAuthorize(Access access, const Status& status, bool transient);
  Result<Credentials> FindCredentials();
  std::string LoginHint(bool had_credentials) const;

  const RepositoryOptions options_;
  const std::string host_;  // as in the reference
  const std::string repository_;
  const std::string connect_host_;  // docker.io is served elsewhere
  const std::string name_;

  std::atomic<uint64_t> next_id_{1};

  // The transport thread's own.
  std::string scheme_;
  bool scheme_settled_;
  CredentialsFile credentials_file_;
  TokenSlot slots_[2];
  std::map<Digest, RedirectTarget> redirect_targets_;
  std::map<uint64_t, std::shared_ptr<Exchange>> exchanges_;

  std::unique_ptr<CurlTransport> transport_;
};

}  // namespace banyan::net
