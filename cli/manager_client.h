// How commands ask the tree-manager.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <CLI/CLI.hpp>

#include "cli/advice.h"
#include "common/result.h"
#include "common/settings.h"
#include "proto/tree.grpc.pb.h"

namespace banyan::cli {

struct ManagerOptions {
  std::string address = "127.0.0.1:4650";
  std::string token_file;
};

inline void AddManagerOptions(CLI::App& command, ManagerOptions& options) {
  command.add_option("--manager", options.address, "The tree-manager: host:port")
      ->envname("BANYAN_TREE_MANAGER")
      ->capture_default_str();
  command.add_option("--token-file", options.token_file, "File with the cluster's token")->envname("BANYAN_TOKEN_FILE");
}

// One call to the manager.
class ManagerClient {
 public:
  explicit ManagerClient(const ManagerOptions& options) : options_(options) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(256 * 1024 * 1024);
    stub_ = proto::tree::TreeManager::NewStub(
        grpc::CreateCustomChannel(options.address, grpc::InsecureChannelCredentials(), arguments));
  }

  template <typename Request, typename Reply>
  Status Call(grpc::Status (proto::tree::TreeManager::Stub::*method)(grpc::ClientContext*, const Request&, Reply*),
              const Request& request, Reply* reply) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    if (!options_.token_file.empty()) {
      BANYAN_ASSIGN(const std::string token, ReadToken(options_.token_file));
      context.AddMetadata("authorization", "Bearer " + token);
    }
    const grpc::Status status = (stub_.get()->*method)(&context, request, reply);
    if (status.ok()) return {};
    if (auto silence = Silence(context, status, "the tree-manager at " + options_.address)) return Fail(*silence);
    return Fail(static_cast<Code>(status.error_code()), status.error_message());
  }

 private:
  const ManagerOptions& options_;
  std::unique_ptr<proto::tree::TreeManager::Stub> stub_;
};

}  // namespace banyan::cli
