// How the command line asks the agent for a mount; used by `mount` and `run`.
#pragma once

#include <string>

#include "cli/command.h"
#include "common/result.h"
#include "proto/agent.pb.h"

namespace banyan::cli {

std::string AbsolutePath(const std::string& path);

// Relative paths (an OCI layout, a credentials file) are made absolute: the agent has another working directory.
Result<proto::agent::MountRequest> MakeMountRequest(const GlobalOptions& globals, const std::string& reference,
                                                    const std::string& directory, const std::string& form);

}  // namespace banyan::cli
