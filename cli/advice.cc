#include "cli/advice.h"

#include <fmt/format.h>
#include <grpcpp/client_context.h>

namespace banyan::cli {
namespace {

std::string_view WhenSilent(Asked asked) {
  switch (asked) {
    case Asked::kNobody:
      return "";
    case Asked::kRegistry:
      return "check that the registry is up and reachable, then try again";
    case Asked::kAgent:
      return "check that banyan-peer-agent runs with this --data-root (banyan doctor, systemctl status "
             "banyan-peer-agent)";
    case Asked::kContainerd:
      return "check that containerd runs (systemctl status containerd) and that --containerd names its socket";
    case Asked::kTreeManager:
      return "check that banyan-tree-manager runs there; --manager or $BANYAN_TREE_MANAGER names its address for gRPC";
    case Asked::kProxy:
      return "check that banyan-registry-proxy runs; --proxy or $BANYAN_REGISTRY_PROXY names its status address";
  }
  return "";
}

std::string_view WhenNotKnown(Asked asked) {
  switch (asked) {
    case Asked::kRegistry:
      return "log in first (skopeo login, docker login) or name a file with --creds-file";
    case Asked::kTreeManager:
      return "name the file that holds the cluster's token with --token-file or $BANYAN_TOKEN_FILE";
    default:
      return "";
  }
}

}  // namespace

Asked AskedFor(const std::string& reference) {
  return reference.starts_with("oci:") ? Asked::kNobody : Asked::kRegistry;
}

std::string_view AdviceFor(Code code, Asked asked) {
  switch (code) {
    case Code::kUnauthenticated:
      return WhenNotKnown(asked);
    case Code::kPermissionDenied:
      return asked == Asked::kRegistry ? "check the credentials and what they may do there"
                                       : "run this command as root";
    case Code::kUnavailable:
    case Code::kDeadlineExceeded:
      return WhenSilent(asked);
    case Code::kDataLoss:
      return "the content is damaged or hostile; get it again from a good source";
    default:
      return "";
  }
}

std::optional<Error> Silence(const grpc::ClientContext& context, const grpc::Status& status, std::string_view whom) {
  switch (status.error_code()) {
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::UNKNOWN:
      break;
    default:
      return std::nullopt;
  }
  // What came over the wire is marked so; what gRPC found out by itself is not.
  if (context.debug_error_string().find("received from peer") != std::string::npos) return std::nullopt;
  return Error{Code::kUnavailable, fmt::format("{} does not answer: {}", whom, status.error_message())};
}

}  // namespace banyan::cli
