// The registries behind the mirror, and which of them a request means.
//
// Problem: one mirror stands before many registries, each with several places to ask, and any of them may hang. Idea:
// an upstream has its own threads for blocking calls, bounded and with a bounded queue, so that a hung one starves only
// itself; its endpoints are tried in order, and one that failed several times in a row is left out for a while.
// Invariant: no call to a registry ever runs on a thread of the server.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "mirror/workers.h"
#include "net/repository.h"

namespace banyan::mirror {

struct EndpointOptions {
  std::string host;         // "registry-1.docker.io", "10.0.0.7:5000"
  bool plain_http = false;  // loopback hosts are tried with plain HTTP by themselves
  std::string ca_file;      // empty: the system's
  bool is_mirror = false;   // it stands before many registries: requests carry `ns=<the upstream's name>`
};

struct UpstreamOptions {
  std::string name;                        // as image references and `ns=` have it: "docker.io", "registry:5000"
  std::vector<EndpointOptions> endpoints;  // tried in order; empty: the host `name` itself
  std::string credentials_file;            // docker-style, read again when it changes; empty: none is looked for
  // Repositories for which the credentials file may be used, as globs ("team/*", "*" crosses slashes). Others are asked
  // for anonymously.
  std::vector<std::string> credentials_for = {"*"};
  std::chrono::milliseconds connect_timeout{3'000};
  std::chrono::milliseconds stall_timeout{10'000};  // a transfer that moves no byte for so long is broken off
  uint32_t attempts = 2;                            // of each call at each endpoint
  uint32_t max_calls = 16;                          // blocking calls at once; more wait
  uint32_t max_fills = 16;                          // blobs on their way at once; more wait
};

// Whose request it is, for upstreams that want credentials. Empty: the upstream's own.
struct Identity {
  std::string username;
  std::string password;
  friend auto operator<=>(const Identity&, const Identity&) = default;
};

// One registry. Internally synchronised.
class Upstream {
 public:
  // `repositories` handles at most are kept open, the least recently used are closed first.
  Upstream(UpstreamOptions options, size_t repositories);
  ~Upstream();

  // Ends what is under way with kCancelled, and all later calls.
  void Shutdown();

  const std::string& name() const { return options_.name; }
  const UpstreamOptions& options() const { return options_; }
  // For calls that are short, and for those that last as long as a blob.
  Workers& calls() { return calls_; }
  Workers& fills() { return fills_; }

  // Runs `call` with the repository at one endpoint after another, until one succeeds or fails for a reason that the
  // next would have as well. Blocks: for calls() and fills(). kNotFound from all: kNotFound. Endpoints that are down
  // are left out; all down: kUnavailable, at once.
  using Call = std::function<Status(net::Repository&)>;
  Status Try(const std::string& repository, const Identity& identity, const Call& call);
  // The repository at the first endpoint that is not down.
  Result<std::shared_ptr<net::Repository>> Open(const std::string& repository, const Identity& identity);

 private:
  using Clock = std::chrono::steady_clock;
  struct Endpoint {
    EndpointOptions options;
    std::atomic<uint32_t> failures{0};  // in a row
    std::atomic<Clock::time_point> down_until{Clock::time_point::min()};
  };
  struct Key {
    size_t endpoint = 0;
    std::string repository;
    Identity identity;
    friend auto operator<=>(const Key&, const Key&) = default;
  };
  using Handles = std::list<std::pair<Key, std::shared_ptr<net::Repository>>>;

  Result<std::shared_ptr<net::Repository>> Handle(size_t endpoint, const std::string& repository,
                                                  const Identity& identity);
  void Note(Endpoint& endpoint, const Status& status);

  const UpstreamOptions options_;
  const size_t max_handles_;
  std::vector<std::unique_ptr<Endpoint>> endpoints_;
  std::mutex mutex_;
  bool shut_down_ = false;                   // guarded by mutex_
  Handles handles_;                          // guarded by mutex_; the most recently used first
  std::map<Key, Handles::iterator> by_key_;  // guarded by mutex_
  Workers calls_;
  Workers fills_;  // these two last: their threads use what is above
};

// A glob in which '*' stands for any characters and '?' for one.
bool MatchesGlob(std::string_view glob, std::string_view text);

}  // namespace banyan::mirror
