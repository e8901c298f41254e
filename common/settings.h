// Values that several programs are given by their users and must understand alike: addresses and token files.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/result.h"

namespace banyan {

struct HostPort {
  std::string host;  // an IP address without brackets, or a name
  uint16_t port = 0;

  // "10.0.0.7:4640", "[::1]:4640": what ParseHostPort takes.
  std::string ToString() const;
  // 0.0.0.0 or [::]: all of the machine's.
  bool is_any() const { return host == "0.0.0.0" || host == "::"; }
};

// Whether it is an IPv4 or IPv6 address, without brackets and interface.
bool IsIpAddress(const std::string& text);

// "10.0.0.7:4640", "name.example:80", "[::1]:0"; "localhost" becomes 127.0.0.1, since servers and clients here take
// addresses. kInvalidArgument that quotes the text: no port or one beyond 65535, no host (an empty one is not "all
// addresses": that is 0.0.0.0 or [::]), IPv6 without brackets, characters that no host has.
Result<HostPort> ParseHostPort(std::string_view text);

// The first line of a file that holds a bearer token (RFC 6750's characters). kInvalidArgument when that line is empty
// or holds anything else, spaces at its end included: two programs must not read two tokens out of one file.
Result<std::string> ReadToken(const std::string& path);

// What stands before /announce in the URL of a cluster's tracker: "/<32 hex digits>" that follow from the cluster's
// token, and from which the token does not follow; empty when there is no token.
std::string TrackerPath(std::string_view token);

}  // namespace banyan
