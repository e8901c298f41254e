// How the mirror says what went wrong: the specification's error bodies, with statuses that send containerd on to its
// next host.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/digest.h"
#include "common/result.h"
#include "mirror/stats.h"
#include "net/http_server.h"

namespace banyan::mirror {

using HeaderFields = std::vector<std::pair<std::string, std::string>>;

// {"errors":[{"code":…,"message":…}]}
net::HttpResponse ErrorAnswer(int status, std::string_view code, std::string_view message);

// 404 with `unknown_code` ("BLOB_UNKNOWN") for kNotFound; 403 when the upstream wants other credentials; 504 for
// timeouts; 502 and 503 for the rest. Never 408, 429 or 401.
net::HttpResponse ErrorAnswer(const Error& error, std::string_view unknown_code);

RequestResult ResultOfStatus(int status);

// What every answer with the content of `digest` carries.
HeaderFields ContentHeaders(const Digest& digest, std::string_view media_type);

}  // namespace banyan::mirror
