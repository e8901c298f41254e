// `banyan install --containerd`: makes containerd use the node's agent, and takes that back.
//
// What is planned is a list of file changes; it is shown as a diff, agreed to, and applied file by file, each replaced
// atomically after a copy of the original was kept beside it (<file>.before-banyan). Taking back needs no copy: edits
// are marked in the files (toml_edit.h), so what others wrote meanwhile stays.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/containerd_config.h"
#include "common/result.h"

namespace banyan::cli {

struct InstallPlan {
  struct Change {
    std::string path;                   // with the root of InstallRequest
    std::optional<std::string> before;  // absent: there is no such file
    std::optional<std::string> after;   // absent: the file goes
  };
  std::vector<Change> changes;     // only files that change
  std::vector<std::string> notes;  // what the user should know
};

struct InstallRequest {
  InstallOptions options;
  std::string config_path = std::string(kDefaultContainerdConfig);
  std::vector<std::string>
      registries;    // hosts whose hosts.toml gets the mirror; empty: _default, all without one of their own
  std::string root;  // put before every path; for tests
};

// Pure but for reading. Errors as EditContainerdConfig().
Result<InstallPlan> PlanInstall(const InstallRequest& request);
// Takes back what is marked, in config.toml and in every hosts.toml of its config_path.
Result<InstallPlan> PlanUninstall(const InstallRequest& request);

// All diffs, one after another.
std::string DescribePlan(const InstallPlan& plan);
// kFailedPrecondition when a file has changed since it was planned; earlier files of the plan are then changed already.
Status ApplyPlan(const InstallPlan& plan);

}  // namespace banyan::cli
