#include "registry-proxy/authoriser.h"

#include <future>

#include <gtest/gtest.h>

#include "net/auth.h"

namespace banyan::registry_proxy {
namespace {

struct CapturedReply final : net::HttpReply {
  explicit CapturedReply(std::promise<int>& result) : status(result) {}
  void Send(net::HttpResponse response) override { status.set_value(response.status); }
  void SendInterim(int, std::vector<std::pair<std::string, std::string>>) override {}
  void SendHead(int, std::vector<std::pair<std::string, std::string>>, std::optional<uint64_t>) override {}
  void Write(std::string, std::function<void(bool)>) override {}
  void WriteFile(net::FileRange, std::function<void(bool)>) override {}
  void End() override {}
  void Abort() override {}
  std::promise<int>& status;
};

class AuthoriserTest : public ::testing::Test {
 protected:
  // 0: let in, with `identity_`; else the status of the answer.
  int Ask(const std::string& upstream, const std::string& repository, const mirror::Identity& identity) {
    net::HttpRequest request;
    if (!identity.username.empty()) {
      request.headers.Add("authorization", "Basic " + net::Base64Encode(identity.username + ":" + identity.password));
    }
    std::promise<int> status;
    authoriser_.Authorise(request, upstream, repository, std::make_shared<CapturedReply>(status),
                          [&](mirror::Identity let_in) {
                            identity_ = std::move(let_in);
                            status.set_value(0);
                          });
    return status.get_future().get();
  }

  const mirror::Identity alice_{"alice", "a:b"};
  mirror::Workers workers_{2, 10};
  std::atomic<int> checks_{0};
  std::atomic<bool> down_{false};
  Authoriser authoriser_{
      {{"private", {"open/*"}}},
      [this](const std::string&, const std::string& repository, const mirror::Identity& identity) -> Status {
        ++checks_;
        if (down_) return Fail(Code::kUnavailable, "down");
        if (repository == "public" || (identity == alice_ && repository == "team")) return {};
        return Fail(Code::kUnauthenticated, "no");
      },
      workers_};
  mirror::Identity identity_;
};

TEST_F(AuthoriserTest, OwnUpstreamsAndOpenRepositoriesAreOpen) {
  EXPECT_EQ(Ask("elsewhere", "team", {}), 0);
  EXPECT_EQ(Ask("private", "open/app", {}), 0);
  EXPECT_EQ(checks_, 0);
}

TEST_F(AuthoriserTest, EachRepositoryAndClientIsAskedForOnce) {
  EXPECT_EQ(Ask("private", "team", {}), 401);
  EXPECT_EQ(Ask("private", "team", {"alice", "wrong"}), 401);
  EXPECT_EQ(Ask("private", "team", alice_), 0);
  EXPECT_EQ(identity_, alice_);
  EXPECT_EQ(checks_, 3);
  EXPECT_EQ(Ask("private", "team", alice_), 0);
  EXPECT_EQ(Ask("private", "team", {}), 401);  // alice's verdict is hers
  EXPECT_EQ(checks_, 3);
  EXPECT_EQ(Ask("private", "other", alice_), 401);
  EXPECT_EQ(Ask("private", "public", {}), 0);
  EXPECT_EQ(checks_, 5);
}

TEST_F(AuthoriserTest, AnUpstreamThatIsAwayIsNoVerdict) {
  down_ = true;
  const int status = Ask("private", "team", alice_);
  EXPECT_GE(status, 500);
  down_ = false;
  EXPECT_EQ(Ask("private", "team", alice_), 0);
}

TEST_F(AuthoriserTest, TheProxyItselfMayDoWhatTheLastClientMay) {
  EXPECT_EQ(Ask("private", "team", authoriser_.own_identity()), 0);
  EXPECT_EQ(identity_, mirror::Identity{});
  EXPECT_EQ(Ask("private", "team", alice_), 0);
  EXPECT_EQ(Ask("private", "team", authoriser_.own_identity()), 0);
  EXPECT_EQ(identity_, alice_);
  EXPECT_EQ(Ask("private", "team", {authoriser_.own_identity().username, "guess"}), 401);
}

}  // namespace
}  // namespace banyan::registry_proxy
