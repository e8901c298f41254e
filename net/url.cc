#include "net/url.h"

#include <algorithm>
#include <memory>

#include <curl/curl.h>
#include <fmt/format.h>

namespace banyan::net {

namespace {

constexpr size_t kMaxUrlBytes = 16 * 1024;

struct CurlUrlCleanup {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
};
using CurlUrl = std::unique_ptr<CURLU, CurlUrlCleanup>;

std::string Part(CURLU* url, CURLUPart part, unsigned flags = 0) {
  char* value = nullptr;
  if (curl_url_get(url, part, &value, flags) != CURLUE_OK) return {};
  std::string copy = value;
  curl_free(value);
  return copy;
}

// Controls and spaces would end up in a request line.
bool IsCleanUrlText(std::string_view text) {
  return !text.empty() && text.size() <= kMaxUrlBytes &&
         std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c != '\x7f'; });
}

std::string Excerpt(std::string_view text) {
  std::string shown(text.substr(0, std::min<size_t>(text.find('?'), 100)));
  for (char& c : shown) {
    if (c < ' ' || c == '\x7f') c = '?';
  }
  return shown;
}

}  // namespace

Result<Url> Url::Parse(std::string_view text) {
  const auto bad = [&] {
    return Fail(Code::kInvalidArgument, fmt::format("'{}' is not an http(s) URL", Excerpt(text)));
  };
  if (!IsCleanUrlText(text)) return bad();
  const CurlUrl handle(curl_url());
  if (curl_url_set(handle.get(), CURLUPART_URL, std::string(text).c_str(), 0) != CURLUE_OK) return bad();
  if (!Part(handle.get(), CURLUPART_USER).empty() || !Part(handle.get(), CURLUPART_PASSWORD).empty()) return bad();
  curl_url_set(handle.get(), CURLUPART_FRAGMENT, nullptr, 0);
  Url url;
  url.text_ = Part(handle.get(), CURLUPART_URL);
  url.scheme_ = Part(handle.get(), CURLUPART_SCHEME);
  url.host_ = Part(handle.get(), CURLUPART_HOST);
  std::transform(url.host_.begin(), url.host_.end(), url.host_.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  const std::string port = Part(handle.get(), CURLUPART_PORT, CURLU_DEFAULT_PORT);
  if ((url.scheme_ != "http" && url.scheme_ != "https") || url.host_.empty() || port.empty()) return bad();
  url.port_ = static_cast<uint16_t>(std::stoul(port));  // libcurl has checked that it is at most 65535.
  return url;
}

Result<Url> Url::Resolve(std::string_view reference) const {
  if (!IsCleanUrlText(reference)) {
    return Fail(Code::kInvalidArgument, fmt::format("'{}' is not a URL reference", Excerpt(reference)));
  }
  const CurlUrl handle(curl_url());
  if (curl_url_set(handle.get(), CURLUPART_URL, text_.c_str(), 0) != CURLUE_OK ||
      curl_url_set(handle.get(), CURLUPART_URL, std::string(reference).c_str(), 0) != CURLUE_OK) {
    return Fail(Code::kInvalidArgument, fmt::format("'{}' is not a URL reference", Excerpt(reference)));
  }
  return Parse(Part(handle.get(), CURLUPART_URL));
}

bool Url::SameOrigin(const Url& other) const {
  return scheme_ == other.scheme_ && host_ == other.host_ && port_ == other.port_;
}

std::string Url::ForMessages() const { return text_.substr(0, text_.find('?')); }

std::string PercentEncode(std::string_view text) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool unreserved = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                            c == '.' || c == '_' || c == '~';
    if (unreserved) {
      out += c;
    } else {
      out += '%';
      out += kDigits[byte >> 4];
      out += kDigits[byte & 15];
    }
  }
  return out;
}

bool IsLoopbackHost(std::string_view host) {
  constexpr std::string_view kMapped = "::ffff:";  // how a server on [::] names IPv4 clients
  if (host.starts_with(kMapped)) host.remove_prefix(kMapped.size());
  if (host == "::1") return true;
  if (host.starts_with("[")) return host == "[::1]" || host.starts_with("[::1]:");
  host = host.substr(0, host.find(':'));
  if (host == "localhost") return true;
  // Four decimal numbers, the first 127: a name such as "127.evil.example" is none.
  if (!host.starts_with("127.")) return false;
  return std::count(host.begin(), host.end(), '.') == 3 &&
         std::all_of(host.begin(), host.end(), [](char c) { return c == '.' || (c >= '0' && c <= '9'); });
}

}  // namespace banyan::net
