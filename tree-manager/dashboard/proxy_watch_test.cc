// Registry proxies that answer, lie, hang and are away.
#include "tree-manager/dashboard/proxy_watch.h"

#include <atomic>
#include <functional>
#include <thread>

#include <fmt/format.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "common/file_io.h"
#include "tree-manager/dashboard/proxy_view.h"

namespace banyan::tree_manager {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using proto::proxy::Conversion;
using proto::proxy::ConversionsReply;
using proto::proxy::ConversionsRequest;

class FakeProxy final : public proto::proxy::RegistryProxy::Service {
 public:
  // Fills the answer; false: none is given until the caller has gone.
  using Answer = std::function<bool(const ConversionsRequest&, ConversionsReply&)>;
  FakeProxy(const std::string& address, Answer answer) : answer_(std::move(answer)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials());
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeProxy() override { server_->Shutdown(std::chrono::system_clock::now()); }

  grpc::Status Conversions(grpc::ServerContext* context, const ConversionsRequest* request,
                           grpc::ServerWriter<ConversionsReply>* writer) override {
    ++asked_;
    ConversionsReply reply;
    if (answer_(*request, reply)) {
      while (!context->IsCancelled() && writer->Write(reply)) std::this_thread::sleep_for(1ms);  // more than was asked
    }
    while (!context->IsCancelled()) std::this_thread::sleep_for(1ms);
    return grpc::Status::OK;
  }
  int asked() const { return asked_; }

 private:
  const Answer answer_;
  std::atomic<int> asked_{0};
  std::unique_ptr<grpc::Server> server_;
};

class ProxyWatchTest : public testing::Test {
 protected:
  std::string Address(const std::string& name) const { return "unix:" + directory_.path() + "/" + name; }
  static ProxyWatch::Options Quick(std::vector<std::string> addresses) {
    return {.addresses = std::move(addresses), .interval = 10ms, .deadline = 2s, .attention = 300ms};
  }
  // The state of the n-th proxy, once it is no longer being asked for the first time.
  static json StateOf(ProxyWatch& watch, size_t n, const std::string& state) {
    json last;
    for (int i = 0; i < 500; ++i) {
      last = json::parse(watch.Look()->proxies).at(n);
      if (last["state"] == state) return last;
      std::this_thread::sleep_for(20ms);
    }
    ADD_FAILURE() << "not " << state << ": " << last.dump();
    return last;
  }
  const TempDir directory_ = TempDir::Make("proxies").value();
};

TEST_F(ProxyWatchTest, ShowsWhatProxiesSayAndThatOneIsAway) {
  FakeProxy proxy(Address("a"), [](const ConversionsRequest& request, ConversionsReply& reply) {
    EXPECT_EQ(request.limit(), static_cast<uint32_t>(kMaxConversions));
    Conversion& conversion = *reply.add_conversions();
    conversion.set_repository("app");
    conversion.set_state(Conversion::RUNNING);
    conversion.set_bytes(100);
    conversion.set_bytes_done(40);
    reply.set_left_out(7);
    return true;
  });
  ProxyWatch watch(Quick({Address("a"), Address("b")}));
  EXPECT_EQ(StateOf(watch, 0, "up")["leftOut"], 7);
  EXPECT_FALSE(StateOf(watch, 1, "down")["error"].get<std::string>().empty());
  const auto view = watch.Look();
  ASSERT_EQ(view->conversions.size(), 1U);
  const json conversion = json::parse(view->conversions.begin()->second);
  EXPECT_EQ(conversion["state"], "running");
  EXPECT_EQ(conversion["bytesDone"], 40);
  EXPECT_EQ(conversion["proxy"], Address("a"));
}

TEST_F(ProxyWatchTest, NobodyIsAskedWhileNobodyLooks) {
  FakeProxy proxy(Address("a"), [](const ConversionsRequest&, ConversionsReply& reply) {
    reply.add_conversions();
    return true;
  });
  ProxyWatch watch(Quick({Address("a")}));
  std::this_thread::sleep_for(100ms);
  EXPECT_EQ(proxy.asked(), 0);
  StateOf(watch, 0, "up");
  std::this_thread::sleep_for(500ms);  // more than the attention
  const int asked = proxy.asked();
  EXPECT_GT(asked, 1);
  std::this_thread::sleep_for(200ms);
  EXPECT_EQ(proxy.asked(), asked);
  EXPECT_TRUE(watch.Look()->conversions.empty());  // of then, not of now
  StateOf(watch, 0, "up");
}

TEST_F(ProxyWatchTest, OneThatGoesIsSaidToBeAwayAndComesBack) {
  const auto answer = [](const ConversionsRequest&, ConversionsReply& reply) {
    reply.add_conversions();
    return true;
  };
  auto proxy = std::make_unique<FakeProxy>(Address("a"), answer);
  ProxyWatch watch(Quick({Address("a")}));
  StateOf(watch, 0, "up");
  proxy.reset();
  StateOf(watch, 0, "down");
  EXPECT_TRUE(watch.Look()->conversions.empty());
  proxy = std::make_unique<FakeProxy>(Address("a"), answer);
  StateOf(watch, 0, "up");
}

TEST_F(ProxyWatchTest, OneThatHangsHoldsNobodyUp) {
  FakeProxy proxy(Address("a"), [](const ConversionsRequest&, ConversionsReply&) { return false; });
  ProxyWatch::Options options = Quick({Address("a")});
  options.deadline = 100ms;
  {
    ProxyWatch watch(options);
    StateOf(watch, 0, "down");
  }
  options.deadline = 1h;
  auto watch = std::make_unique<ProxyWatch>(options);
  const int asked = proxy.asked();
  const auto began = std::chrono::steady_clock::now();
  watch->Look();
  while (proxy.asked() == asked && std::chrono::steady_clock::now() < began + 10s) std::this_thread::sleep_for(1ms);
  watch.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - began, 10s);
}

TEST_F(ProxyWatchTest, TooLongAnAnswerIsNone) {
  FakeProxy proxy(Address("a"), [](const ConversionsRequest&, ConversionsReply& reply) {
    reply.add_conversions()->set_message(std::string(5 << 20, 'x'));
    return true;
  });
  ProxyWatch watch(Quick({Address("a")}));
  StateOf(watch, 0, "down");
}

TEST(ProxyViewTest, TextsAreCutAndEntriesCounted) {
  ConversionsReply reply;
  for (int i = 0; i < kMaxConversions + 10; ++i) {
    Conversion& conversion = *reply.add_conversions();
    conversion.set_digest(fmt::format("{}", i));
    conversion.set_state(static_cast<Conversion::State>(77));
    std::string message(kMaxConversionText - 1, 'x');
    for (int j = 0; j < 400; ++j) message += "é";  // the bound lies between its two bytes
    conversion.set_message(message);
  }
  const auto view = ViewOf(reply, "p");
  EXPECT_EQ(view.size(), static_cast<size_t>(kMaxConversions));
  const json conversion = json::parse(view.begin()->second);
  EXPECT_EQ(conversion["message"], std::string(kMaxConversionText - 1, 'x'));
  EXPECT_EQ(conversion["state"], "unknown");
}

}  // namespace
}  // namespace banyan::tree_manager
