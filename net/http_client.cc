#include "net/http_client.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <optional>
#include <thread>

#include <fmt/format.h>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include "net/http_message.h"

namespace banyan::net {

namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

constexpr size_t kReceiveBytes = 512 * 1024;
// A SYN that a full queue drops is sent again by the kernel after a second; a new connection's is sent at once. Doubled
// from dial to dial, so that a slow path gets its time.
constexpr std::chrono::milliseconds kFirstRedial{250};

struct IdleConnection {
  tcp::socket socket;
  Clock::time_point since;
};

std::string FormatRequest(const HttpClientRequest& request) {
  const bool v6 = request.address.find(':') != std::string::npos;
  std::string text = fmt::format("{} {} HTTP/1.1\r\nHost: {}{}{}:{}\r\n", request.method, request.target, v6 ? "[" : "",
                                 request.address, v6 ? "]" : "", request.port);
  for (const auto& [name, value] : request.headers) text += fmt::format("{}: {}\r\n", name, value);
  if (!request.body.empty()) text += fmt::format("Content-Length: {}\r\n", request.body.size());
  return text + "\r\n" + request.body;
}

bool HasLineEnd(const HttpClientRequest& request) {
  const auto dirty = [](const std::string& text) { return text.find_first_of("\r\n") != std::string::npos; };
  return dirty(request.method) || dirty(request.target) || request.target.find(' ') != std::string::npos ||
         std::any_of(request.headers.begin(), request.headers.end(),
                     [&](const auto& header) { return dirty(header.first) || dirty(header.second); });
}

}  // namespace

// All on the one thread but `next_id` and posting.
struct HttpClient::Impl {
  class Exchange;

  explicit Impl(const HttpClientOptions& client_options) : options(client_options), work(context.get_executor()) {}

  std::optional<tcp::socket> TakeIdle(const tcp::endpoint& peer);
  void KeepIdle(const tcp::endpoint& peer, tcp::socket socket);

  const HttpClientOptions options;
  asio::io_context context;
  asio::executor_work_guard<asio::io_context::executor_type> work;
  std::atomic<uint64_t> next_id{1};
  bool stopping = false;
  std::map<uint64_t, std::shared_ptr<Exchange>> exchanges;
  std::map<tcp::endpoint, std::deque<IdleConnection>> idle;
  std::thread thread;
};

