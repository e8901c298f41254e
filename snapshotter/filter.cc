#include "snapshotter/filter.h"

#include <re2/re2.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace banyan::snapshotter {

namespace {

constexpr size_t kMaxFilters = 256;
constexpr size_t kMaxFilterBytes = 64 << 10;
constexpr size_t kMaxExpressions = 64;  // of one request; each may take kMaxExpressionMemory
constexpr size_t kMaxExpressionBytes = 4 << 10;
constexpr int64_t kMaxExpressionMemory = 1 << 20;
constexpr uint32_t kMaxRune = 0x10FFFF;

bool IsFieldChar(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}
bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsOperatorChar(char c) { return c == '=' || c == '!' || c == '~'; }
bool IsControl(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; }

void AppendUtf8(uint32_t rune, std::string& out) {
  if (rune >= 0xD800 && rune <= 0xDFFF) rune = 0xFFFD;  // A lone surrogate is no character.
  if (rune < 0x80) {
    out += static_cast<char>(rune);
  } else if (rune < 0x800) {
    out += static_cast<char>(0xC0 | rune >> 6);
    out += static_cast<char>(0x80 | (rune & 0x3F));
  } else if (rune < 0x10000) {
    out += static_cast<char>(0xE0 | rune >> 12);
    out += static_cast<char>(0x80 | (rune >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (rune & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | rune >> 18);
    out += static_cast<char>(0x80 | (rune >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (rune >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (rune & 0x3F));
  }
}

std::optional<std::string> FieldOf(const std::vector<std::string>& path, const SnapshotInfo& info) {
  const std::string& field = path.front();
  if (field == "name") return info.name;
  if (field == "parent") return info.parent;
  if (field == "kind") return std::string(KindName(info.kind));
  if (field != "labels") return std::nullopt;
  std::string key;
  for (size_t i = 1; i < path.size(); ++i) key += (i == 1 ? "" : ".") + path[i];
  const auto label = info.labels.find(key);
  return label == info.labels.end() ? std::nullopt : std::optional(label->second);
}

}  // namespace

class Filter::Parser {
 public:
  Parser(const std::string& text, size_t& expressions) : text_(text), expressions_(expressions) {}

  Result<Conjunction> Parse() {
    Conjunction all;
    while (true) {
      BANYAN_ASSIGN(Selector selector, ParseSelector());
      all.push_back(std::move(selector));
      SkipSpace();
      if (AtEnd()) return all;
      if (!Take(',')) return Bad("a comma is expected");
    }
  }

 private:
  bool AtEnd() const { return at_ == text_.size(); }
  char Peek() const { return AtEnd() ? '\0' : text_[at_]; }
  bool Take(char c) {
    if (AtEnd() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void SkipSpace() {
    while (!AtEnd() && IsSpace(text_[at_])) ++at_;
  }
  tl::unexpected<Error> Bad(std::string_view what) const {
    constexpr size_t kShown = 200;
    return Fail(Code::kInvalidArgument,
                fmt::format("filter \"{}\", at byte {}: {}", text_.substr(0, kShown), at_, what));
  }

  Result<Selector> ParseSelector() {
    Selector selector;
    do {
      BANYAN_ASSIGN(std::string field, ParseField());
      selector.path.push_back(std::move(field));
    } while (Take('.'));
    SkipSpace();
    if (AtEnd() || Peek() == ',') return selector;
    BANYAN_ASSIGN(selector.op, ParseOperator());
    BANYAN_ASSIGN(selector.value, ParseValue(selector.op == Operator::kMatches));
    if (selector.op == Operator::kMatches) BANYAN_TRY(Compile(selector));
    return selector;
  }

  Result<std::string> ParseField() {
    SkipSpace();
    if (Peek() == '"') return ParseQuoted();
    const size_t begin = at_;
    while (IsFieldChar(Peek())) ++at_;
    if (at_ == begin) return Bad("a field is expected");
    return text_.substr(begin, at_ - begin);
  }

  Result<Operator> ParseOperator() {
    const size_t begin = at_;
    while (IsOperatorChar(Peek())) ++at_;
    const std::string_view op = std::string_view(text_).substr(begin, at_ - begin);
    if (op == "==") return Operator::kEqual;
    if (op == "!=") return Operator::kNotEqual;
    if (op == "~=") return Operator::kMatches;
    at_ = begin;
    return Bad("one of == != ~= is expected");
  }

  Result<std::string> ParseValue(bool is_expression) {
    SkipSpace();
    const char first = Peek();
    if (first == '"' || (is_expression && (first == '/' || first == '|'))) return ParseQuoted();
    if (first == '/' || first == '|') return Bad("only an expression may be quoted so");
    if (first == '.' || IsOperatorChar(first)) return Bad("a value is expected");
    const size_t begin = at_;
    while (!AtEnd() && Peek() != ',' && !IsSpace(Peek()) && !IsControl(Peek())) ++at_;
    if (at_ == begin) return Bad("a value is expected");
    return text_.substr(begin, at_ - begin);
  }

  Result<std::string> ParseQuoted() {
    const char quote = text_[at_++];
    std::string out;
    while (!Take(quote)) {
      if (AtEnd() || Peek() == '\n' || Peek() == '\0') return Bad("the quote does not end");
      const char c = text_[at_++];
      if (c == '\\') {
        BANYAN_TRY(ParseEscape(quote, out));
      } else {
        out += c;
      }
    }
    return out;
  }

  Status ParseEscape(char quote, std::string& out) {
    constexpr std::string_view kLetters = "abfnrtv\\";
    constexpr std::string_view kMeant = "\a\b\f\n\r\t\v\\";
    if (AtEnd()) return Bad("the quote does not end");
    const char c = text_[at_];
    if (c == quote || kLetters.find(c) != std::string_view::npos) {
      out += c == quote ? c : kMeant[kLetters.find(c)];
      ++at_;
      return {};
    }
    if (c >= '0' && c <= '7') return ParseCode(3, 8, UINT8_MAX, out);
    ++at_;
    if (c == 'x') return ParseCode(2, 16, UINT8_MAX, out);
    if (c == 'u') return ParseCode(4, 16, kMaxRune, out);
    if (c == 'U') return ParseCode(8, 16, kMaxRune, out);
    return Bad("no such escape");
  }

  // Exactly `digits` digits: a byte, or a character when `max` is beyond one.
  Status ParseCode(size_t digits, int base, uint32_t max, std::string& out) {
    uint32_t code = 0;
    const char* const begin = text_.data() + at_;
    const char* const end = begin + std::min(digits, text_.size() - at_);
    const auto [stop, error] = std::from_chars(begin, end, code, base);
    if (error != std::errc() || stop != begin + digits || code > max) return Bad("no such character");
    at_ += digits;
    if (max == UINT8_MAX) {
      out += static_cast<char>(code);
    } else {
      AppendUtf8(code, out);
    }
    return {};
  }

  Status Compile(Selector& selector) {
    if (selector.value.size() > kMaxExpressionBytes) return Bad("the expression is too long");
    if (++expressions_ > kMaxExpressions) return Bad("too many expressions");
    re2::RE2::Options options;
    options.set_log_errors(false);
    options.set_max_mem(kMaxExpressionMemory);
    auto expression = std::make_shared<re2::RE2>(selector.value, options);
    if (!expression->ok()) return Bad("expression: " + expression->error());
    selector.expression = std::move(expression);
    return {};
  }

  const std::string& text_;
  size_t& expressions_;
  size_t at_ = 0;
};

Result<Filter> Filter::Parse(const std::vector<std::string>& filters) {
  if (filters.size() > kMaxFilters) return Fail(Code::kInvalidArgument, "too many filters");
  Filter result;
  size_t expressions = 0;
  for (const std::string& text : filters) {
    if (text.size() > kMaxFilterBytes) return Fail(Code::kInvalidArgument, "a filter is too long");
    if (text.empty()) {
      result.alternatives_.emplace_back();
      continue;
    }
    BANYAN_ASSIGN(Conjunction all, Parser(text, expressions).Parse());
    result.alternatives_.push_back(std::move(all));
  }
  return result;
}

bool Filter::Holds(const Selector& selector, const SnapshotInfo& info) {
  const std::optional<std::string> field = FieldOf(selector.path, info);
  switch (selector.op) {
    case Operator::kPresent:
      return field.has_value();
    case Operator::kEqual:
      return field == selector.value;
    case Operator::kNotEqual:
      return field.value_or("") != selector.value;
    case Operator::kMatches:
      return re2::RE2::PartialMatch(field.value_or(""), *selector.expression);
  }
  return false;
}

bool Filter::Matches(const SnapshotInfo& info) const {
  if (alternatives_.empty()) return true;
  return std::any_of(alternatives_.begin(), alternatives_.end(), [&](const Conjunction& all) {
    return std::all_of(all.begin(), all.end(), [&](const Selector& selector) { return Holds(selector, info); });
  });
}

}  // namespace banyan::snapshotter
