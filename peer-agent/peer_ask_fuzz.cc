// A peer's request, from raw bytes through the HTTP parser to what it says: names that are taken are safe in headers
// and logs, a token is right only when it is that token, and whatever is asked is an ask or a refusal.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "fetch/priority_header.h"
#include "peer-agent/peer_ask.h"

namespace {

bool IsSafe(std::string_view name) {
  for (const char c : name) {
    if (c <= ' ' || c >= '\x7f' || c == ',' || c == '"') return false;
  }
  return name.size() <= 256;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  constexpr std::string_view kToken = "secret";
  if (banyan::peer_agent::HasToken(bytes, kToken) && bytes.substr(bytes.size() - kToken.size()) != kToken) std::abort();
  banyan::fetch::ParsePriority(bytes);
  banyan::net::HttpRequestParser parser(16 * 1024, 0);
  if (!parser.Feed(bytes) || !parser.done()) return 0;
  const auto ask = banyan::peer_agent::ParsePeerAsk(parser.Take());
  if (!ask) {
    if (ask.error().status < 400 || ask.error().status > 499) std::abort();
    return 0;
  }
  if (ask->child.empty() || !IsSafe(ask->child) || !IsSafe(ask->function)) std::abort();
  if (ask->chunks && ask->range.empty()) std::abort();
  return 0;
}
