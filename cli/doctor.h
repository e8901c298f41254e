// `banyan doctor`: what a node has and lacks to start images lazily, and how to mend each.
//
// Every check stands alone: one that cannot be made (no root, no agent) says so and hinders no other. Forms are found
// out by mounting a tiny image in a private mount namespace, since neither the kernel's version nor its modules tell:
// it depends on the file system below as well.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cli/containerd_client.h"
#include "cli/containerd_config.h"
#include "proto/agent.pb.h"

namespace banyan::cli {

enum class Verdict { kOk, kWarn, kFail };
std::string_view VerdictName(Verdict verdict);  // "ok", "warn", "fail"

struct Check {
  std::string name;
  Verdict verdict = Verdict::kOk;
  std::string found;
  std::string remedy;  // how to mend it; empty when there is nothing to
};

struct DoctorOptions {
  std::string data_root;
  std::string containerd_socket = std::string(kDefaultContainerdSocket);
  std::string containerd_config = std::string(kDefaultContainerdConfig);
  bool containerd = true;  // false: only what `banyan mount` and `banyan run` need
};

// Blocks for some seconds at most.
std::vector<Check> Diagnose(const DoctorOptions& options);

// --- The parts, each for one thing ---

// The kernel's release, /dev/fuse, and in which forms an image can be mounted with its files on the disk of
// `directory`.
std::vector<Check> CheckKernel(const std::string& directory);
// The file system of the data root, and whether mounts below it reach other mount namespaces.
std::vector<Check> CheckDataRoot(const std::string& data_root, const std::string& mount_root);
// The agent, its keeper, form and sockets. `info`: what it answered; absent: `error`.
std::vector<Check> CheckAgent(const std::optional<proto::agent::InfoReply>& info, const std::string& error,
                              const DoctorOptions& options);
// GET /v2/ of the agent's mirror.
Check CheckMirror(const std::string& address);
// Whether something speaks gRPC there.
bool AnswersGrpc(const std::string& socket);

// What the configuration says, against what the agent says of itself (absent: unknown). Pure but for hosts.toml files.
std::vector<Check> CheckContainerdConfig(const Result<ContainerdConfig>& config,
                                         const std::optional<proto::agent::InfoReply>& agent);
// Version, and whether the running containerd has read the configuration.
std::vector<Check> CheckRunningContainerd(const Result<CriVersion>& version, const Result<CriConfig>& running,
                                          const Result<ContainerdConfig>& config);

// "shared", "private", "slave" …: the propagation of the mount that `path` is on, out of mountinfo's text.
std::string PropagationOf(std::string_view mountinfo, const std::string& path);

}  // namespace banyan::cli
