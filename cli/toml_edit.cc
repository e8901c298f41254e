#include "cli/toml_edit.h"

#include <algorithm>
#include <map>
#include <sstream>

#include <fmt/format.h>
#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

namespace banyan::cli {

namespace {

constexpr std::string_view kAdded = "  # set by banyan install";
constexpr std::string_view kReplaced = "# banyan install replaced: ";

using Lines = std::vector<std::string>;
using Path = std::vector<std::string>;

Lines SplitLines(std::string_view text) {
  Lines lines;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return lines;
}

std::string JoinLines(const Lines& lines) {
  std::string text;
  for (const std::string& line : lines) (text += line) += '\n';
  return text;
}

Result<toml::table> Parse(std::string_view text) {
  toml::parse_result parsed = toml::parse(text);
  if (!parsed) {
    const toml::parse_error& error = parsed.error();
    return Fail(Code::kInvalidArgument, fmt::format("line {}: {}", error.source().begin.line, error.description()));
  }
  return std::move(parsed).table();
}

bool IsBareKey(std::string_view key) {
  return !key.empty() && std::all_of(key.begin(), key.end(),
                                     [](unsigned char c) { return std::isalnum(c) != 0 || c == '_' || c == '-'; });
}

std::string KeyText(const std::string& key) { return IsBareKey(key) ? key : TomlString(key); }

std::string PathText(const Path& path) {
  std::string text;
  for (const std::string& part : path) (text += text.empty() ? "" : ".") += KeyText(part);
  return text;
}

// Every value by its path, as text: what an edit must leave alone.
void Flatten(const toml::node& node, const std::string& path, std::map<std::string, std::string>& values) {
  if (const toml::table* table = node.as_table()) {
    for (const auto& [key, child] : *table) {
      Flatten(child, fmt::format("{}.{}", path, KeyText(std::string(key.str()))), values);
    }
    return;
  }
  std::ostringstream text;
  node.visit([&text](const auto& value) { text << value; });
  values[path] = text.str();
}

std::map<std::string, std::string> Values(const toml::table& table) {
  std::map<std::string, std::string> values;
  Flatten(table, "", values);
  return values;
}

std::string FlatPath(const TomlSetting& setting) {
  Path path = setting.table;
  path.push_back(setting.key);
  return "." + PathText(path);
}

const toml::node* Find(const toml::table& root, const TomlSetting& setting) {
  const toml::table* table = &root;
  for (const std::string& part : setting.table) {
    const toml::node* child = table->get(part);
    table = child != nullptr ? child->as_table() : nullptr;
    if (table == nullptr) return nullptr;
  }
  return table->get(setting.key);
}

bool IsHeader(std::string_view line) {
  const size_t first = line.find_first_not_of(" \t");
  return first != std::string_view::npos && line[first] == '[';
}

// The table that a header line opens: parsed alone it is a chain of tables with one child each.
std::optional<Path> HeaderPath(const std::string& line) {
  if (!IsHeader(line)) return std::nullopt;
  const auto parsed = Parse(line);
  if (!parsed) return std::nullopt;  // a line of an array over several lines, or of a string
  Path path;
  const toml::table* table = &*parsed;
  while (table != nullptr && table->size() == 1) {
    path.emplace_back(table->begin()->first.str());
    table = table->begin()->second.as_table();
  }
  if (table == nullptr || path.empty()) return std::nullopt;  // [[array of tables]]
  return path;
}

std::string Added(std::string line) { return line.append(kAdded); }

tl::unexpected<Error> Refuse(const TomlSetting& setting, std::string_view why) {
  return Fail(Code::kFailedPrecondition, fmt::format("{} = {}: {}", FlatPath(setting).substr(1), setting.value, why));
}

// Writes the new value over the old one, whatever else stands on the line.
Status Replace(Lines& lines, const toml::source_region& where, const TomlSetting& setting) {
  if (where.begin.line == 0 || where.begin.line > lines.size() || where.begin.line != where.end.line) {
    return Refuse(setting, "its present value is not on one line");
  }
  std::string& line = lines[where.begin.line - 1];
  const size_t begin = where.begin.column - 1;
  const size_t end = where.end.column - 1;
  if (begin > end || end > line.size()) return Refuse(setting, "its present value was not found on its line");
  const std::string replaced = std::string(kReplaced) + line;
  line = Added(line.substr(0, begin) + setting.value + line.substr(end));
  lines.insert(lines.begin() + static_cast<ptrdiff_t>(where.begin.line) - 1, replaced);
  return {};
}

// Behind the table's header, which is made at the end of the file if there is none.
void Insert(Lines& lines, const TomlSetting& setting) {
  const std::string assignment = fmt::format("{} = {}", KeyText(setting.key), setting.value);
  if (setting.table.empty()) {
    lines.insert(lines.begin(), Added(assignment));
    return;
  }
  for (size_t i = 0; i < lines.size(); ++i) {
    if (HeaderPath(lines[i]) != setting.table) continue;
    const std::string indent = lines[i].substr(0, lines[i].find('[')) + "  ";
    size_t after = i + 1;
    // Behind what was added there before: settings stay in their order.
    while (after < lines.size() && lines[after].ends_with(kAdded) && !IsHeader(lines[after])) ++after;
    lines.insert(lines.begin() + static_cast<ptrdiff_t>(after), Added(indent + assignment));
    return;
  }
  lines.push_back(Added(fmt::format("[{}]", PathText(setting.table))));
  lines.push_back(Added("  " + assignment));
}

std::string ValueText(const TomlSetting& setting) {
  const auto parsed = Parse("v = " + setting.value);
  if (!parsed) return setting.value;
  return Values(*parsed).at(".v");
}

// Nothing but the settings may differ.
Status Check(std::string_view before, std::string_view after, const std::vector<TomlSetting>& settings) {
  BANYAN_ASSIGN(const toml::table old_table, Parse(before));
  auto parsed = Parse(after);
  if (!parsed) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("the way the file is written does not allow the edit ({})", parsed.error().message));
  }
  auto expected = Values(old_table);
  for (const TomlSetting& setting : settings) expected[FlatPath(setting)] = ValueText(setting);
  if (Values(*parsed) != expected) {
    return Fail(Code::kFailedPrecondition, "the way the file is written does not allow the edit");
  }
  return {};
}

}  // namespace

