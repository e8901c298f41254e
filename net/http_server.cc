#include "net/http_server.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include <fmt/format.h>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>

#include "common/log.h"

namespace banyan::net {

namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using Clock = std::chrono::steady_clock;
using boost::system::error_code;

constexpr size_t kReadBytes = 16 * 1024;
constexpr size_t kTurnBytes = 1024 * 1024;
constexpr size_t kCopyBytes = 256 * 1024;

class Connection;

std::string FormatHead(int status, const std::vector<std::pair<std::string, std::string>>& headers,
                       std::optional<uint64_t> body_bytes, bool chunked, bool keep_alive) {
  std::string head = fmt::format("HTTP/1.1 {} {}\r\n", status, HttpReason(status));
  for (const auto& [name, value] : headers) {
    head += name;
    head += ": ";
    for (const char c : value) head += c == '\r' || c == '\n' ? ' ' : c;  // no value can end its line
    head += "\r\n";
  }
  if (body_bytes) head += fmt::format("Content-Length: {}\r\n", *body_bytes);
  if (chunked) head += "Transfer-Encoding: chunked\r\n";
  head += keep_alive ? "\r\n" : "Connection: close\r\n\r\n";
  return head;
}

}  // namespace

struct HttpServer::Impl : std::enable_shared_from_this<HttpServer::Impl> {
  Impl(const HttpServerOptions& server_options, HttpHandler server_handler)
      : options(server_options), handler(std::move(server_handler)), acceptor(context), accept_timer(context) {}

  const HttpServerOptions options;
  const HttpHandler handler;
  asio::io_context context;
  tcp::acceptor acceptor;  // used by the accept chain and, at the end, by Stop() through it
  asio::steady_timer accept_timer;
  std::vector<std::thread> threads;
  std::atomic<bool> stopping{false};
  std::atomic<bool> stopped{false};  // no thread runs the context any more

  mutable std::mutex mutex;
  std::condition_variable emptied;
  std::map<Connection*, std::weak_ptr<Connection>> connections;  // the open ones; guarded by mutex
  bool accept_waits = false;                                     // guarded by mutex: the cap is reached

  Status Listen();
  void SetLimits(int socket) const;
  void Accept();
  void Remove(Connection* connection);
};

