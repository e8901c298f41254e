// Runs one command on an image's tree: an overlay above the read-only mount, own mount, pid, ipc and uts namespaces,
// and a small init that reaps and passes signals on. It shares the host's network and users and is no security
// boundary: it shows an image at work, as `runc` would run it, without a container engine.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"

namespace banyan::cli {

struct ContainerSpec {
  std::string lower;    // the mounted image, absolute
  std::string scratch;  // an existing empty directory for the overlay's upper, work and merged directories
  std::vector<std::string> arguments;    // not empty; [0] is searched in the environment's PATH
  std::vector<std::string> environment;  // "NAME=value"
  std::string working_directory = "/";
  std::string user;  // "", "name", "uid", "name:group", "uid:gid": looked up in the image's /etc/passwd and /etc/group
  std::string hostname = "banyan";
  // Standard output and error go through pipes, so that the first output can be timed; false: they are inherited.
  bool time_output = true;
};

struct ContainerResult {
  int exit_code = 0;  // 128 + N when the command was ended by signal N
  std::optional<std::chrono::microseconds> first_output;
  std::chrono::microseconds total{};
};

// Blocks until the command ends. SIGINT, SIGTERM and SIGHUP sent to this process go to the command. `started` is when
// the clock of the result began: the caller's own start, so that mounting counts.
Result<ContainerResult> RunContainer(const ContainerSpec& spec, std::chrono::steady_clock::time_point started);

}  // namespace banyan::cli
