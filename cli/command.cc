#include "cli/command.h"

#include <unistd.h>

#include <cstdlib>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace banyan::cli {
namespace {

// What the user can do about an error, from its kind alone; the message has the particulars.
std::string_view AdviceFor(Code code) {
  switch (code) {
    case Code::kUnauthenticated:
      return "log in first (skopeo login, docker login) or name a file with --creds-file";
    case Code::kPermissionDenied:
      return "check the credentials and what they may do there";
    case Code::kUnavailable:
    case Code::kDeadlineExceeded:
      return "check that the registry is up and reachable, then try again";
    case Code::kDataLoss:
      return "the content is damaged or hostile; get it again from a good source";
    default:
      return "";
  }
}

}  // namespace

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

std::string ErrorLine(std::string_view subject, const Error& error) {
  std::string line = fmt::format("banyan: {}: {}", subject, error.message);
  if (const std::string_view advice = AdviceFor(error.code); !advice.empty()) line += fmt::format(": {}", advice);
  return line;
}

int ReportError(const GlobalOptions& globals, std::string_view subject, const Error& error) {
  fmt::print(stderr, "{}\n", ErrorLine(subject, error));
  if (globals.json) {
    const nlohmann::json document = {
        {"error", {{"code", CodeName(error.code)}, {"subject", subject}, {"message", error.message}}}};
    fmt::print("{}\n", document.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  }
  return ExitCodeOf(error.code);
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
