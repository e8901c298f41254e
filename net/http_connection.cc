#include "net/http_connection.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#include <fmt/format.h>
#include <boost/asio/bind_executor.hpp>

#include "common/log.h"
#include "net/tcp_rate.h"

namespace banyan::net {

namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using Clock = std::chrono::steady_clock;
using boost::system::error_code;

constexpr size_t kReadBytes = 16 * 1024;
constexpr size_t kTurnBytes = 1024 * 1024;
constexpr size_t kCopyBytes = 256 * 1024;
constexpr std::chrono::milliseconds kReleaseInterval{50};

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

class Reply final : public HttpReply {
 public:
  Reply(std::shared_ptr<HttpConnection> connection, uint64_t request)
      : connection_(std::move(connection)), request_(request) {}
  ~Reply() override {
    if (!complete_) Post([](HttpConnection& c) { c.Abandon(); });
  }
  void Send(HttpResponse response) override {
    if (!begun_.exchange(true)) complete_ = true;
    // At once where that is possible: an answer from the store then costs no way through the queue.
    if (!connection_->on_strand()) {
      return Post([r = std::move(response)](HttpConnection& c) mutable { c.Send(std::move(r)); });
    }
    if (connection_->IsCurrent(request_)) connection_->Send(std::move(response));
  }
  void SendInterim(int status, std::vector<std::pair<std::string, std::string>> headers) override {
    // At once where Send() would be, which must not overtake it.
    if (!connection_->on_strand()) {
      return Post([status, h = std::move(headers)](HttpConnection& c) { c.SendInterim(status, h); });
    }
    if (connection_->IsCurrent(request_)) connection_->SendInterim(status, headers);
  }
  void SendHead(int status, std::vector<std::pair<std::string, std::string>> headers,
                std::optional<uint64_t> body_bytes) override {
    begun_ = true;
    Post([status, h = std::move(headers), body_bytes](HttpConnection& c) { c.SendHead(status, h, body_bytes); });
  }
  void Write(std::string bytes, std::function<void(bool)> on_written) override {
    Write(std::move(bytes), {}, std::move(on_written));
  }
  void WriteFile(FileRange file, std::function<void(bool)> on_written) override {
    Write({}, std::move(file), std::move(on_written));
  }
  void End() override {
    Post([](HttpConnection& c) { c.End(); });
  }
  void Abort() override {
    Post([](HttpConnection& c) { c.Close(); });
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

  const std::shared_ptr<HttpConnection> connection_;
  const uint64_t request_;
  std::atomic<bool> begun_{false};
  std::atomic<bool> complete_{false};  // Send() was called, so that nothing is left to be said
};

// Empty when the client has gone already.
std::string AddressOf(const tcp::socket& socket) {
  error_code error;
  const asio::ip::address address = socket.remote_endpoint(error).address();
  if (error) return {};
  const bool mapped = address.is_v6() && address.to_v6().is_v4_mapped();  // of a listener for both
  return mapped ? asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6()).to_string() : address.to_string();
}

}  // namespace

HttpConnection::HttpConnection(std::shared_ptr<HttpServer::Impl> server, tcp::socket socket)
    : server_(std::move(server)),
      socket_(std::move(socket)),
      client_(AddressOf(socket_)),
      strand_(asio::make_strand(server_->context)),
      timer_(server_->context),
      release_timer_(server_->context) {}

// A timer that fires early looks again, so that moving the deadline away costs nothing.
void HttpConnection::SetDeadline(std::chrono::milliseconds timeout) {
  deadline_ = Clock::now() + timeout;
  if (deadline_ < armed_until_) ArmTimer();
}

void HttpConnection::ArmTimer() {
  armed_until_ = deadline_;
  if (deadline_ == Clock::time_point::max()) return;
  timer_.expires_at(deadline_);
  timer_.async_wait(asio::bind_executor(strand_, [self = shared_from_this()](const error_code& error) {
    if (error || !self->open_) return;  // armed anew, or closed
    if (Clock::now() >= self->deadline_) return self->Close();
    self->ArmTimer();
  }));
}

