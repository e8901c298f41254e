// What `banyan` understands, as data: the man pages and the shells' completions are made of it
// (scripts/command_docs.py), so that they say what the program does.
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace banyan::cli {

// One JSON document: {"name", "description", "footer", "options": […], "commands": […]}, commands being the same again.
// An option: {"names" ("--form", "-f"; empty for positionals), "positional", "description", "takes" (nothing for
// flags), "choices", "default", "environment", "required"}. Hidden ones are left out.
std::string CommandTable(const CLI::App& app);

}  // namespace banyan::cli
