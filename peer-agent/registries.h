// How registries are reached: opens the repositories behind an image reference, mirrors first.
//
// A repository that something uses is opened once for each way of reaching it; the latest few are kept, so that a start
// finds the connections that the pull has made.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/result.h"
#include "net/repository.h"
#include "peer-agent/config.h"

namespace banyan::peer_agent {

// Where an image can be had, the best first; never empty. The last one is the registry that its name says.
using Origins = std::vector<std::shared_ptr<net::Repository>>;

// Internally synchronised.
class Registries {
 public:
  // What a command asks for on top of the configuration.
  struct Access {
    bool plain_http = false;
    std::string credentials_file;
    std::string ca_file;
  };

  explicit Registries(std::map<std::string, RegistryConfig> config) : config_(std::move(config)) {}

  // Touches no network. An oci: reference has one origin, its directory.
  Result<Origins> Open(const net::ImageReference& reference, const Access& access);
  // Whether this node has credentials for the repository; also when that cannot be found out.
  bool HasCredentials(const net::ImageReference& reference, const Access& access);
  // Success: its manifest can be had without credentials. Blocks, one request an origin.
  Status CheckAnonymous(const net::ImageReference& reference, const Access& access);
  // For origins that are opened from now on.
  void Configure(std::map<std::string, RegistryConfig> config);
  // Ends all requests, also later ones, with kCancelled.
  void Shutdown();

 private:
  static constexpr size_t kKept = 16;

  // How each origin is reached, in the order of Open().
  using Way = std::pair<net::ImageReference, net::RepositoryOptions>;
  Result<std::vector<Way>> WaysTo(const net::ImageReference& reference, const Access& access);
  Result<std::shared_ptr<net::Repository>> OpenOne(const net::ImageReference& reference,
                                                   const net::RepositoryOptions& options);

  std::mutex mutex_;
  bool shut_down_ = false;                                      // guarded by mutex_
  std::map<std::string, RegistryConfig> config_;                // guarded by mutex_
  std::map<std::string, std::weak_ptr<net::Repository>> open_;  // guarded by mutex_
  std::deque<std::shared_ptr<net::Repository>> kept_;           // guarded by mutex_; the latest first
};

}  // namespace banyan::peer_agent
