#include "lazyfs/keeper.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "common/log.h"
#include "lazyfs/keeper_socket.h"

namespace banyan::lazyfs {
namespace {

constexpr auto kLookInterval = std::chrono::seconds(1);

UniqueFd Duplicate(int fd) { return UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

Error ErrorOf(int status, const std::string& what) {
  switch (status) {
    case EPROTONOSUPPORT:
    case EPROTO:
      return {Code::kFailedPrecondition, what + ": the keeper speaks another version of the protocol"};
    case ENOSPC:
      return {Code::kResourceExhausted, what + ": the keeper is full"};
    case EPERM:
    case EACCES:
      return {Code::kPermissionDenied, what + ": the keeper serves another user"};
    case ENOENT:
      return {Code::kNotFound, what + ": the keeper does not have it"};
    case EINVAL:
      return {Code::kInvalidArgument, what + ": refused by the keeper"};
    default:
      return {Code::kUnavailable, fmt::format("{}: no keeper answers: {}", what, std::strerror(status))};
  }
}

}  // namespace

class KeeperClient::Impl {
 public:
  Impl(std::string path, std::chrono::milliseconds timeout) : path_(std::move(path)), timeout_(timeout) {}
  ~Impl() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    if (watcher_.joinable()) watcher_.join();
  }

  Status Start() {
    std::lock_guard lock(mutex_);
    BANYAN_TRY(ConnectLocked());
    watcher_ = std::thread([this] { Watch(); });
    return {};
  }

  Status Put(const std::string& name, int fuse_fd, int journal_fd) {
    std::lock_guard lock(mutex_);
    BANYAN_TRY(PutLocked(name, fuse_fd, journal_fd));
    RememberLocked(name, fuse_fd, journal_fd);
    return {};
  }

  Result<KeptSession> Get(const std::string& name) {
    std::lock_guard lock(mutex_);
    BANYAN_ASSIGN(keeper::Packet answer, Ask(keeper::Op::kGet, name, 0, -1, -1));
    if (!answer.fds[0] || !answer.fds[1]) {
      return Fail(Code::kDataLoss, fmt::format("session {}: the keeper gave no descriptors", name));
    }
    // Adopted: a keeper that is restarted from now on gets them from us.
    RememberLocked(name, answer.fds[0].get(), answer.fds[1].get());
    return KeptSession{std::move(answer.fds[0]), std::move(answer.fds[1])};
  }

  Result<std::vector<std::string>> List() {
    std::lock_guard lock(mutex_);
    std::vector<std::string> names;
    for (uint32_t index = 0;; ++index) {
      Result<keeper::Packet> answer = Ask(keeper::Op::kList, "", index, -1, -1);
      if (!answer && answer.error().code == Code::kNotFound) return names;
      if (!answer) return Fail(std::move(answer).error());
      names.emplace_back(answer->message.name);
    }
  }

  Status Drop(const std::string& name) {
    std::lock_guard lock(mutex_);
    ours_.erase(name);
    sessions_ = ours_.size();
    BANYAN_TRY(Ask(keeper::Op::kDrop, name, 0, -1, -1));
    return {};
  }

  bool connected() const { return connected_; }
  size_t sessions() const { return connected_ ? sessions_.load() : 0; }

 private:
  void RememberLocked(const std::string& name, int fuse_fd, int journal_fd) {
    ours_[name] = {Duplicate(fuse_fd), Duplicate(journal_fd)};
    sessions_ = ours_.size();
  }

