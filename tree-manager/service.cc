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
  enum Method : uint8_t {
    kSession,
    kFunctions,
    kTree,
    kNodes,
    kDrain,
    kSwitch,
    kWatch,
    kPreheat,
    kPreheatProgress,
    kMethods
  };
  static constexpr const char* kNames[kMethods] = {"Session",       "Functions", "Tree",    "Nodes",          "Drain",
                                                   "SetPeerToPeer", "Watch",     "Preheat", "PreheatProgress"};
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

// What a stream to a caller is made of: one write at a time, and an end that waits for the write under way. It keeps
// itself alive from KeepAlive() to OnDone(). gRPC's operations are started outside of all locks, since gRPC may call
// back within them.
template <typename GrpcReactor, typename Message>
class Stream : public GrpcReactor {
 public:
  void OnWriteDone(bool ok) final {
    {
      MutexLock lock(mutex_);
      writing_ = false;
      outgoing_.reset();
      if (ending_) {
        lock.Unlock();
        this->Finish(final_);
        return;
      }
    }
    if (!ok) return Finally(grpc::Status::CANCELLED);
    WriteOn();
  }

  void OnDone() final {
    Closed();
    std::shared_ptr<Stream> last;  // goes after the lock
    const MutexLock lock(mutex_);
    context_ = nullptr;
    last = std::move(self_);
  }

 protected:
  Stream(Failures& failures, Failures::Method method, CallbackServerContext* context)
      : failures_(failures), method_(method), context_(context) {}

  void KeepAlive(std::shared_ptr<Stream> self) {
    const MutexLock lock(mutex_);
    self_ = std::move(self);
  }

  // The next message, or null. Called without this class's lock, by one thread at a time.
  virtual std::shared_ptr<const Message> Next() = 0;
  // gRPC has done with the call.
  virtual void Closed() = 0;

  // To be called whenever Next() may have something: takes the place of the writer if nobody has it, and writes.
  void WriteOn() {
    {
      const MutexLock lock(mutex_);
      again_ = true;
      if (writing_ || ending_) return;
      writing_ = true;
    }
    while (true) {
      {
        const MutexLock lock(mutex_);
        again_ = false;
      }
      auto message = Next();
      MutexLock lock(mutex_);
      if (message != nullptr && !ending_) {
        outgoing_ = std::move(message);
        lock.Unlock();
        this->StartWrite(outgoing_.get());
        return;
      }
      if (again_ && !ending_) continue;
      writing_ = false;
      if (!ending_) return;
      lock.Unlock();
      this->Finish(final_);
      return;
    }
  }

  // Finishes now, or, when a write is under way, after it; that may never come to an end by itself. The first status
  // counts; a call that the other side broke off is no failure.
  void Finally(grpc::Status status) {
    MutexLock lock(mutex_);
    if (ending_ || context_ == nullptr) return;
    ending_ = true;
    if (status.error_code() != grpc::StatusCode::CANCELLED) failures_.Count(method_, status);
    final_ = std::move(status);
    if (writing_) {
      context_->TryCancel();
      return;
    }
    lock.Unlock();
    this->Finish(final_);
  }

 private:
  Failures& failures_;
  const Failures::Method method_;

  Mutex mutex_;
  CallbackServerContext* context_ BANYAN_GUARDED_BY(mutex_);  // null: done
  std::shared_ptr<Stream> self_ BANYAN_GUARDED_BY(mutex_);
  bool writing_ BANYAN_GUARDED_BY(mutex_) = false;  // somebody writes, or is about to
  bool again_ BANYAN_GUARDED_BY(mutex_) = false;    // called meanwhile
  bool ending_ BANYAN_GUARDED_BY(mutex_) = false;
  grpc::Status final_;                       // set once, before `ending_` is seen
  std::shared_ptr<const Message> outgoing_;  // of the write under way
};