namespace {

// One client. All but the HttpReply calls runs on `strand_`.
class Connection final : public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::shared_ptr<HttpServer::Impl> server, tcp::socket socket);
  void Begin() {
    Post([self = shared_from_this()] { self->ReadRequest(); });
  }
  // Closes it now if it waits for a request; else after the answer.
  void Retire() {
    Post([self = shared_from_this()] {
      if (!self->replying_) self->Close();
    });
  }
  void Kill() {
    Post([self = shared_from_this()] { self->Close(); });
  }
  // False: the server has stopped, and the task was dropped.
  template <typename Task>
  bool Post(Task task) {
    if (server_->stopped) return false;
    asio::post(strand_, std::move(task));
    return true;
  }
  bool on_strand() const { return strand_.running_in_this_thread(); }

  // The HttpReply side, on the strand. Nothing is to be done for a reply whose request is over: the connection may be
  // with the next one.
  bool IsCurrent(uint64_t request) const { return request == request_; }
  void Send(HttpResponse response);
  void SendInterim(int status, const std::vector<std::pair<std::string, std::string>>& headers);
  void SendHead(int status, const std::vector<std::pair<std::string, std::string>>& headers,
                std::optional<uint64_t> body_bytes);
  void Write(std::string bytes, FileRange file, std::function<void(bool)> on_written);
  void End();
  void Abandon();
  void Close();
  void OnGone(std::function<void()> on_gone);

 private:
  struct Output {
    std::string bytes;
    FileRange file;  // sent when `bytes` are out
    std::function<void(bool)> on_written;
    size_t sent = 0;
  };

  bool keep_alive() const { return request_keep_alive_ && !server_->stopping && !close_after_reply_; }
  void SetDeadline(std::chrono::milliseconds timeout);
  void ArmTimer();
  void Linger();
  void ReadRequest();
  void ReadMore();
  void TakeInput();
  uint64_t OpenBody(const HttpRequest& head);
  bool PassBodyOn();
  void EndBody(bool whole);
  void Refuse(int status);
  void Dispatch();
  void Enqueue(Output output);
  void Pump();
  void PumpWhenWritable();
  ssize_t SendPiece(Output& output, size_t most);
  ssize_t SendBytes(Output& output, size_t wanted);
  ssize_t SendFile(FileRange& file, size_t wanted);
  void OutputDone();
  void FinishReply();
  void WatchForEnd();

  const std::shared_ptr<HttpServer::Impl> server_;  // shared: replies may outlive the server
  tcp::socket socket_;
  const std::string client_;
  asio::strand<asio::io_context::executor_type> strand_;
  asio::steady_timer timer_;
  Clock::time_point deadline_ = Clock::time_point::max();
  Clock::time_point armed_until_ = Clock::time_point::max();
  std::string input_;
  std::optional<HttpRequestParser> parser_;
  std::shared_ptr<HttpBody> body_;  // of the request that is being read
  bool continue_sent_ = false;
  bool open_ = true;

  uint64_t request_ = 0;   // which one is being read or answered
  bool replying_ = false;  // a request is with the handler, or its answer under way
  bool head_sent_ = false;
  bool ended_ = false;
  bool is_head_request_ = false;
  bool request_keep_alive_ = false;
  bool close_after_reply_ = false;
  bool chunked_ = false;
  std::optional<uint64_t> body_left_;
  std::deque<Output> outputs_;
  bool pumping_ = false;
  std::function<void()> on_gone_;  // empty once the answer is complete
  bool watching_ = false;
  std::vector<char> copy_buffer_;
};

class Reply final : public HttpReply {
 public:
  Reply(std::shared_ptr<Connection> connection, uint64_t request)
      : connection_(std::move(connection)), request_(request) {}
  ~Reply() override {
    if (!complete_) Post([](Connection& c) { c.Abandon(); });
  }
  void Send(HttpResponse response) override {
    if (!begun_.exchange(true)) complete_ = true;
    // At once where that is possible: an answer from the store then costs no way through the queue.
    if (!connection_->on_strand()) {
      return Post([r = std::move(response)](Connection& c) mutable { c.Send(std::move(r)); });
    }
    if (connection_->IsCurrent(request_)) connection_->Send(std::move(response));
  }
  void SendInterim(int status, std::vector<std::pair<std::string, std::string>> headers) override {
    // At once where Send() would be, which must not overtake it.
    if (!connection_->on_strand()) {
      return Post([status, h = std::move(headers)](Connection& c) { c.SendInterim(status, h); });
    }
    if (connection_->IsCurrent(request_)) connection_->SendInterim(status, headers);
  }
  void SendHead(int status, std::vector<std::pair<std::string, std::string>> headers,
                std::optional<uint64_t> body_bytes) override {
    begun_ = true;
    Post([status, h = std::move(headers), body_bytes](Connection& c) { c.SendHead(status, h, body_bytes); });
  }
  void Write(std::string bytes, std::function<void(bool)> on_written) override {
    Write(std::move(bytes), {}, std::move(on_written));
  }
  void WriteFile(FileRange file, std::function<void(bool)> on_written) override {
    Write({}, std::move(file), std::move(on_written));
  }
  void End() override {
    Post([](Connection& c) { c.End(); });
  }
  void Abort() override {
    Post([](Connection& c) { c.Close(); });
  }
  void OnGone(std::function<void()> on_gone) override {
    const auto shared = std::make_shared<std::function<void()>>(std::move(on_gone));  // survives a dropped task
    const bool posted = connection_->Post([c = connection_, request = request_, shared] {
      if (c->IsCurrent(request)) c->OnGone(std::move(*shared));
    });
    if (!posted) (*shared)();
  }

