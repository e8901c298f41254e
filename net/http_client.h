// An asynchronous HTTP/1.1 client on Asio for the data plane between nodes: kept-alive connections, streamed bodies,
// timeouts. No redirects, no authentication, and two things are tried again: a request that a kept connection turns out
// to have died under, before a byte of the answer, on a new one; and a connection that is not there after 0.25 s, then
// 0.5 s more and so on until the timeout, since the kernel would take a second to see that its first packet was lost.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/result.h"
#include "net/header_list.h"

namespace banyan::net {

struct HttpClientRequest {
  std::string address;  // IPv4 or IPv6, without brackets; names are not resolved
  uint16_t port = 80;
  std::string method = "GET";
  std::string target = "/";
  std::vector<std::pair<std::string, std::string>> headers;  // without Host, Content-Length and Connection
  std::string body;
  std::chrono::milliseconds connect_timeout{2'000};
  std::chrono::milliseconds stall_timeout{10'000};  // without a byte in either direction
};

// Called on the client's thread, in this order; must not block, and may call Start and Cancel.
struct HttpClientHandlers {
  // A 1xx answer: the peer lives, and its stall timeout begins anew. May be null.
  std::function<void(int status, const HeaderList&)> on_interim;
  // The final status (not 1xx) and headers; an error ends the request with it. May be null.
  std::function<Status(int status, const HeaderList&)> on_head;
  // Out of the receive buffer; an error ends the request with it. May be null.
  std::function<Status(std::span<const std::byte>)> on_data;
  // Once: success when the whole answer (of whatever status) came. kUnavailable: no or a cut connection;
  // kDeadlineExceeded; kCancelled; kInvalidArgument: not HTTP.
  std::function<void(Status)> on_done;
};

struct HttpClientOptions {
  uint32_t max_idle_per_peer = 8;
  std::chrono::milliseconds idle_lifetime{30'000};
  uint32_t max_header_bytes = 32 * 1024;
};

// Internally synchronised. One thread.
class HttpClient {
 public:
  explicit HttpClient(const HttpClientOptions& options = {});
  // Ends every request with kCancelled. Not from a handler.
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // Never 0. Handlers are called later, never out of this call.
  uint64_t Start(HttpClientRequest request, HttpClientHandlers handlers);
  // on_done comes with kCancelled soon, unless it has come. Unknown ids are ignored.
  void Cancel(uint64_t id);

  struct Impl;  // the .cc's own

 private:
  const std::unique_ptr<Impl> impl_;
};

}  // namespace banyan::net
