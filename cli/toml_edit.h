// Edits other programs' TOML files (containerd's) by lines, so that comments, order and spelling of what others wrote
// stay, and so that the edit can be taken back later although others have changed the file meanwhile.
//
// Every line that is added ends with a mark; a line that is replaced stays in the file as a comment with a mark of its
// own. RemoveEdits() drops the former and restores the latter: no other record is needed. Edits begin with
// RemoveEdits(), so repeating one changes nothing. An edit that would change any other value, or that the file's way of
// writing (a dotted key, a value over several lines) does not allow, is refused: the result is parsed and compared
// before it is returned.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace banyan::cli {

// One value that a file shall have.
struct TomlSetting {
  std::vector<std::string> table;  // path of the table; empty: the top
  std::string key;
  std::string value;  // as TOML: "\"banyan\"", "false"
};

// `text` with all the settings; one that is there already is left as it stands. kInvalidArgument: `text` is no TOML;
// kFailedPrecondition: it cannot be edited safely; the message names the setting.
Result<std::string> ApplySettings(std::string_view text, const std::vector<TomlSetting>& settings);

// `text` with `block` (whole lines; each gets the mark) put before the first table, where order matters.
// kFailedPrecondition when the result is no TOML.
Result<std::string> InsertBeforeTables(std::string_view text, const std::vector<std::string>& block);

// `text` as it was before ApplySettings and InsertBeforeTables, with what others changed since. A last line without
// line feed has one now.
std::string RemoveEdits(std::string_view text);

// "[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n  snapshotter = \"banyan\"\n…": for people.
std::string DescribeSettings(const std::vector<TomlSetting>& settings);

// `text` as a TOML string in double quotes.
std::string TomlString(std::string_view text);

}  // namespace banyan::cli
