// Internal to the server: what its connections and its acceptor know of each other.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>

#include "net/http_server.h"

namespace banyan::net {

class HttpConnection;

struct HttpServer::Impl : std::enable_shared_from_this<HttpServer::Impl> {
  Impl(const HttpServerOptions& server_options, HttpHandler server_handler)
      : options(server_options), handler(std::move(server_handler)), acceptor(context), accept_timer(context) {}

  const HttpServerOptions options;
  const HttpHandler handler;
  boost::asio::io_context context;
  boost::asio::ip::tcp::acceptor acceptor;  // used by the accept chain and, at the end, by Stop() through it
  boost::asio::steady_timer accept_timer;
  std::vector<std::thread> threads;
  std::atomic<bool> stopping{false};
  std::atomic<bool> stopped{false};  // no thread runs the context any more

  mutable std::mutex mutex;
  std::condition_variable emptied;
  std::map<HttpConnection*, std::weak_ptr<HttpConnection>> connections;  // the open ones; guarded by mutex
  bool accept_waits = false;                                             // guarded by mutex: the cap is reached

  Status Listen();
  void SetLimits(int socket) const;
  void Accept();
  void Remove(HttpConnection* connection);
};

// One client. All but the HttpReply calls runs on `strand_`.
class HttpConnection final : public std::enable_shared_from_this<HttpConnection> {
 public:
  HttpConnection(std::shared_ptr<HttpServer::Impl> server, boost::asio::ip::tcp::socket socket);
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
    boost::asio::post(strand_, std::move(task));
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

  // What sendfile(2) has taken of a file and the client has not acknowledged: the kernel sends it out of the file's own
  // pages, which a hole punched meanwhile would change.
  struct Unacknowledged {
    uint64_t end = 0;  // in bytes sent on this connection
    std::shared_ptr<const void> owner;
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
  void LimitBacklog();
  void PumpWhenWritable();
  ssize_t SendPiece(Output& output, size_t most);
  ssize_t SendBytes(Output& output, size_t wanted);
  ssize_t SendFile(FileRange& file, size_t wanted);
  void OutputDone();
  void ReleaseLater();
  void FinishReply();
  void WatchForEnd();

  const std::shared_ptr<HttpServer::Impl> server_;  // shared: replies may outlive the server
  boost::asio::ip::tcp::socket socket_;
  const std::string client_;
  boost::asio::strand<boost::asio::io_context::executor_type> strand_;
  boost::asio::steady_timer timer_;
  std::chrono::steady_clock::time_point deadline_ = std::chrono::steady_clock::time_point::max();
  std::chrono::steady_clock::time_point armed_until_ = std::chrono::steady_clock::time_point::max();
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
  uint64_t sent_bytes_ = 0;          // to the kernel
  uint64_t next_limit_at_ = 0;       // of sent_bytes_: when LimitBacklog() looks again
  uint64_t acknowledged_bytes_ = 0;  // of those, when last looked
  std::deque<Unacknowledged> unacknowledged_;
  boost::asio::steady_timer release_timer_;  // runs while there is anything in it
  bool release_waits_ = false;
};

}  // namespace banyan::net
