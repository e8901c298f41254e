#include "tree-manager/service.h"

#include <array>
#include <atomic>
#include <deque>
#include <utility>

#include <fmt/format.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <openssl/crypto.h>

#include "common/log.h"
#include "common/mutex.h"
#include "proto/tree.grpc.pb.h"

namespace banyan::tree_manager {
namespace {

using grpc::CallbackServerContext;
using proto::tree::ManagerMessage;
using proto::tree::NodeMessage;
using proto::tree::WatchEvent;

constexpr size_t kMaxMessageBytes = 8 * 1024 * 1024;
constexpr size_t kMaxWatchQueue = 16'384;        // events beyond the first state
constexpr size_t kKeptMessageBytes = 16 * 1024;  // a session's read buffer beyond it is given back
constexpr int kMaxSessionStreams = 64;           // on one connection
constexpr std::chrono::milliseconds kShutdownGrace{200};
constexpr size_t kCodes = 17;

// Failed calls, by method and code: bounded.
struct Failures {
  enum Method : uint8_t { kSession, kFunctions, kTree, kNodes, kDrain, kSwitch, kWatch, kMethods };
  static constexpr const char* kNames[kMethods] = {"Session", "Functions",     "Tree", "Nodes",
                                                   "Drain",   "SetPeerToPeer", "Watch"};
  std::array<std::array<std::atomic<uint64_t>, kCodes>, kMethods> counts{};

  void Count(Method method, const grpc::Status& status) {
    const auto code = static_cast<size_t>(status.error_code());
    if (!status.ok() && code < kCodes) ++counts[method][code];
  }
};

grpc::Status ToGrpc(const Error& error) { return {static_cast<grpc::StatusCode>(error.code), error.message}; }

bool SameSecret(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

// A node's session. It keeps itself alive from Begin() to OnDone(); gRPC's operations are started outside of all
// locks, since gRPC may call back within them.
class SessionReactor final : public grpc::ServerBidiReactor<NodeMessage, ManagerMessage>, public SessionSink {
 public:
  SessionReactor(Manager& manager, Failures& failures, CallbackServerContext* context)
      : manager_(manager), failures_(failures), context_(context) {}

  static grpc::ServerBidiReactor<NodeMessage, ManagerMessage>* Begin(std::shared_ptr<SessionReactor> reactor,
                                                                     grpc::Status refusal) {
    SessionReactor* const self = reactor.get();
    self->self_ = reactor;
    if (!refusal.ok()) {
      self->Finally(std::move(refusal));
      return self;
    }
    self->id_ = self->manager_.Open(reactor, IpOfPeer(self->context_->peer()));
    self->StartRead(&self->incoming_);
    return self;
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      manager_.Close(id_);
      Finally(grpc::Status::OK);
      return;
    }
    const Status status = manager_.OnMessage(id_, incoming_);
    if (!status) {
      Finally(ToGrpc(status.error()));
      return;
    }
    if (incoming_.SpaceUsedLong() > kKeptMessageBytes) incoming_ = NodeMessage();
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(mutex_);
      writing_ = false;
      outgoing_.reset();
      if (ending_) {
        lock.Unlock();
        Finish(final_);
        return;
      }
    }
    if (ok) Poke();  // a failed write means a failed read, which ends the session
  }

  void OnDone() override {
    manager_.Close(id_);
    std::shared_ptr<SessionReactor> last;
    MutexLock lock(mutex_);
    context_ = nullptr;
    last = std::move(self_);
    lock.Unlock();
  }

  // Takes the place of the writer if nobody has it, and writes what there is.
  void Poke() override {
    {
      MutexLock lock(mutex_);
      again_ = true;
      if (writing_ || ending_) return;
      writing_ = true;
    }
    while (true) {
      {
        MutexLock lock(mutex_);
        again_ = false;
      }
      auto message = manager_.Next(id_);
      MutexLock lock(mutex_);
      if (message != nullptr && !ending_) {
        outgoing_ = std::move(message);
        lock.Unlock();
        StartWrite(outgoing_.get());
        return;
      }
      if (again_ && !ending_) continue;
      writing_ = false;
      if (!ending_) return;
      lock.Unlock();
      Finish(final_);
      return;
    }
  }

  void End(const Error& reason) override { Finally(ToGrpc(reason)); }

 private:
  // Finishes now, or, when a write is under way, after it; that may never come to an end by itself.
  void Finally(grpc::Status status) {
    MutexLock lock(mutex_);
    if (ending_ || context_ == nullptr) return;
    ending_ = true;
    failures_.Count(Failures::kSession, status);
    final_ = std::move(status);
    if (writing_) {
      context_->TryCancel();
      return;
    }
    lock.Unlock();
    Finish(final_);
  }

  Manager& manager_;
  Failures& failures_;
  SessionId id_ = 0;
  NodeMessage incoming_;

