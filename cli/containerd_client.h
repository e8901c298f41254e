// The command line's side of containerd: its CRI service, over its unix socket.
//
// Pulls go through CRI because only CRI tells a snapshotter what it needs to start an image lazily: the image's name,
// the manifest's and the layers' digests. `ctr image pull` tells none of it.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include <grpcpp/channel.h>
#include <grpcpp/support/status.h>

#include "cli/advice.h"
#include "common/result.h"
#include "net/auth.h"

namespace banyan::cli {

struct CriVersion {
  std::string runtime;  // "containerd"
  std::string version;  // "1.6.20~ds1", "v2.0.1"
};

// What the running CRI plugin says of its own configuration; fields it does not tell stay empty.
struct CriConfig {
  std::string snapshotter;
  std::optional<bool> disable_snapshot_annotations;
  std::string config_path;
  bool ready = false;  // RuntimeReady
};

// Externally synchronised. Every call blocks; errors name containerd's socket where that helps, and say what to do
// where the cause is known (CRI disabled, old version).
class ContainerdClient {
 public:
  // kUnavailable when nothing answers at `socket`, kPermissionDenied when it is another user's.
  static Result<ContainerdClient> Connect(const std::string& socket);

  Result<CriVersion> Version();
  Result<CriConfig> Config();
  // Returns the image's id. `reference` as containerd writes it: "registry.example/app:1".
  Result<std::string> Pull(const std::string& reference, const net::Credentials& credentials);

  // Who did not give what the last failed call was to bring: containerd itself, if it went away, else the registry.
  Asked asked() const { return asked_; }

 private:
  ContainerdClient(std::shared_ptr<grpc::Channel> channel, std::string socket)
      : channel_(std::move(channel)), socket_(std::move(socket)) {}

  // Without `timeout` it may take as long as it takes.
  template <typename Stub, typename Request, typename Reply>
  Result<Reply> Call(Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Reply*),
                     const Request& request, std::optional<std::chrono::seconds> timeout);

  std::shared_ptr<grpc::Channel> channel_;  // shared: gRPC's stubs take it so
  std::string socket_;
  Asked asked_ = Asked::kContainerd;
};

// Parses the JSON that CRI's verbose status gives; what makes no sense is left out.
CriConfig ParseCriConfig(const std::string& json);

}  // namespace banyan::cli
