// Configuration of a daemon: TOML in which every key is declared once, with its meaning and its default, and bound to
// the variable that holds it. What reads the file, what refuses it and what documents it are the same declarations.
//
//   ConfigSchema schema;
//   schema.Add("store.budget", "Disk space for images.", &options.budget_bytes);
//   BANYAN_TRY(schema.Load(text, "/etc/banyan/peer-agent.toml"));
//
// Unknown keys are refused (a misspelt key must not be a default), and every message names file, line and key.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/file_io.h"
#include "common/result.h"

namespace banyan {

// A number of bytes; in TOML an integer or a text as "512MiB", "1.5GB", "64 KiB".
struct ByteCount {
  uint64_t bytes = 0;
};
Result<ByteCount> ParseByteCount(std::string_view text);
std::string ToString(ByteCount count);

// "300ms", "10s", "5m", "1h30m"; not negative.
Result<std::chrono::milliseconds> ParseDuration(std::string_view text);
std::string ToString(std::chrono::milliseconds duration);

// Externally synchronised. Variables are borrowed and must outlive the schema's use; their values when they are added
// are the defaults.
class ConfigSchema {
 public:
  using Variable =
      std::variant<bool*, int64_t*, std::string*, std::vector<std::string>*, ByteCount*, std::chrono::milliseconds*>;

  // `key` is "name" or "section.name". The description is one or more sentences, each line at most some 100 columns.
  void Add(std::string key, std::string description, Variable variable);
  // Tables with names of the user's choosing: `[section."<name>"]`. `declare` adds the keys of one such table (without
  // the section) to the schema that it is given, bound to variables made for that name. The documentation shows it for
  // `example`.
  using Declare = std::function<void(const std::string& name, ConfigSchema& table)>;
  void AddTables(std::string section, std::string description, std::string example, Declare declare);

  // Sets what the text gives, leaves the rest. kInvalidArgument for bad TOML, unknown keys and values of another type
  // or range, with "<name>:<line>: <key>: …".
  Status Load(std::string_view text, std::string_view name);

  // The whole configuration as TOML, with descriptions as comments and the values that the variables have now: the
  // documented sample. For named tables, the example.
  std::string Reference();

 private:
  struct Key {
    std::string name;  // within its section
    std::string description;
    Variable variable;
  };
  struct Section {
    std::string name;  // empty: the top
    std::vector<Key> keys;
    std::string description;
    std::string example;
    Declare declare;  // for named tables
  };
  struct Reader;

  Section& SectionOf(const std::string& name);
  static void Append(const Key& key, std::string& out);

  std::vector<Section> sections_;
};

// "<key>: <why>": what a check of values says that each are of the right type.
[[nodiscard]] tl::unexpected<Error> BadSetting(std::string_view key, std::string_view why);
// kInvalidArgument unless `value` is within the closed range.
Status CheckRange(std::string_view key, int64_t value, int64_t least, int64_t most);
// kInvalidArgument unless `path` begins with a slash.
Status CheckAbsolute(std::string_view key, std::string_view path);

// The configuration in a file, checked: kInvalidArgument that begins with the file's name, kNotFound when there is
// none. `declare` is void(Values&, ConfigSchema&), `check` is Status(const Values&).
template <typename Values, typename Declare, typename Check>
Result<Values> LoadConfigFile(const std::string& path, const Declare& declare, const Check& check) {
  constexpr uint64_t kMaxBytes = 1 << 20;
  BANYAN_ASSIGN(const std::string text, ReadFile(path, kMaxBytes));
  Values values;
  ConfigSchema schema;
  declare(values, schema);
  BANYAN_TRY(schema.Load(text, path));
  if (const Status good = check(values); !good) return Fail(good.error().WithContext(path));
  return values;
}

// ConfigSchema::Reference of the defaults.
template <typename Values, typename Declare>
std::string ReferenceOf(const Declare& declare) {
  Values values;
  ConfigSchema schema;
  declare(values, schema);
  return schema.Reference();
}

}  // namespace banyan
