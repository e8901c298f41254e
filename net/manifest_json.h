// The little that transporting manifests requires to know about their JSON: media type, subject, descriptors, and the
// referrers index of OCI 1.1. Nothing here trusts its input.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "common/digest.h"
#include "common/result.h"

namespace banyan::net {

inline constexpr std::string_view kOciIndexType = "application/vnd.oci.image.index.v1+json";
inline constexpr std::string_view kOciManifestType = "application/vnd.oci.image.manifest.v1+json";

// Text as JSON; "discarded" (of no type) if it is none, or nested deeper than 100, which the recursion in copies and
// dump() could not stand.
nlohmann::json ParseJson(std::string_view text);

// The Content-Type without its parameters, or else the body's own "mediaType", or else a guess by its members.
std::string ManifestMediaType(std::string_view body, std::string_view content_type);

// nullopt: no (well-formed) subject.
std::optional<Digest> SubjectOf(std::string_view manifest);

// A descriptor of `manifest` as a referrers list wants it: with its artifact type and annotations.
nlohmann::json DescriptorOf(std::string_view media_type, std::string_view manifest);

// "sha256-<hex>".
std::string FallbackTag(const Digest& subject);

// The index `index` (empty text: an empty one) with `descriptor` added; nullopt when it holds that digest already.
Result<std::optional<std::string>> AddDescriptor(std::string_view index, const nlohmann::json& descriptor);

// Appends the text of each of the index's descriptors with that artifact type (empty: of any).
Status SelectDescriptors(std::string_view index, std::string_view artifact_type, std::vector<std::string>& out);

// The target of the first rel="next" of Link headers (RFC 8288).
std::optional<std::string> NextLink(const std::vector<std::string>& link_headers);

}  // namespace banyan::net
