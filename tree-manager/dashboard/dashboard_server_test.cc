// The dashboard over a real manager, with sessions that are function calls and browsers that are test doubles.
#include "tree-manager/dashboard/dashboard_server.h"

#include <condition_variable>
#include <deque>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tree-manager/dashboard/assets.h"

namespace banyan::tree_manager {
namespace {

using namespace std::chrono_literals;
using namespace proto::tree;
using nlohmann::json;

class NullSink final : public SessionSink {
 public:
  void Poke() override {}
  void End(const Error& /*reason*/) override {}
};

// A browser: takes what is written, at once or only when it is told to.
class Browser final : public net::HttpReply {
 public:
  void Send(net::HttpResponse response) override {
    MutexLock lock(mutex_);
    response_ = std::move(response);
  }
  void SendInterim(int /*status*/, std::vector<std::pair<std::string, std::string>> /*headers*/) override {}
  void SendHead(int status, std::vector<std::pair<std::string, std::string>> headers,
                std::optional<uint64_t> /*body_bytes*/) override {
    MutexLock lock(mutex_);
    response_ = {status, std::move(headers), {}};
  }
  void Write(std::string bytes, std::function<void(bool alive)> on_written) override {
    MutexLock lock(mutex_);
    text_ += bytes;
    ++writes_;
    changed_.notify_all();
    if (stuck_) {
      waiting_.push_back(std::move(on_written));
      return;
    }
    lock.Unlock();
    on_written(true);
  }
  void WriteFile(net::FileRange /*file*/, std::function<void(bool alive)> /*on_written*/) override {}
  void End() override {
    MutexLock lock(mutex_);
    ended_ = true;
  }
  void Abort() override {
    std::deque<std::function<void(bool)>> waiting;
    {
      MutexLock lock(mutex_);
      aborted_ = true;
      waiting.swap(waiting_);
    }
    for (const auto& on_written : waiting) on_written(false);
  }

  void SetStuck(bool stuck) {
    std::deque<std::function<void(bool)>> waiting;
    {
      MutexLock lock(mutex_);
      stuck_ = stuck;
      if (!stuck) waiting.swap(waiting_);
    }
    for (const auto& on_written : waiting) on_written(true);
  }
  // The events of one kind, in order.
  std::vector<json> Events(const std::string& kind) {
    MutexLock lock(mutex_);
    std::vector<json> events;
    for (size_t at = 0; at < text_.size();) {
      const size_t end = text_.find("\n\n", at);
      if (end == std::string::npos) break;
      const std::string event = text_.substr(at, end - at);
      const std::string head = "event: " + kind + "\ndata: ";
      if (event.starts_with(head)) events.push_back(json::parse(event.substr(head.size())));
      at = end + 2;
    }
    return events;
  }
  // False after 10 s.
  template <typename Condition>
  bool Await(const Condition& condition) {
    const auto end = std::chrono::steady_clock::now() + 10s;
    while (!condition()) {
      if (std::chrono::steady_clock::now() >= end) return false;
      MutexLock lock(mutex_);
      lock.WaitUntil(changed_, std::chrono::steady_clock::now() + 20ms);
    }
    return true;
  }
  net::HttpResponse response() {
    MutexLock lock(mutex_);
    return response_;
  }
  int writes() {
    MutexLock lock(mutex_);
    return writes_;
  }
  bool ended() {
    MutexLock lock(mutex_);
    return ended_;
  }
  bool aborted() {
    MutexLock lock(mutex_);
    return aborted_;
  }

 private:
  Mutex mutex_;
  std::condition_variable changed_;
  net::HttpResponse response_;
  std::string text_;
  int writes_ = 0;
  bool stuck_ = false;
  bool ended_ = false;
  bool aborted_ = false;
  std::deque<std::function<void(bool)>> waiting_;
};

class DashboardTest : public testing::Test {
 protected:
  DashboardTest() : manager_(Manager::Start({}).value()) {}

