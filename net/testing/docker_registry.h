// A real docker-registry (distribution 2.8) on a free loopback port, with its data in a directory of its own.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "common/file_io.h"
#include "common/result.h"

namespace banyan::net::testing {

struct DockerRegistryOptions {
  std::string username;  // not empty: HTTP basic authentication with that one account
  std::string password;
  bool tls = false;  // with a certificate for 127.0.0.1 and localhost of a CA made for it
};

// Externally synchronised. The process dies with this object, or with the thread that started it.
class DockerRegistry {
 public:
  // kNotFound when the program is not installed (skip the test then).
  static Result<std::unique_ptr<DockerRegistry>> Start(const DockerRegistryOptions& options = {});
  ~DockerRegistry();
  DockerRegistry(const DockerRegistry&) = delete;
  DockerRegistry& operator=(const DockerRegistry&) = delete;

  // "127.0.0.1:<port>".
  std::string host() const { return "127.0.0.1:" + std::to_string(port_); }
  const std::string& directory() const { return directory_.path(); }
  std::string ca_file() const { return directory_.path() + "/ca.pem"; }
  pid_t pid() const { return pid_; }
  // Until Start again: connections are refused.
  void Stop();
  Status Restart();

 private:
  explicit DockerRegistry(TempDir directory) : directory_(std::move(directory)) {}
  Status Configure(const DockerRegistryOptions& options);
  Status Launch();

  TempDir directory_;
  uint16_t port_ = 0;
  pid_t pid_ = -1;
};

// Runs a program of $PATH to its end; kFailedPrecondition unless it exits with 0. Output goes to `output_file` (may be
// empty).
Status RunProgram(const std::vector<std::string>& arguments, const std::string& output_file);

}  // namespace banyan::net::testing
