#include "peer-agent/tree_client.h"

#include <algorithm>
#include <random>
#include <utility>

#include <grpcpp/create_channel.h>
#include <spdlog/spdlog.h>

namespace banyan::peer_agent {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr size_t kMaxQueued = 4096;
constexpr milliseconds kFirstRetry{200};
constexpr milliseconds kLongestRetry{3000};
// A manager that cannot be reached at all is silent: pings find it out.
constexpr int kKeepaliveMillis = 3000;
constexpr std::chrono::hours kLongestSleep{1};

std::shared_ptr<grpc::Channel> ChannelTo(const std::string& manager) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMillis);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveMillis);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, static_cast<int>(kFirstRetry.count()));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, static_cast<int>(kLongestRetry.count()));
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(manager, grpc::InsecureChannelCredentials(), arguments);
}

// Spread over [half, whole], so that a fleet does not come back as one.
milliseconds Jittered(milliseconds wait) {
  static thread_local std::minstd_rand random(std::random_device{}());
  return milliseconds(wait.count() / 2 + static_cast<int64_t>(random() % static_cast<uint64_t>(wait.count() / 2 + 1)));
}

}  // namespace

TreeClient::TreeClient(Options options)
    : options_(std::move(options)), stub_(proto::tree::TreeManager::NewStub(ChannelTo(options_.manager))) {}

TreeClient::~TreeClient() { Stop(); }

void TreeClient::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    if (call_) call_->TryCancel();
    wake_.notify_all();
  }
  if (session_.joinable()) session_.join();
  if (sender_.joinable()) sender_.join();
}

void TreeClient::Start() {
  session_ = std::thread([this] { RunSessions(); });
  sender_ = std::thread([this] { RunSender(); });
}

void TreeClient::Send(proto::tree::NodeMessage message) {
  const std::lock_guard lock(mutex_);
  if (!stream_ || queue_.size() >= kMaxQueued) return;
  queue_.push_back(std::move(message));
  wake_.notify_all();
}

bool TreeClient::connected() const {
  const std::lock_guard lock(mutex_);
  return connected_;
}

void TreeClient::Wake() {
  const std::lock_guard lock(mutex_);
  if (std::exchange(woken_, true)) return;
  wake_.notify_all();
}

// False: it is to end.
bool TreeClient::SleepFor(milliseconds time) {
  std::unique_lock lock(mutex_);
  return !wake_.wait_for(lock, time, [this] { return stopping_; });
}

void TreeClient::RunSessions() {
  milliseconds wait = kFirstRetry;
  while (true) {
    const auto began = steady_clock::now();
    RunSession();
    if (steady_clock::now() - began > kLongestRetry) wait = kFirstRetry;
    if (!SleepFor(Jittered(wait))) return;
    wait = std::min(wait * 2, kLongestRetry);
  }
}

void TreeClient::RunSession() {
  const auto call = std::make_shared<grpc::ClientContext>();
  if (!options_.token.empty()) call->AddMetadata("authorization", "Bearer " + options_.token);
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    call_ = call;
  }
  // The sender may hold the stream a little longer: the call goes with it.
  const std::shared_ptr<Stream> stream(stub_->Session(call.get()).release(), [call](Stream* last) { delete last; });
  // Memberships that change from here on are queued behind the hello that tells of the others.
  {
    const std::lock_guard lock(mutex_);
    queue_.clear();
    stream_ = stream;
  }
  proto::tree::NodeMessage hello;
  *hello.mutable_hello() = options_.hello();
  {
    const std::lock_guard lock(mutex_);
    queue_.push_front(std::move(hello));
    wake_.notify_all();
  }
  proto::tree::ManagerMessage message;
  bool welcome = false;
  while (stream->Read(&message)) {
    if (message.has_welcome()) {
      welcome = true;
      const std::lock_guard lock(mutex_);
      connected_ = true;
      beat_ = std::clamp(milliseconds(message.welcome().heartbeat_millis()), milliseconds(100), milliseconds(60'000));
      wake_.notify_all();  // beats begin
      spdlog::info("in session with the tree-manager at {}", options_.manager);
    }
    options_.on_message(message);
  }
  bool stopping = false;
  {
    const std::lock_guard lock(mutex_);
    stopping = stopping_;
    connected_ = false;
    stream_ = nullptr;
  }
  const grpc::Status status = stream->Finish();
  {
    const std::lock_guard lock(mutex_);
    call_ = nullptr;
  }
  if (stopping) return;
  if (welcome) {
    spdlog::warn("the session with the tree-manager at {} has ended ({}); the trees stay as they are", options_.manager,
                 status.error_message());
  } else {
    spdlog::debug("no session with the tree-manager at {}: {}", options_.manager, status.error_message());
  }
}

void TreeClient::RunSender() {
  auto next_beat = steady_clock::now();
  auto next_tick = next_beat;  // by what on_tick said
  auto last_tick = next_beat - options_.tick;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const auto earliest = last_tick + options_.tick;
    const auto tick_at = std::max(earliest, woken_ ? earliest : next_tick);
    const auto until = connected_ ? std::min(next_beat, tick_at) : tick_at;
    const auto now = steady_clock::now();
    if (queue_.empty() && now < until) {
      wake_.wait_until(lock, std::min(until, now + kLongestSleep));
      continue;
    }
    const bool tick = now >= tick_at;
    const bool beat = connected_ && now >= next_beat;
    if (tick) {
      woken_ = false;
      last_tick = now;
    }
    if (beat) next_beat = now + beat_;
    if (tick || beat) {
      lock.unlock();
      if (tick) next_tick = options_.on_tick();
      if (beat) {
        proto::tree::NodeMessage message;
        *message.mutable_heartbeat() = options_.heartbeat();
        Send(std::move(message));
      }
      lock.lock();
    }
    std::deque<proto::tree::NodeMessage> messages;
    messages.swap(queue_);
    const std::shared_ptr<Stream> stream = stream_;
    if (!stream) continue;
    lock.unlock();
    for (const auto& message : messages) {
      if (!stream->Write(message)) break;  // the reader finds out
    }
    lock.lock();
  }
}

}  // namespace banyan::peer_agent
