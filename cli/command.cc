#include "cli/command.h"

#include <unistd.h>

#include <cstdlib>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace banyan::cli {

ExitCode ExitCodeOf(Code code) {
  switch (code) {
    case Code::kInvalidArgument:
      return kExitUsage;
    case Code::kNotFound:
      return kExitNotFound;
    case Code::kPermissionDenied:
    case Code::kUnauthenticated:
      return kExitDenied;
    case Code::kUnavailable:
    case Code::kDeadlineExceeded:
    case Code::kAborted:
      return kExitUnavailable;
    case Code::kDataLoss:
    case Code::kOutOfRange:
      return kExitBadData;
    case Code::kResourceExhausted:
      return kExitNoSpace;
    default:
      return kExitFailed;
  }
}

net::RepositoryOptions GlobalOptions::repository_options() const {
  net::RepositoryOptions options;
  options.plain_http = plain_http;
  options.credentials_file = creds_file;
  options.ca_file = ca_file;
  return options;
}

std::string DefaultDataRoot() {
  if (::geteuid() == 0) return "/var/lib/banyan";
  if (const char* data = std::getenv("XDG_DATA_HOME"); data != nullptr && *data == '/')
    return std::string(data) + "/banyan";
  const char* home = std::getenv("HOME");
  return std::string(home != nullptr ? home : ".") + "/.local/share/banyan";
}

std::string ErrorLine(std::string_view subject, const Error& error, Asked asked) {
  std::string line = fmt::format("banyan: {}: {}", subject, error.message);
  if (const auto advice = AdviceFor(error.code, asked); !advice.empty()) line += fmt::format(": {}", advice);
  return line;
}

int ReportError(const GlobalOptions& globals, std::string_view subject, const Error& error, Asked asked) {
  fmt::print(stderr, "{}\n", ErrorLine(subject, error, asked));
  if (globals.json) {
    PrintJson({{"error",
                {{"code", CodeName(error.code)},
                 {"subject", subject},
                 {"message", error.message},
                 {"advice", AdviceFor(error.code, asked)}}}});
  }
  return ExitCodeOf(error.code);
}

void PrintJson(const nlohmann::json& document, int indent) {
  fmt::print("{}\n", document.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace));
}

std::string OpenedImage::selector() const { return reference.digest ? reference.digest->ToString() : reference.tag; }

Result<OpenedImage> OpenImage(const GlobalOptions& globals, const std::string& reference, bool create) {
  auto parsed = net::ImageReference::Parse(reference);
  if (!parsed) {
    return Fail(parsed.error().code, parsed.error().message + " (write docker://host/name:tag or oci:directory:tag)");
  }
  OpenedImage image{std::move(*parsed), nullptr};
  BANYAN_ASSIGN(image.repository, net::OpenRepository(image.reference, globals.repository_options(), create));
  return image;
}

}  // namespace banyan::cli
