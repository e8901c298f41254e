#include "mirror/answers.h"

#include <nlohmann/json.hpp>

namespace banyan::mirror {

namespace {

std::pair<int, std::string_view> StatusOf(Code code) {
  switch (code) {
    case Code::kUnauthenticated:
    case Code::kPermissionDenied:
      return {403, "DENIED"};
    case Code::kDeadlineExceeded:
      return {504, "UNAVAILABLE"};
    case Code::kResourceExhausted:
    case Code::kCancelled:
      return {503, "UNAVAILABLE"};
    default:
      return {502, "UNAVAILABLE"};
  }
}

}  // namespace

net::HttpResponse ErrorAnswer(int status, std::string_view code, std::string_view message) {
  const nlohmann::json body = {{"errors", {{{"code", code}, {"message", message}}}}};
  return {status,
          {{"Content-Type", "application/json"}},
          body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"};
}

net::HttpResponse ErrorAnswer(const Error& error, std::string_view unknown_code) {
  if (error.code == Code::kNotFound) return ErrorAnswer(404, unknown_code, error.message);
  const auto [status, code] = StatusOf(error.code);
  return ErrorAnswer(status, code, error.message);
}

RequestResult ResultOfStatus(int status) {
  if (status == 404) return RequestResult::kNotFound;
  return status >= 500 ? RequestResult::kFailed : RequestResult::kRefused;
}

HeaderFields ContentHeaders(const Digest& digest, std::string_view media_type) {
  return {{"Content-Type", std::string(media_type)},
          {"Docker-Content-Digest", digest.ToString()},
          {"ETag", "\"" + digest.ToString() + "\""},
          {"Docker-Distribution-Api-Version", "registry/2.0"}};
}

}  // namespace banyan::mirror
