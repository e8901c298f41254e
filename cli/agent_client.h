// The command line's side of the node's agent: finds the one that serves a data root, or starts it.
//
// An agent that the command line starts runs under banyan-keeper, which restarts it when it dies, and ends by itself
// when its last mount has been gone for a while.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include <grpcpp/channel.h>

#include "cli/advice.h"
#include "common/result.h"
#include "proto/agent.grpc.pb.h"

namespace banyan::cli {

// Externally synchronised.
class AgentClient {
 public:
  // The agent of `data_root`; kUnavailable when none runs, kPermissionDenied when its socket is another user's.
  static Result<AgentClient> Connect(const std::string& data_root);
  // The same, starting one if need be; waits until it answers (10 s at most). Needs root.
  static Result<AgentClient> ConnectOrStart(const std::string& data_root);

  Result<proto::agent::MountReply> Mount(const proto::agent::MountRequest& request);
  Status Umount(const std::string& directory, bool force);
  Result<proto::agent::ListReply> List();
  Result<proto::agent::StatsReply> Stats(const std::string& directory);
  Result<proto::agent::ScrubReply> Scrub();
  Result<proto::agent::InfoReply> Info();
  Result<proto::agent::ImagesReply> Images();
  Result<proto::agent::StartsReply> Starts(uint32_t limit);
  // Blocks until the image is here; `progress` is called for each message, on this thread.
  Status Prefetch(const proto::agent::PrefetchRequest& request,
                  const std::function<void(const proto::agent::PrefetchProgress&)>& progress);
  Status Pin(const std::string& reference, bool pinned);
  Result<proto::agent::DropReply> Drop(const std::string& reference);

  // Who did not give what the last failed call was to bring: the agent itself, if it went away, else the registry that
  // it had asked. For calls that make it ask one.
  Asked asked() const { return asked_; }

 private:
  AgentClient(const std::shared_ptr<grpc::Channel>& channel, std::string path)
      : path_(std::move(path)), stub_(proto::agent::Agent::NewStub(channel)) {}

  Error Failed(const grpc::ClientContext& context, const grpc::Status& status);
  template <typename Reply, typename Request, typename Method>
  Result<Reply> Call(Method method, const Request& request);

  std::string path_;
  std::unique_ptr<proto::agent::Agent::Stub> stub_;
  Asked asked_ = Asked::kAgent;
};

}  // namespace banyan::cli
