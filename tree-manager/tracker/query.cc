#include "tree-manager/tracker/query.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include <fmt/format.h>

namespace banyan::tree_manager {
namespace {

constexpr size_t kMaxZoneBytes = 64;

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::optional<std::string> Decode(std::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    const int high = i + 2 < text.size() ? HexValue(text[i + 1]) : -1;
    const int low = i + 2 < text.size() ? HexValue(text[i + 2]) : -1;
    if (high < 0 || low < 0) return std::nullopt;
    decoded += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return decoded;
}

struct Parameter {
  std::string_view name;
  std::string_view value;  // not decoded
};

// Takes the first parameter off.
Parameter Next(std::string_view& query) {
  const std::string_view one = query.substr(0, query.find('&'));
  query.remove_prefix(std::min(query.size(), one.size() + 1));
  const size_t equals = one.find('=');
  if (equals == std::string_view::npos) return {one, {}};
  return {one.substr(0, equals), one.substr(equals + 1)};
}

std::optional<std::string_view> Find(std::string_view query, std::string_view name) {
  while (!query.empty()) {
    const Parameter parameter = Next(query);
    if (parameter.name == name) return parameter.value;
  }
  return std::nullopt;
}

tl::unexpected<Error> Bad(std::string_view name) {
  return Fail(Code::kInvalidArgument, fmt::format("{} is missing or malformed", name));
}

Result<std::string> HashOf(std::string_view query, std::string_view name) {
  const auto value = Find(query, name);
  auto decoded = value ? Decode(*value) : std::nullopt;
  if (!decoded || decoded->size() != kInfoHashBytes) return Bad(name);
  return *std::move(decoded);
}

template <typename Number>
Result<Number> NumberOf(std::string_view query, std::string_view name, Number absent) {
  const auto value = Find(query, name);
  if (!value) return absent;
  Number number = 0;
  const auto [end, error] = std::from_chars(value->data(), value->data() + value->size(), number);
  if (error != std::errc() || end != value->data() + value->size()) return Bad(name);
  return number;
}

AnnounceEvent EventOf(std::string_view query) {
  const auto value = Find(query, "event");
  if (value == "started") return AnnounceEvent::kStarted;
  if (value == "completed") return AnnounceEvent::kCompleted;
  if (value == "stopped") return AnnounceEvent::kStopped;
  return AnnounceEvent::kNone;
}

std::string ZoneOf(std::string_view query) {
  const std::string_view zone = Find(query, "zone").value_or(std::string_view());
  const bool good = zone.size() <= kMaxZoneBytes && std::all_of(zone.begin(), zone.end(), [](char c) {
                      return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
                             c == '_' || c == '.';
                    });
  return good ? std::string(zone) : std::string();
}

}  // namespace

Result<AnnounceQuery> ParseAnnounce(std::string_view query) {
  AnnounceQuery announce;
  BANYAN_ASSIGN(announce.info_hash, HashOf(query, "info_hash"));
  BANYAN_ASSIGN(announce.peer_id, HashOf(query, "peer_id"));
  BANYAN_ASSIGN(announce.port, NumberOf<uint16_t>(query, "port", 0));
  if (announce.port == 0) return Bad("port");
  BANYAN_ASSIGN(announce.left, NumberOf<uint64_t>(query, "left", 1));
  BANYAN_ASSIGN(announce.numwant, NumberOf<int64_t>(query, "numwant", -1));
  announce.event = EventOf(query);
  announce.compact = Find(query, "compact") != "0";
  announce.no_peer_id = Find(query, "no_peer_id") == "1";
  announce.zone = ZoneOf(query);
  return announce;
}

Result<std::vector<std::string>> ParseScrape(std::string_view query) {
  std::vector<std::string> hashes;
  while (!query.empty()) {
    const Parameter parameter = Next(query);
    if (parameter.name != "info_hash") continue;
    auto hash = Decode(parameter.value);
    if (!hash || hash->size() != kInfoHashBytes) return Bad("info_hash");
    if (hashes.size() == kMaxScraped) return Fail(Code::kInvalidArgument, "too many info-hashes");
    hashes.push_back(*std::move(hash));
  }
  if (hashes.empty()) return Bad("info_hash");
  return hashes;
}

}  // namespace banyan::tree_manager
