#include "peer-agent/tree_client.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <vector>

#include <fmt/format.h>
#include <grpcpp/server_builder.h>

namespace banyan::peer_agent {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

// Welcomes every session and keeps what it hears.
class FakeManager final : public proto::tree::TreeManager::Service {
 public:
  using Stream = grpc::ServerReaderWriter<proto::tree::ManagerMessage, proto::tree::NodeMessage>;

  FakeManager() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeManager() override { server_->Shutdown(std::chrono::system_clock::now()); }

  grpc::Status Session(grpc::ServerContext*, Stream* stream) override {
    proto::tree::NodeMessage message;
    proto::tree::ManagerMessage welcome;
    welcome.mutable_welcome()->set_heartbeat_millis(100);
    while (stream->Read(&message)) {
      if (message.has_hello()) stream->Write(welcome);
      const std::lock_guard lock(mutex_);
      heard_.push_back(message);
      changed_.notify_all();
      if (message.has_touches()) return grpc::Status(grpc::StatusCode::ABORTED, "once more");
    }
    return grpc::Status::OK;
  }
  bool WaitFor(const std::function<bool(const std::vector<proto::tree::NodeMessage>&)>& enough) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 20s, [&] { return enough(heard_); });
  }
  std::string address() const { return fmt::format("127.0.0.1:{}", port_); }

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<proto::tree::NodeMessage> heard_;  // guarded by mutex_
};

// A client that counts its ticks; they are due when `due_in` says, never when it is zero.
class TreeClientTest : public ::testing::Test {
 protected:
  void Start(const std::string& manager, std::chrono::milliseconds due_in = 0ms) {
    TreeClient::Options options;
    options.manager = manager;
    options.hello = [] {
      proto::tree::Hello hello;
      hello.set_node("me");
      return hello;
    };
    options.heartbeat = [] { return proto::tree::Heartbeat(); };
    options.on_message = [this](const proto::tree::ManagerMessage&) { ++messages_; };
    options.on_tick = [this, due_in] {
      ++ticks_;
      return due_in == 0ms ? steady_clock::time_point::max() : steady_clock::now() + due_in;
    };
    client_ = std::make_unique<TreeClient>(std::move(options));
    client_->Start();
  }
  void TearDown() override { client_->Stop(); }

  std::atomic<int> ticks_{0};
  std::atomic<int> messages_{0};
  std::unique_ptr<TreeClient> client_;
};

size_t Count(const std::vector<proto::tree::NodeMessage>& heard, proto::tree::NodeMessage::MessageCase kind) {
  size_t count = 0;
  for (const auto& message : heard) count += message.message_case() == kind ? 1 : 0;
  return count;
}

TEST_F(TreeClientTest, TicksWhenSomethingIsDueAndNotOtherwise) {
  Start("127.0.0.1:1");
  std::this_thread::sleep_for(600ms);
  EXPECT_EQ(ticks_, 1);
  const auto begun = steady_clock::now();
  client_->Wake();
  while (ticks_ < 2 && steady_clock::now() - begun < 10s) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(ticks_, 2);
  std::this_thread::sleep_for(300ms);
  EXPECT_EQ(ticks_, 2);
}

TEST_F(TreeClientTest, HoweverOftenItIsWokenItTicksTenTimesASecond) {
  const auto begun = steady_clock::now();
  Start("127.0.0.1:1");
  for (int i = 0; i < 500; ++i) {
    client_->Wake();
    std::this_thread::sleep_for(1ms);
  }
  std::this_thread::sleep_for(150ms);
  const auto seconds = std::chrono::duration<double>(steady_clock::now() - begun).count();
  EXPECT_GE(ticks_, 3);
  EXPECT_LE(ticks_, 2 + 10 * seconds);
}

TEST_F(TreeClientTest, TicksWhenItsLastWordSaysSo) {
  Start("127.0.0.1:1", 200ms);
  std::this_thread::sleep_for(1100ms);
  EXPECT_GE(ticks_, 2);
  EXPECT_LE(ticks_, 7);
}

TEST_F(TreeClientTest, BeatsComeWithoutTicksAndMessagesAtOnce) {
  FakeManager manager;
  Start(manager.address());
  using Message = proto::tree::NodeMessage;
  ASSERT_TRUE(manager.WaitFor([](const auto& heard) { return Count(heard, Message::kHeartbeat) >= 3; }));
  EXPECT_EQ(ticks_, 1);
  EXPECT_TRUE(client_->connected());
  Message leave;
  leave.mutable_leave()->set_function("f");
  client_->Send(leave);
  ASSERT_TRUE(manager.WaitFor([](const auto& heard) { return Count(heard, Message::kLeave) == 1; }));
  // A session that ends is made anew, and begins with a hello.
  Message touches;
  touches.mutable_touches()->set_function("f");
  client_->Send(touches);
  ASSERT_TRUE(manager.WaitFor(
      [](const auto& heard) { return Count(heard, Message::kHello) == 2 && heard.back().has_heartbeat(); }));
  EXPECT_EQ(messages_, 2) << "a welcome each";
  client_->Stop();
}

}  // namespace
}  // namespace banyan::peer_agent
