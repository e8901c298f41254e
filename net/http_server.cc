#include "net/http_server.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>

#include <algorithm>

#include <fmt/format.h>
#include <boost/asio/executor_work_guard.hpp>

#include "net/http_connection.h"

namespace banyan::net {

namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

}  // namespace

Status HttpServer::Impl::Listen() {
  error_code error;
  const asio::ip::address address = asio::ip::make_address(options.address, error);
  if (error) return Fail(Code::kInvalidArgument, fmt::format("listen on '{}': not an IP address", options.address));
  const tcp::endpoint endpoint(address, options.port);
  const auto check = [&](const char* what) -> Status {
    if (!error) return {};
    return FailErrno(fmt::format("{} {}:{}", what, options.address, options.port), error.value());
  };
  acceptor.open(endpoint.protocol(), error);
  BANYAN_TRY(check("open a socket for"));
  acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  acceptor.bind(endpoint, error);
  BANYAN_TRY(check("bind"));
  acceptor.listen(tcp::acceptor::max_listen_connections, error);
  return check("listen on");
}

// A kernel that does not know one of these serves all the same.
void HttpServer::Impl::SetLimits(int socket) const {
  const auto set = [&](int option, int value) {
    if (value > 0) ::setsockopt(socket, IPPROTO_TCP, option, &value, sizeof(value));
  };
  set(TCP_NOTSENT_LOWAT, static_cast<int>(options.notsent_bytes));
  set(TCP_USER_TIMEOUT, static_cast<int>(options.unacknowledged_timeout.count()));
}

void HttpServer::Impl::Accept() {
  if (stopping) return;
  {
    const std::lock_guard lock(mutex);
    accept_waits = connections.size() >= options.max_connections;
    if (accept_waits) return;
  }
  acceptor.async_accept([self = shared_from_this()](const error_code& error, tcp::socket socket) {
    if (error == asio::error::operation_aborted || self->stopping) return;
    if (error) {  // out of descriptors, most likely
      self->accept_timer.expires_after(std::chrono::milliseconds(100));
      return self->accept_timer.async_wait([self](const error_code&) { self->Accept(); });
    }
    error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    socket.non_blocking(true, ignored);
    self->SetLimits(socket.native_handle());
    const auto connection = std::make_shared<HttpConnection>(self, std::move(socket));
    {
      const std::lock_guard lock(self->mutex);
      self->connections.emplace(connection.get(), connection);
    }
    connection->Begin();
    self->Accept();
  });
}

void HttpServer::Impl::Remove(HttpConnection* connection) {
  const std::lock_guard lock(mutex);
  connections.erase(connection);
  if (connections.empty()) emptied.notify_all();
  if (std::exchange(accept_waits, false)) asio::post(context, [self = shared_from_this()] { self->Accept(); });
}

HttpServer::HttpServer(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() { Stop(); }

uint16_t HttpServer::port() const {
  error_code ignored;
  return impl_->acceptor.local_endpoint(ignored).port();
}

size_t HttpServer::connections() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->connections.size();
}

Result<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpServerOptions& options, HttpHandler handler) {
  auto impl = std::make_shared<Impl>(options, std::move(handler));
  BANYAN_TRY(impl->Listen());
  impl->Accept();
  for (uint32_t i = 0; i < std::max(options.threads, 1u); ++i) {
    impl->threads.emplace_back([raw = impl.get()] {
      // sendfile(2) to a client that has gone raises SIGPIPE on this thread, and has no flag against it.
      sigset_t pipe;
      ::sigemptyset(&pipe);
      ::sigaddset(&pipe, SIGPIPE);
      ::pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
      const auto work = asio::make_work_guard(raw->context);
      while (!raw->stopped) raw->context.run();
    });
  }
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

void HttpServer::Stop() {
  if (impl_->stopping.exchange(true)) return;
  asio::post(impl_->context, [impl = impl_] {
    error_code ignored;
    impl->acceptor.close(ignored);
    impl->accept_timer.cancel();
  });
  const auto open_connections = [&] {
    std::vector<std::shared_ptr<HttpConnection>> open;
    for (const auto& [raw, weak] : impl_->connections) {
      if (auto connection = weak.lock()) open.push_back(std::move(connection));
    }
    return open;
  };
  std::unique_lock lock(impl_->mutex);
  auto open = open_connections();
  lock.unlock();
  for (const auto& connection : open) connection->Retire();
  lock.lock();
  impl_->emptied.wait_for(lock, impl_->options.stop_grace, [&] { return impl_->connections.empty(); });
  open = open_connections();
  lock.unlock();
  for (const auto& connection : open) connection->Kill();
  open.clear();
  lock.lock();
  impl_->emptied.wait(lock, [&] { return impl_->connections.empty(); });
  lock.unlock();
  impl_->stopped = true;
  impl_->context.stop();
  for (std::thread& thread : impl_->threads) thread.join();
  impl_->context.restart();
  impl_->context.poll();  // what is left are handlers of closed sockets and timers, which hold on to their connections
}

}  // namespace banyan::net