 private:
  template <typename Task>
  void Post(Task task) {
    connection_->Post([c = connection_, request = request_, t = std::move(task)]() mutable {
      if (c->IsCurrent(request)) t(*c);
    });
  }
  void Write(std::string bytes, FileRange file, std::function<void(bool)> on_written) {
    const auto shared_done =
        std::make_shared<std::function<void(bool)>>(std::move(on_written));  // survives a dropped task
    const bool posted = connection_->Post(
        [c = connection_, request = request_, b = std::move(bytes), f = std::move(file), shared_done]() mutable {
          if (c->IsCurrent(request)) return c->Write(std::move(b), std::move(f), std::move(*shared_done));
          if (*shared_done) (*shared_done)(false);
        });
    if (!posted && *shared_done) (*shared_done)(false);
  }

  const std::shared_ptr<Connection> connection_;
  const uint64_t request_;
  std::atomic<bool> begun_{false};
  std::atomic<bool> complete_{false};  // Send() was called, so that nothing is left to be said
};

// Empty when the client has gone already.
std::string AddressOf(const tcp::socket& socket) {
  error_code error;
  const tcp::endpoint endpoint = socket.remote_endpoint(error);
  return error ? std::string() : endpoint.address().to_string();
}

Connection::Connection(std::shared_ptr<HttpServer::Impl> server, tcp::socket socket)
    : server_(std::move(server)),
      socket_(std::move(socket)),
      client_(AddressOf(socket_)),
      strand_(asio::make_strand(server_->context)),
      timer_(server_->context) {}

// A timer that fires early looks again, so that moving the deadline away costs nothing.
void Connection::SetDeadline(std::chrono::milliseconds timeout) {
  deadline_ = Clock::now() + timeout;
  if (deadline_ < armed_until_) ArmTimer();
}

void Connection::ArmTimer() {
  armed_until_ = deadline_;
  if (deadline_ == Clock::time_point::max()) return;
  timer_.expires_at(deadline_);
  timer_.async_wait(asio::bind_executor(strand_, [self = shared_from_this()](const error_code& error) {
    if (error || !self->open_) return;  // armed anew, or closed
    if (Clock::now() >= self->deadline_) return self->Close();
    self->ArmTimer();
  }));
}

void Connection::ReadRequest() {
  if (server_->stopping) return Close();
  ++request_;
  replying_ = head_sent_ = ended_ = continue_sent_ = chunked_ = false;
  body_left_.reset();
  on_gone_ = nullptr;
  HttpRequestParser::BodyLimit body_limit;
  if (server_->options.open_body) body_limit = [this](const HttpRequest& head) { return OpenBody(head); };
  parser_.emplace(server_->options.max_header_bytes, server_->options.max_body_bytes, std::move(body_limit));
  SetDeadline(input_.empty() ? server_->options.idle_timeout : server_->options.request_timeout);
  if (input_.empty()) return ReadMore();
  // Not from here: many small requests that came together would nest as deeply.
  Post([self = shared_from_this()] {
    if (self->open_) self->TakeInput();
  });
}

void Connection::ReadMore() {
  const size_t used = input_.size();
  input_.resize(used + kReadBytes);
  socket_.async_read_some(
      asio::buffer(input_.data() + used, kReadBytes),
      asio::bind_executor(strand_, [self = shared_from_this(), used](const error_code& error, size_t count) {
        self->input_.resize(used + count);
        if (error || !self->open_) return self->Close();
        if (used == 0 && !self->parser_->header_done()) self->SetDeadline(self->server_->options.request_timeout);
        self->TakeInput();
      }));
}

