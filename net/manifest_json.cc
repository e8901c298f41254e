#include "net/manifest_json.h"

#include <nlohmann/json.hpp>

namespace banyan::net {

namespace {

std::string Text(const nlohmann::json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string StringMember(const nlohmann::json& object, const char* name) {
  if (!object.is_object()) return {};
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

const nlohmann::json* Member(const nlohmann::json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(name);
  return found != object.end() ? &*found : nullptr;
}

// "<target>; rel=next; …" of one link value: the text up to the next unquoted comma.
size_t LinkValueLength(std::string_view text) {
  bool quoted = false;
  bool in_target = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"' && !in_target) quoted = !quoted;
    if (text[i] == '<' && !quoted) in_target = true;
    if (text[i] == '>' && !quoted) in_target = false;
    if (text[i] == ',' && !quoted && !in_target) return i;
  }
  return text.size();
}

bool IsNextLink(std::string_view parameters) {
  std::string compact;
  for (const char c : parameters) {
    if (c != ' ' && c != '\t') compact += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  compact += ';';
  return compact.find(";rel=next;") != std::string::npos || compact.find(";rel=\"next\";") != std::string::npos;
}

bool IsTooDeep(std::string_view text) {
  constexpr int kMaxDepth = 100;
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
      continue;
    }
    if (c == '"') quoted = true;
    if ((c == '[' || c == '{') && ++depth > kMaxDepth) return true;
    if (c == ']' || c == '}') --depth;
  }
  return false;
}

}  // namespace

nlohmann::json ParseJson(std::string_view text) {
  if (IsTooDeep(text)) return nlohmann::json(nlohmann::json::value_t::discarded);
  return nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
}

std::string ManifestMediaType(std::string_view body, std::string_view content_type) {
  std::string_view type = content_type.substr(0, content_type.find(';'));
  while (type.ends_with(' ')) type.remove_suffix(1);
  const bool generic =
      type.empty() || type == "application/json" || type == "text/plain" || type == "application/octet-stream";
  if (!generic) return std::string(type);
  const nlohmann::json manifest = ParseJson(body);
  if (std::string own = StringMember(manifest, "mediaType"); !own.empty()) return own;
  return std::string(Member(manifest, "manifests") != nullptr ? kOciIndexType : kOciManifestType);
}

std::optional<Digest> SubjectOf(std::string_view manifest) {
  const nlohmann::json root = ParseJson(manifest);
  const nlohmann::json* subject = Member(root, "subject");
  if (subject == nullptr) return std::nullopt;
  const Result<Digest> digest = Digest::Parse(StringMember(*subject, "digest"));
  return digest ? std::optional(*digest) : std::nullopt;
}

nlohmann::json DescriptorOf(std::string_view media_type, std::string_view manifest) {
  const nlohmann::json root = ParseJson(manifest);
  nlohmann::json descriptor = {
      {"mediaType", media_type}, {"digest", Digest::Of(manifest).ToString()}, {"size", manifest.size()}};
  std::string artifact_type = StringMember(root, "artifactType");
  const nlohmann::json* config = Member(root, "config");
  if (artifact_type.empty() && config != nullptr) artifact_type = StringMember(*config, "mediaType");
  if (!artifact_type.empty()) descriptor["artifactType"] = artifact_type;
  const nlohmann::json* annotations = Member(root, "annotations");
  if (annotations != nullptr && annotations->is_object()) descriptor["annotations"] = *annotations;
  return descriptor;
}

std::string FallbackTag(const Digest& subject) { return "sha256-" + subject.Hex(); }

Result<std::optional<std::string>> AddDescriptor(std::string_view index, const nlohmann::json& descriptor) {
  nlohmann::json root =
      index.empty() ? nlohmann::json{{"schemaVersion", 2}, {"mediaType", kOciIndexType}} : ParseJson(index);
  if (!root.is_object()) return Fail(Code::kDataLoss, "the referrers tag holds no index");
  nlohmann::json& manifests = root["manifests"];
  if (manifests.is_null()) manifests = nlohmann::json::array();
  if (!manifests.is_array()) return Fail(Code::kDataLoss, "the referrers tag holds no index");
  const std::string digest = StringMember(descriptor, "digest");
  for (const nlohmann::json& present : manifests) {
    if (StringMember(present, "digest") == digest) return std::nullopt;
  }
  manifests.push_back(descriptor);
  return Text(root);
}

Status SelectDescriptors(std::string_view index, std::string_view artifact_type, std::vector<std::string>& out) {
  const nlohmann::json root = ParseJson(index);
  if (!root.is_object()) return Fail(Code::kDataLoss, "the list of referrers is not JSON");
  const nlohmann::json* manifests = Member(root, "manifests");
  if (manifests == nullptr || !manifests->is_array()) return {};
  for (const nlohmann::json& descriptor : *manifests) {
    if (!Digest::Parse(StringMember(descriptor, "digest"))) continue;
    if (artifact_type.empty() || StringMember(descriptor, "artifactType") == artifact_type)
      out.push_back(Text(descriptor));
  }
  return {};
}

std::optional<std::string> NextLink(const std::vector<std::string>& link_headers) {
  for (const std::string& header : link_headers) {
    std::string_view rest = header;
    while (!rest.empty()) {
      const std::string_view value = rest.substr(0, LinkValueLength(rest));
      rest.remove_prefix(std::min(value.size() + 1, rest.size()));
      const size_t open = value.find('<');
      const size_t close = value.find('>', open == std::string_view::npos ? 0 : open);
      if (open == std::string_view::npos || close == std::string_view::npos) continue;
      if (IsNextLink(value.substr(close + 1))) return std::string(value.substr(open + 1, close - open - 1));
    }
  }
  return std::nullopt;
}

}  // namespace banyan::net