  Mutex mutex_;
  CallbackServerContext* context_ BANYAN_GUARDED_BY(mutex_);  // null: done
  std::shared_ptr<SessionReactor> self_;
  bool writing_ BANYAN_GUARDED_BY(mutex_) = false;  // somebody writes, or is about to
  bool again_ BANYAN_GUARDED_BY(mutex_) = false;    // poked meanwhile
  bool ending_ BANYAN_GUARDED_BY(mutex_) = false;
  grpc::Status final_;                              // set once, before `ending_` is seen
  std::shared_ptr<const ManagerMessage> outgoing_;  // of the write under way
};

class WatchReactor final : public grpc::ServerWriteReactor<WatchEvent>, public WatchSink {
 public:
  WatchReactor(Manager& manager, Failures& failures, CallbackServerContext* context)
      : manager_(manager), failures_(failures), context_(context) {}

  static grpc::ServerWriteReactor<WatchEvent>* Begin(std::shared_ptr<WatchReactor> reactor, std::string function,
                                                     grpc::Status refusal) {
    WatchReactor* const self = reactor.get();
    self->self_ = reactor;
    {
      MutexLock lock(self->mutex_);  // what changes meanwhile waits behind the first state
      if (refusal.ok()) {
        auto state = self->manager_.Watch(reactor, function);
        if (!state) {
          refusal = ToGrpc(state.error());
        } else {
          self->queue_.assign(state->begin(), state->end());
          self->limit_ = self->queue_.size() + kMaxWatchQueue;
        }
      }
    }
    if (!refusal.ok()) {
      self->Finally(std::move(refusal));
    } else {
      self->Write();
    }
    return self;
  }

  void Offer(const SharedEvent& event) override {
    {
      MutexLock lock(mutex_);
      if (ending_) return;
      if (queue_.size() < limit_) queue_.push_back(event);
      if (queue_.size() >= limit_) {
        lock.Unlock();
        Finally({grpc::StatusCode::RESOURCE_EXHAUSTED, "this watcher does not keep up"});
        return;
      }
      if (writing_) return;
    }
    Write();
  }

  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(mutex_);
      writing_ = false;
      outgoing_.reset();
      if (ending_) {
        lock.Unlock();
        Finish(final_);
        return;
      }
    }
    if (!ok) return Finally(grpc::Status::CANCELLED);
    Write();
  }

  void OnCancel() override { Finally(grpc::Status::CANCELLED); }

  void OnDone() override {
    manager_.Unwatch(this);
    std::shared_ptr<WatchReactor> last;
    MutexLock lock(mutex_);
    context_ = nullptr;
    last = std::move(self_);
    lock.Unlock();
  }

 private:
  void Write() {
    MutexLock lock(mutex_);
    if (writing_ || ending_ || queue_.empty()) return;
    writing_ = true;
    outgoing_ = std::move(queue_.front());
    queue_.pop_front();
    lock.Unlock();
    StartWrite(outgoing_.get());
  }

  void Finally(grpc::Status status) {
    MutexLock lock(mutex_);
    if (ending_ || context_ == nullptr) return;
    ending_ = true;
    queue_.clear();
    if (status.error_code() != grpc::StatusCode::CANCELLED) failures_.Count(Failures::kWatch, status);
    final_ = std::move(status);
    if (writing_) {
      context_->TryCancel();
      return;
    }
    lock.Unlock();
    Finish(final_);
  }

  Manager& manager_;
  Failures& failures_;

  Mutex mutex_;
  CallbackServerContext* context_ BANYAN_GUARDED_BY(mutex_);  // null: done
  std::shared_ptr<WatchReactor> self_;
  std::deque<SharedEvent> queue_ BANYAN_GUARDED_BY(mutex_);
  size_t limit_ BANYAN_GUARDED_BY(mutex_) = kMaxWatchQueue;
  bool writing_ BANYAN_GUARDED_BY(mutex_) = false;
  bool ending_ BANYAN_GUARDED_BY(mutex_) = false;
  grpc::Status final_;
  SharedEvent outgoing_;  // of the write under way
};

}  // namespace

struct Service::Impl final : public proto::tree::TreeManager::CallbackService {
  Impl(Manager& its_manager, std::string its_token) : manager(its_manager) {
    if (!its_token.empty()) expected = "Bearer " + its_token;
  }

  grpc::Status Authorise(const CallbackServerContext* context) const {
    if (expected.empty()) return grpc::Status::OK;
    const auto& metadata = context->client_metadata();
    const auto found = metadata.find("authorization");
    if (found != metadata.end() && SameSecret({found->second.data(), found->second.size()}, expected)) {
      return grpc::Status::OK;
    }
    return {grpc::StatusCode::UNAUTHENTICATED, "the cluster's token is missing or wrong"};
  }

  // `answer` is only called for those who may ask.
  template <typename Answer>
  grpc::ServerUnaryReactor* Unary(CallbackServerContext* context, Failures::Method method, const Answer& answer) {
    grpc::Status status = Authorise(context);
    if (status.ok()) status = answer();
    failures.Count(method, status);
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish(status);
    return reactor;
  }

