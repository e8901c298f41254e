#include "peer-agent/peer_ask.h"

#include <algorithm>
#include <utility>

#include "fetch/priority_header.h"
#include "mirror/route.h"

namespace banyan::peer_agent {

namespace {

constexpr size_t kMaxName = 256;
constexpr std::string_view kScheme = "bearer ";

std::string_view HeaderOf(const net::HttpRequest& request, std::string_view name) {
  const std::string* value = request.headers.Find(name);
  return value != nullptr ? std::string_view(*value) : std::string_view();
}

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; }

// A name that is safe in a header, a log line and a map.
bool IsName(std::string_view text) {
  const auto is_good = [](char c) { return c > ' ' && c < '\x7f' && c != ',' && c != '"'; };
  return !text.empty() && text.size() <= kMaxName && std::all_of(text.begin(), text.end(), is_good);
}

bool IsClosedRange(std::string_view range) { return !range.empty() && range.back() >= '0' && range.back() <= '9'; }

}  // namespace

bool HasToken(std::string_view authorization, std::string_view token) {
  if (token.empty() || authorization.size() < kScheme.size()) return false;
  for (size_t i = 0; i < kScheme.size(); ++i) {
    if (Lower(authorization[i]) != kScheme[i]) return false;
  }
  const std::string_view given = authorization.substr(kScheme.size());
  unsigned difference = given.size() == token.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i) {
    difference |= static_cast<unsigned char>(given[i]) ^ static_cast<unsigned char>(token[i % token.size()]);
  }
  return difference == 0;
}

tl::expected<PeerAsk, AskRefusal> ParsePeerAsk(const net::HttpRequest& request) {
  const auto refuse = [](int status, std::string message) {
    return tl::unexpected<AskRefusal>(AskRefusal{status, std::move(message)});
  };
  PeerAsk ask;
  ask.head = request.method == "HEAD";
  if (request.method != "GET" && !ask.head) return refuse(405, "peers are only read from");
  const auto route = mirror::ParseRoute(request.target, /*host_prefix=*/true);
  if (!route) return refuse(route.error().status, route.error().message);
  if (route->kind != mirror::Route::Kind::kBlob || !route->digest) return refuse(404, "peers serve blobs only");
  ask.blob = *route->digest;
  ask.function = HeaderOf(request, "banyan-function");
  ask.child = HeaderOf(request, "banyan-node");
  if (ask.child.empty()) ask.child = "-";
  if (!IsName(ask.child)) return refuse(400, "Banyan-Node is not a name");
  if (!ask.function.empty() && !IsName(ask.function)) return refuse(400, "Banyan-Function is not a name");
  ask.priority = fetch::ParsePriority(HeaderOf(request, "priority"));
  ask.only_if_cached = HeaderOf(request, "cache-control").find("only-if-cached") != std::string_view::npos;
  ask.recheck = HeaderOf(request, "banyan-recheck") == "1";
  ask.range = HeaderOf(request, "range");
  ask.chunks = IsClosedRange(ask.range);
  return ask;
}

}  // namespace banyan::peer_agent