  DashboardServer& Start(DashboardServer::Options options = {}) {
    options.version = "1.2.3";
    options.batch = std::min<std::chrono::milliseconds>(options.batch, 20ms);
    options.functions = 20ms;
    dashboard_ = std::make_unique<DashboardServer>(*manager_, options);
    return *dashboard_;
  }
  SessionId Connect(const std::string& node, const std::string& function) {
    const SessionId session = manager_->Open(std::make_shared<NullSink>(), "10.0.0.1");
    NodeMessage message;
    message.mutable_hello()->set_node(node);
    message.mutable_hello()->set_port(1);
    message.mutable_hello()->add_functions()->set_function(function);
    EXPECT_TRUE(manager_->OnMessage(session, message));
    return session;
  }
  void Hold(SessionId session, const std::string& function, uint32_t permille) {
    NodeMessage message;
    Holding& holding = *message.mutable_heartbeat()->add_holdings();
    holding.set_function(function);
    holding.set_present_permille(permille);
    EXPECT_TRUE(manager_->OnMessage(session, message));
  }
  net::HttpResponse Get(const std::string& target, const std::string& method = "GET") {
    const auto browser = std::make_shared<Browser>();
    net::HttpRequest request;
    request.method = method;
    request.target = target;
    dashboard_->Handle(request, browser);
    return browser->response();
  }
  json GetJson(const std::string& target) {
    const auto response = Get(target);
    EXPECT_EQ(response.status, 200) << target;
    return json::parse(std::get<std::string>(response.body));
  }
  std::shared_ptr<Browser> Follow(const std::string& query) {
    const auto browser = std::make_shared<Browser>();
    net::HttpRequest request;
    request.method = "GET";
    request.target = "/api/v1/events" + query;
    dashboard_->Handle(request, browser);
    return browser;
  }
  static std::string HeaderOf(const net::HttpResponse& response, const std::string& name) {
    for (const auto& [key, value] : response.headers) {
      if (key == name) return value;
    }
    return {};
  }