  grpc::ServerBidiReactor<NodeMessage, ManagerMessage>* Session(CallbackServerContext* context) override {
    return SessionReactor::Begin(std::make_shared<SessionReactor>(manager, failures, context), Authorise(context));
  }

  grpc::ServerWriteReactor<WatchEvent>* Watch(CallbackServerContext* context,
                                              const proto::tree::WatchRequest* request) override {
    return WatchReactor::Begin(std::make_shared<WatchReactor>(manager, failures, context), request->function(),
                               Authorise(context));
  }

  grpc::ServerUnaryReactor* Functions(CallbackServerContext* context, const proto::tree::FunctionsRequest* /*request*/,
                                      proto::tree::FunctionsReply* reply) override {
    return Unary(context, Failures::kFunctions, [&] {
      *reply = manager.Functions();
      return grpc::Status::OK;
    });
  }

  grpc::ServerUnaryReactor* Tree(CallbackServerContext* context, const proto::tree::TreeRequest* request,
                                 proto::tree::TreeReply* reply) override {
    return Unary(context, Failures::kTree, [&] {
      auto tree = manager.Tree(request->function());
      if (!tree) return ToGrpc(tree.error());
      *reply = std::move(*tree);
      return grpc::Status::OK;
    });
  }

  grpc::ServerUnaryReactor* Nodes(CallbackServerContext* context, const proto::tree::NodesRequest* /*request*/,
                                  proto::tree::NodesReply* reply) override {
    return Unary(context, Failures::kNodes, [&] {
      *reply = manager.Nodes();
      return grpc::Status::OK;
    });
  }

  grpc::ServerUnaryReactor* Drain(CallbackServerContext* context, const proto::tree::DrainRequest* request,
                                  proto::tree::DrainReply* reply) override {
    return Unary(context, Failures::kDrain, [&] {
      auto drained = manager.Drain(request->node(), request->undo());
      if (!drained) return ToGrpc(drained.error());
      *reply = std::move(*drained);
      return grpc::Status::OK;
    });
  }

  grpc::ServerUnaryReactor* SetPeerToPeer(CallbackServerContext* context,
                                          const proto::tree::SetPeerToPeerRequest* request,
                                          proto::tree::SetPeerToPeerReply* /*reply*/) override {
    return Unary(context, Failures::kSwitch, [&] {
      manager.SetPeerToPeer(!request->off());
      return grpc::Status::OK;
    });
  }

  Manager& manager;
  std::string expected;  // of the authorization metadata; empty: nothing
  Failures failures;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
};

Service::Service(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<Service>> Service::Listen(Manager& manager, const std::string& address, std::string token) {
  auto impl = std::make_unique<Impl>(manager, std::move(token));
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &impl->port);
  builder.RegisterService(impl.get());
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  // Another manager on this port is an error, not a colleague.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxSessionStreams);
  // Nodes beat once a second; pings are for watchers, and tell dead connections.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  impl->server = builder.BuildAndStart();
  if (!impl->server || impl->port == 0) return Fail(Code::kUnavailable, fmt::format("cannot listen on {}", address));
  return std::unique_ptr<Service>(new Service(std::move(impl)));
}

Service::~Service() {
  impl_->server->Shutdown(std::chrono::system_clock::now() + kShutdownGrace);
  impl_->server->Wait();
}

uint16_t Service::port() const { return static_cast<uint16_t>(impl_->port); }

void Service::AddMetrics(MetricsPage& page) const {
  for (size_t method = 0; method < Failures::kMethods; ++method) {
    for (size_t code = 1; code < kCodes; ++code) {
      const uint64_t count = impl_->failures.counts[method][code];
      if (count == 0) continue;
      page.Counter("banyan_tree_rpc_errors_total", "Calls that failed.",
                   {{"method", Failures::kNames[method]}, {"code", std::string(CodeName(static_cast<Code>(code)))}},
                   static_cast<double>(count));
    }
  }
}

std::string IpOfPeer(const std::string& peer) {
  std::string text = peer;
  for (const auto& [escaped, plain] : {std::pair{"%5B", "["}, std::pair{"%5D", "]"}}) {
    if (const size_t at = text.find(escaped); at != std::string::npos) text.replace(at, 3, plain);
  }
  const size_t end = text.rfind(':');
  if (text.starts_with("ipv4:") && end > 5) return text.substr(5, end - 5);
  constexpr std::string_view kMapped = "::ffff:";
  if (!text.starts_with("ipv6:[") || end < 8 || text[end - 1] != ']') return {};
  std::string ip = text.substr(6, end - 7);
  if (ip.starts_with(kMapped) && ip.find('.') != std::string::npos) ip.erase(0, kMapped.size());
  return ip;
}

}  // namespace banyan::tree_manager