void HttpConnection::ReadRequest() {
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

void HttpConnection::ReadMore() {
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

void HttpConnection::TakeInput() {
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

uint64_t HttpConnection::OpenBody(const HttpRequest& head) {
  body_ = server_->options.open_body(head);
  return body_ ? std::numeric_limits<uint64_t>::max() : server_->options.max_body_bytes;
}

// Gives what has come to the body's taker. True: there was something, and reading goes on when the taker says so.
bool HttpConnection::PassBodyOn() {
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

void HttpConnection::EndBody(bool whole) {
  if (body_) std::exchange(body_, nullptr)->OnEnd(whole);
}

void HttpConnection::Refuse(int status) {
  EndBody(false);
  replying_ = true;
  close_after_reply_ = true;
  is_head_request_ = false;
  Send({status, {}, std::string()});
}

void HttpConnection::Dispatch() {
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

void HttpConnection::Send(HttpResponse response) {
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

void HttpConnection::SendInterim(int status, const std::vector<std::pair<std::string, std::string>>& headers) {
  if (!replying_ || head_sent_ || status < 101 || status > 199) return;
  Enqueue({FormatHead(status, headers, std::nullopt, false, true), {}, nullptr});
}

void HttpConnection::SendHead(int status, const std::vector<std::pair<std::string, std::string>>& headers,
                              std::optional<uint64_t> body_bytes) {
  if (!replying_ || head_sent_) return;
  head_sent_ = true;
  chunked_ = !body_bytes;
  body_left_ = body_bytes;
  Enqueue({FormatHead(status, headers, body_bytes, chunked_, keep_alive()), {}, nullptr});
}

void HttpConnection::Write(std::string bytes, FileRange file, std::function<void(bool)> on_written) {
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

void HttpConnection::End() {
  if (!head_sent_ || ended_) return;
  if (body_left_.value_or(0) > 0) return Close();
  ended_ = true;
  on_gone_ = nullptr;
  Enqueue({chunked_ && !is_head_request_ ? "0\r\n\r\n" : "", {}, nullptr});
}

void HttpConnection::Abandon() {
  if (!replying_ || ended_) return;
  if (head_sent_) return Close();
  Send({500, {}, std::string()});
}

void HttpConnection::Close() {
  if (!std::exchange(open_, false)) return;
  server_->Remove(this);
  error_code ignored;
  socket_.close(ignored);
  timer_.cancel();
  release_timer_.cancel();
  unacknowledged_.clear();
  pumping_ = false;
  EndBody(false);
  for (Output& output : std::exchange(outputs_, {})) {
    if (output.on_written) output.on_written(false);
  }
  if (const auto on_gone = std::exchange(on_gone_, nullptr)) on_gone();
}

void HttpConnection::OnGone(std::function<void()> on_gone) {
  if (!open_) return on_gone();
  if (!replying_ || ended_) return;
  on_gone_ = std::move(on_gone);
  WatchForEnd();
}

// Nothing is read while a request is answered, so that the client's end would else be noticed by the next write.
void HttpConnection::WatchForEnd() {
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

void HttpConnection::Enqueue(Output output) {
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
void HttpConnection::Pump() {
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
    if (count > 0) {
      sent_bytes_ += static_cast<uint64_t>(count);
      LimitBacklog();
      SetDeadline(server_->options.write_timeout);
    }
    // Less than was asked for: the next call would only say that the socket is full.
    if (count < static_cast<ssize_t>(wanted)) return PumpWhenWritable();
    turn += static_cast<size_t>(count);
  }
}

// Keeps the send buffer in step with the rate. Looks at it when half a buffer has gone, but every turn at least, since
// the rate may have fallen.
void HttpConnection::LimitBacklog() {
  if (server_->options.backlog.count() == 0 || sent_bytes_ < next_limit_at_) return;
  const TcpRate rate = TcpRateOf(socket_.native_handle()).value_or(TcpRate());
  const auto half = static_cast<int>(SendBufferBytes(rate, server_->options.backlog) / 2);  // the kernel doubles it
  next_limit_at_ = sent_bytes_ + std::min(static_cast<uint64_t>(half), kTurnBytes);
  ::setsockopt(socket_.native_handle(), SOL_SOCKET, SO_SNDBUF, &half, sizeof(half));
}

void HttpConnection::PumpWhenWritable() {
  socket_.async_wait(tcp::socket::wait_write,
                     asio::bind_executor(strand_, [self = shared_from_this()](const error_code& error) {
                       if (error) return self->Close();
                       self->Pump();
                     }));
}

// As send(2): the bytes that went out, or -1 with errno.
ssize_t HttpConnection::SendPiece(Output& output, size_t wanted) {
  if (output.sent < output.bytes.size()) return SendBytes(output, wanted);
  const uint64_t begin = output.file.range.begin;
  const ssize_t count = SendFile(output.file, wanted);
  if (count > 0 || errno == EINTR || errno == EAGAIN || errno == EPIPE || errno == ECONNRESET) return count;
  spdlog::warn("http server: send a file at {}: {}", begin, errno == ENODATA ? "it ends early" : strerror(errno));
  return -1;
}

ssize_t HttpConnection::SendBytes(Output& output, size_t wanted) {
  // A head goes out with the first bytes of its file.
  const int more = output.file.range.empty() ? 0 : MSG_MORE;
  const ssize_t count =
      ::send(socket_.native_handle(), output.bytes.data() + output.sent, wanted, MSG_NOSIGNAL | MSG_DONTWAIT | more);
  if (count > 0) output.sent += static_cast<size_t>(count);
  return count;
}

ssize_t HttpConnection::SendFile(FileRange& file, size_t wanted) {
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

void HttpConnection::OutputDone() {
  Output output = std::move(outputs_.front());
  outputs_.pop_front();
  if (output.file.owner && server_->options.sendfile) {
    unacknowledged_.push_back({sent_bytes_, std::move(output.file.owner)});
    ReleaseLater();
  }
  if (output.on_written) output.on_written(true);
  if (!open_ || !outputs_.empty()) return;
  pumping_ = false;
  if (replying_) deadline_ = Clock::time_point::max();
  if (replying_ && ended_) FinishReply();
}

// Lets go of what had been acknowledged an interval ago: a client on this machine gets the very pages, and has them
// acknowledged before it reads them.
void HttpConnection::ReleaseLater() {
  if (unacknowledged_.empty() || std::exchange(release_waits_, true)) return;
  release_timer_.expires_after(kReleaseInterval);
  release_timer_.async_wait(asio::bind_executor(strand_, [self = shared_from_this()](const error_code&) {
    self->release_waits_ = false;
    if (!self->open_) return;
    auto& left = self->unacknowledged_;
    while (!left.empty() && left.front().end <= self->acknowledged_bytes_) left.pop_front();
    int queued = 0;
    if (::ioctl(self->socket_.native_handle(), SIOCOUTQ, &queued) != 0) queued = 0;
    self->acknowledged_bytes_ = self->sent_bytes_ - std::min(self->sent_bytes_, static_cast<uint64_t>(queued));
    self->ReleaseLater();
  }));
}

void HttpConnection::FinishReply() {
  if (!keep_alive()) {
    error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_send, ignored);
    SetDeadline(std::chrono::seconds(1));
    return Linger();
  }
  ReadRequest();
}

// The client may still be sending; closing at once would reset the connection and take the answer from it.
void HttpConnection::Linger() {
  input_.resize(kReadBytes);
  socket_.async_read_some(asio::buffer(input_.data(), kReadBytes),
                          asio::bind_executor(strand_, [self = shared_from_this()](const error_code& error, size_t) {
                            if (error || self->server_->stopping) return self->Close();
                            self->Linger();
                          }));
}

}  // namespace banyan::net
