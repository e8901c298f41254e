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

}  // namespace banyan
