#include "tree-manager/preheat_api.h"

#include <charconv>
#include <cstdint>
#include <limits>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/digest.h"
#include "common/units.h"

namespace banyan::tree_manager {
namespace {

using net::HttpResponse;
using nlohmann::json;
using NodeProgress = proto::tree::PreheatProgressReply::Node;

constexpr std::string_view kPath = "/api/v1/preheats";
constexpr size_t kMaxBodyBytes = 256 * kKiB;
constexpr size_t kMaxNodes = 10'000;

HttpResponse Json(int status, const json& document) {
  return {status,
          {{"Content-Type", "application/json"}, {"Cache-Control", "no-store"}, {"X-Content-Type-Options", "nosniff"}},
          document.dump(-1, ' ', false, json::error_handler_t::replace) + "\n"};
}
HttpResponse ErrorAnswer(int status, const std::string& message) { return Json(status, {{"error", message}}); }
HttpResponse ErrorAnswer(const Error& error) {
  switch (error.code) {
    case Code::kInvalidArgument:
      return ErrorAnswer(400, error.message);
    case Code::kNotFound:
      return ErrorAnswer(404, error.message);
    case Code::kFailedPrecondition:
      return ErrorAnswer(409, error.message);
    case Code::kResourceExhausted:
      return ErrorAnswer(503, error.message);
    default:
      return ErrorAnswer(500, error.message);
  }
}

std::string_view StateName(NodeProgress::State state) {
  switch (state) {
    case NodeProgress::RUNNING:
      return "running";
    case NodeProgress::DONE:
      return "done";
    case NodeProgress::FAILED:
      return "failed";
    default:
      return "waiting";
  }
}

Error Bad(std::string_view what) { return {Code::kInvalidArgument, fmt::format("a preheating's {}", what)}; }

}  // namespace

Result<proto::tree::PreheatRequest> ParsePreheat(std::string_view text) {
  const json body = json::parse(text, nullptr, false);
  if (!body.is_object()) return Fail(Bad("body is not a JSON object"));
  proto::tree::PreheatRequest request;
  for (const auto& [name, value] : body.items()) {
    if (name == "reference" && value.is_string()) {
      request.set_reference(value.get_ref<const std::string&>());
    } else if (name == "zone" && value.is_string()) {
      request.set_zone(value.get_ref<const std::string&>());
    } else if (name == "plain_http" && value.is_boolean()) {
      request.set_plain_http(value.get<bool>());
    } else if (name == "count" && value.is_number_unsigned() &&
               value.get<uint64_t>() <= std::numeric_limits<uint32_t>::max()) {
      request.set_count(value.get<uint32_t>());
    } else if (name == "nodes" && value.is_array() && value.size() <= kMaxNodes) {
      for (const json& node : value) {
        if (!node.is_string()) return Fail(Bad("nodes are not all names"));
        request.add_nodes(node.get_ref<const std::string&>());
      }
    } else {
      return Fail(Bad(fmt::format("'{}' is not known, or of another kind", name)));
    }
  }
  if (request.reference().empty()) return Fail(Bad("reference is missing"));
  if (!request.reference().starts_with("docker://")) request.set_reference("docker://" + request.reference());
  return request;
}

PreheatApi::PreheatApi(Manager& manager, const std::string& token)
    : manager_(manager), expected_(token.empty() ? "" : "Bearer " + token) {}

bool PreheatApi::Knows(const net::HttpRequest& request) {
  const std::string_view path = request.path();
  return path == kPath || (path.starts_with(kPath) && path[kPath.size()] == '/');
}

HttpResponse PreheatApi::Answer(const net::HttpRequest& request) {
  if (expected_.empty()) {
    return ErrorAnswer(
        403,
        "this tree-manager has no token, and without one nothing is changed over HTTP: name the file of the cluster's "
        "token as token_file in its configuration, and send \"Authorization: Bearer\" with the token");
  }
  const std::string* const shown = request.headers.Find("authorization");
  if (shown == nullptr || Digest::Of(*shown) != Digest::Of(expected_)) {
    HttpResponse refused = ErrorAnswer(401, "the cluster's token is missing or wrong");
    refused.headers.emplace_back("WWW-Authenticate", "Bearer");
    return refused;
  }
  if (request.path() == kPath) {
    return request.method == "POST" ? Begin(request) : ErrorAnswer(405, "only POST");
  }
  return request.method == "GET" ? Progress(request.path().substr(kPath.size() + 1)) : ErrorAnswer(405, "only GET");
}

HttpResponse PreheatApi::Begin(const net::HttpRequest& request) {
  const std::string* const type = request.headers.Find("content-type");
  if (type == nullptr || !type->starts_with("application/json")) {
    return ErrorAnswer(415, "the body is to be of Content-Type application/json");
  }
  if (request.body.size() > kMaxBodyBytes) return ErrorAnswer(413, "the body is too large");
  const auto wanted = ParsePreheat(request.body);
  if (!wanted) return ErrorAnswer(wanted.error());
  const auto begun = manager_.Preheat(*wanted);
  if (!begun) return ErrorAnswer(begun.error());
  json nodes = json::array();
  for (const std::string& node : begun->nodes()) nodes.push_back(node);
  HttpResponse answer = Json(202, {{"id", begun->id()}, {"nodes", std::move(nodes)}});
  answer.headers.emplace_back("Location", fmt::format("{}/{}", kPath, begun->id()));
  return answer;
}

HttpResponse PreheatApi::Progress(std::string_view id) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(id.data(), id.data() + id.size(), number);
  if (error != std::errc() || end != id.data() + id.size()) return ErrorAnswer(404, "there is no such preheating");
  const auto progress = manager_.PreheatProgress(number);
  if (!progress) return ErrorAnswer(progress.error());
  json nodes = json::array();
  for (const NodeProgress& node : progress->nodes()) {
    nodes.push_back({{"node", node.node()},
                     {"state", StateName(node.state())},
                     {"present_bytes", node.present_bytes()},
                     {"total_bytes", node.total_bytes()},
                     {"error", node.error()},
                     {"away", node.away()}});
  }
  return Json(200, {{"id", progress->id()},
                    {"reference", progress->reference()},
                    {"ended", progress->ended()},
                    {"milliseconds", progress->took_millis()},
                    {"nodes", std::move(nodes)}});
}

}  // namespace banyan::tree_manager
