#include "net/http_message.h"

#include <limits>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <boost/asio/buffer.hpp>
#include <boost/beast/core/buffers_range.hpp>
#include <boost/beast/http/parser.hpp>

namespace banyan::net {

namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;

template <typename Fields>
HeaderList ListOf(const Fields& fields) {
  HeaderList list;
  for (const auto& field : fields) {
    std::string name(field.name_string());
    for (char& c : name) {
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    }
    list.Add(std::move(name), std::string(field.value()));
  }
  return list;
}

tl::unexpected<Error> ParseFailure(const beast::error_code& error) {
  const bool limit = error == http::error::header_limit || error == http::error::body_limit;
  return Fail(limit ? Code::kResourceExhausted : Code::kInvalidArgument, "HTTP message: " + error.message());
}

// A Beast body kept as text that may be taken away while it grows. (Beast's own reserves what Content-Length
// announces.)
struct TextBody {
  using value_type = std::string;

  class reader {
   public:
    template <bool kRequest, typename Fields>
    reader(http::header<kRequest, Fields>&, value_type& value) : value_(value) {}
    void init(const boost::optional<std::uint64_t>&, beast::error_code& error) { error = {}; }
    template <typename Buffers>
    std::size_t put(const Buffers& buffers, beast::error_code& error) {
      const std::size_t before = value_.size();
      for (const auto& buffer : beast::buffers_range_ref(buffers)) {
        value_.append(static_cast<const char*>(buffer.data()), buffer.size());
      }
      error = {};
      return value_.size() - before;
    }
    void finish(beast::error_code& error) { error = {}; }

   private:
    value_type& value_;
  };
};

// A Beast body that hands its bytes on instead of keeping them.
struct SinkBody {
  struct value_type {
    HttpResponseParser::OnData* on_data = nullptr;
    Error* failure = nullptr;
  };

  class reader {
   public:
    template <bool kRequest, typename Fields>
    reader(http::header<kRequest, Fields>&, value_type& value) : value_(value) {}
    void init(const boost::optional<std::uint64_t>&, beast::error_code& error) { error = {}; }
    template <typename Buffers>
    std::size_t put(const Buffers& buffers, beast::error_code& error) {
      std::size_t taken = 0;
      error = {};
      for (const auto& buffer : beast::buffers_range_ref(buffers)) {
        const auto* data = static_cast<const std::byte*>(buffer.data());
        if (Status status = (*value_.on_data)(std::span(data, buffer.size())); !status) {
          *value_.failure = status.error();
          error = beast::errc::make_error_code(beast::errc::operation_canceled);
          return taken;
        }
        taken += buffer.size();
      }
      return taken;
    }
    void finish(beast::error_code& error) { error = {}; }

   private:
    value_type& value_;
  };
};

}  // namespace

struct HttpRequestParser::Impl {
  http::request_parser<TextBody> parser;
  BodyLimit body_limit;
  uint64_t max_body_bytes = 0;
  uint64_t taken_bytes = 0;
  bool head_seen = false;
  int refusal = 400;

  HttpRequest Head() const {
    const auto& message = parser.get();
    HttpRequest request;
    request.method = std::string(message.method_string());
    request.target = std::string(message.target());
    request.headers = ListOf(message);
    request.keep_alive = message.keep_alive();
    return request;
  }
  bool BodyTooLarge() const {
    const auto announced = parser.content_length();
    return (announced && *announced > max_body_bytes) || taken_bytes + parser.get().body().size() > max_body_bytes;
  }
};

HttpRequestParser::HttpRequestParser(uint32_t max_header_bytes, uint64_t max_body_bytes, BodyLimit body_limit)
    : impl_(std::make_unique<Impl>()) {
  impl_->body_limit = std::move(body_limit);
  impl_->max_body_bytes = max_body_bytes;
  impl_->parser.header_limit(max_header_bytes);
  impl_->parser.body_limit(std::numeric_limits<std::uint64_t>::max());  // ours is checked below
  impl_->parser.eager(true);
}

HttpRequestParser::~HttpRequestParser() = default;

