// What both ends of the HTTP/1.1 data plane share: parsed heads, and parsers that take bytes as they come (Beast
// inside).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "common/result.h"
#include "net/header_list.h"

namespace banyan::net {

class HttpBody;

struct HttpRequest {
  std::string method;
  std::string target;  // path and query, as sent
  HeaderList headers;
  std::string body;
  std::string client;                    // the address of who asks, without the port; only from a server
  std::shared_ptr<HttpBody> taken_body;  // who has had the body, if a HttpBodyOpener gave one
  bool keep_alive = false;

  std::string_view path() const { return std::string_view(target).substr(0, target.find('?')); }
};

// One request out of a byte stream. Externally synchronised.
class HttpRequestParser {
 public:
  // `body_limit` (may be null) is called out of Feed() when the head is complete and a body may follow; what it returns
  // takes the place of `max_body_bytes`.
  using BodyLimit = std::function<uint64_t(const HttpRequest& head)>;
  HttpRequestParser(uint32_t max_header_bytes, uint64_t max_body_bytes, BodyLimit body_limit = {});
  ~HttpRequestParser();

  // Consumes a prefix of `bytes` and returns its length; what is left must be given again, with more behind it, unless
  // done(). Errors: kInvalidArgument (malformed) and kResourceExhausted (a limit).
  Result<size_t> Feed(std::string_view bytes);
  // The status to answer after Feed failed: 400, 413 or 431.
  int refusal() const;
  bool done() const;
  bool header_done() const;
  // The header asked for "100 Continue" before the body.
  bool wants_continue() const;
  // The body bytes that came since the last call; for those who do not want to wait for the whole.
  std::string TakeBody();
  // Once, after done(). The body is what TakeBody() has left.
  HttpRequest Take();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// One response out of a byte stream; 1xx answers go to a handler of their own. Body bytes are handed on out of the
// caller's buffer. Externally synchronised.
class HttpResponseParser {
 public:
  using OnHead = std::function<Status(int status, const HeaderList&)>;
  using OnData = std::function<Status(std::span<const std::byte>)>;
  using OnInterim = std::function<void(int status, const HeaderList&)>;

  // `on_interim` may be null. `head_request`: the answer has no body, whatever its Content-Length.
  HttpResponseParser(uint32_t max_header_bytes, bool head_request, OnHead on_head, OnData on_data,
                     OnInterim on_interim = nullptr);
  ~HttpResponseParser();

  // As HttpRequestParser::Feed; errors of the callbacks come back as they are.
  Result<size_t> Feed(std::string_view bytes);
  // The stream ended: an error unless that completes the response.
  Status FeedEnd();
  bool done() const;
  bool keep_alive() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// "Not Found"; "Status" for codes without a name.
std::string_view HttpReason(int status);

}  // namespace banyan::net