  const std::unique_ptr<Manager> manager_;
  std::unique_ptr<DashboardServer> dashboard_;
};

TEST_F(DashboardTest, PagesAreToldWhetherTheyMayPreheat) {
  Start({.preheats = true});
  EXPECT_EQ(GetJson("/api/v1/status")["preheats"], true);
}

TEST_F(DashboardTest, PagesComeWithAPolicy) {
  Start();
  const auto page = Get("/");
  EXPECT_EQ(page.status, 200);
  EXPECT_EQ(HeaderOf(page, "Content-Type"), "text/html; charset=utf-8");
  EXPECT_NE(HeaderOf(page, "Content-Security-Policy").find("default-src 'none'"), std::string::npos);
  EXPECT_EQ(std::get<std::string>(page.body), std::get<std::string>(Get("/index.html").body));
  EXPECT_NE(std::get<std::string>(Get("/d3.js").body).find("d3-hierarchy"), std::string::npos);
  EXPECT_EQ(Get("/../etc/passwd").status, 404);
  EXPECT_EQ(Get("//index.html").status, 404);
  EXPECT_EQ(Get("/", "POST").status, 405);
  EXPECT_EQ(Get("/api/v1/events", "POST").status, 405);
  EXPECT_EQ(Get("/api/v1/tree?function=%zz").status, 400);
  EXPECT_EQ(Get("/api/v1/nothing").status, 404);
}

TEST_F(DashboardTest, OthersMachinesMayBeRefused) {
  Start({.local_only = true});
  const auto ask = [&](const std::string& client, const std::string& target) {
    const auto browser = std::make_shared<Browser>();
    net::HttpRequest request;
    request.method = "GET";
    request.target = target;
    request.client = client;
    dashboard_->Handle(request, browser);
    return browser->response().status;
  };
  for (const char* target : {"/", "/api/v1/nodes", "/api/v1/events"}) {
    EXPECT_EQ(ask("127.0.0.1", target), 200);
    EXPECT_EQ(ask("::1", target), 200);
    EXPECT_EQ(ask("::ffff:127.0.0.1", target), 200);
    EXPECT_EQ(ask("::ffff:10.0.0.7", target), 403);
    EXPECT_EQ(ask("10.0.0.7", target), 403);
    EXPECT_EQ(ask("", target), 403);
  }
}

TEST_F(DashboardTest, PagesThatAreKnownAreNotSentAgain) {
  Start();
  net::HttpRequest request;
  request.method = "GET";
  request.target = "/app.js";
  const auto first = Get("/app.js");
  request.headers.Add("if-none-match", HeaderOf(first, "ETag"));
  const auto browser = std::make_shared<Browser>();
  dashboard_->Handle(request, browser);
  EXPECT_EQ(browser->response().status, 304);
}

TEST_F(DashboardTest, PagesNameNoOtherHost) {
  for (const Asset& asset : Assets()) {
    if (asset.path.starts_with("d3")) continue;
    std::string text(asset.bytes);
    constexpr std::string_view kSvg = "http://www.w3.org/";
    for (size_t at = text.find(kSvg); at != std::string::npos; at = text.find(kSvg)) text.erase(at, kSvg.size());
    EXPECT_EQ(text.find("http:"), std::string::npos) << asset.path;
    EXPECT_EQ(text.find("https:"), std::string::npos) << asset.path;
    EXPECT_EQ(text.find("innerHTML"), std::string::npos) << asset.path;
  }
}

TEST_F(DashboardTest, TheApiShowsTheTrees) {
  Start();
  const SessionId a = Connect("a", "f");
  Connect("b", "f");
  Hold(a, "f", 1000);
  EXPECT_EQ(GetJson("/api/v1/status")["nodes"], 2);
  EXPECT_EQ(GetJson("/api/v1/status")["preheats"], false);
  EXPECT_EQ(GetJson("/api/v1/nodes")["nodes"].size(), 2U);
  const json functions = GetJson("/api/v1/functions")["functions"];
  ASSERT_EQ(functions.size(), 1U);
  EXPECT_EQ(functions[0]["completeNodes"], 1);
  EXPECT_EQ(functions[0]["startingNodes"], 2);
  const json tree = GetJson("/api/v1/tree?function=f");
  EXPECT_EQ(tree["nodes"].size(), 2U);
  EXPECT_EQ(tree["nodes"][0]["parents"].size(), 2U);
  EXPECT_EQ(Get("/api/v1/tree?function=g").status, 404);
  EXPECT_EQ(GetJson("/api/v1/starts")["starts"].size(), 0U);
}

TEST_F(DashboardTest, ProxiesAreShownToWhoAsks) {
  Start({.proxies = {.addresses = {"unix:/nowhere/there-is-no-proxy"}, .interval = 10ms}});
  EXPECT_EQ(GetJson("/api/v1/conversions")["conversions"].size(), 0U);
  const auto browser = Follow("?conversions=1");
  const auto other = Follow("?nodes=1");
  ASSERT_TRUE(browser->Await([&] {
    const auto events = browser->Events("conversions");
    return !events.empty() && events.back()["proxies"][0]["state"] == "down";
  }));
  EXPECT_EQ(browser->Events("conversions")[0]["reset"], true);
  EXPECT_TRUE(other->Events("conversions").empty());
  EXPECT_EQ(GetJson("/api/v1/conversions")["proxies"][0]["state"], "down");
  // Nothing new is nothing told.
  const size_t told = browser->Events("conversions").size();
  std::this_thread::sleep_for(200ms);
  EXPECT_EQ(browser->Events("conversions").size(), told);
}

TEST_F(DashboardTest, NamesStayWhatTheyAre) {
  Start();
  const std::string name = "<img src=x onerror=alert(1)>\"'&";
  Connect(name, "f");
  EXPECT_EQ(GetJson("/api/v1/nodes")["nodes"][0]["node"], name);
  EXPECT_EQ(HeaderOf(Get("/api/v1/nodes"), "Content-Type"), "application/json");
}

TEST_F(DashboardTest, AStreamBringsTheStateAndThenChanges) {
  Start();
  const SessionId a = Connect("a", "f");
  Connect("other", "g");
  const auto browser = Follow("?function=f&nodes=1&starts=1");
  EXPECT_EQ(HeaderOf(browser->response(), "Content-Type"), "text/event-stream");
  ASSERT_TRUE(browser->Await([&] { return !browser->Events("tree").empty(); }));
  json tree = browser->Events("tree").front();
  EXPECT_TRUE(tree["reset"]);
  ASSERT_EQ(tree["nodes"].size(), 1U);
  EXPECT_EQ(browser->Events("nodes").front()["nodes"].size(), 2U);
  EXPECT_EQ(browser->Events("functions").front()["functions"].size(), 2U);

  Hold(a, "f", 500);
  ASSERT_TRUE(browser->Await([&] { return browser->Events("tree").back()["nodes"][0]["presentPermille"] == 500; }));
  EXPECT_FALSE(browser->Events("tree").back()["reset"]);
  const SessionId b = Connect("b", "f");
  ASSERT_TRUE(browser->Await([&] {
    const json last = browser->Events("tree").back();
    return std::any_of(last["nodes"].begin(), last["nodes"].end(), [](const json& n) { return n["node"] == "b"; });
  }));

  NodeMessage start;
  start.mutable_start()->set_function("f");
  start.mutable_start()->set_began_unix_micros(7);
  ASSERT_TRUE(manager_->OnMessage(b, start));
  ASSERT_TRUE(browser->Await([&] { return !browser->Events("starts").empty(); }));
  EXPECT_EQ(browser->Events("starts").front()["starts"][0]["node"], "b");

  NodeMessage leave;
  leave.mutable_leave()->set_function("f");
  ASSERT_TRUE(manager_->OnMessage(a, leave));
  ASSERT_TRUE(manager_->OnMessage(b, leave));
  ASSERT_TRUE(browser->Await([&] { return browser->Events("tree").back()["function"].is_null(); }));
  ASSERT_TRUE(browser->Await([&] { return browser->Events("functions").back()["gone"] == json::array({"f"}); }));
}

// Whatever happens while it takes nothing, a client is then told each thing once, as it is.
TEST_F(DashboardTest, ASlowStreamIsToldTheLatestOnly) {
  Start();
  const SessionId a = Connect("a", "f");
  const auto browser = Follow("?function=f");
  ASSERT_TRUE(browser->Await([&] { return !browser->Events("tree").empty(); }));
  browser->SetStuck(true);
  for (uint32_t i = 1; i <= 5; ++i) {
    Hold(a, "f", 100 * i);
    std::this_thread::sleep_for(600ms / 4);
  }
  ASSERT_TRUE(browser->Await([&] { return browser->writes() >= 2; }));
  const int writes = browser->writes();
  std::this_thread::sleep_for(600ms);
  EXPECT_EQ(browser->writes(), writes);  // none while one is on its way
  browser->SetStuck(false);
  ASSERT_TRUE(browser->Await([&] {
    const json last = browser->Events("tree").back();
    return !last["nodes"].empty() && last["nodes"][0]["presentPermille"] == 500;
  }));
}

TEST(EventStreamTest, AClientThatTakesNothingIsDropped) {
  const auto browser = std::make_shared<Browser>();
  const auto manager = Manager::Start({}).value();
  const auto stream =
      std::make_shared<EventStream>(EventStream::Options{.function = "f", .nodes = true, .patience = 5s}, browser);
  ASSERT_TRUE(stream->Begin(*manager));
  browser->SetStuck(true);
  const auto now = EventStream::Clock::now();
  stream->Flush(now);
  EXPECT_EQ(browser->writes(), 1);
  stream->Flush(now + 4s);
  EXPECT_FALSE(stream->gone());
  stream->Flush(now + 5s);
  EXPECT_TRUE(stream->gone());
  EXPECT_TRUE(browser->aborted());
  manager->Unwatch(stream.get());
}

TEST(EventStreamTest, AQuietStreamBeats) {
  const auto browser = std::make_shared<Browser>();
  const auto manager = Manager::Start({}).value();
  const auto stream = std::make_shared<EventStream>(EventStream::Options{.heartbeat = 1s}, browser);
  ASSERT_TRUE(stream->Begin(*manager));
  const auto now = EventStream::Clock::now();
  stream->Flush(now);
  EXPECT_EQ(browser->writes(), 1);  // that there is nothing
  stream->Flush(now + 900ms);
  EXPECT_EQ(browser->writes(), 1);
  stream->Flush(now + 2s);
  EXPECT_EQ(browser->writes(), 2);
  stream->Flush(now + 2500ms);
  EXPECT_EQ(browser->writes(), 2);
  manager->Unwatch(stream.get());
}

TEST_F(DashboardTest, TooManyStreamsAreRefused) {
  Start({.max_streams = 2});
  const auto first = Follow("");
  const auto second = Follow("");
  EXPECT_EQ(second->response().status, 200);
  EXPECT_EQ(Follow("")->response().status, 503);
  dashboard_->EndStreams();
  EXPECT_TRUE(first->ended());
  EXPECT_EQ(Follow("")->response().status, 503);
}

}  // namespace
}  // namespace banyan::tree_manager
