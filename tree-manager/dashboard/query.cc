#include "tree-manager/dashboard/query.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

namespace banyan::tree_manager {
namespace {

constexpr size_t kMaxParameters = 16;

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

Result<std::string> Decode(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i] == '+' ? ' ' : text[i];
      continue;
    }
    const int high = i + 2 < text.size() ? HexValue(text[i + 1]) : -1;
    const int low = i + 2 < text.size() ? HexValue(text[i + 2]) : -1;
    if (high < 0 || low < 0) return Fail(Code::kInvalidArgument, "the query has a malformed escape");
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return out;
}

}  // namespace

Result<Query> ParseQuery(std::string_view target) {
  Query query;
  const size_t begin = target.find('?');
  if (begin == std::string_view::npos) return query;
  std::string_view rest = target.substr(begin + 1);
  for (size_t count = 0; !rest.empty(); ++count) {
    if (count == kMaxParameters) {
      return Fail(Code::kInvalidArgument, fmt::format("the query has more than {} parameters", kMaxParameters));
    }
    const std::string_view pair = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(pair.size() + 1, rest.size()));
    const size_t equals = std::min(pair.find('='), pair.size());
    BANYAN_ASSIGN(std::string name, Decode(pair.substr(0, equals)));
    BANYAN_ASSIGN(std::string value, Decode(pair.substr(std::min(equals + 1, pair.size()))));
    query[std::move(name)] = std::move(value);
  }
  return query;
}

size_t NumberOf(const Query& query, const std::string& name, size_t otherwise, size_t most) {
  const auto found = query.find(name);
  if (found == query.end()) return otherwise;
  size_t number = 0;
  const char* const end = found->second.data() + found->second.size();
  const auto parsed = std::from_chars(found->second.data(), end, number);
  return parsed.ec == std::errc() && parsed.ptr == end ? std::min(number, most) : otherwise;
}

std::string TextOf(const Query& query, const std::string& name) {
  const auto found = query.find(name);
  return found == query.end() ? std::string() : found->second;
}

}  // namespace banyan::tree_manager
