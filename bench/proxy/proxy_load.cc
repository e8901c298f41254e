// How fast a server of files answers: keep-alive HTTP/1.1 connections, each asking again as soon as it has its answer.
//
// The client shares its processors with the server, so it must cost next to nothing: one thread, one epoll, and bodies
// that the kernel drops (MSG_TRUNC) instead of copying them. That makes it the hardest load: nothing but the server's
// own work is in the way. With --copy it reads the bytes as real clients do. The answers' status and length are
// checked; whether the bytes are right is for the tests.
//
//   proxy_load --port P --connections N --seconds S [--range-bytes B] [--copy] PATH=SIZE…
// Prints one JSON object: bytes, requests, seconds, client_cpu_seconds.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "bench/process.h"
#include "common/unique_fd.h"

namespace banyan::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kReceiveBytes = 256 * 1024;
constexpr size_t kMaxHeadBytes = 8 * 1024;
constexpr int kReadsInARow = 4;  // then it is the other connections' turn

struct Flags {
  uint16_t port = 0;
  size_t connections = 1;
  double seconds = 3;
  uint64_t range_bytes = 0;
  bool copy = false;
  std::vector<std::string> files;
};

struct File {
  std::string path;
  uint64_t size;
};

[[noreturn]] void Die(const std::string& message) {
  fmt::print(stderr, "proxy_load: {}\n", message);
  std::exit(1);
}

class Load;

// One connection: sends a request, reads the head, then drops the body.
class Client {
 public:
  Client(Load& load, uint16_t port);
  int fd() const { return fd_.get(); }
  void Ask();
  void OnReadable();

 private:
  bool ReadHead();
  bool ReadBody();

  Load& load_;
  UniqueFd fd_;
  std::string head_;
  bool in_body_ = false;
  uint64_t left_ = 0;
};

class Load {
 public:
  explicit Load(const Flags& flags);
  void Run();

  std::string NextRequest(uint64_t& body_bytes);
  void Count(uint64_t bytes) { bytes_ += bytes; }
  void CountRequest() { ++requests_; }
  bool copy() const { return flags_.copy; }
  char* buffer() { return buffer_.data(); }

 private:
  const Flags flags_;
  std::vector<File> files_;
  std::mt19937_64 random_{1};
  std::vector<char> buffer_ = std::vector<char>(kReceiveBytes);
  std::vector<std::unique_ptr<Client>> clients_;
  uint64_t bytes_ = 0;
  uint64_t requests_ = 0;
};

