#include "cli/command_table.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

namespace banyan::cli {
namespace {

using nlohmann::json;

// CLI11 writes the type of an option with a fixed set of values as "TEXT:{a,b}".
json Choices(const std::string& type) {
  json choices = json::array();
  const size_t begin = type.find('{');
  const size_t end = type.find('}');
  if (begin == std::string::npos || end == std::string::npos) return choices;
  for (const std::string& word : CLI::detail::split(type.substr(begin + 1, end - begin - 1), ',')) {
    choices.push_back(word);
  }
  return choices;
}

json OptionEntry(const CLI::Option& option) {
  json names = json::array();
  for (const std::string& name : option.get_lnames()) names.push_back("--" + name);
  for (const std::string& name : option.get_snames()) names.push_back("-" + name);
  const bool flag = option.get_expected_max() == 0;
  const std::string type = option.get_type_name();
  return {{"names", names},
          {"positional", option.get_positional() ? option.get_name(true) : ""},
          {"description", option.get_description()},
          {"takes", flag ? "" : type.substr(0, type.find(':'))},
          {"choices", Choices(type)},
          {"default", option.get_default_str()},
          {"environment", option.get_envname()},
          {"required", option.get_required()}};
}

json Entry(const CLI::App& app) {
  json options = json::array();
  for (const CLI::Option* option : app.get_options()) {
    if (!option->get_group().empty()) options.push_back(OptionEntry(*option));
  }
  json commands = json::array();
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    commands.push_back(Entry(*command));
  }
  return {{"name", app.get_name()},
          {"description", app.get_description()},
          {"footer", app.get_footer()},
          {"options", options},
          {"commands", commands}};
}

}  // namespace

std::string CommandTable(const CLI::App& app) { return Entry(app).dump(1) + "\n"; }

}  // namespace banyan::cli
