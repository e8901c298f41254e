// An HTTP/1.1 server on Asio for the data plane: keep-alive, ranges of files by sendfile(2), bodies that are produced
// as they arrive, limits and timeouts everywhere.
//
// Each connection lives on a strand; one request at a time, no pipelining. A turn sends at most 1 MiB and then goes
// behind the other connections' turns, so that a busy client does not starve the rest. Plain TCP now; all socket
// operations are three functions of http_server.cc (read some, write some, send file), where TLS will be put in.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/result.h"
#include "common/units.h"
#include "net/http_message.h"

namespace banyan::net {

// Bytes of a file; `owner` keeps `fd` open (and whatever else must stay) until the client has acknowledged them, or is
// gone.
struct FileRange {
  int fd = -1;
  ByteRange range;
  std::shared_ptr<const void> owner;
};

struct HttpResponse {
  int status = 200;
  std::vector<std::pair<std::string, std::string>> headers;  // without Content-Length and Connection
  std::variant<std::string, FileRange> body;
};

// The way back to the client, for one request; once that is answered, calls do nothing. Internally synchronised; each
// call returns at once. Exactly one of Send() and SendHead() is to be called; when it is destroyed before, the client
// gets a 500, and when between SendHead() and End(), a cut. Send() within the handler may write and let go of the file
// before it returns, so no lock may be held that FileRange::owner's destructor takes.
class HttpReply {
 public:
  virtual ~HttpReply() = default;
  virtual void Send(HttpResponse response) = 0;
  // An answer of 102 and the like, before the real one.
  virtual void SendInterim(int status, std::vector<std::pair<std::string, std::string>> headers) = 0;
  void SendInterim(int status) { SendInterim(status, {}); }
  // Begins a body that comes by Write(); chunked when `body_bytes` is not known.
  virtual void SendHead(int status, std::vector<std::pair<std::string, std::string>> headers,
                        std::optional<uint64_t> body_bytes) = 0;
  // `on_written` (may be null) is called once, on a server thread: true when the bytes are with the kernel and more may
  // come, false when the connection is gone. To bound memory, write again only then.
  virtual void Write(std::string bytes, std::function<void(bool alive)> on_written) = 0;
  // The same for bytes of a file, by sendfile(2). Only after a SendHead() with `body_bytes`.
  virtual void WriteFile(FileRange file, std::function<void(bool alive)> on_written) = 0;
  virtual void End() = 0;
  // Closes the connection without more.
  virtual void Abort() = 0;
  // `on_gone` is called once, on a server thread, if the connection is lost, or closed by the client, before Send() or
  // End(). Costs a watch on the connection, so for answers that take long. By default it never is.
  virtual void OnGone(std::function<void()> on_gone) { static_cast<void>(on_gone); }
};

// A request's body that is taken as it comes. Called on a server thread, in order; must not block.
class HttpBody {
 public:
  virtual ~HttpBody() = default;
  // `resume` is to be called once, on any thread: more may come then. Until then nothing is read from the client.
  virtual void OnData(std::string bytes, std::function<void()> resume) = 0;
  // No more comes. `whole`: the body has ended as it should, and the request goes to the handler now; otherwise the
  // connection is gone and no handler is called.
  virtual void OnEnd(bool whole) = 0;
};
// Called on a server thread with a request whose body is to come: null to have it in HttpRequest::body, within
// max_body_bytes.
using HttpBodyOpener = std::function<std::shared_ptr<HttpBody>(const HttpRequest& head)>;

// Called on a server thread; must not block. The reply may be kept and answered on any thread, also after Stop().
using HttpHandler = std::function<void(HttpRequest request, std::shared_ptr<HttpReply> reply)>;

struct HttpServerOptions {
  std::string address = "127.0.0.1";
  uint16_t port = 0;  // 0: a free one
  uint32_t threads = 1;
  uint32_t max_connections = 4096;  // more wait in the listen queue
  uint32_t max_header_bytes = 32 * 1024;
  uint64_t max_body_bytes = 1 * kMiB;              // of requests
  std::chrono::milliseconds idle_timeout{60'000};  // between requests
  // From a request's first byte to its last; if HttpBody takes the body, between two bytes of it.
  std::chrono::milliseconds request_timeout{15'000};
  std::chrono::milliseconds write_timeout{30'000};  // without a byte of the answer taken by the client
  std::chrono::milliseconds stop_grace{2'000};      // for answers under way at Stop()
  HttpBodyOpener open_body;                         // may be null
  // TCP_NOTSENT_LOWAT: the bytes of an answer that the kernel takes ahead of those it has sent; few, so that what is
  // more urgent on another connection is not behind them. 0: the kernel's own limit.
  uint32_t notsent_bytes = 0;
  // How long what the kernel holds for a client, unacknowledged bytes included, may take at the rate at which they go
  // (beyond the round trip, and 512 KiB at least). Connections then share a link that is full more evenly: else who has
  // filled its queue keeps it. 0: the kernel's own limit.
  std::chrono::milliseconds backlog{0};
  // TCP_USER_TIMEOUT: a client that acknowledges nothing for so long is gone, also while nothing more is to be written.
  // 0: the kernel's own limit.
  std::chrono::milliseconds unacknowledged_timeout{0};
  bool sendfile = true;  // false: copy through user space (for comparison)
};

class HttpServer {
 public:
  // Errors: the address cannot be bound.
  static Result<std::unique_ptr<HttpServer>> Start(const HttpServerOptions& options, HttpHandler handler);
  // Stop()s.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  uint16_t port() const;
  size_t connections() const;
  // Accepts no more, lets answers under way end for at most `stop_grace`, closes the rest, joins. Not from a handler.
  void Stop();

  struct Impl;  // the .cc's own

 private:
  explicit HttpServer(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;  // shared with connections, which replies keep alive beyond the server
};

}  // namespace banyan::net
