#include "common/settings.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "common/digest.h"
#include "common/file_io.h"

namespace banyan {
namespace {

constexpr uint64_t kMaxTokenBytes = 4096;

constexpr std::string_view kTokenCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=";
constexpr std::string_view kNameCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._";
constexpr std::string_view kIpv6Characters = "0123456789abcdefABCDEF:.";

// A link-local address may end in "%" and its interface.
bool IsIpv6Text(std::string_view text) {
  const size_t zone = text.find('%');
  const std::string_view address = text.substr(0, zone);
  if (address.find(':') == std::string_view::npos ||
      address.find_first_not_of(kIpv6Characters) != std::string_view::npos) {
    return false;
  }
  return zone == std::string_view::npos ||
         (zone + 1 < text.size() && text.find_first_not_of(kNameCharacters, zone + 1) == std::string_view::npos);
}

tl::unexpected<Error> NoHostPort(std::string_view text, std::string_view why) {
  return Fail(Code::kInvalidArgument, fmt::format("'{}' is no host:port: {}", text, why));
}

}  // namespace

std::string HostPort::ToString() const {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

bool IsIpAddress(const std::string& text) {
  in6_addr parsed;
  return ::inet_pton(AF_INET, text.c_str(), &parsed) == 1 || ::inet_pton(AF_INET6, text.c_str(), &parsed) == 1;
}

Result<HostPort> ParseHostPort(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return NoHostPort(text, "the port is missing");
  HostPort out;
  const char* const end = text.data() + text.size();
  const auto port = std::from_chars(text.data() + colon + 1, end, out.port);
  if (port.ec != std::errc() || port.ptr != end) return NoHostPort(text, "the port is no number up to 65535");

  std::string_view host = text.substr(0, colon);
  if (host.empty()) return NoHostPort(text, "the host is missing (0.0.0.0: all addresses)");
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
    if (!IsIpv6Text(host)) return NoHostPort(text, "what is in brackets is no IPv6 address");
  } else if (host.find_first_not_of(kNameCharacters) != std::string_view::npos) {
    return NoHostPort(text, IsIpv6Text(host) ? "an IPv6 address takes brackets" : "no host is called so");
  }
  out.host = host == "localhost" ? "127.0.0.1" : host;
  return out;
}

Result<std::string> ReadToken(const std::string& path) {
  BANYAN_ASSIGN(std::string token, ReadFile(path, kMaxTokenBytes));
  token.erase(std::min(token.find_first_of("\r\n"), token.size()));
  if (token.empty()) return Fail(Code::kInvalidArgument, fmt::format("{}: its first line is empty", path));
  if (token.find_first_not_of(kTokenCharacters) != std::string::npos) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{}: its first line is no token (letters, digits and -._~+/= alone)", path));
  }
  return token;
}

std::string TrackerPath(std::string_view token) {
  if (token.empty()) return {};
  return "/" + Digest::Of(fmt::format("banyan tracker\n{}", token)).Hex().substr(0, 32);
}

}  // namespace banyan
