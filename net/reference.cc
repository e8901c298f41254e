// Parsing of image references. A docker reference is split from both ends: the digest after '@', the host before the
// first
// '/' (when it looks like one: a dot, a colon, "localhost", or upper case), the tag after a ':' behind the last '/'.
#include "net/reference.h"

#include <algorithm>

#include <fmt/format.h>

#include "net/range_header.h"
#include "net/repository.h"

namespace banyan::net {

namespace {

constexpr std::string_view kDefaultHost = "docker.io";
constexpr size_t kMaxReferenceBytes = 4096;

bool IsLowerOrDigit(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }
bool IsAlphanumeric(char c) { return IsLowerOrDigit(c) || (c >= 'A' && c <= 'Z'); }

// Length of the separator that `text` begins with: ".", "_", "__" or dashes; 0 for none.
size_t SeparatorLength(std::string_view text) {
  if (text.starts_with("__")) return 2;
  if (text.starts_with("_") || text.starts_with(".")) return 1;
  const size_t dashes = std::min(text.find_first_not_of('-'), text.size());
  return dashes;
}

bool IsValidComponent(std::string_view component) {
  if (component.empty() || !IsLowerOrDigit(component.back())) return false;
  while (!component.empty()) {
    size_t letters = 0;
    while (letters < component.size() && IsLowerOrDigit(component[letters])) ++letters;
    if (letters == 0) return false;
    component.remove_prefix(letters);
    component.remove_prefix(SeparatorLength(component));
  }
  return true;
}

bool IsValidHost(std::string_view host) {
  std::string_view port;
  if (host.starts_with('[')) {
    const size_t close = host.find(']');
    if (close == std::string_view::npos || close < 3) return false;
    const std::string_view address = host.substr(1, close - 1);
    const bool plausible =
        address.find(':') != std::string_view::npos && std::all_of(address.begin(), address.end(), [](char c) {
          return c == ':' || c == '.' || (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
        });
    if (!plausible) return false;
    if (close + 1 == host.size()) return true;
    if (host[close + 1] != ':') return false;
    port = host.substr(close + 2);
  } else {
    const size_t colon = host.find(':');
    const std::string_view name = host.substr(0, colon);
    if (name.empty() || !IsAlphanumeric(name.front()) || !IsAlphanumeric(name.back())) return false;
    if (!std::all_of(name.begin(), name.end(), [](char c) { return IsAlphanumeric(c) || c == '.' || c == '-'; }))
      return false;
    if (colon == std::string_view::npos) return true;
    port = host.substr(colon + 1);
  }
  const std::optional<uint64_t> number = ParseDecimal(port);
  return number && *number >= 1 && *number <= 65535 && port.size() <= 5;
}

// docker's rule for "a/b": `first` is a host, not a name's first component.
bool LooksLikeHost(std::string_view first) {
  return first == "localhost" || first.find_first_of(".:[") != std::string_view::npos ||
         std::any_of(first.begin(), first.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
}

tl::unexpected<Error> Bad(std::string_view text, std::string_view why) {
  std::string shown(text.substr(0, 300));
  for (char& c : shown) {
    if (c < ' ' || c == '\x7f') c = '?';
  }
  return Fail(Code::kInvalidArgument, fmt::format("image reference '{}': {}", shown, why));
}

Result<ImageReference> ParseDocker(std::string_view text, std::string_view rest) {
  ImageReference reference;
  reference.transport = ImageReference::Transport::kDocker;
  if (const size_t at = rest.find('@'); at != std::string_view::npos) {
    Result<Digest> digest = Digest::Parse(rest.substr(at + 1));
    if (!digest) return Bad(text, "the part after '@' must be sha256: and 64 lower-case hex digits");
    reference.digest = *digest;
    rest = rest.substr(0, at);
  }
  const size_t slash = rest.find('/');
  if (slash != std::string_view::npos && LooksLikeHost(rest.substr(0, slash))) {
    reference.host = rest.substr(0, slash);
    rest = rest.substr(slash + 1);
    if (!IsValidHost(reference.host)) return Bad(text, fmt::format("'{}' is not host or host:port", reference.host));
  } else {
    reference.host = kDefaultHost;
  }
  const size_t last_slash = rest.rfind('/');
  const size_t colon = rest.find(':', last_slash == std::string_view::npos ? 0 : last_slash);
  if (colon != std::string_view::npos) {
    reference.tag = rest.substr(colon + 1);
    rest = rest.substr(0, colon);
    if (!IsValidTag(reference.tag)) {
      return Bad(text, fmt::format("'{}' is not a tag (letters, digits, '_', '.', '-'; at most 128)", reference.tag));
    }
  } else if (!reference.digest) {
    reference.tag = "latest";
  }
  if (rest.empty()) return Bad(text, "no repository name");
  reference.repository = rest;
  if (!IsValidRepositoryName(reference.repository)) {
    return Bad(text, fmt::format("'{}' is not a repository name (lower-case letters, digits and single separators '.', "
                                 "'_', '-' between them; components separated by '/')",
                                 reference.repository));
  }
  if (reference.host == "index.docker.io") reference.host = kDefaultHost;
  if (reference.host == kDefaultHost && reference.repository.find('/') == std::string::npos) {
    reference.repository.insert(0, "library/");
  }
  return reference;
}

// The directory may hold colons ("oci:/data/a:b/img:v1"): only what follows a ':' behind the last '/' can be a tag.
Result<ImageReference> ParseOci(std::string_view text, std::string_view rest) {
  ImageReference reference;
  reference.transport = ImageReference::Transport::kOci;
  if (const size_t at = rest.rfind("@sha256:"); at != std::string_view::npos) {
    Result<Digest> digest = Digest::Parse(rest.substr(at + 1));
    if (!digest) return Bad(text, "the part after '@' must be sha256: and 64 lower-case hex digits");
    reference.digest = *digest;
    rest = rest.substr(0, at);
  }
  const size_t last_slash = rest.rfind('/');
  const size_t colon = rest.find(':', last_slash == std::string_view::npos ? 0 : last_slash);
  if (colon != std::string_view::npos) {
    reference.tag = rest.substr(colon + 1);
    rest = rest.substr(0, colon);
    if (reference.tag.empty()) return Bad(text, "nothing follows the last ':', where the tag belongs");
    const bool clean =
        std::all_of(reference.tag.begin(), reference.tag.end(), [](char c) { return c > ' ' && c != '\x7f'; });
    if (!clean || reference.tag.size() > 512)
      return Bad(text, "the tag holds spaces or control characters, or is too long");
  }
  if (rest.empty()) return Bad(text, "no directory");
  if (rest.find('\0') != std::string_view::npos) return Bad(text, "the directory holds a NUL byte");
  reference.repository = rest;
  return reference;
}

}  // namespace

bool IsValidTag(std::string_view tag) {
  if (tag.empty() || tag.size() > 128 || !(IsAlphanumeric(tag.front()) || tag.front() == '_')) return false;
  return std::all_of(tag.begin(), tag.end(),
                     [](char c) { return IsAlphanumeric(c) || c == '_' || c == '.' || c == '-'; });
}

bool IsValidRepositoryName(std::string_view name) {
  if (name.empty() || name.size() > 255) return false;
  while (true) {
    const size_t slash = name.find('/');
    if (!IsValidComponent(name.substr(0, slash))) return false;
    if (slash == std::string_view::npos) return true;
    name.remove_prefix(slash + 1);
  }
}

Result<ImageReference> ImageReference::Parse(std::string_view text) {
  constexpr std::string_view kDocker = "docker://";
  constexpr std::string_view kOci = "oci:";
  if (text.size() > kMaxReferenceBytes) return Bad(text, "longer than 4096 bytes");
  if (text.starts_with(kDocker)) return ParseDocker(text, text.substr(kDocker.size()));
  if (text.starts_with(kOci)) return ParseOci(text, text.substr(kOci.size()));
  return Bad(text, "must begin with docker:// (docker://host/name:tag) or oci: (oci:directory:tag)");
}

std::string ImageReference::ToString() const {
  std::string text =
      transport == Transport::kDocker ? fmt::format("docker://{}/{}", host, repository) : "oci:" + repository;
  if (!tag.empty()) text += ":" + tag;
  if (digest) text += "@" + digest->ToString();
  return text;
}

}  // namespace banyan::net