void Connection::TakeInput() {
  const Result<size_t> consumed = parser_->Feed(input_);
  if (!consumed) return Refuse(parser_->refusal());
  input_.erase(0, *consumed);
  if (body_ && PassBodyOn()) return;
  if (parser_->done()) return Dispatch();
  // Beast stops a header that does not end at its limit; what it leaves over cannot exceed that.
  if (input_.size() > server_->options.max_header_bytes + kReadBytes) return Refuse(431);
  if (parser_->wants_continue() && !continue_sent_) {
    continue_sent_ = true;
    Enqueue({"HTTP/1.1 100 Continue\r\n\r\n", {}, nullptr});
  }
  ReadMore();
}

uint64_t Connection::OpenBody(const HttpRequest& head) {
  body_ = server_->options.open_body(head);
  return body_ ? std::numeric_limits<uint64_t>::max() : server_->options.max_body_bytes;
}

// Gives what has come to the body's taker. True: there was something, and reading goes on when the taker says so.
bool Connection::PassBodyOn() {
  std::string bytes = parser_->TakeBody();
  if (bytes.empty()) return false;
  deadline_ = Clock::time_point::max();
  body_->OnData(std::move(bytes), [self = shared_from_this()] {
    self->Post([self] {
      if (!self->open_) return;
      self->SetDeadline(self->server_->options.request_timeout);
      if (self->parser_->done()) return self->Dispatch();
      self->TakeInput();
    });
  });
  return true;
}

void Connection::EndBody(bool whole) {
  if (body_) std::exchange(body_, nullptr)->OnEnd(whole);
}

void Connection::Refuse(int status) {
  EndBody(false);
  replying_ = true;
  close_after_reply_ = true;
  is_head_request_ = false;
  Send({status, {}, std::string()});
}

void Connection::Dispatch() {
  HttpRequest request = parser_->Take();
  request.client = client_;
  request.taken_body = body_;
  EndBody(true);
  replying_ = true;
  is_head_request_ = request.method == "HEAD";
  request_keep_alive_ = request.keep_alive;
  deadline_ = Clock::time_point::max();  // the handler takes the time it takes
  server_->handler(std::move(request), std::make_shared<Reply>(shared_from_this(), request_));
}

void Connection::Send(HttpResponse response) {
  if (!replying_ || head_sent_) return;
  head_sent_ = ended_ = true;
  on_gone_ = nullptr;
  Output output;
  uint64_t body_bytes = 0;
  if (auto* file = std::get_if<FileRange>(&response.body)) {
    body_bytes = file->range.empty() ? 0 : file->range.size();
    if (!is_head_request_) output.file = std::move(*file);
  } else {
    body_bytes = std::get<std::string>(response.body).size();
  }
  const bool bodiless = response.status == 204 || response.status == 304;
  output.bytes = FormatHead(response.status, response.headers, bodiless ? std::nullopt : std::optional(body_bytes),
                            false, keep_alive());
  if (!is_head_request_ && !bodiless) {
    if (const auto* text = std::get_if<std::string>(&response.body)) output.bytes += *text;
  }
  Enqueue(std::move(output));
}

void Connection::SendInterim(int status, const std::vector<std::pair<std::string, std::string>>& headers) {
  if (!replying_ || head_sent_ || status < 101 || status > 199) return;
  Enqueue({FormatHead(status, headers, std::nullopt, false, true), {}, nullptr});
}

void Connection::SendHead(int status, const std::vector<std::pair<std::string, std::string>>& headers,
                          std::optional<uint64_t> body_bytes) {
  if (!replying_ || head_sent_) return;
  head_sent_ = true;
  chunked_ = !body_bytes;
  body_left_ = body_bytes;
  Enqueue({FormatHead(status, headers, body_bytes, chunked_, keep_alive()), {}, nullptr});
}