class HttpClient::Impl::Exchange : public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(Impl& client, uint64_t id, HttpClientRequest request, HttpClientHandlers handlers)
      : client_(client),
        id_(id),
        request_(std::move(request)),
        handlers_(std::move(handlers)),
        socket_(client.context),
        timer_(client.context) {}

  void Begin() {
    error_code error;
    const asio::ip::address address = asio::ip::make_address(request_.address, error);
    if (error || HasLineEnd(request_))
      return Finish(Problem(Code::kInvalidArgument, "malformed address, target or header"));
    peer_ = tcp::endpoint(address, request_.port);
    output_ = FormatRequest(request_);
    Connect(/*may_reuse=*/true);
  }

  void Finish(Status status) {
    if (finished_) return;
    finished_ = true;
    const auto keep = shared_from_this();
    client_.exchanges.erase(id_);
    timer_.cancel();
    if (status && parser_ && parser_->keep_alive() && input_used_ == 0 && !client_.stopping) {
      client_.KeepIdle(peer_, std::move(socket_));
    } else {
      error_code ignored;
      socket_.close(ignored);
    }
    const auto handlers = std::exchange(handlers_, {});
    if (handlers.on_done) handlers.on_done(std::move(status));
  }

  Status Problem(Code code, std::string_view what) const {
    return Fail(code, fmt::format("{} {} at {}:{}: {}", request_.method, request_.target, request_.address,
                                  request_.port, what));
  }

 private:
  void Connect(bool may_reuse) {
    got_bytes_ = false;
    input_used_ = 0;
    parser_.emplace(
        client_.options.max_header_bytes, request_.method == "HEAD",
        [this](int status, const HeaderList& headers) {
          return handlers_.on_head ? handlers_.on_head(status, headers) : Status();
        },
        [this](std::span<const std::byte> data) { return handlers_.on_data ? handlers_.on_data(data) : Status(); },
        [this](int status, const HeaderList& headers) {
          if (handlers_.on_interim) handlers_.on_interim(status, headers);
        });
    if (may_reuse) {
      if (std::optional<tcp::socket> kept = client_.TakeIdle(peer_)) {
        reused_ = true;
        socket_ = std::move(*kept);
        return Send(0);
      }
    }
    reused_ = false;
    connect_deadline_ = Clock::now() + request_.connect_timeout;
    redial_after_ = kFirstRedial;
    Dial();
  }

  void Dial() {
    connecting_ = true;
    ArmUntil(std::min(connect_deadline_, Clock::now() + redial_after_), "connect timeout");
    redial_after_ *= 2;
    socket_.async_connect(peer_, [self = shared_from_this(), dial = ++dials_](const error_code& error) {
      if (self->finished_ || dial != self->dials_) return;
      self->connecting_ = false;
      if (error) return self->Finish(self->Problem(Code::kUnavailable, "connect: " + error.message()));
      error_code ignored;
      self->socket_.set_option(tcp::no_delay(true), ignored);
      self->Send(0);
    });
  }

  void Send(size_t sent) {
    Arm(request_.stall_timeout, "stalled");
    socket_.async_write_some(asio::buffer(output_.data() + sent, output_.size() - sent),
                             [self = shared_from_this(), sent](const error_code& error, size_t count) {
                               if (self->finished_) return;
                               if (error) return self->ConnectionLost(error);
                               if (sent + count < self->output_.size()) return self->Send(sent + count);
                               self->Receive();
                             });
  }

  void Receive() {
    Arm(request_.stall_timeout, "stalled");
    if (input_.empty()) input_.resize(kReceiveBytes);
    socket_.async_read_some(asio::buffer(input_.data() + input_used_, input_.size() - input_used_),
                            [self = shared_from_this()](const error_code& error, size_t count) {
                              if (self->finished_) return;
                              if (error == asio::error::eof && self->got_bytes_) return self->StreamEnded();
                              if (error) return self->ConnectionLost(error);
                              self->got_bytes_ = true;
                              self->input_used_ += count;
                              self->Parse();
                            });
  }

  void Parse() {
    const Result<size_t> consumed = parser_->Feed(std::string_view(input_.data(), input_used_));
    if (finished_) return;
    if (!consumed) return Finish(Problem(consumed.error().code, consumed.error().message));
    std::copy(input_.begin() + static_cast<ptrdiff_t>(*consumed), input_.begin() + static_cast<ptrdiff_t>(input_used_),
              input_.begin());
    input_used_ -= *consumed;
    if (parser_->done()) return Finish({});
    if (input_used_ == input_.size()) return Finish(Problem(Code::kInvalidArgument, "the answer cannot be parsed"));
    Receive();
  }

  void StreamEnded() {
    const Status status = parser_->FeedEnd();
    if (!status) return Finish(Problem(status.error().code, status.error().message));
    Finish({});
  }

  void ConnectionLost(const error_code& error) {
    error_code ignored;
    socket_.close(ignored);
    const bool idempotent = request_.method == "GET" || request_.method == "HEAD";
    if (reused_ && !got_bytes_ && idempotent) {
      socket_ = tcp::socket(client_.context);
      return Connect(/*may_reuse=*/false);
    }
    Finish(Problem(Code::kUnavailable, "the connection was cut: " + error.message()));
  }

  // A new deadline moves the timer only when it is nearer: a busy transfer would else re-arm it for each read.
  void Arm(std::chrono::milliseconds timeout, const char* what) { ArmUntil(Clock::now() + timeout, what); }

  void ArmUntil(Clock::time_point deadline, const char* what) {
    deadline_ = deadline;
    deadline_text_ = what;
    if (armed_ && timer_.expiry() <= deadline_) return;
    Wait();
  }

  void Wait() {
    armed_ = true;
    timer_.expires_at(deadline_);
    timer_.async_wait([self = shared_from_this()](const error_code& error) {
      if (error || self->finished_) return;
      if (Clock::now() < self->deadline_) return self->Wait();
      self->armed_ = false;
      if (self->connecting_ && self->deadline_ < self->connect_deadline_) {
        self->socket_ = tcp::socket(self->client_.context);
        return self->Dial();
      }
      self->Finish(self->Problem(Code::kDeadlineExceeded, self->deadline_text_));
    });
  }

  Impl& client_;
  const uint64_t id_;
  const HttpClientRequest request_;
  HttpClientHandlers handlers_;
  tcp::endpoint peer_;
  tcp::socket socket_;
  asio::steady_timer timer_;
  Clock::time_point deadline_;
  const char* deadline_text_ = "";
  Clock::time_point connect_deadline_;
  Clock::duration redial_after_{};
  uint64_t dials_ = 0;
  bool connecting_ = false;
  bool armed_ = false;
  std::string output_;
  std::vector<char> input_;
  size_t input_used_ = 0;
  std::optional<HttpResponseParser> parser_;
  bool reused_ = false;
  bool got_bytes_ = false;
  bool finished_ = false;
};