Client::Client(Load& load, uint16_t port) : load_(load), fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int on = 1;
  ::setsockopt(fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (::connect(fd(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    Die(fmt::format("connect to port {}: {}", port, strerror(errno)));
  }
}

void Client::Ask() {
  const std::string request = load_.NextRequest(left_);
  if (::send(fd(), request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size())) {
    Die(fmt::format("send: {}", strerror(errno)));
  }
  in_body_ = false;
  head_.clear();
}

void Client::OnReadable() {
  // What is left over is seen again: epoll is level-triggered.
  if (!in_body_ && !ReadHead()) return;
  if (!ReadBody()) return;
  load_.CountRequest();
  Ask();
}

// The head is looked at first and then taken, so that nothing of the body is.
bool Client::ReadHead() {
  char peeked[kMaxHeadBytes];
  const ssize_t count = ::recv(fd(), peeked, sizeof peeked, MSG_PEEK | MSG_DONTWAIT);
  if (count < 0 && errno == EAGAIN) return false;
  if (count <= 0) Die("the server closed a connection");
  const std::string_view seen(peeked, static_cast<size_t>(count));
  const size_t end = seen.find("\r\n\r\n");
  if (end == std::string_view::npos) Die("an answer's head came in pieces");
  head_ = seen.substr(0, end + 4);
  ::recv(fd(), peeked, head_.size(), 0);
  if (head_.find(" 200 ") != 8 && head_.find(" 206 ") != 8) Die("answer: " + head_.substr(0, head_.find('\r')));
  const bool right_length = head_.find(fmt::format("Content-Length: {}\r\n", left_)) != std::string::npos;
  if (!right_length) Die("wrong length:\n" + head_);
  in_body_ = true;
  return true;
}

bool Client::ReadBody() {
  for (int i = 0; i < kReadsInARow && left_ > 0; ++i) {
    const size_t wanted = std::min<uint64_t>(left_, kReceiveBytes);
    const ssize_t count = ::recv(fd(), load_.buffer(), wanted, MSG_DONTWAIT | (load_.copy() ? 0 : MSG_TRUNC));
    if (count < 0 && errno == EAGAIN) return false;
    if (count <= 0) Die("a body was cut");
    left_ -= static_cast<uint64_t>(count);
    load_.Count(static_cast<uint64_t>(count));
  }
  return left_ == 0;
}

Load::Load(const Flags& flags) : flags_(flags) {
  for (const std::string& file : flags.files) {
    const size_t equals = file.rfind('=');
    if (equals == std::string::npos) Die("not PATH=SIZE: " + file);
    files_.push_back({file.substr(0, equals), std::strtoull(file.c_str() + equals + 1, nullptr, 10)});
    if (files_.back().size <= flags.range_bytes) Die(file + " is not larger than a range");
  }
}

std::string Load::NextRequest(uint64_t& body_bytes) {
  const File& file = files_[random_() % files_.size()];
  body_bytes = flags_.range_bytes > 0 ? flags_.range_bytes : file.size;
  std::string range;
  if (flags_.range_bytes > 0) {
    const uint64_t begin = random_() % (file.size / flags_.range_bytes) * flags_.range_bytes;
    range = fmt::format("Range: bytes={}-{}\r\n", begin, begin + flags_.range_bytes - 1);
  }
  return fmt::format("GET {} HTTP/1.1\r\nHost: bench\r\n{}\r\n", file.path, range);
}

void Load::Run() {
  const UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  for (size_t i = 0; i < flags_.connections; ++i) {
    clients_.push_back(std::make_unique<Client>(*this, flags_.port));
    epoll_event event{.events = EPOLLIN, .data = {.ptr = clients_.back().get()}};
    ::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, clients_.back()->fd(), &event);
  }
  const auto begin = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  for (const auto& client : clients_) client->Ask();
  std::vector<epoll_event> events(flags_.connections);
  while (elapsed() < flags_.seconds) {
    const int count = ::epoll_wait(epoll.get(), events.data(), static_cast<int>(events.size()), 5'000);
    if (count < 0 && errno != EINTR) Die(fmt::format("epoll_wait: {}", strerror(errno)));
    if (count == 0) Die("no byte for 5 s");
    for (int i = 0; i < count; ++i) static_cast<Client*>(events[static_cast<size_t>(i)].data.ptr)->OnReadable();
  }
  fmt::print("{{\"bytes\": {}, \"requests\": {}, \"seconds\": {:.6f}, \"client_cpu_seconds\": {:.6f}}}\n", bytes_,
             requests_, elapsed(), bench::CpuSeconds());
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Measures a server of files.", "proxy_load");
  app.add_option("--port", flags.port, "On 127.0.0.1")->required();
  app.add_option("--connections", flags.connections, "At once")->check(CLI::PositiveNumber);
  app.add_option("--seconds", flags.seconds, "How long");
  app.add_option("--range-bytes", flags.range_bytes, "Ask for aligned ranges of this size; 0: whole files");
  app.add_flag("--copy", flags.copy, "Read bodies instead of having the kernel drop them");
  app.add_option("file", flags.files, "PATH=SIZE")->required();
  CLI11_PARSE(app, argc, argv);
  Load(flags).Run();
  return 0;
}

}  // namespace
}  // namespace banyan::bench

int main(int argc, char** argv) { return banyan::bench::Main(argc, argv); }