Result<size_t> HttpRequestParser::Feed(std::string_view bytes) {
  beast::error_code error;
  const size_t consumed = impl_->parser.put(boost::asio::buffer(bytes.data(), bytes.size()), error);
  if (error == http::error::header_limit) impl_->refusal = 431;
  if (error && error != http::error::need_more) return ParseFailure(error);
  if (!header_done()) return consumed;
  const bool has_body = impl_->parser.chunked() || impl_->parser.content_length().value_or(0) > 0;
  if (!std::exchange(impl_->head_seen, true) && impl_->body_limit && has_body) {
    impl_->max_body_bytes = impl_->body_limit(impl_->Head());
  }
  if (has_body && impl_->BodyTooLarge()) {
    impl_->refusal = 413;
    return ParseFailure(http::error::body_limit);
  }
  return consumed;
}

std::string HttpRequestParser::TakeBody() {
  std::string& body = impl_->parser.get().body();
  impl_->taken_bytes += body.size();
  return std::exchange(body, {});
}

int HttpRequestParser::refusal() const { return impl_->refusal; }

bool HttpRequestParser::done() const { return impl_->parser.is_done(); }
bool HttpRequestParser::header_done() const { return impl_->parser.is_header_done(); }
bool HttpRequestParser::wants_continue() const {
  return header_done() && beast::iequals(impl_->parser.get()[http::field::expect], "100-continue");
}

HttpRequest HttpRequestParser::Take() {
  HttpRequest request = impl_->Head();
  request.body = std::move(impl_->parser.get().body());
  return request;
}

struct HttpResponseParser::Impl {
  uint32_t max_header_bytes;
  bool head_request;
  OnHead on_head;
  OnData on_data;
  OnInterim on_interim;
  Error failure;
  bool head_given = false;
  std::optional<http::response_parser<SinkBody>> parser;

  void Reset() {
    parser.emplace();
    parser->header_limit(max_header_bytes);
    parser->body_limit(std::numeric_limits<std::uint64_t>::max());
    parser->skip(head_request);
    parser->get().body() = {&on_data, &failure};
    parser->eager(false);  // the head's callback comes before the first data
  }
};

HttpResponseParser::HttpResponseParser(uint32_t max_header_bytes, bool head_request, OnHead on_head, OnData on_data,
                                       OnInterim on_interim)
    : impl_(std::make_unique<Impl>()) {
  impl_->max_header_bytes = max_header_bytes;
  impl_->head_request = head_request;
  impl_->on_head = std::move(on_head);
  impl_->on_data = std::move(on_data);
  impl_->on_interim = std::move(on_interim);
  impl_->Reset();
}

HttpResponseParser::~HttpResponseParser() = default;

Result<size_t> HttpResponseParser::Feed(std::string_view bytes) {
  size_t total = 0;
  while (!done()) {
    beast::error_code error;
    const size_t consumed = impl_->parser->put(boost::asio::buffer(bytes.data() + total, bytes.size() - total), error);
    total += consumed;
    if (error == beast::errc::operation_canceled) return Fail(impl_->failure);
    if (error && error != http::error::need_more) return ParseFailure(error);
    if (impl_->parser->is_header_done() && !impl_->head_given) {
      const int status = static_cast<int>(impl_->parser->get().result_int());
      if (status >= 100 && status < 200) {
        if (impl_->on_interim) impl_->on_interim(status, ListOf(impl_->parser->get()));
        impl_->Reset();
        continue;
      }
      impl_->head_given = true;
      BANYAN_TRY(impl_->on_head(status, ListOf(impl_->parser->get())));
      impl_->parser->eager(true);
      continue;
    }
    if (error == http::error::need_more || consumed == 0 || total == bytes.size()) break;
  }
  return total;
}

Status HttpResponseParser::FeedEnd() {
  if (done()) return {};
  beast::error_code error;
  if (impl_->head_given) impl_->parser->put_eof(error);
  if (!impl_->head_given || error) return Fail(Code::kUnavailable, "the connection was cut");
  return {};
}

bool HttpResponseParser::done() const { return impl_->head_given && impl_->parser->is_done(); }
bool HttpResponseParser::keep_alive() const { return done() && impl_->parser->keep_alive(); }

std::string_view HttpReason(int status) {
  const beast::string_view reason = http::obsolete_reason(http::int_to_status(static_cast<unsigned>(status)));
  return reason.empty() ? "Status" : std::string_view(reason.data(), reason.size());
}

}  // namespace banyan::net
