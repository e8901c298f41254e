#include "common/config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

namespace banyan {

namespace {

struct Unit {
  std::string_view name;
  uint64_t factor;
};
constexpr Unit kByteUnits[] = {{"B", 1},
                               {"KiB", uint64_t{1} << 10},
                               {"MiB", uint64_t{1} << 20},
                               {"GiB", uint64_t{1} << 30},
                               {"TiB", uint64_t{1} << 40},
                               {"kB", 1000},
                               {"MB", 1000'000},
                               {"GB", 1000'000'000},
                               {"TB", 1000'000'000'000}};
constexpr Unit kTimeUnits[] = {{"h", 3600'000}, {"m", 60'000}, {"s", 1000}, {"ms", 1}};

template <size_t N>
const Unit* FindUnit(const Unit (&units)[N], std::string_view name) {
  for (const Unit& unit : units) {
    if (unit.name == name) return &unit;
  }
  return nullptr;
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Takes a decimal number, with a fraction if `fraction`, off the front of `text`. -1: there is none.
double TakeNumber(std::string_view& text, bool fraction) {
  size_t end = 0;
  while (end < text.size() && (IsDigit(text[end]) || (fraction && text[end] == '.'))) ++end;
  const std::string digits(text.substr(0, end));
  if (digits.empty() || digits.size() > 18 || !IsDigit(digits.front()) || !IsDigit(digits.back()) ||
      std::count(digits.begin(), digits.end(), '.') > 1) {
    return -1;
  }
  text.remove_prefix(end);
  return std::strtod(digits.c_str(), nullptr);
}

std::string_view TakeLetters(std::string_view& text) {
  size_t end = 0;
  while (end < text.size() && ((text[end] >= 'a' && text[end] <= 'z') || (text[end] >= 'A' && text[end] <= 'Z'))) ++end;
  const std::string_view letters = text.substr(0, end);
  text.remove_prefix(end);
  return letters;
}

std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + "\"";
}

std::string ValueText(const ConfigSchema::Variable& variable) {
  struct Printer {
    std::string operator()(const bool* value) { return *value ? "true" : "false"; }
    std::string operator()(const int64_t* value) { return std::to_string(*value); }
    std::string operator()(const std::string* value) { return Quoted(*value); }
    std::string operator()(const std::vector<std::string>* value) {
      std::vector<std::string> words;
      for (const std::string& word : *value) words.push_back(Quoted(word));
      return fmt::format("[{}]", fmt::join(words, ", "));
    }
    std::string operator()(const ByteCount* value) { return Quoted(ToString(*value)); }
    std::string operator()(const std::chrono::milliseconds* value) { return Quoted(ToString(*value)); }
  };
  return std::visit(Printer{}, variable);
}

}  // namespace

Result<ByteCount> ParseByteCount(std::string_view text) {
  std::string_view rest = text;
  const double number = TakeNumber(rest, true);
  while (!rest.empty() && rest.front() == ' ') rest.remove_prefix(1);
  const Unit* unit = FindUnit(kByteUnits, rest.empty() ? "B" : rest);
  const double bytes = number < 0 || unit == nullptr ? -1 : number * static_cast<double>(unit->factor);
  if (bytes < 0 || bytes > 9e18) {
    return Fail(Code::kInvalidArgument,
                fmt::format("'{}' is no number of bytes (as \"512MiB\", \"64GiB\", \"1.5TB\")", text));
  }
  return ByteCount{static_cast<uint64_t>(std::llround(bytes))};
}

std::string ToString(ByteCount count) {
  for (const std::string_view name : {"TiB", "GiB", "MiB", "KiB"}) {
    const uint64_t factor = FindUnit(kByteUnits, name)->factor;
    if (count.bytes >= factor && count.bytes % factor == 0) return fmt::format("{}{}", count.bytes / factor, name);
  }
  return fmt::format("{}B", count.bytes);
}

Result<std::chrono::milliseconds> ParseDuration(std::string_view text) {
  std::string_view rest = text;
  double total = rest.empty() ? -1 : 0;
  while (total >= 0 && !rest.empty()) {
    const double number = TakeNumber(rest, true);
    const Unit* unit = FindUnit(kTimeUnits, TakeLetters(rest));
    total = number < 0 || unit == nullptr ? -1 : total + number * static_cast<double>(unit->factor);
  }
  if (total < 0 || total > 1e15) {
    return Fail(Code::kInvalidArgument,
                fmt::format("'{}' is no duration (as \"300ms\", \"10s\", \"5m\", \"1h\")", text));
  }
  return std::chrono::milliseconds(std::llround(total));
}

std::string ToString(std::chrono::milliseconds duration) {
  for (const Unit& unit : kTimeUnits) {
    const auto count = static_cast<uint64_t>(duration.count());
    if (count >= unit.factor && count % unit.factor == 0) return fmt::format("{}{}", count / unit.factor, unit.name);
  }
  return fmt::format("{}ms", duration.count());
}

ConfigSchema::Section& ConfigSchema::SectionOf(const std::string& name) {
  for (Section& section : sections_) {
    if (section.name == name) return section;
  }
  sections_.push_back(Section{.name = name});
  return sections_.back();
}

void ConfigSchema::Add(std::string key, std::string description, Variable variable) {
  const size_t dot = key.find('.');
  const std::string section = dot == std::string::npos ? "" : key.substr(0, dot);
  SectionOf(section).keys.push_back(
      {dot == std::string::npos ? std::move(key) : key.substr(dot + 1), std::move(description), variable});
}

void ConfigSchema::AddTables(std::string section, std::string description, std::string example, Declare declare) {
  Section& tables = SectionOf(section);
  tables.description = std::move(description);
  tables.example = std::move(example);
  tables.declare = std::move(declare);
}

// Puts parsed TOML into the variables.
struct ConfigSchema::Reader {
  std::string_view file;

  tl::unexpected<Error> Bad(const toml::node& node, std::string_view key, std::string_view why) const {
    return Fail(Code::kInvalidArgument, fmt::format("{}:{}: {}: {}", file, node.source().begin.line, key, why));
  }

  template <typename T>
  Status Take(const toml::node& node, const std::string& key, std::string_view type, T* out) const {
    const auto value = node.value_exact<T>();
    if (!value) return Bad(node, key, fmt::format("must be {}", type));
    *out = *value;
    return {};
  }

  Status Set(const toml::node& node, const std::string& key, const Variable& variable) const {
    if (auto* const* value = std::get_if<bool*>(&variable)) return Take(node, key, "true or false", *value);
    if (auto* const* value = std::get_if<int64_t*>(&variable)) return Take(node, key, "an integer", *value);
    if (auto* const* value = std::get_if<std::string*>(&variable)) return Take(node, key, "a string", *value);
    if (auto* const* value = std::get_if<std::vector<std::string>*>(&variable)) {
      const toml::array* array = node.as_array();
      if (array == nullptr) return Bad(node, key, "must be a list of strings");
      std::vector<std::string> words;
      for (const toml::node& element : *array) {
        BANYAN_TRY(Take(element, key, "a list of strings", &words.emplace_back()));
      }
      **value = std::move(words);
      return {};
    }
    if (auto* const* value = std::get_if<ByteCount*>(&variable)) {
      if (const auto number = node.value_exact<int64_t>(); number && *number >= 0) {
        (*value)->bytes = static_cast<uint64_t>(*number);
        return {};
      }
      std::string text;
      BANYAN_TRY(Take(node, key, "a number of bytes, as \"64GiB\"", &text));
      const auto bytes = ParseByteCount(text);
      if (!bytes) return Bad(node, key, bytes.error().message);
      **value = *bytes;
      return {};
    }
    std::string text;
    BANYAN_TRY(Take(node, key, "a duration, as \"10s\"", &text));
    const auto duration = ParseDuration(text);
    if (!duration) return Bad(node, key, duration.error().message);
    *std::get<std::chrono::milliseconds*>(variable) = *duration;
    return {};
  }

  Status ReadKeys(const toml::table& table, const std::string& prefix, const Section& section) const {
    for (const auto& [name, node] : table) {
      const std::string key = prefix + std::string(name.str());
      const auto known = std::find_if(section.keys.begin(), section.keys.end(),
                                      [&, text = name.str()](const Key& candidate) { return candidate.name == text; });
      if (known == section.keys.end()) {
        std::vector<std::string> names;
        for (const Key& candidate : section.keys) names.push_back(candidate.name);
        return Bad(node, key, fmt::format("no such key (known here: {})", fmt::join(names, ", ")));
      }
      BANYAN_TRY(Set(node, key, known->variable));
    }
    return {};
  }

  Status ReadTables(const toml::table& table, const Section& section) const {
    for (const auto& [name, node] : table) {
      const std::string key = fmt::format("{}.\"{}\"", section.name, name.str());
      if (!node.is_table()) return Bad(node, key, fmt::format("must be a table: [{}]", key));
      ConfigSchema inner;
      section.declare(std::string(name.str()), inner);
      BANYAN_TRY(ReadKeys(*node.as_table(), key + ".", inner.SectionOf("")));
    }
    return {};
  }
};

Status ConfigSchema::Load(std::string_view text, std::string_view name) {
  const toml::parse_result parsed = toml::parse(text);
  const Reader reader{name};
  if (!parsed) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{}:{}: {}", name, parsed.error().source().begin.line, parsed.error().description()));
  }
  toml::table top;
  for (const auto& [key, node] : parsed.table()) {
    const std::string section_name(key.str());
    const auto section = std::find_if(sections_.begin(), sections_.end(), [&](const Section& candidate) {
      return !candidate.name.empty() && candidate.name == section_name;
    });
    if (section == sections_.end()) {
      if (node.is_table()) {
        std::vector<std::string> names;
        for (const Section& candidate : sections_) {
          if (!candidate.name.empty()) names.push_back(candidate.name);
        }
        return reader.Bad(node, section_name, fmt::format("no such section (known: {})", fmt::join(names, ", ")));
      }
      const Section& keys = SectionOf("");
      const auto known = std::find_if(keys.keys.begin(), keys.keys.end(),
                                      [&](const Key& candidate) { return candidate.name == section_name; });
      if (known == keys.keys.end()) return reader.Bad(node, section_name, "no such key");
      BANYAN_TRY(reader.Set(node, section_name, known->variable));
      continue;
    }
    if (!node.is_table()) return reader.Bad(node, section_name, fmt::format("must be a section: [{}]", section_name));
    if (section->declare) {
      BANYAN_TRY(reader.ReadTables(*node.as_table(), *section));
    } else {
      BANYAN_TRY(reader.ReadKeys(*node.as_table(), section_name + ".", *section));
    }
  }
  return {};
}

void ConfigSchema::Append(const Key& key, std::string& out) {
  std::string_view rest = key.description;
  while (!rest.empty()) {
    const size_t end = rest.find('\n');
    out += fmt::format("# {}\n", rest.substr(0, end));
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  }
  out += fmt::format("{} = {}\n", key.name, ValueText(key.variable));
}

std::string ConfigSchema::Reference() {
  std::string out;
  for (Section& section : sections_) {
    if (!out.empty()) out += "\n";
    if (section.declare) {
      ConfigSchema inner;
      section.declare(section.example, inner);
      out += fmt::format("# {}\n[{}.\"{}\"]\n", section.description, section.name, section.example);
      for (const Key& key : inner.SectionOf("").keys) Append(key, out);
      continue;
    }
    if (!section.name.empty()) out += fmt::format("[{}]\n", section.name);
    for (const Key& key : section.keys) Append(key, out);
  }
  return out;
}

tl::unexpected<Error> BadSetting(std::string_view key, std::string_view why) {
  return Fail(Code::kInvalidArgument, fmt::format("{}: {}", key, why));
}

Status CheckRange(std::string_view key, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return {};
  return BadSetting(key, fmt::format("{} is not within {} to {}", value, least, most));
}

Status CheckAbsolute(std::string_view key, std::string_view path) {
  if (path.starts_with('/')) return {};
  return BadSetting(key, fmt::format("'{}' is no absolute path", path));
}

}  // namespace banyan
