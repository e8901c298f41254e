// What a registry client must read to authenticate: WWW-Authenticate challenges (RFC 9110 §11.6.1), docker-style
// credentials files and token endpoint answers (distribution's "token authentication"). No I/O but the credentials
// file.
//
// Secrets stay in Credentials and Token: neither is ever put into an error or a log line.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace banyan::net {

struct Challenge {
  std::string scheme;                             // lower case: "bearer", "basic"
  std::map<std::string, std::string> parameters;  // names in lower case; the first of equal names wins

  // Empty when absent.
  std::string Parameter(std::string_view name) const;
};

// All challenges of one header value that are well formed, up to the first that is not. At most 16, of 32 parameters
// each.
std::vector<Challenge> ParseChallenges(std::string_view header);

struct Credentials {
  std::string username;
  std::string password;
  std::string identity_token;  // an OAuth2 refresh token; then there is no password

  bool empty() const { return username.empty() && identity_token.empty(); }
  friend bool operator==(const Credentials&, const Credentials&) = default;
};

// "Basic <base64>".
std::string BasicAuthorization(const Credentials& credentials);
std::string Base64Encode(std::string_view bytes);
// Padding may be missing. kInvalidArgument for anything else that is not base64.
Result<std::string> Base64Decode(std::string_view text);

// One docker-style config.json. Externally synchronised. Reads the file at first use, and again when it changes.
class CredentialsFile {
 public:
  // Empty path: the first that exists of $REGISTRY_AUTH_FILE, $DOCKER_CONFIG/config.json, ~/.docker/config.json.
  explicit CredentialsFile(std::string path) : configured_path_(std::move(path)) {}

  // The credentials for `host` (as in references: "docker.io", "127.0.0.1:5000") and `repository`; the most specific
  // key of `auths` wins. None: empty credentials. kFailedPrecondition: the file cannot be read or understood, or only
  // names a credential helper for the host.
  Result<Credentials> Find(const std::string& host, const std::string& repository);

 private:
  struct Stamp {
    dev_t device = 0;
    ino_t inode = 0;
    off_t size = -1;
    int64_t modified_ns = 0;
    friend bool operator==(const Stamp&, const Stamp&) = default;
  };
  struct Contents {
    std::map<std::string, Credentials> auths;    // by normalised key: "host" or "host/name"
    std::map<std::string, std::string> helpers;  // by host; "" is credsStore
  };

  std::string Path() const;
  Status Refresh(const std::string& path);
  static Result<Contents> ParseContents(const std::string& text);

  const std::string configured_path_;
  std::string loaded_path_;
  Stamp stamp_;
  Contents contents_;
};

struct Token {
  std::string value;
  std::chrono::seconds lifetime{60};
};

// A token endpoint's 200 answer; kUnauthenticated (without the text) when it holds no usable token.
Result<Token> ParseTokenResponse(std::string_view body);

}  // namespace banyan::net