std::string TomlString(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + '"';
}

Result<std::string> ApplySettings(std::string_view text, const std::vector<TomlSetting>& settings) {
  const std::string clean = RemoveEdits(text);
  std::string edited = clean;
  for (const TomlSetting& setting : settings) {
    BANYAN_ASSIGN(const toml::table table, Parse(edited));
    Lines lines = SplitLines(edited);
    if (const toml::node* node = Find(table, setting)) {
      std::map<std::string, std::string> values;
      Flatten(*node, "", values);
      if (values[""] == ValueText(setting)) continue;
      BANYAN_TRY(Replace(lines, node->source(), setting));
    } else {
      Insert(lines, setting);
    }
    edited = JoinLines(lines);
    if (!Parse(edited)) return Refuse(setting, "the way the file is written does not allow the edit");
  }
  BANYAN_TRY(Check(clean, edited, settings));
  return edited;
}

Result<std::string> InsertBeforeTables(std::string_view text, const std::vector<std::string>& block) {
  const std::string clean = RemoveEdits(text);
  BANYAN_TRY(Parse(clean));
  Lines lines = SplitLines(clean);
  const auto first = std::find_if(lines.begin(), lines.end(), [](const std::string& line) { return IsHeader(line); });
  Lines marked;
  for (const std::string& line : block) marked.push_back(Added(line));
  lines.insert(first, marked.begin(), marked.end());
  std::string edited = JoinLines(lines);
  if (auto parsed = Parse(edited); !parsed) return Fail(Code::kFailedPrecondition, parsed.error().message);
  return edited;
}

std::string RemoveEdits(std::string_view text) {
  Lines kept;
  for (std::string& line : SplitLines(text)) {
    if (line.ends_with(kAdded)) continue;
    kept.push_back(line.starts_with(kReplaced) ? line.substr(kReplaced.size()) : std::move(line));
  }
  return JoinLines(kept);
}

std::string DescribeSettings(const std::vector<TomlSetting>& settings) {
  std::string text;
  const Path* table = nullptr;
  for (const TomlSetting& setting : settings) {
    const bool new_table = table == nullptr || *table != setting.table;
    if (new_table && !setting.table.empty()) text += fmt::format("[{}]\n", PathText(setting.table));
    table = &setting.table;
    text += fmt::format("  {} = {}\n", KeyText(setting.key), setting.value);
  }
  return text;
}

}  // namespace banyan::cli
