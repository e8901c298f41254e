// An OCI registry in memory that misbehaves on request, on free loopback ports, for tests of what stands above net/.
//
//   auto registry = *FakeRegistry::Start({});
//   registry->AddBlob(bytes);
//   registry->AddFault({.path_contains = "/blobs/", .kind = Fault::Kind::kStatus, .status = 503, .times = 2});
#pragma once

#include <chrono>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/digest.h"
#include "common/result.h"

namespace banyan::net::testing {

// What goes wrong with the requests it matches.
struct Fault {
  enum class Kind {
    kStatus,       // answers `status` (with Retry-After: `retry_after_s` if that is not negative)
    kStall,        // sends `after_bytes` of the body, then nothing, for ever
    kCut,          // sends `after_bytes` of the body, then closes the connection
    kFlipByte,     // inverts the body's byte `after_bytes`, counted within the answer (the last one if it is shorter)
    kIgnoreRange,  // answers 200 with the whole body
    kSlow,         // sends the body in pieces of 16 KiB with `delay` between them
    kDelay,        // answers after `delay`
  };
  std::string method;         // empty: any
  std::string path_contains;  // empty: any
  Kind kind = Kind::kStatus;
  int status = 500;
  int retry_after_s = -1;
  uint64_t after_bytes = 0;
  std::chrono::milliseconds delay{100};
  uint32_t skip = 0;                                      // so many matching requests go well before
  uint32_t times = std::numeric_limits<uint32_t>::max();  // then so many fail
};

struct FakeRegistryOptions {
  bool token_auth = false;  // Bearer tokens from a token endpoint on a port of its own
  std::string username;     // wanted by the token endpoint; empty: anonymous tokens
  std::string password;
  std::chrono::seconds token_lifetime{300};
  bool redirect_blobs = false;  // GETs of blobs are redirected to another port with a signed query
  bool referrers_api = true;    // false: 404, as registries from before OCI 1.1
};

// A request as it was received, by any of the ports.
struct SeenRequest {
  std::string method;
  std::string target;         // path and query
  std::string range;          // the header, or empty
  std::string authorization;  // the header, or empty
  bool at_redirect_target = false;
  bool at_token_endpoint = false;
};

// Internally synchronised. Serves on a thread of its own until destroyed. Speaks plain HTTP.
class FakeRegistry {
 public:
  static Result<std::unique_ptr<FakeRegistry>> Start(const FakeRegistryOptions& options);
  ~FakeRegistry();
  FakeRegistry(const FakeRegistry&) = delete;
  FakeRegistry& operator=(const FakeRegistry&) = delete;

  // "127.0.0.1:<port>"; any repository name holds the same content.
  std::string host() const;

  Digest AddBlob(std::string bytes);
  // Tag may be empty.
  Digest AddManifest(const std::string& tag, const std::string& media_type, const std::string& body);
  // kNotFound when nobody pushed it.
  Result<std::string> Blob(const Digest& digest) const;
  Result<std::string> Manifest(const std::string& tag_or_digest) const;

  // Faults are tried in the order of their addition; the first that matches and is not used up acts.
  void AddFault(Fault fault);
  void ClearFaults();
  // Tokens given out so far are refused from now on.
  void RevokeTokens();
  // Redirect targets given out so far answer 403 from now on.
  void ExpireRedirects();

  std::vector<SeenRequest> requests() const;
  void ClearRequests();
  // Body bytes of blobs sent so far, from both ports.
  uint64_t blob_bytes_sent() const;

 private:
  struct State;
  explicit FakeRegistry(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace banyan::net::testing
