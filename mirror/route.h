// What a request of the OCI distribution API asks for, out of its request target. Everything in it comes from outside:
// names, tags and digests are checked here, once, and are safe in paths and URLs afterwards.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/digest.h"
#include "common/result.h"

namespace banyan::mirror {

struct Route {
  enum class Kind {
    kBase,       // /v2/
    kManifest,   // /v2/<name>/manifests/<tag or digest>
    kBlob,       // /v2/<name>/blobs/<digest>
    kUpload,     // /v2/<name>/blobs/uploads/[<id>]
    kReferrers,  // /v2/<name>/referrers/<digest>
    kTags,       // /v2/<name>/tags/list
  };
  Kind kind = Kind::kBase;
  std::string host;              // the path's registry host, when prefixes are allowed and it has one
  std::string repository;        // a valid name
  std::string reference;         // kManifest: a valid tag, or the digest's text; kUpload: the id, which may be empty
  std::optional<Digest> digest;  // kBlob, kReferrers; kManifest unless by tag
  std::string query;             // as sent, without '?'

  // The first query parameter of that name, decoded; nullopt when absent.
  std::optional<std::string> Parameter(std::string_view name) const;
};

// Why a target is not one of ours, as the specification's errors say it.
struct RouteError {
  int status = 404;
  std::string code;  // "NAME_INVALID", "DIGEST_INVALID", …
  std::string message;
};

// `host_prefix`: a first path component that can only be a host ("localhost", or with a '.' or ':') is one.
tl::expected<Route, RouteError> ParseRoute(std::string_view target, bool host_prefix);

// Whether `text` can be a registry: a host name or address, with or without a port.
bool IsValidHost(std::string_view text);

}  // namespace banyan::mirror