  Status ConnectLocked() {
    connected_ = false;
    const int error = keeper::Connect(path_, &socket_);
    if (error != 0) {
      socket_.reset();
      return Fail(ErrorOf(error == ENOENT ? ECONNREFUSED : error, fmt::format("keeper at {}", path_)));
    }
    const timeval wait{static_cast<time_t>(timeout_.count() / 1000),
                       static_cast<suseconds_t>(timeout_.count() % 1000 * 1000)};
    setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    setsockopt(socket_.get(), SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
    BANYAN_TRY(AskOnce(keeper::Op::kHello, "", 0, -1, -1));
    connected_ = true;
    return {};
  }

  Result<keeper::Packet> AskOnce(keeper::Op op, const std::string& name, uint32_t index, int fd0, int fd1) {
    const std::string what = name.empty() ? fmt::format("keeper at {}", path_) : fmt::format("session {}", name);
    if (name.size() >= keeper::kNameBytes || name.find('\0') != std::string::npos) {
      return Fail(Code::kInvalidArgument, what + ": not a name for the keeper");
    }
    keeper::Message question;
    question.op = op;
    question.index = index;
    std::memcpy(question.name, name.data(), name.size());
    keeper::Packet answer;
    int error = keeper::Send(socket_.get(), question, fd0, fd1);
    if (error == 0) error = keeper::Receive(socket_.get(), &answer);
    if (error != 0) {
      // An answer that comes late must not be taken for another question's.
      connected_ = false;
      socket_.reset();
      return Fail(ErrorOf(error, what));
    }
    if (answer.message.status != 0) return Fail(ErrorOf(answer.message.status, what));
    return answer;
  }

  // Once more over a new connection when the old one turns out to be dead.
  Result<keeper::Packet> Ask(keeper::Op op, const std::string& name, uint32_t index, int fd0, int fd1) {
    if (socket_) {
      Result<keeper::Packet> answer = AskOnce(op, name, index, fd0, fd1);
      if (answer || answer.error().code != Code::kUnavailable) return answer;
    }
    BANYAN_TRY(ReconnectLocked());
    return AskOnce(op, name, index, fd0, fd1);
  }

  Status PutLocked(const std::string& name, int fuse_fd, int journal_fd) {
    if (name.empty()) return Fail(Code::kInvalidArgument, "a session without a name");
    BANYAN_TRY(Ask(keeper::Op::kPut, name, 0, fuse_fd, journal_fd));
    return {};
  }

  // A keeper that we find anew has lost what it held.
  Status ReconnectLocked() {
    sessions_ = 0;
    BANYAN_TRY(ConnectLocked());
    for (const auto& [name, session] : ours_) {
      BANYAN_TRY(AskOnce(keeper::Op::kPut, name, 0, session.fuse.get(), session.journal.get()));
      ++sessions_;
    }
    return {};
  }

  void Watch() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      wake_.wait_for(lock, kLookInterval, [&] { return stopping_; });
      if (stopping_) return;
      pollfd state{socket_.get(), POLLIN, 0};
      if (socket_ && poll(&state, 1, 0) == 0) continue;
      const bool was_connected = connected_;
      Status status = ReconnectLocked();
      if (status) {
        spdlog::info("found the keeper at {} again and gave it {} sessions", path_, ours_.size());
      } else if (was_connected) {
        spdlog::warn("lost the keeper: {}; a crash from now on would lose the mounts", status.error().message);
      }
    }
  }

  const std::string path_;
  const std::chrono::milliseconds timeout_;
  std::thread watcher_;
  std::atomic<bool> connected_{false};
  std::atomic<size_t> sessions_{0};  // of ours_, that it has

  std::mutex mutex_;
  std::condition_variable wake_;
  UniqueFd socket_;                          // guarded by mutex_
  std::map<std::string, KeptSession> ours_;  // guarded by mutex_
  bool stopping_ = false;                    // guarded by mutex_
};

Result<std::unique_ptr<KeeperClient>> KeeperClient::Connect(const std::string& socket_path,
                                                            std::chrono::milliseconds timeout) {
  auto impl = std::make_unique<Impl>(socket_path, timeout);
  BANYAN_TRY(impl->Start());
  return std::unique_ptr<KeeperClient>(new KeeperClient(std::move(impl)));
}

KeeperClient::KeeperClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
KeeperClient::~KeeperClient() = default;

Status KeeperClient::Put(const std::string& name, int fuse_fd, int journal_fd) {
  return impl_->Put(name, fuse_fd, journal_fd);
}
Result<KeptSession> KeeperClient::Get(const std::string& name) { return impl_->Get(name); }
Result<std::vector<std::string>> KeeperClient::List() { return impl_->List(); }
Status KeeperClient::Drop(const std::string& name) { return impl_->Drop(name); }
bool KeeperClient::connected() const { return impl_->connected(); }
size_t KeeperClient::sessions() const { return impl_->sessions(); }

}  // namespace banyan::lazyfs
