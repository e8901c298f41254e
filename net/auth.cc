#include "net/auth.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/file_io.h"

namespace banyan::net {

namespace {

constexpr size_t kMaxChallenges = 16;
constexpr size_t kMaxParameters = 32;
constexpr size_t kMaxTokenBytes = 64 * 1024;
constexpr uint64_t kMaxCredentialsFileBytes = 4 * 1024 * 1024;

bool IsTokenChar(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

// A cursor over a header value.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : rest_(text) {}

  bool done() const { return rest_.empty(); }
  char peek() const { return rest_.empty() ? '\0' : rest_.front(); }
  void SkipSpace() {
    while (peek() == ' ' || peek() == '\t') rest_.remove_prefix(1);
  }
  void SkipSpaceAndCommas() {
    while (peek() == ' ' || peek() == '\t' || peek() == ',') rest_.remove_prefix(1);
  }
  bool Take(char c) {
    if (peek() != c || rest_.empty()) return false;
    rest_.remove_prefix(1);
    return true;
  }
  std::string_view TakeToken() {
    size_t length = 0;
    while (length < rest_.size() && IsTokenChar(rest_[length])) ++length;
    const std::string_view token = rest_.substr(0, length);
    rest_.remove_prefix(length);
    return token;
  }
  // Behind the opening quote; false when the closing one is missing.
  bool TakeQuoted(std::string& out) {
    for (size_t i = 0; i < rest_.size(); ++i) {
      if (rest_[i] == '"') {
        rest_.remove_prefix(i + 1);
        return true;
      }
      if (rest_[i] == '\\' && ++i == rest_.size()) return false;
      out += rest_[i];
    }
    return false;
  }

 private:
  std::string_view rest_;
};

// "name = value" with `name` taken already and the cursor at "=".
bool TakeParameter(Scanner& scanner, std::string_view name, Challenge& challenge) {
  scanner.SkipSpace();
  std::string value;
  if (scanner.Take('"')) {
    if (!scanner.TakeQuoted(value)) return false;
  } else {
    value = scanner.TakeToken();
    if (value.empty()) return false;
  }
  if (challenge.parameters.size() >= kMaxParameters) return false;
  challenge.parameters.emplace(Lower(name), std::move(value));
  return true;
}

// "https://index.docker.io/v1/" and "docker.io" are one key: the form that references use.
std::string NormaliseKey(std::string_view key) {
  for (const std::string_view scheme : {"https://", "http://"}) {
    if (key.starts_with(scheme)) {
      key.remove_prefix(scheme.size());
      while (key.ends_with('/')) key.remove_suffix(1);
      for (const std::string_view version : {"/v1", "/v2"}) {
        if (key.ends_with(version)) key.remove_suffix(version.size());
      }
    }
  }
  while (key.ends_with('/')) key.remove_suffix(1);
  if (key == "index.docker.io" || key == "registry-1.docker.io") return "docker.io";
  return std::string(key);
}

std::string StringMember(const nlohmann::json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

Result<Credentials> ParseEntry(const nlohmann::json& entry) {
  Credentials credentials;
  credentials.username = StringMember(entry, "username");
  credentials.password = StringMember(entry, "password");
  credentials.identity_token = StringMember(entry, "identitytoken");
  if (const std::string encoded = StringMember(entry, "auth"); !encoded.empty()) {
    BANYAN_ASSIGN(const std::string pair, Base64Decode(encoded));
    const size_t colon = pair.find(':');
    if (colon == std::string::npos) return Fail(Code::kInvalidArgument, "'auth' is not user:password in base64");
    credentials.username = pair.substr(0, colon);
    credentials.password = pair.substr(colon + 1);
    while (!credentials.password.empty() && credentials.password.back() == '\0') credentials.password.pop_back();
  }
  return credentials;
}

}  // namespace

std::string Challenge::Parameter(std::string_view name) const {
  const auto found = parameters.find(std::string(name));
  return found == parameters.end() ? std::string() : found->second;
}

std::vector<Challenge> ParseChallenges(std::string_view header) {
  // A list in which commas separate both challenges and parameters: a token followed by "=" is a parameter of the
  // challenge before it, any other token begins a challenge.
  std::vector<Challenge> challenges;
  Scanner scanner(header);
  for (scanner.SkipSpaceAndCommas(); !scanner.done(); scanner.SkipSpaceAndCommas()) {
    const std::string_view token = scanner.TakeToken();
    if (token.empty()) break;
    scanner.SkipSpace();
    if (scanner.Take('=')) {
      if (challenges.empty() || !TakeParameter(scanner, token, challenges.back())) break;
      continue;
    }
    if (challenges.size() >= kMaxChallenges) break;
    challenges.push_back(Challenge{Lower(token), {}});
  }
  return challenges;
}

std::string Base64Encode(std::string_view bytes) {
  constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = static_cast<uint8_t>(bytes[i]) << 16;
    if (i + 1 < bytes.size()) group |= static_cast<uint8_t>(bytes[i + 1]) << 8;
    if (i + 2 < bytes.size()) group |= static_cast<uint8_t>(bytes[i + 2]);
    out += kAlphabet[group >> 18];
    out += kAlphabet[group >> 12 & 63];
    out += i + 1 < bytes.size() ? kAlphabet[group >> 6 & 63] : '=';
    out += i + 2 < bytes.size() ? kAlphabet[group & 63] : '=';
  }
  return out;
}

Result<std::string> Base64Decode(std::string_view text) {
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string out;
  uint32_t group = 0;
  int bits = 0;
  for (const char c : text) {
    uint32_t value;
    if (c >= 'A' && c <= 'Z') {
      value = static_cast<uint32_t>(c - 'A');
    } else if (c >= 'a' && c <= 'z') {
      value = static_cast<uint32_t>(c - 'a' + 26);
    } else if (c >= '0' && c <= '9') {
      value = static_cast<uint32_t>(c - '0' + 52);
    } else if (c == '+' || c == '/') {
      value = c == '+' ? 62 : 63;
    } else {
      return Fail(Code::kInvalidArgument, "not base64");
    }
    group = (group << 6 | value) & 0xFFFFFF;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      out += static_cast<char>(group >> bits & 0xFF);
    }
  }
  if (bits >= 6) return Fail(Code::kInvalidArgument, "not base64");
  return out;
}

