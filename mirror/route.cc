#include "mirror/route.h"

#include <algorithm>
#include <vector>

#include "net/reference.h"

namespace banyan::mirror {

namespace {

constexpr size_t kMaxTargetBytes = 8 * 1024;
constexpr size_t kMaxUploadIdBytes = 128;

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// nullopt when an escape is malformed.
std::optional<std::string> PercentDecode(std::string_view text, bool plus_is_space) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '+' && plus_is_space) {
      decoded += ' ';
    } else if (text[i] != '%') {
      decoded += text[i];
    } else {
      const int high = i + 2 < text.size() ? HexValue(text[i + 1]) : -1;
      const int low = i + 2 < text.size() ? HexValue(text[i + 2]) : -1;
      if (high < 0 || low < 0) return std::nullopt;
      decoded += static_cast<char>(high * 16 + low);
      i += 2;
    }
  }
  return decoded;
}

std::vector<std::string_view> Split(std::string_view path) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t slash = path.find('/');
    parts.push_back(path.substr(0, slash));
    if (slash == std::string_view::npos) return parts;
    path.remove_prefix(slash + 1);
  }
}

tl::unexpected<RouteError> Refuse(int status, std::string code, std::string message) {
  return tl::unexpected<RouteError>(RouteError{status, std::move(code), std::move(message)});
}

bool IsUploadId(std::string_view id) {
  return id.size() <= kMaxUploadIdBytes && std::all_of(id.begin(), id.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' ||
                  c == '=' || c == '.';
         });
}

// Can only be a registry, not the first component of a name that somebody means without one.
bool LooksLikeHost(std::string_view component) {
  return component == "localhost" || component.find_first_of(".:") != std::string_view::npos;
}

// What stands behind the name: takes it off `parts`.
std::optional<Route::Kind> TakeKind(std::vector<std::string_view>& parts, std::string_view& rest) {
  const auto from_end = [&](size_t n) { return parts.size() >= n ? parts[parts.size() - n] : std::string_view(); };
  const auto take = [&](Route::Kind kind, std::string_view what, size_t count) {
    rest = what;
    parts.resize(parts.size() - count);
    return kind;
  };
  if (from_end(3) == "blobs" && from_end(2) == "uploads") return take(Route::Kind::kUpload, from_end(1), 3);
  if (from_end(2) == "blobs" && from_end(1) == "uploads") return take(Route::Kind::kUpload, {}, 2);
  if (from_end(2) == "blobs") return take(Route::Kind::kBlob, from_end(1), 2);
  if (from_end(2) == "manifests") return take(Route::Kind::kManifest, from_end(1), 2);
  if (from_end(2) == "referrers") return take(Route::Kind::kReferrers, from_end(1), 2);
  if (from_end(2) == "tags" && from_end(1) == "list") return take(Route::Kind::kTags, {}, 2);
  return std::nullopt;
}

tl::expected<void, RouteError> TakeReference(Route& route, std::string_view text) {
  const Result<Digest> digest = Digest::Parse(text);
  if (digest) route.digest = *digest;
  switch (route.kind) {
    case Route::Kind::kBlob:
    case Route::Kind::kReferrers:
      if (!digest) return Refuse(400, "DIGEST_INVALID", "not a sha256 digest");
      break;
    case Route::Kind::kManifest:
      if (!digest && text.find(':') != std::string_view::npos)
        return Refuse(400, "DIGEST_INVALID", "not a sha256 digest");
      if (!digest && !net::IsValidTag(text)) return Refuse(404, "MANIFEST_UNKNOWN", "not a valid tag");
      break;
    case Route::Kind::kUpload:
      if (!IsUploadId(text)) return Refuse(404, "BLOB_UPLOAD_UNKNOWN", "not an upload");
      break;
    default:
      break;
  }
  route.reference = text;
  return {};
}

}  // namespace

std::optional<std::string> Route::Parameter(std::string_view name) const {
  for (std::string_view rest = query; !rest.empty();) {
    const std::string_view field = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(field.size() + 1, rest.size()));
    const size_t equals = field.find('=');
    if (field.substr(0, equals) != name) continue;
    return PercentDecode(equals == std::string_view::npos ? std::string_view() : field.substr(equals + 1), true);
  }
  return std::nullopt;
}

bool IsValidHost(std::string_view text) {
  if (text.empty() || text.size() > 255) return false;
  std::string_view host = text;
  std::string_view port;
  if (host.starts_with('[')) {
    const size_t close = host.find(']');
    if (close == std::string_view::npos) return false;
    port = host.substr(close + 1);
    if (!port.empty() && !port.starts_with(':')) return false;
    host = host.substr(1, close - 1);
    if (host.empty() || host.find_first_not_of("0123456789abcdefABCDEF:.") != std::string_view::npos) return false;
  } else {
    const size_t colon = host.find(':');
    if (colon != std::string_view::npos) {
      port = host.substr(colon);
      host = host.substr(0, colon);
    }
    const bool clean = std::all_of(host.begin(), host.end(), [](char c) {
      return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '.';
    });
    const bool edges = !host.empty() && host.front() != '.' && host.front() != '-' && host.back() != '.' &&
                       host.back() != '-' && host.find("..") == std::string_view::npos;
    if (!clean || !edges) return false;
  }
  if (port.empty()) return true;
  port.remove_prefix(1);
  if (port.empty() || port.size() > 5 || port.find_first_not_of("0123456789") != std::string_view::npos) return false;
  const int number = std::stoi(std::string(port));
  return number > 0 && number < 65536;
}

tl::expected<Route, RouteError> ParseRoute(std::string_view target, bool host_prefix) {
  if (target.size() > kMaxTargetBytes) return Refuse(400, "UNSUPPORTED", "the path is too long");
  Route route;
  const size_t question = target.find('?');
  if (question != std::string_view::npos) route.query = target.substr(question + 1);
  const std::optional<std::string> path = PercentDecode(target.substr(0, question), false);
  if (!path) return Refuse(400, "UNSUPPORTED", "malformed path");
  if (*path == "/v2" || *path == "/v2/") return route;
  if (!path->starts_with("/v2/")) return Refuse(404, "UNSUPPORTED", "not a path of this API");

  std::vector<std::string_view> parts = Split(std::string_view(*path).substr(4));
  std::string_view reference;
  const std::optional<Route::Kind> kind = TakeKind(parts, reference);
  if (!kind) return Refuse(404, "UNSUPPORTED", "not a path of this API");
  route.kind = *kind;
  size_t first = 0;
  if (host_prefix && parts.size() > 1 && LooksLikeHost(parts[0]) && IsValidHost(parts[0])) {
    route.host = parts[0];
    first = 1;
  }
  for (size_t i = first; i < parts.size(); ++i) {
    if (i > first) route.repository += '/';
    route.repository += parts[i];
  }
  if (!net::IsValidRepositoryName(route.repository)) return Refuse(400, "NAME_INVALID", "not a valid repository name");
  if (const auto taken = TakeReference(route, reference); !taken) return tl::unexpected<RouteError>(taken.error());
  return route;
}

}  // namespace banyan::mirror