// A node's session.
class SessionReactor final : public Stream<grpc::ServerBidiReactor<NodeMessage, ManagerMessage>, ManagerMessage>,
                             public SessionSink {
 public:
  SessionReactor(Manager& manager, Failures& failures, CallbackServerContext* context)
      : Stream(failures, Failures::kSession, context), manager_(manager) {}

  static grpc::ServerBidiReactor<NodeMessage, ManagerMessage>* Begin(std::shared_ptr<SessionReactor> reactor,
                                                                     const CallbackServerContext& context,
                                                                     grpc::Status refusal) {
    SessionReactor* const self = reactor.get();
    self->KeepAlive(reactor);
    if (!refusal.ok()) {
      self->Finally(std::move(refusal));
      return self;
    }
    self->id_ = self->manager_.Open(reactor, IpOfPeer(context.peer()));
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

  void Poke() override { WriteOn(); }
  void End(const Error& reason) override { Finally(ToGrpc(reason)); }

 private:
  std::shared_ptr<const ManagerMessage> Next() override { return manager_.Next(id_); }
  void Closed() override { manager_.Close(id_); }

  Manager& manager_;
  SessionId id_ = 0;
  NodeMessage incoming_;
};

class WatchReactor final : public Stream<grpc::ServerWriteReactor<WatchEvent>, WatchEvent>, public WatchSink {
 public:
  WatchReactor(Manager& manager, Failures& failures, CallbackServerContext* context)
      : Stream(failures, Failures::kWatch, context), manager_(manager) {}

  static grpc::ServerWriteReactor<WatchEvent>* Begin(std::shared_ptr<WatchReactor> reactor, const std::string& function,
                                                     grpc::Status refusal) {
    WatchReactor* const self = reactor.get();
    self->KeepAlive(reactor);
    if (refusal.ok()) {
      const MutexLock lock(self->queue_mutex_);  // what changes meanwhile waits behind the first state
      auto state = self->manager_.Watch(reactor, function);
      if (!state) {
        refusal = ToGrpc(state.error());
      } else {
        self->queue_.assign(state->begin(), state->end());
        self->limit_ = self->queue_.size() + kMaxWatchQueue;
      }
    }
    if (!refusal.ok()) {
      self->Finally(std::move(refusal));
    } else {
      self->WriteOn();
    }
    return self;
  }

  void Offer(const SharedEvent& event) override {
    bool full = false;
    {
      const MutexLock lock(queue_mutex_);
      if (queue_.size() < limit_) queue_.push_back(event);
      full = queue_.size() >= limit_;
    }
    if (full) return Finally({grpc::StatusCode::RESOURCE_EXHAUSTED, "this watcher does not keep up"});
    WriteOn();
  }

  void OnCancel() override { Finally(grpc::Status::CANCELLED); }

 private:
  SharedEvent Next() override {
    const MutexLock lock(queue_mutex_);
    if (queue_.empty()) return nullptr;
    SharedEvent event = std::move(queue_.front());
    queue_.pop_front();
    return event;
  }
  void Closed() override { manager_.Unwatch(this); }

  Manager& manager_;
  Mutex queue_mutex_;
  std::deque<SharedEvent> queue_ BANYAN_GUARDED_BY(queue_mutex_);
  size_t limit_ BANYAN_GUARDED_BY(queue_mutex_) = kMaxWatchQueue;
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
    return SessionReactor::Begin(std::make_shared<SessionReactor>(manager, failures, context), *context,
                                 Authorise(context));
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

  grpc::ServerUnaryReactor* Preheat(CallbackServerContext* context, const proto::tree::PreheatRequest* request,
                                    proto::tree::PreheatReply* reply) override {
    return Unary(context, Failures::kPreheat, [&] {
      auto begun = manager.Preheat(*request);
      if (!begun) return ToGrpc(begun.error());
      *reply = std::move(*begun);
      return grpc::Status::OK;
    });
  }

  grpc::ServerUnaryReactor* PreheatProgress(CallbackServerContext* context,
                                            const proto::tree::PreheatProgressRequest* request,
                                            proto::tree::PreheatProgressReply* reply) override {
    return Unary(context, Failures::kPreheatProgress, [&] {
      auto progress = manager.PreheatProgress(request->id());
      if (!progress) return ToGrpc(progress.error());
      *reply = std::move(*progress);
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