std::string BasicAuthorization(const Credentials& credentials) {
  return "Basic " + Base64Encode(credentials.username + ":" + credentials.password);
}

std::string CredentialsFile::Path() const {
  if (!configured_path_.empty()) return configured_path_;
  const auto variable = [](const char* name) {
    return std::string(std::getenv(name) != nullptr ? std::getenv(name) : "");
  };
  if (std::string path = variable("REGISTRY_AUTH_FILE"); !path.empty()) return path;
  if (const std::string directory = variable("DOCKER_CONFIG"); !directory.empty()) return directory + "/config.json";
  const std::string home = variable("HOME");
  return home.empty() ? std::string() : home + "/.docker/config.json";
}

Status CredentialsFile::Refresh(const std::string& path) {
  struct stat info {};
  if (path.empty() || ::stat(path.c_str(), &info) != 0) {
    const int error = path.empty() ? ENOENT : errno;
    contents_ = {};
    stamp_ = {};
    // A file that was named must be there; the default places need not be.
    if (error == ENOENT && configured_path_.empty()) return {};
    return Fail(Code::kFailedPrecondition, ErrnoError("credentials file " + path, error).message);
  }
  const Stamp stamp{info.st_dev, info.st_ino, info.st_size,
                    info.st_mtim.tv_sec * 1'000'000'000LL + info.st_mtim.tv_nsec};
  if (stamp == stamp_ && path == loaded_path_) return {};
  const auto fail = [&](const std::string& why) {
    stamp_ = {};
    contents_ = {};
    return Fail(Code::kFailedPrecondition, fmt::format("credentials file {}: {}", path, why));
  };
  const Result<std::string> text = ReadFile(path, kMaxCredentialsFileBytes);
  if (!text) return fail(text.error().message);
  Result<Contents> contents = ParseContents(*text);
  if (!contents) return fail(contents.error().message);
  contents_ = *std::move(contents);
  stamp_ = stamp;
  loaded_path_ = path;
  return {};
}

Result<CredentialsFile::Contents> CredentialsFile::ParseContents(const std::string& text) {
  Contents contents;
  const nlohmann::json root = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return Fail(Code::kInvalidArgument, "not a JSON object");
  if (const auto auths = root.find("auths"); auths != root.end() && auths->is_object()) {
    for (const auto& [key, entry] : auths->items()) {
      if (!entry.is_object()) continue;
      Result<Credentials> credentials = ParseEntry(entry);
      if (!credentials) return Fail(credentials.error().WithContext("entry '" + key.substr(0, 100) + "'"));
      if (!credentials->empty()) contents.auths.emplace(NormaliseKey(key), *std::move(credentials));
    }
  }
  if (const auto helpers = root.find("credHelpers"); helpers != root.end() && helpers->is_object()) {
    for (const auto& [key, helper] : helpers->items()) {
      if (helper.is_string()) contents.helpers.emplace(NormaliseKey(key), helper.get<std::string>());
    }
  }
  if (std::string store = StringMember(root, "credsStore"); !store.empty())
    contents.helpers.emplace("", std::move(store));
  return contents;
}

Result<Credentials> CredentialsFile::Find(const std::string& host, const std::string& repository) {
  const std::string path = Path();
  BANYAN_TRY(Refresh(path));
  const std::string normal_host = NormaliseKey(host);
  for (std::string key = normal_host + "/" + repository;; key.resize(key.rfind('/'))) {
    if (const auto found = contents_.auths.find(key); found != contents_.auths.end()) return found->second;
    if (key.find('/') == std::string::npos) break;
  }
  auto helper = contents_.helpers.find(normal_host);
  if (helper == contents_.helpers.end()) helper = contents_.helpers.find("");
  if (helper != contents_.helpers.end()) {
    return Fail(
        Code::kFailedPrecondition,
        fmt::format("credentials file {}: the credentials of {} are kept by the helper docker-credential-{}, and "
                    "helpers are not supported: put them into an 'auths' entry (skopeo login --authfile FILE {})",
                    path, host, helper->second.substr(0, 60), host));
  }
  return Credentials{};
}

Result<Token> ParseTokenResponse(std::string_view body) {
  const nlohmann::json root = nlohmann::json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return Fail(Code::kUnauthenticated, "the token endpoint's answer is not a JSON object");
  Token token;
  token.value = StringMember(root, "token");
  if (token.value.empty()) token.value = StringMember(root, "access_token");
  // It goes into a header line, so nothing that could end the line.
  const bool clean = std::all_of(token.value.begin(), token.value.end(), [](char c) { return c > ' ' && c < '\x7f'; });
  if (token.value.empty() || token.value.size() > kMaxTokenBytes || !clean) {
    return Fail(Code::kUnauthenticated, "the token endpoint's answer holds no usable token");
  }
  if (const auto lifetime = root.find("expires_in"); lifetime != root.end() && lifetime->is_number()) {
    const double seconds = lifetime->get<double>();
    token.lifetime = std::chrono::seconds(static_cast<int64_t>(std::clamp(seconds, 1.0, 86400.0)));
  }
  return token;
}

}  // namespace banyan::net
