// What the dashboard's pages are given, as JSON: the wire's messages with the names that `banyan --json` uses.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "proto/tree.pb.h"

namespace banyan::tree_manager {

nlohmann::json ToJson(const proto::tree::FunctionInfo& function);
nlohmann::json ToJson(const proto::tree::TreeNode& node);
nlohmann::json ToJson(const proto::tree::NodeInfo& node);
nlohmann::json ToJson(const proto::tree::StartReport& start);

// On one line; bytes that are no UTF-8 are replaced.
std::string Dump(const nlohmann::json& document);

}  // namespace banyan::tree_manager