void Connection::Write(std::string bytes, FileRange file, std::function<void(bool)> on_written) {
  const uint64_t count = bytes.size() + (file.range.empty() ? 0 : file.range.size());
  const bool too_much = (body_left_ && count > *body_left_) || (chunked_ && !file.range.empty());
  if (!open_ || !head_sent_ || ended_ || too_much) {
    if (too_much) Close();
    if (on_written) on_written(false);
    return;
  }
  if (body_left_) *body_left_ -= count;
  if (is_head_request_) {
    bytes.clear();
    file = {};
  }
  if (chunked_ && !bytes.empty()) bytes = fmt::format("{:x}\r\n", bytes.size()) + bytes + "\r\n";
  Enqueue({std::move(bytes), std::move(file), std::move(on_written)});
}

void Connection::End() {
  if (!head_sent_ || ended_) return;
  if (body_left_.value_or(0) > 0) return Close();
  ended_ = true;
  on_gone_ = nullptr;
  Enqueue({chunked_ && !is_head_request_ ? "0\r\n\r\n" : "", {}, nullptr});
}

void Connection::Abandon() {
  if (!replying_ || ended_) return;
  if (head_sent_) return Close();
  Send({500, {}, std::string()});
}

void Connection::Close() {
  if (!std::exchange(open_, false)) return;
  server_->Remove(this);
  error_code ignored;
  socket_.close(ignored);
  timer_.cancel();
  pumping_ = false;
  EndBody(false);
  for (Output& output : std::exchange(outputs_, {})) {
    if (output.on_written) output.on_written(false);
  }
  if (const auto on_gone = std::exchange(on_gone_, nullptr)) on_gone();
}

void Connection::OnGone(std::function<void()> on_gone) {
  if (!open_) return on_gone();
  if (!replying_ || ended_) return;
  on_gone_ = std::move(on_gone);
  WatchForEnd();
}

// Nothing is read while a request is answered, so that the client's end would else be noticed by the next write.
void Connection::WatchForEnd() {
  if (std::exchange(watching_, true)) return;
  socket_.async_wait(tcp::socket::wait_read,
                     asio::bind_executor(strand_, [self = shared_from_this()](const error_code& error) {
                       self->watching_ = false;
                       if (error || !self->open_ || !self->on_gone_) return;
                       char byte = 0;
                       const ssize_t count = ::recv(self->socket_.native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
                       if (count > 0) return;  // the next request, early; its client will be noticed when it is read
                       if (count < 0 && (errno == EAGAIN || errno == EINTR)) return self->WatchForEnd();
                       self->Close();
                     }));
}

void Connection::Enqueue(Output output) {
  if (!open_) {
    if (output.on_written) output.on_written(false);
    return;
  }
  outputs_.push_back(std::move(output));
  if (pumping_) return;
  pumping_ = true;
  SetDeadline(server_->options.write_timeout);
  Pump();
}

// Sends what the socket takes, at most for a turn.
void Connection::Pump() {
  for (size_t turn = 0; open_ && pumping_;) {
    Output& output = outputs_.front();
    const uint64_t left = output.sent < output.bytes.size() ? output.bytes.size() - output.sent
                          : output.file.range.empty()       ? 0
                                                            : output.file.range.size();
    if (left == 0) {
      OutputDone();
      continue;
    }
    if (turn >= kTurnBytes) {  // it is over; the others' come first
      Post([self = shared_from_this()] { self->Pump(); });
      return;
    }
    const size_t wanted = std::min<uint64_t>(left, kTurnBytes - turn);
    const ssize_t count = SendPiece(output, wanted);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno != EAGAIN) return Close();
    if (count > 0) SetDeadline(server_->options.write_timeout);
    // Less than was asked for: the next call would only say that the socket is full.
    if (count < static_cast<ssize_t>(wanted)) return PumpWhenWritable();
    turn += static_cast<size_t>(count);
  }
}

