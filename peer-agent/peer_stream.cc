#include "peer-agent/peer_stream.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

namespace banyan::peer_agent {

namespace {

constexpr size_t kReceiveBytes = 256 * 1024;
constexpr uint32_t kMaxHeaderBytes = 32 * 1024;
// Less than this in so much time of waiting is no transfer: 32 KiB/s, as for chunks.
constexpr std::chrono::seconds kPaceTime{5};
constexpr size_t kPaceBytes = 160 * 1024;

struct Endpoint {
  sockaddr_storage storage{};
  socklen_t length = 0;
};

Result<Endpoint> Resolve(const std::string& address, uint16_t port) {
  Endpoint endpoint;
  auto& v4 = reinterpret_cast<sockaddr_in&>(endpoint.storage);
  auto& v6 = reinterpret_cast<sockaddr_in6&>(endpoint.storage);
  if (::inet_pton(AF_INET, address.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    endpoint.length = sizeof(v4);
  } else if (::inet_pton(AF_INET6, address.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
    endpoint.length = sizeof(v6);
  } else {
    return Fail(Code::kInvalidArgument, fmt::format("'{}' is not an address", address));
  }
  return endpoint;
}

std::string Format(const PeerStream::Request& request, const std::string& host) {
  std::string text = fmt::format("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", request.target, host);
  for (const auto& [name, value] : request.headers) text += fmt::format("{}: {}\r\n", name, value);
  return text + "\r\n";
}

bool HasLineEnd(const PeerStream::Request& request) {
  const auto dirty = [](const std::string& text) { return text.find_first_of("\r\n") != std::string::npos; };
  return dirty(request.target) || request.target.find(' ') != std::string::npos ||
         std::any_of(request.headers.begin(), request.headers.end(),
                     [&](const auto& header) { return dirty(header.first) || dirty(header.second); });
}

std::string HostOf(const PeerStream::Request& request) {
  const bool v6 = request.address.find(':') != std::string::npos;
  return fmt::format("{}{}{}:{}", v6 ? "[" : "", request.address, v6 ? "]" : "", request.port);
}

}  // namespace

PeerStream::PeerStream(const Request& request) : name_(HostOf(request)), stall_timeout_(request.stall_timeout) {}

Status PeerStream::Wait(short events, Clock::time_point until) {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now());
    if (left.count() <= 0) {
      return Fail(head_done_ ? Code::kDeadlineExceeded : Code::kUnavailable,
                  fmt::format("{}: silent for too long", name_));
    }
    pollfd entry{socket_.get(), events, 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(std::min<int64_t>(left.count(), 60'000)));
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return FailErrno(name_ + ": poll", errno);
  }
}

Status PeerStream::Connect(const Request& request) {
  BANYAN_ASSIGN(const Endpoint endpoint, Resolve(request.address, request.port));
  socket_ = UniqueFd(::socket(endpoint.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket_) return FailErrno("a socket for " + name_, errno);
  const auto refused = [&](int error) {
    return Fail(Code::kUnavailable, fmt::format("connect to {}: {}", name_, strerror(error)));
  };
  if (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&endpoint.storage), endpoint.length) == 0) return {};
  if (errno != EINPROGRESS) return refused(errno);
  BANYAN_TRY(Wait(POLLOUT, Clock::now() + request.connect_timeout));
  int error = 0;
  socklen_t length = sizeof(error);
  ::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  if (error != 0) return refused(error);
  return {};
}

Status PeerStream::Send(const std::string& bytes) {
  for (size_t sent = 0; sent < bytes.size();) {
    const ssize_t count = ::send(socket_.get(), bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (count > 0) sent += static_cast<size_t>(count);
    if (count >= 0 || errno == EINTR) continue;
    if (errno != EAGAIN) return Fail(Code::kUnavailable, fmt::format("send to {}: {}", name_, strerror(errno)));
    BANYAN_TRY(Wait(POLLOUT, Clock::now() + stall_timeout_));
  }
  return {};
}

Status PeerStream::CheckPace(Clock::duration waited, size_t bytes) {
  waited_ += waited;
  came_ += bytes;
  if (waited_ < kPaceTime) return {};
  if (came_ < kPaceBytes) return Fail(Code::kDeadlineExceeded, fmt::format("{}: too slow", name_));
  waited_ = {};
  came_ = 0;
  return {};
}

// Some more bytes through the parser.
Status PeerStream::Receive() {
  const auto begin = Clock::now();
  ssize_t count = 0;
  while (true) {
    count = ::recv(socket_.get(), input_.data() + input_used_, input_.size() - input_used_, 0);
    if (count >= 0) break;
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return Fail(Code::kUnavailable, fmt::format("receive from {}: {}", name_, strerror(errno)));
    BANYAN_TRY(Wait(POLLIN, begin + stall_timeout_));
  }
  if (head_done_) BANYAN_TRY(CheckPace(Clock::now() - begin, static_cast<size_t>(count)));
  if (count == 0) return parser_->FeedEnd();
  input_used_ += static_cast<size_t>(count);
  BANYAN_ASSIGN(const size_t consumed, parser_->Feed({input_.data(), input_used_}));
  std::memmove(input_.data(), input_.data() + consumed, input_used_ - consumed);
  input_used_ -= consumed;
  if (interim_failure_) return Fail(*interim_failure_);
  if (input_used_ == input_.size()) return Fail(Code::kInvalidArgument, name_ + ": the answer cannot be parsed");
  return {};
}

Result<std::unique_ptr<PeerStream>> PeerStream::Open(const Request& request, OnHead on_head,
                                                     const OnInterim& on_interim) {
  if (HasLineEnd(request)) return Fail(Code::kInvalidArgument, "malformed target or header");
  std::unique_ptr<PeerStream> stream(new PeerStream(request));
  PeerStream* const self = stream.get();
  self->input_.resize(kReceiveBytes);
  self->parser_.emplace(
      kMaxHeaderBytes, /*head_request=*/false,
      [self, on_head = std::move(on_head)](int status, const net::HeaderList& headers) {
        // Only the head is the caller's affair; it does not outlive this call.
        self->head_done_ = true;
        return on_head(status, headers);
      },
      [self](std::span<const std::byte> data) -> Status {
        self->body_.append(reinterpret_cast<const char*>(data.data()), data.size());
        return {};
      },
      [self, &on_interim](int, const net::HeaderList& headers) {
        if (self->interim_failure_) return;
        if (Status taken = on_interim(headers); !taken) self->interim_failure_ = taken.error();
      });
  BANYAN_TRY(self->Connect(request));
  BANYAN_TRY(self->Send(Format(request, self->name_)));
  const auto until = Clock::now() + request.longest_wait;
  while (!self->head_done_) {
    BANYAN_TRY(self->Receive());
    if (!self->head_done_ && Clock::now() > until) {
      return Fail(Code::kDeadlineExceeded, fmt::format("{}: no answer in all this time", self->name_));
    }
  }
  return stream;
}

Result<size_t> PeerStream::Read(std::span<std::byte> buffer) {
  while (body_read_ == body_.size()) {
    body_.clear();
    body_read_ = 0;
    if (parser_->done()) return size_t{0};
    BANYAN_TRY(Receive());
  }
  const size_t count = std::min(buffer.size(), body_.size() - body_read_);
  std::memcpy(buffer.data(), body_.data() + body_read_, count);
  body_read_ += count;
  return count;
}

}  // namespace banyan::peer_agent
