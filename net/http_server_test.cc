// The HTTP server and client against each other, and the server against raw bytes.
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <future>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "common/file_io.h"
#include "net/http_client.h"
#include "net/http_server.h"
#include "net/range_header.h"

namespace banyan::net {
namespace {

using std::chrono::milliseconds;

struct Answer {
  Status status;
  int code = 0;
  HeaderList headers;
  std::string body;
};

Answer Ask(HttpClient& client, HttpClientRequest request) {
  struct State {
    Answer answer;
    std::promise<void> done;
  };
  const auto state = std::make_shared<State>();  // shared with the handlers
  client.Start(std::move(request), {.on_head =
                                        [state](int code, const HeaderList& headers) {
                                          state->answer.code = code;
                                          state->answer.headers = headers;
                                          return Status();
                                        },
                                    .on_data =
                                        [state](std::span<const std::byte> data) {
                                          state->answer.body.append(reinterpret_cast<const char*>(data.data()),
                                                                    data.size());
                                          return Status();
                                        },
                                    .on_done =
                                        [state](Status status) {
                                          state->answer.status = std::move(status);
                                          state->done.set_value();
                                        }});
  state->done.get_future().wait();
  return std::move(state->answer);
}

// A connection that sends bytes and reads until the server closes.
std::string Raw(uint16_t port, std::string_view bytes) {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) return "no connection";
  [[maybe_unused]] const ssize_t sent = ::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  std::string answer;
  char buffer[4096];
  for (ssize_t count; (count = ::read(fd.get(), buffer, sizeof(buffer))) > 0;)
    answer.append(buffer, static_cast<size_t>(count));
  return answer;
}

// A listener whose queue is full: the kernel drops who calls next, until somebody has been accepted.
class FullListener {
 public:
  FullListener() : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address_);
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address_), length), 0);
    EXPECT_EQ(::listen(listener_.get(), 0), 0);
    EXPECT_EQ(::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address_), &length), 0);
    while (Fill()) continue;
  }
  uint16_t port() const { return ntohs(address_.sin_port); }

  // Makes room, and answers the first request that comes.
  void Answer() {
    for (;;) {
      const UniqueFd caller(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (fillers_left_ > 0) {
        --fillers_left_;
        continue;
      }
      char request[4096];
      if (::read(caller.get(), request, sizeof(request)) <= 0) continue;
      constexpr std::string_view kAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
      EXPECT_EQ(::write(caller.get(), kAnswer.data(), kAnswer.size()), static_cast<ssize_t>(kAnswer.size()));
      return;
    }
  }

 private:
  bool Fill() {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    (void)::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address_), sizeof(address_));
    pollfd waits{fd.get(), POLLOUT, 0};
    if (::poll(&waits, 1, 100) == 0) return false;
    fillers_.push_back(std::move(fd));
    fillers_left_ = fillers_.size();
    return true;
  }

  UniqueFd listener_;
  sockaddr_in address_{};
  std::vector<UniqueFd> fillers_;
  size_t fillers_left_ = 0;
};

class HttpServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (size_t i = 0; i < content_.size(); ++i) content_[i] = static_cast<char>(i * 7 + i / 251);
    ASSERT_TRUE(WriteFileDurably(directory_->path() + "/file", content_));
    file_ = std::make_shared<const UniqueFd>(*OpenFile(directory_->path() + "/file", O_RDONLY));
  }

  void Serve(HttpServerOptions options = {}) {
    options.stop_grace = milliseconds(500);
    auto started = HttpServer::Start(
        options, [this](HttpRequest request, std::shared_ptr<HttpReply> reply) { Handle(request, std::move(reply)); });
    ASSERT_TRUE(started) << started.error().message;
    server_ = *std::move(started);
  }

  void Handle(const HttpRequest& request, std::shared_ptr<HttpReply> reply) {
    const auto path = request.path();
    if (path == "/file") {
      const std::string* header = request.headers.Find("range");
      const auto range = ParseRange(header != nullptr ? *header : "", content_.size());
      if (!range) return reply->Send({416, {}, std::string()});
      const ByteRange bytes = range->value_or(ByteRange{0, content_.size()});
      HttpResponse response{*range ? 206 : 200, {}, FileRange{file_->get(), bytes, file_}};
      if (*range) response.headers.emplace_back("Content-Range", FormatContentRange(bytes, content_.size()));
      return reply->Send(std::move(response));
    }
    if (path == "/let-go") {
      const std::shared_ptr<const void> owner(this, [this](const void*) { ++let_go_; });
      return reply->Send({200, {}, FileRange{file_->get(), {0, content_.size()}, owner}});
    }
    if (path == "/short") return reply->Send({200, {}, FileRange{file_->get(), {0, content_.size() + 10}, file_}});
    if (path == "/echo") return reply->Send({200, {{"X-Method", request.method}}, request.body});
    if (path == "/stream" || path == "/stream-known") {
      reply->SendInterim(102);
      reply->SendHead(200, {}, path == "/stream" ? std::nullopt : std::optional<uint64_t>(30'000));
      return Stream(std::move(reply), 0);
    }
    if (path == "/interims") {
      reply->SendInterim(102, {{"Via", "n1, n2"}, {"X-Bad", "a\r\nInjected: b"}});
      reply->SendInterim(102);
      reply->SendInterim(200);  // is none
      reply->Send({200, {}, std::string("at last")});
      return reply->SendInterim(102);
    }
    if (path == "/watched") {
      reply->OnGone([this] { ++gone_count_; });
      held_.push_back(std::move(reply));
      ++held_count_;
      return;
    }
    if (path == "/drop") return;
    if (path == "/abort") return reply->Abort();
    if (path == "/hold" || path == "/answered-and-held") {
      if (path != "/hold") reply->Send({200, {}, std::string("first")});
      held_.push_back(std::move(reply));
      ++held_count_;
      return;
    }
    reply->Send({404, {}, std::string("nothing")});
  }

  void Stream(std::shared_ptr<HttpReply> reply, int i) {
    if (i == 3) return reply->End();
    reply->Write(std::string(10'000, static_cast<char>('a' + i)), [this, reply, i](bool alive) {
      if (alive) Stream(reply, i + 1);
    });
  }

  HttpClientRequest Request(std::string target) {
    HttpClientRequest request;
    request.address = "127.0.0.1";
    request.port = server_->port();
    request.target = std::move(target);
    return request;
  }

  Result<TempDir> directory_ = TempDir::Make("banyan-http-test");
  std::string content_ = std::string(5'000'000, '\0');
  std::shared_ptr<const UniqueFd> file_;
  std::vector<std::shared_ptr<HttpReply>> held_;  // to be looked at when held_count_ says so
  std::atomic<int> held_count_{0};
  std::atomic<int> gone_count_{0};
  std::atomic<int> let_go_{0};
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, FilesByRangeBothWays) {
  for (const bool sendfile : {true, false}) {
    HttpServerOptions options;
    options.sendfile = sendfile;
    Serve(options);
    HttpClient client;
    Answer answer = Ask(client, Request("/file"));
    ASSERT_TRUE(answer.status) << answer.status.error().message;
    EXPECT_EQ(answer.code, 200);
    EXPECT_TRUE(answer.body == content_);
    HttpClientRequest request = Request("/file");
    request.headers = {{"Range", "bytes=100-2000099"}};
    answer = Ask(client, request);
    EXPECT_EQ(answer.code, 206);
    EXPECT_EQ(*answer.headers.Find("content-range"), "bytes 100-2000099/5000000");
    EXPECT_TRUE(answer.body == content_.substr(100, 2'000'000));
    request.headers = {{"Range", "bytes=5000000-"}};
    EXPECT_EQ(Ask(client, request).code, 416);
    request = Request("/file");
    request.method = "HEAD";
    answer = Ask(client, request);
    EXPECT_EQ(*answer.headers.Find("content-length"), "5000000");
    EXPECT_EQ(answer.body, "");
    EXPECT_EQ(server_->connections(), 1u);  // all on one kept-alive connection
    answer = Ask(client, Request("/short"));
    ASSERT_FALSE(answer.status);
    EXPECT_EQ(answer.status.error().code, Code::kUnavailable);
  }
}

TEST_F(HttpServerTest, BodiesStreamsAndDroppedReplies) {
  Serve();
  HttpClient client;
  HttpClientRequest request = Request("/echo");
  request.method = "POST";
  request.body = std::string(300'000, 'x');
  EXPECT_EQ(Ask(client, request).body, request.body);
  const std::string streamed = std::string(10'000, 'a') + std::string(10'000, 'b') + std::string(10'000, 'c');
  for (const char* path : {"/stream", "/stream-known"}) {
    const Answer answer = Ask(client, Request(path));
    ASSERT_TRUE(answer.status) << answer.status.error().message;
    EXPECT_EQ(answer.code, 200);
    EXPECT_TRUE(answer.body == streamed);
  }
  EXPECT_EQ(Ask(client, Request("/nothing")).code, 404);
  EXPECT_EQ(Ask(client, Request("/drop")).code, 500);
  const Answer aborted = Ask(client, Request("/abort"));
  ASSERT_FALSE(aborted.status);
  EXPECT_EQ(aborted.status.error().code, Code::kUnavailable);
}

TEST_F(HttpServerTest, AReplyThatIsKeptTooLongHasNoSayInTheNextRequest) {
  Serve();
  HttpClient client;
  EXPECT_EQ(Ask(client, Request("/answered-and-held")).body, "first");
  auto second = std::async(std::launch::async, [&] { return Ask(client, Request("/hold")); });
  while (held_count_ < 2) std::this_thread::sleep_for(milliseconds(1));
  ASSERT_EQ(server_->connections(), 1u);  // both on one
  held_[0]->Send({200, {}, std::string("first again")});
  held_[0]->SendHead(200, {}, std::nullopt);
  std::promise<bool> written;
  held_[0]->Write("more", [&](bool alive) { written.set_value(alive); });
  EXPECT_FALSE(written.get_future().get());
  held_[0]->Abort();
  held_[0].reset();
  held_[1]->Send({200, {}, std::string("second")});
  const Answer answer = second.get();
  ASSERT_TRUE(answer.status) << answer.status.error().message;
  EXPECT_EQ(answer.code, 200);
  EXPECT_EQ(answer.body, "second");
}

TEST_F(HttpServerTest, RequestsThatComeTogetherAreAnsweredOneByOne) {
  Serve();
  constexpr int kRequests = 3'000;
  std::string requests;
  for (int i = 1; i < kRequests; ++i) requests += "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n";
  requests += "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
  const std::string answers = Raw(server_->port(), requests);
  int count = 0;
  for (size_t at = 0; (at = answers.find("HTTP/1.1 200 ", at)) != std::string::npos; ++at) ++count;
  EXPECT_EQ(count, kRequests);
}

// Takes bodies piece by piece; goes on when the test says so.
struct TakenBody final : HttpBody {
  void OnData(std::string bytes, std::function<void()> resume) override {
    text += bytes;
    largest = std::max(largest, bytes.size());
    if (!hold) return resume();
    held.set_value(std::move(resume));
  }
  void OnEnd(bool whole) override { ended.set_value(whole); }

  bool hold = false;
  std::string text;
  size_t largest = 0;
  std::promise<std::function<void()>> held;  // by the one piece that it is called with
  std::promise<bool> ended;
};

TEST_F(HttpServerTest, BodiesAreTakenAsTheyCome) {
  auto body = std::make_shared<TakenBody>();
  HttpServerOptions options;
  options.max_body_bytes = 1000;
  options.open_body = [&](const HttpRequest& head) { return head.method == "PATCH" ? body : nullptr; };
  Serve(options);
  HttpClient client;
  HttpClientRequest request = Request("/echo");
  request.method = "PATCH";
  request.body = content_;
  const Answer answer = Ask(client, request);
  ASSERT_TRUE(answer.status) << answer.status.error().message;
  EXPECT_EQ(answer.code, 200);
  EXPECT_EQ(answer.body, "");  // the handler gets no body
  EXPECT_TRUE(body->text == content_);
  EXPECT_LE(body->largest, 64 * 1024u);
  EXPECT_TRUE(body->ended.get_future().get());

  // Chunked, and a second request behind it on the same connection.
  body = std::make_shared<TakenBody>();
  const std::string both =
      Raw(server_->port(),
          "PATCH /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
          "POST /echo HTTP/1.1\r\nConnection: close\r\nContent-Length: 2\r\n\r\nxy");
  EXPECT_EQ(body->text, "abcde");
  EXPECT_TRUE(body->ended.get_future().get());
  EXPECT_NE(both.find("\r\n\r\nxy"), std::string::npos);

  request.method = "POST";  // not taken: the limit holds
  request.body = std::string(1001, 'x');
  EXPECT_EQ(Ask(client, request).code, 413);
}

TEST_F(HttpServerTest, ABodyThatIsCutOrHeldEndsOnce) {
  auto body = std::make_shared<TakenBody>();
  HttpServerOptions options;
  options.request_timeout = milliseconds(100);
  options.open_body = [&](const HttpRequest&) { return body; };
  Serve(options);
  EXPECT_EQ(Raw(server_->port(), "PUT /echo HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc"), "");  // stalls
  EXPECT_FALSE(body->ended.get_future().get());
  EXPECT_EQ(body->text, "abc");

  body = std::make_shared<TakenBody>();
  EXPECT_EQ(Raw(server_->port(), "PUT /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n").substr(0, 12),
            "HTTP/1.1 400");

  body = std::make_shared<TakenBody>();
  body->hold = true;  // beyond the timeout, which is the client's
  HttpClient client;
  HttpClientRequest request = Request("/echo");
  request.method = "PUT";
  request.body = "abc";
  std::promise<Status> done;
  client.Start(request, {.on_done = [&](Status status) { done.set_value(std::move(status)); }});
  auto finished = done.get_future();
  EXPECT_EQ(finished.wait_for(milliseconds(300)), std::future_status::timeout);
  body->held.get_future().get()();
  EXPECT_TRUE(finished.get());
  EXPECT_TRUE(body->ended.get_future().get());
}

TEST_F(HttpServerTest, RefusesWhatIsMalformedOrTooLarge) {
  HttpServerOptions options;
  options.max_header_bytes = 2000;
  options.max_body_bytes = 1000;
  Serve(options);
  const auto status_of = [&](const std::string& bytes) { return Raw(server_->port(), bytes).substr(0, 12); };
  EXPECT_EQ(status_of("nonsense\r\n\r\n"), "HTTP/1.1 400");
  EXPECT_EQ(status_of(std::string("\x16\x03\x01\x02\x00\x01", 6)), "HTTP/1.1 400");
  EXPECT_EQ(status_of("GET / HTTP/1.1\r\nA: " + std::string(5000, 'x') + "\r\n\r\n"), "HTTP/1.1 431");
  EXPECT_EQ(status_of("POST /echo HTTP/1.1\r\nContent-Length: 5000\r\n\r\n"), "HTTP/1.1 413");
  EXPECT_EQ(status_of("POST /echo HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            "HTTP/1.1 400");
  EXPECT_EQ(status_of("GET /nothing HTTP/1.0\r\n\r\n"), "HTTP/1.1 404");
  const std::string both =
      Raw(server_->port(), "GET /nothing HTTP/1.1\r\n\r\nGET /nothing HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_NE(both.find("HTTP/1.1 404", 12), std::string::npos);
}

TEST_F(HttpServerTest, TimeoutsCloseSilentConnections) {
  HttpServerOptions options;
  options.idle_timeout = milliseconds(100);
  options.request_timeout = milliseconds(100);
  options.write_timeout = milliseconds(100);
  Serve(options);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(Raw(server_->port(), ""), "");
  EXPECT_EQ(Raw(server_->port(), "GET /file HT"), "");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  EXPECT_EQ(server_->connections(), 0u);
}

TEST_F(HttpServerTest, ClientTimesOutCancelsAndEnds) {
  Serve();
  HttpClientRequest request = Request("/hold");
  request.stall_timeout = milliseconds(100);
  std::promise<Status> cancelled;
  std::promise<Status> destroyed;
  {
    HttpClient client;
    const Answer answer = Ask(client, request);
    ASSERT_FALSE(answer.status);
    EXPECT_EQ(answer.status.error().code, Code::kDeadlineExceeded);
    request.stall_timeout = milliseconds(60'000);
    const uint64_t id =
        client.Start(request, {.on_done = [&](Status status) { cancelled.set_value(std::move(status)); }});
    client.Cancel(id);
    client.Cancel(id);
    EXPECT_EQ(cancelled.get_future().get().error().code, Code::kCancelled);
    client.Start(request, {.on_done = [&](Status status) { destroyed.set_value(std::move(status)); }});
  }
  EXPECT_EQ(destroyed.get_future().get().error().code, Code::kCancelled);
}

// The kernel would call again after a second.
TEST_F(HttpServerTest, AClientWhoseCallIsLostCallsAgainSoon) {
  auto took = std::chrono::steady_clock::duration::max();
  for (int attempt = 0; attempt < 3 && took > milliseconds(900); ++attempt) {  // a busy machine may be late itself
    FullListener listener;
    HttpClient client;
    HttpClientRequest request;
    request.address = "127.0.0.1";
    request.port = listener.port();
    const auto began = std::chrono::steady_clock::now();
    auto answer = std::async(std::launch::async, [&] { return Ask(client, request); });
    std::this_thread::sleep_for(milliseconds(100));
    listener.Answer();
    EXPECT_EQ(answer.get().body, "ok");
    took = std::chrono::steady_clock::now() - began;
  }
  EXPECT_LT(took, milliseconds(900));
}

TEST_F(HttpServerTest, NobodyIsCalledForLongerThanTheTimeout) {
  FullListener listener;
  HttpClient client;
  HttpClientRequest request;
  request.address = "127.0.0.1";
  request.port = listener.port();
  request.connect_timeout = milliseconds(600);
  const auto began = std::chrono::steady_clock::now();
  const Answer answer = Ask(client, request);
  ASSERT_FALSE(answer.status);
  EXPECT_EQ(answer.status.error().code, Code::kDeadlineExceeded);
  EXPECT_GE(std::chrono::steady_clock::now() - began, milliseconds(600));
}

TEST_F(HttpServerTest, InterimAnswersCarryHeaders) {
  Serve();
  HttpClient client;
  for (int round = 0; round < 2; ++round) {  // the second on the same connection
    struct State {
      std::vector<std::pair<int, HeaderList>> interims;
      std::string body;
      std::promise<Status> done;
    };
    const auto state = std::make_shared<State>();  // shared with the handlers
    client.Start(Request("/interims"),
                 {.on_interim = [state](int status,
                                        const HeaderList& headers) { state->interims.emplace_back(status, headers); },
                  .on_data =
                      [state](std::span<const std::byte> data) {
                        state->body.append(reinterpret_cast<const char*>(data.data()), data.size());
                        return Status();
                      },
                  .on_done = [state](Status status) { state->done.set_value(std::move(status)); }});
    ASSERT_TRUE(state->done.get_future().get());
    EXPECT_EQ(state->body, "at last");
    ASSERT_EQ(state->interims.size(), 2U);
    EXPECT_EQ(state->interims[0].first, 102);
    ASSERT_NE(state->interims[0].second.Find("via"), nullptr);
    EXPECT_EQ(*state->interims[0].second.Find("via"), "n1, n2");
    EXPECT_EQ(state->interims[0].second.Find("injected"), nullptr);
    EXPECT_EQ(state->interims[1].second.Find("via"), nullptr);
  }
  EXPECT_EQ(server_->connections(), 1u);
  EXPECT_EQ(Ask(client, Request("/interims")).body, "at last") << "without a handler for them";
}

TEST_F(HttpServerTest, AClientThatGoesWhileItsAnswerIsAwaitedIsNoticed) {
  HttpServerOptions options;
  options.notsent_bytes = 64 * 1024;
  options.unacknowledged_timeout = milliseconds(5000);
  Serve(options);
  const auto eventually = [](auto condition) {
    for (int i = 0; i < 300 && !condition(); ++i) std::this_thread::sleep_for(milliseconds(10));
    return condition();
  };
  HttpClient client;
  const uint64_t id = client.Start(Request("/watched"), {});
  ASSERT_TRUE(eventually([&] { return held_count_ == 1; }));
  EXPECT_EQ(gone_count_, 0);
  client.Cancel(id);
  EXPECT_TRUE(eventually([&] { return gone_count_ == 1; }));
  EXPECT_TRUE(eventually([&] { return server_->connections() == 0; }));
  // An answer ends the watch, and the connection goes on.
  auto answer = std::async(std::launch::async, [&] { return Ask(client, Request("/watched")); });
  ASSERT_TRUE(eventually([&] { return held_count_ == 2; }));
  held_[1]->Send({200, {}, std::string("here")});
  EXPECT_EQ(answer.get().body, "here");
  EXPECT_EQ(Ask(client, Request("/file")).body.size(), content_.size());
  EXPECT_EQ(server_->connections(), 1u);
  server_->Stop();
  EXPECT_EQ(gone_count_, 1);
  held_.clear();
}

TEST_F(HttpServerTest, AFileIsHeldUntilTheClientHasAcknowledgedIt) {
  Serve();
  const UniqueFd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int few_bytes = 4096;
  ASSERT_EQ(::setsockopt(client.get(), SOL_SOCKET, SO_RCVBUF, &few_bytes, sizeof(few_bytes)), 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(server_->port());
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  const std::string request = "GET /let-go HTTP/1.1\r\nHost: x\r\n\r\n";
  ASSERT_EQ(::send(client.get(), request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
  // All but what the client's buffer takes is read; the rest waits in the server's.
  std::vector<char> buffer(64 * 1024);
  size_t read = 0;
  while (read < content_.size() - 200'000) {
    const ssize_t count = ::recv(client.get(), buffer.data(), buffer.size(), 0);
    ASSERT_GT(count, 0);
    read += static_cast<size_t>(count);
  }
  std::this_thread::sleep_for(milliseconds(400));  // by now the kernel has the whole answer
  EXPECT_EQ(let_go_, 0);
  while (read < content_.size()) {
    const ssize_t count = ::recv(client.get(), buffer.data(), buffer.size(), 0);
    ASSERT_GT(count, 0);
    read += static_cast<size_t>(count);
  }
  for (int i = 0; i < 300 && let_go_ == 0; ++i) std::this_thread::sleep_for(milliseconds(10));
  EXPECT_EQ(let_go_, 1);
}

TEST_F(HttpServerTest, ConnectionCapMakesOthersWaitNotFail) {
  HttpServerOptions options;
  options.max_connections = 2;
  options.threads = 2;
  Serve(options);
  HttpClientOptions client_options;
  client_options.max_idle_per_peer = 0;
  HttpClient client(client_options);
  std::vector<std::future<Status>> results;
  for (int i = 0; i < 20; ++i) {
    auto promise = std::make_shared<std::promise<Status>>();
    results.push_back(promise->get_future());
    client.Start(Request("/file"), {.on_done = [promise](Status status) { promise->set_value(std::move(status)); }});
  }
  for (auto& result : results) EXPECT_TRUE(result.get());
}

TEST_F(HttpServerTest, StopLetsAnswersEndAndRepliesOutliveIt) {
  Serve();
  HttpClient client;
  auto promise = std::make_shared<std::promise<Status>>();
  client.Start(Request("/hold"), {.on_done = [promise](Status status) { promise->set_value(std::move(status)); }});
  while (server_->connections() == 0) std::this_thread::sleep_for(milliseconds(5));
  std::this_thread::sleep_for(milliseconds(50));
  server_->Stop();
  EXPECT_FALSE(promise->get_future().get());
  ASSERT_EQ(held_.size(), 1u);
  bool alive = true;
  held_[0]->SendHead(200, {}, std::nullopt);
  held_[0]->Write("late", [&](bool still) { alive = still; });
  EXPECT_FALSE(alive);
  held_.clear();
}

}  // namespace
}  // namespace banyan::net