void Connection::PumpWhenWritable() {
  socket_.async_wait(tcp::socket::wait_write,
                     asio::bind_executor(strand_, [self = shared_from_this()](const error_code& error) {
                       if (error) return self->Close();
                       self->Pump();
                     }));
}

// As send(2): the bytes that went out, or -1 with errno.
ssize_t Connection::SendPiece(Output& output, size_t wanted) {
  if (output.sent < output.bytes.size()) return SendBytes(output, wanted);
  const uint64_t begin = output.file.range.begin;
  const ssize_t count = SendFile(output.file, wanted);
  if (count > 0 || errno == EINTR || errno == EAGAIN || errno == EPIPE || errno == ECONNRESET) return count;
  spdlog::warn("http server: send a file at {}: {}", begin, errno == ENODATA ? "it ends early" : strerror(errno));
  return -1;
}

ssize_t Connection::SendBytes(Output& output, size_t wanted) {
  // A head goes out with the first bytes of its file.
  const int more = output.file.range.empty() ? 0 : MSG_MORE;
  const ssize_t count =
      ::send(socket_.native_handle(), output.bytes.data() + output.sent, wanted, MSG_NOSIGNAL | MSG_DONTWAIT | more);
  if (count > 0) output.sent += static_cast<size_t>(count);
  return count;
}

ssize_t Connection::SendFile(FileRange& file, size_t wanted) {
  auto offset = static_cast<off_t>(file.range.begin);
  ssize_t count = 0;
  if (server_->options.sendfile) {
    count = ::sendfile(socket_.native_handle(), file.fd, &offset, wanted);
  } else {
    copy_buffer_.resize(kCopyBytes);
    count = ::pread(file.fd, copy_buffer_.data(), std::min(wanted, kCopyBytes), offset);
    if (count > 0) {
      count =
          ::send(socket_.native_handle(), copy_buffer_.data(), static_cast<size_t>(count), MSG_NOSIGNAL | MSG_DONTWAIT);
    }
  }
  if (count == 0) errno = ENODATA;
  if (count > 0) file.range.begin += static_cast<uint64_t>(count);
  return count > 0 ? count : -1;
}

void Connection::OutputDone() {
  const Output output = std::move(outputs_.front());
  outputs_.pop_front();
  if (output.on_written) output.on_written(true);
  if (!open_ || !outputs_.empty()) return;
  pumping_ = false;
  if (replying_) deadline_ = Clock::time_point::max();
  if (replying_ && ended_) FinishReply();
}

void Connection::FinishReply() {
  if (!keep_alive()) {
    error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_send, ignored);
    SetDeadline(std::chrono::seconds(1));
    return Linger();
  }
  ReadRequest();
}

// The client may still be sending; closing at once would reset the connection and take the answer from it.
void Connection::Linger() {
  input_.resize(kReadBytes);
  socket_.async_read_some(asio::buffer(input_.data(), kReadBytes),
                          asio::bind_executor(strand_, [self = shared_from_this()](const error_code& error, size_t) {
                            if (error || self->server_->stopping) return self->Close();
                            self->Linger();
                          }));
}

}  // namespace

Status HttpServer::Impl::Listen() {
  error_code error;
  const asio::ip::address address = asio::ip::make_address(options.address, error);
  if (error) return Fail(Code::kInvalidArgument, fmt::format("listen on '{}': not an IP address", options.address));
  const tcp::endpoint endpoint(address, options.port);
  const auto check = [&](const char* what) -> Status {
    if (!error) return {};
    return FailErrno(fmt::format("{} {}:{}", what, options.address, options.port), error.value());
  };
  acceptor.open(endpoint.protocol(), error);
  BANYAN_TRY(check("open a socket for"));
  acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  acceptor.bind(endpoint, error);
  BANYAN_TRY(check("bind"));
  acceptor.listen(tcp::acceptor::max_listen_connections, error);
  return check("listen on");
}

