// The header values and references that come from outside. The first byte chooses the parser.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "net/auth.h"
#include "net/manifest_json.h"
#include "net/range_header.h"
#include "net/repository.h"
#include "net/url.h"

namespace {

void Require(bool holds) {
  if (!holds) std::abort();
}

void References(std::string_view text) {
  const auto reference = banyan::net::ImageReference::Parse(text);
  if (!reference) return;
  const auto again = banyan::net::ImageReference::Parse(reference->ToString());
  Require(again.has_value() && again->ToString() == reference->ToString());
}

void Ranges(std::string_view text) {
  constexpr uint64_t kSize = 1000;
  const auto range = banyan::net::ParseRange(text, kSize);
  if (range && *range) Require(!(*range)->empty() && (*range)->end <= kSize);
  const auto content = banyan::net::ParseContentRange(text);
  if (content) Require(!content->range.empty());
  if (content && content->complete_bytes) Require(content->range.end <= *content->complete_bytes);
}

void Manifests(std::string_view text) {
  std::vector<std::string> found;
  (void)banyan::net::SelectDescriptors(text, "", found);
  (void)banyan::net::SubjectOf(text);
  (void)banyan::net::ManifestMediaType(text, "");
  const nlohmann::json descriptor = banyan::net::DescriptorOf("a/b", text);
  (void)banyan::net::AddDescriptor(text, descriptor);
  (void)banyan::net::ParseTokenResponse(text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 6) {
    case 0:
      (void)banyan::net::ParseChallenges(text);
      break;
    case 1:
      Ranges(text);
      break;
    case 2:
      (void)banyan::net::NextLink({text});
      break;
    case 3:
      References(text);
      break;
    case 4:
      if (const auto url = banyan::net::Url::Parse("https://h.example/v2/a")) (void)url->Resolve(text);
      break;
    default:
      Manifests(text);
  }
  return 0;
}
