#include "mirror/testing/raw_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <cstdlib>

namespace banyan::mirror::testing {

namespace {

// "<hex>\r\n<bytes>\r\n…0\r\n\r\n"; false when it ends early.
bool Unchunk(std::string& body) {
  std::string out;
  for (size_t at = 0;;) {
    const size_t line = body.find("\r\n", at);
    if (line == std::string::npos) break;
    const size_t count = std::strtoul(body.c_str() + at, nullptr, 16);
    if (count == 0) {
      body = std::move(out);
      return true;
    }
    out.append(body, line + 2, count);
    if (line + 2 + count > body.size()) break;
    at = line + 2 + count + 2;
  }
  body = std::move(out);
  return false;
}

}  // namespace

std::string Answer::Header(const std::string& name) const {
  const auto found = headers.find(name);
  return found != headers.end() ? found->second : std::string();
}

Connection::Connection(uint16_t port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const timeval patience{.tv_sec = 60, .tv_usec = 0};
  ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  if (::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) fd_ = UniqueFd();
}

void Connection::Send(const std::string& method, const std::string& target, const std::string& headers) {
  const std::string request =
      method + " " + target + " HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n" + headers + "\r\n";
  if (::send(fd_.get(), request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size()))
    fd_ = UniqueFd();
}

bool Connection::Receive() {
  const ssize_t count = ::recv(fd_.get(), buffer_.data(), buffer_.size(), 0);
  if (count <= 0) return false;
  input_.append(buffer_.data(), static_cast<size_t>(count));
  return true;
}

Answer Connection::ReadHead() {
  size_t end;
  while ((end = input_.find("\r\n\r\n")) == std::string::npos) {
    if (!Receive()) return {};
  }
  Answer answer;
  const std::string head = input_.substr(0, end + 2);
  input_.erase(0, end + 4);
  answer.status = std::atoi(head.c_str() + head.find(' '));
  for (size_t at = head.find("\r\n") + 2; at < head.size();) {
    const size_t line = head.find("\r\n", at);
    const size_t colon = head.find(": ", at);
    std::string name = head.substr(at, colon - at);
    std::transform(name.begin(), name.end(), name.begin(), ::tolower);
    answer.headers[name] = head.substr(colon + 2, line - colon - 2);
    at = line + 2;
  }
  return answer;
}

std::string Connection::ReadBody(size_t limit) {
  while (input_.size() < limit && Receive()) {
  }
  std::string body = input_.substr(0, limit);
  input_.erase(0, limit);
  return body;
}

uint64_t Connection::SkipBody(uint64_t limit) {
  uint64_t skipped = 0;
  while (skipped < limit) {
    if (input_.empty() && !Receive()) break;
    const size_t count = std::min<uint64_t>(input_.size(), limit - skipped);
    input_.erase(0, count);
    skipped += count;
  }
  return skipped;
}

bool Connection::BodyIs(std::string_view expected) {
  while (!expected.empty()) {
    if (input_.empty() && !Receive()) return false;
    const size_t count = std::min(input_.size(), expected.size());
    if (expected.compare(0, count, input_, 0, count) != 0) return false;
    expected.remove_prefix(count);
    input_.erase(0, count);
  }
  return true;
}

Answer Ask(uint16_t port, const std::string& method, const std::string& target, const std::string& headers) {
  Connection connection(port);
  connection.Send(method, target, headers);
  Answer answer = connection.ReadHead();
  if (answer.status == 0 || method == "HEAD") return answer;
  const std::string length = answer.Header("content-length");
  answer.body = connection.ReadBody(length.empty() ? SIZE_MAX : std::strtoull(length.c_str(), nullptr, 10));
  answer.whole = length.empty() ? Unchunk(answer.body) : std::to_string(answer.body.size()) == length;
  return answer;
}

}  // namespace banyan::mirror::testing
