#include "cli/command.h"

#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include "proto/agent.grpc.pb.h"

namespace banyan::cli {
namespace {

std::string Advice(Code code, Asked asked) { return std::string(AdviceFor(code, asked)); }

TEST(CommandTest, ErrorsSayWhatToDo) {
  EXPECT_EQ(ErrorLine("convert docker://h/a:1", {Code::kUnauthenticated, "h refused"}, Asked::kRegistry),
            "banyan: convert docker://h/a:1: h refused: log in first (skopeo login, docker login) or name a file with "
            "--creds-file");
  EXPECT_EQ(ErrorLine("inspect x", {Code::kInvalidArgument, "bad reference"}, Asked::kRegistry),
            "banyan: inspect x: bad reference");
  EXPECT_EQ(ExitCodeOf(Code::kNotFound), kExitNotFound);
  EXPECT_EQ(ExitCodeOf(Code::kDataLoss), kExitBadData);
}

TEST(AdviceTest, WhoDoesNotAnswerIsTheOneToLookAt) {
  const std::pair<Asked, const char*> names[] = {{Asked::kRegistry, "the registry is up"},
                                                 {Asked::kAgent, "banyan-peer-agent"},
                                                 {Asked::kContainerd, "systemctl status containerd"},
                                                 {Asked::kTreeManager, "$BANYAN_TREE_MANAGER"},
                                                 {Asked::kProxy, "$BANYAN_REGISTRY_PROXY"}};
  for (const auto& [asked, words] : names) {
    for (const Code code : {Code::kUnavailable, Code::kDeadlineExceeded}) {
      EXPECT_NE(Advice(code, asked).find(words), std::string::npos) << words;
    }
    if (asked != Asked::kRegistry) {
      EXPECT_EQ(Advice(Code::kUnavailable, asked).find("registry is up"), std::string::npos) << words;
    }
  }
  EXPECT_EQ(Advice(Code::kUnavailable, Asked::kNobody), "");
}

TEST(AdviceTest, ATokenIsNoLogin) {
  EXPECT_NE(Advice(Code::kUnauthenticated, Asked::kTreeManager).find("--token-file"), std::string::npos);
  EXPECT_EQ(Advice(Code::kUnauthenticated, Asked::kTreeManager).find("login"), std::string::npos);
  EXPECT_EQ(Advice(Code::kUnauthenticated, Asked::kProxy), "");
}

TEST(AdviceTest, RightsOnThisMachineAreNoCredentials) {
  EXPECT_NE(Advice(Code::kPermissionDenied, Asked::kRegistry).find("credentials"), std::string::npos);
  for (const Asked asked : {Asked::kNobody, Asked::kAgent, Asked::kContainerd, Asked::kTreeManager}) {
    EXPECT_EQ(Advice(Code::kPermissionDenied, asked), "run this command as root");
  }
  EXPECT_EQ(AskedFor("oci:/srv/images:app"), Asked::kNobody);
  EXPECT_EQ(AskedFor("docker://registry.example/app:1"), Asked::kRegistry);
}

// What gRPC finds out by itself is told from what the other side says with the same code.
TEST(AdviceTest, AnAnswerIsToldFromSilence) {
  class Refusing final : public proto::agent::Agent::Service {
    grpc::Status Info(grpc::ServerContext*, const proto::agent::InfoRequest*, proto::agent::InfoReply*) override {
      return {grpc::StatusCode::UNAVAILABLE, "registry.example: connection refused"};
    }
  } service;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  auto server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  const auto stub = proto::agent::Agent::NewStub(
      grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials()));
  const auto ask = [&stub] {
    grpc::ClientContext context;
    proto::agent::InfoReply reply;
    const grpc::Status status = stub->Info(&context, {}, &reply);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
    return Silence(context, status, "the agent at x");
  };
  EXPECT_FALSE(ask());
  server->Shutdown();
  server.reset();
  const auto silence = ask();
  ASSERT_TRUE(silence);
  EXPECT_EQ(silence->code, Code::kUnavailable);
  EXPECT_TRUE(silence->message.starts_with("the agent at x does not answer: ")) << silence->message;
}

}  // namespace
}  // namespace banyan::cli