std::optional<tcp::socket> HttpClient::Impl::TakeIdle(const tcp::endpoint& peer) {
  const auto found = idle.find(peer);
  if (found == idle.end()) return std::nullopt;
  std::optional<tcp::socket> socket;
  // The newest is the likeliest to live; what is too old goes.
  while (!found->second.empty() && !socket) {
    IdleConnection& newest = found->second.back();
    if (Clock::now() - newest.since < options.idle_lifetime) socket = std::move(newest.socket);
    found->second.pop_back();
  }
  if (found->second.empty()) idle.erase(found);
  return socket;
}

void HttpClient::Impl::KeepIdle(const tcp::endpoint& peer, tcp::socket socket) {
  if (options.max_idle_per_peer == 0) return;
  std::deque<IdleConnection>& kept = idle[peer];
  kept.push_back({std::move(socket), Clock::now()});
  if (kept.size() > options.max_idle_per_peer) kept.pop_front();
}

HttpClient::HttpClient(const HttpClientOptions& options) : impl_(std::make_unique<Impl>(options)) {
  impl_->thread = std::thread([impl = impl_.get()] { impl->context.run(); });
}

HttpClient::~HttpClient() {
  asio::post(impl_->context, [impl = impl_.get()] {
    impl->stopping = true;
    while (!impl->exchanges.empty()) {
      const auto exchange = impl->exchanges.begin()->second;
      exchange->Finish(exchange->Problem(Code::kCancelled, "cancelled"));
    }
    impl->idle.clear();
    impl->work.reset();
  });
  impl_->thread.join();
}

uint64_t HttpClient::Start(HttpClientRequest request, HttpClientHandlers handlers) {
  const uint64_t id = impl_->next_id++;
  auto exchange = std::make_shared<Impl::Exchange>(*impl_, id, std::move(request), std::move(handlers));
  asio::post(impl_->context, [impl = impl_.get(), id, exchange = std::move(exchange)] {
    if (impl->stopping) return exchange->Finish(exchange->Problem(Code::kCancelled, "cancelled"));
    impl->exchanges.emplace(id, exchange);
    exchange->Begin();
  });
  return id;
}

void HttpClient::Cancel(uint64_t id) {
  asio::post(impl_->context, [impl = impl_.get(), id] {
    const auto found = impl->exchanges.find(id);
    if (found == impl->exchanges.end()) return;
    const auto exchange = found->second;
    exchange->Finish(exchange->Problem(Code::kCancelled, "cancelled"));
  });
}

}  // namespace banyan::net
