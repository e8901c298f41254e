// Preheating by HTTP over a real manager, with sessions that are function calls.
#include "tree-manager/preheat_api.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace banyan::tree_manager {
namespace {

using nlohmann::json;
using proto::tree::NodeMessage;

class NullSink final : public SessionSink {
 public:
  void Poke() override {}
  void End(const Error& /*reason*/) override {}
};

class PreheatApiTest : public testing::Test {
 protected:
  PreheatApiTest() : manager_(Manager::Start({}).value()), api_(*manager_, "secret") {}

  SessionId Connect(const std::string& node, const std::string& zone) {
    const SessionId session = manager_->Open(std::make_shared<NullSink>(), "10.0.0.1");
    NodeMessage message;
    message.mutable_hello()->set_node(node);
    message.mutable_hello()->set_zone(zone);
    message.mutable_hello()->set_port(1);
    EXPECT_TRUE(manager_->OnMessage(session, message));
    return session;
  }
  static net::HttpRequest Ask(const std::string& method, const std::string& target, const std::string& body = "") {
    net::HttpRequest request;
    request.method = method;
    request.target = target;
    request.body = body;
    request.client = "10.0.0.9";
    request.headers.Add("authorization", "Bearer secret");
    request.headers.Add("content-type", "application/json");
    return request;
  }
  net::HttpResponse Begin(const std::string& body) { return api_.Answer(Ask("POST", "/api/v1/preheats", body)); }
  static json BodyOf(const net::HttpResponse& response) { return json::parse(std::get<std::string>(response.body)); }

  std::unique_ptr<Manager> manager_;
  PreheatApi api_;
};

TEST_F(PreheatApiTest, TellsNodesAndHowFarTheyAre) {
  const SessionId a = Connect("a", "z1");
  Connect("b", "z2");
  const auto begun = Begin(R"({"reference": "r/app:1", "zone": "z1", "count": 5})");
  ASSERT_EQ(begun.status, 202) << std::get<std::string>(begun.body);
  EXPECT_EQ(BodyOf(begun)["nodes"], json({"a"}));
  const std::string place = "/api/v1/preheats/" + BodyOf(begun)["id"].dump();
  json progress = BodyOf(api_.Answer(Ask("GET", place)));
  EXPECT_EQ(progress["nodes"][0]["state"], "waiting");
  EXPECT_EQ(progress["reference"], "docker://r/app:1");
  EXPECT_FALSE(progress["ended"].get<bool>());

  NodeMessage message;
  message.mutable_preheat()->set_id(BodyOf(begun)["id"].get<uint64_t>());
  message.mutable_preheat()->set_present_bytes(7);
  message.mutable_preheat()->set_total_bytes(7);
  message.mutable_preheat()->set_ended(true);
  ASSERT_TRUE(manager_->OnMessage(a, message));
  progress = BodyOf(api_.Answer(Ask("GET", place)));
  EXPECT_EQ(progress["nodes"][0]["state"], "done");
  EXPECT_EQ(progress["nodes"][0]["present_bytes"], 7);
  EXPECT_TRUE(progress["ended"].get<bool>());
}

TEST_F(PreheatApiTest, ErrorsHaveTheirStatus) {
  EXPECT_EQ(Begin(R"({"reference": "r/app:1"})").status, 409);  // nobody is here
  Connect("a", "");
  EXPECT_EQ(Begin(R"({"reference": "r/app:1", "nodes": ["b"]})").status, 404);
  EXPECT_EQ(Begin("").status, 400);
  EXPECT_EQ(api_.Answer(Ask("GET", "/api/v1/preheats")).status, 405);
  EXPECT_EQ(api_.Answer(Ask("POST", "/api/v1/preheats/1")).status, 405);
  for (const char* id : {"1", "", "x", "1x", "99999999999999999999", "1/2"}) {
    EXPECT_EQ(api_.Answer(Ask("GET", std::string("/api/v1/preheats/") + id)).status, 404) << id;
  }
}

TEST_F(PreheatApiTest, StrangersAreRefused) {
  Connect("a", "");
  const std::string body = R"({"reference": "r/app:1"})";
  net::HttpRequest request = Ask("POST", "/api/v1/preheats", body);
  request.headers = {};
  request.headers.Add("content-type", "application/json");
  EXPECT_EQ(api_.Answer(request).status, 401);
  request.headers.Add("authorization", "Bearer secreT");
  EXPECT_EQ(api_.Answer(request).status, 401);
  // What a form on another site could send.
  request = Ask("POST", "/api/v1/preheats", body);
  request.headers = {};
  request.headers.Add("authorization", "Bearer secret");
  request.headers.Add("content-type", "text/plain");
  EXPECT_EQ(api_.Answer(request).status, 415);
}

TEST_F(PreheatApiTest, WithoutATokenNobodyChangesAnything) {
  Connect("a", "");
  PreheatApi open(*manager_, "");
  for (const char* client : {"10.0.0.9", "127.0.0.1", "::1"}) {
    for (const char* shown : {"", "Bearer", "Bearer ", "Bearer secret"}) {
      net::HttpRequest request = Ask("POST", "/api/v1/preheats", R"({"reference": "r/app:1"})");
      request.client = client;
      request.headers = {};
      request.headers.Add("content-type", "application/json");
      if (*shown != '\0') request.headers.Add("authorization", shown);
      const auto refused = open.Answer(request);
      EXPECT_EQ(refused.status, 403) << client << shown;
      EXPECT_NE(BodyOf(refused)["error"].get<std::string>().find("token_file"), std::string::npos);
    }
  }
  EXPECT_EQ(open.Answer(Ask("GET", "/api/v1/preheats/1")).status, 403);
  EXPECT_FALSE(manager_->PreheatProgress(1));
}

TEST(ParsePreheatTest, TakesWhatItKnowsOnly) {
  const auto request =
      ParsePreheat(R"({"reference": "r/a", "nodes": ["x", "y"], "zone": "z", "count": 3, "plain_http": true})");
  ASSERT_TRUE(request) << request.error().message;
  EXPECT_EQ(request->reference(), "docker://r/a");
  EXPECT_EQ(ParsePreheat(R"({"reference": "docker://r/a"})")->reference(), "docker://r/a");
  EXPECT_EQ(request->nodes_size(), 2);
  EXPECT_EQ(request->count(), 3U);
  EXPECT_TRUE(request->plain_http());
  for (const char* bad :
       {"", "[]", "{}", R"({"reference": ""})", R"({"reference": 1})", R"({"reference": "r", "count": -1})",
        R"({"reference": "r", "count": 4294967296})", R"({"reference": "r", "node": "a"})",
        R"({"reference": "r", "nodes": "a"})", R"({"reference": "r", "nodes": [1]})", "{\"reference\": \"\xff\"}"}) {
    EXPECT_FALSE(ParsePreheat(bad)) << bad;
  }
}

TEST(PreheatApiPathTest, IsItsOwnOnly) {
  const auto knows = [](const std::string& target) {
    net::HttpRequest request;
    request.target = target;
    return PreheatApi::Knows(request);
  };
  EXPECT_TRUE(knows("/api/v1/preheats"));
  EXPECT_TRUE(knows("/api/v1/preheats?x=1"));
  EXPECT_TRUE(knows("/api/v1/preheats/1"));
  EXPECT_FALSE(knows("/api/v1/preheatsx"));
  EXPECT_FALSE(knows("/api/v1/nodes"));
}

}  // namespace
}  // namespace banyan::tree_manager