// A kernel that does not know one of these serves all the same.
void HttpServer::Impl::SetLimits(int socket) const {
  const auto set = [&](int option, int value) {
    if (value > 0) ::setsockopt(socket, IPPROTO_TCP, option, &value, sizeof(value));
  };
  set(TCP_NOTSENT_LOWAT, static_cast<int>(options.notsent_bytes));
  set(TCP_USER_TIMEOUT, static_cast<int>(options.unacknowledged_timeout.count()));
}

void HttpServer::Impl::Accept() {
  if (stopping) return;
  {
    const std::lock_guard lock(mutex);
    accept_waits = connections.size() >= options.max_connections;
    if (accept_waits) return;
  }
  acceptor.async_accept([self = shared_from_this()](const error_code& error, tcp::socket socket) {
    if (error == asio::error::operation_aborted || self->stopping) return;
    if (error) {  // out of descriptors, most likely
      self->accept_timer.expires_after(std::chrono::milliseconds(100));
      return self->accept_timer.async_wait([self](const error_code&) { self->Accept(); });
    }
    error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    socket.non_blocking(true, ignored);
    self->SetLimits(socket.native_handle());
    const auto connection = std::make_shared<Connection>(self, std::move(socket));
    {
      const std::lock_guard lock(self->mutex);
      self->connections.emplace(connection.get(), connection);
    }
    connection->Begin();
    self->Accept();
  });
}

void HttpServer::Impl::Remove(Connection* connection) {
  const std::lock_guard lock(mutex);
  connections.erase(connection);
  if (connections.empty()) emptied.notify_all();
  if (std::exchange(accept_waits, false)) asio::post(context, [self = shared_from_this()] { self->Accept(); });
}

HttpServer::HttpServer(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() { Stop(); }

uint16_t HttpServer::port() const {
  error_code ignored;
  return impl_->acceptor.local_endpoint(ignored).port();
}

size_t HttpServer::connections() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->connections.size();
}

Result<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpServerOptions& options, HttpHandler handler) {
  auto impl = std::make_shared<Impl>(options, std::move(handler));
  BANYAN_TRY(impl->Listen());
  impl->Accept();
  for (uint32_t i = 0; i < std::max(options.threads, 1u); ++i) {
    impl->threads.emplace_back([raw = impl.get()] {
      // sendfile(2) to a client that has gone raises SIGPIPE on this thread, and has no flag against it.
      sigset_t pipe;
      ::sigemptyset(&pipe);
      ::sigaddset(&pipe, SIGPIPE);
      ::pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
      const auto work = asio::make_work_guard(raw->context);
      while (!raw->stopped) raw->context.run();
    });
  }
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

void HttpServer::Stop() {
  if (impl_->stopping.exchange(true)) return;
  asio::post(impl_->context, [impl = impl_] {
    error_code ignored;
    impl->acceptor.close(ignored);
    impl->accept_timer.cancel();
  });
  const auto open_connections = [&] {
    std::vector<std::shared_ptr<Connection>> open;
    for (const auto& [raw, weak] : impl_->connections) {
      if (auto connection = weak.lock()) open.push_back(std::move(connection));
    }
    return open;
  };
  std::unique_lock lock(impl_->mutex);
  auto open = open_connections();
  lock.unlock();
  for (const auto& connection : open) connection->Retire();
  lock.lock();
  impl_->emptied.wait_for(lock, impl_->options.stop_grace, [&] { return impl_->connections.empty(); });
  open = open_connections();
  lock.unlock();
  for (const auto& connection : open) connection->Kill();
  open.clear();
  lock.lock();
  impl_->emptied.wait(lock, [&] { return impl_->connections.empty(); });
  lock.unlock();
  impl_->stopped = true;
  impl_->context.stop();
  for (std::thread& thread : impl_->threads) thread.join();
  impl_->context.restart();
  impl_->context.poll();  // what is left are handlers of closed sockets and timers, which hold on to their connections
}

}  // namespace banyan::net
