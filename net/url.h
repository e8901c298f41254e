// The few operations on http(s) URLs that a registry client needs; libcurl's URL parser does the parsing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/result.h"

namespace banyan::net {

// An absolute http or https URL without user information or fragment. Immutable value.
class Url {
 public:
  // kInvalidArgument for anything else, control characters and URLs beyond 16 KiB included.
  static Result<Url> Parse(std::string_view text);
  // A Location or Link target, absolute or relative to this URL.
  Result<Url> Resolve(std::string_view reference) const;

  const std::string& text() const { return text_; }
  const std::string& scheme() const { return scheme_; }  // "http" or "https"
  const std::string& host() const { return host_; }      // lower case; IPv6 in brackets
  uint16_t port() const { return port_; }
  bool secure() const { return scheme_ == "https"; }
  // Whether credentials for one may be sent to the other: same scheme, host and port.
  bool SameOrigin(const Url& other) const;
  // Without the query, which in redirect targets is often a signature: for messages and logs.
  std::string ForMessages() const;

 private:
  std::string text_;
  std::string scheme_;
  std::string host_;
  uint16_t port_ = 0;
};

// Percent-encodes all but RFC 3986's unreserved characters.
std::string PercentEncode(std::string_view text);

// Whether `host` ("localhost", "127.0.0.1:5000", "[::1]:5000", or an address alone: "::1") can only mean this machine.
bool IsLoopbackHost(std::string_view host);

}  // namespace banyan::net
