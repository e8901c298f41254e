#include "lazyfs/fuse_session.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <string_view>
#include <thread>
#include <utility>

#include "common/file_io.h"
#include "common/log.h"
#include "lazyfs/fuse_session_core.h"
#include "lazyfs/mount_table.h"

namespace banyan::lazyfs {
namespace {

// Requests that are not background ones (look-ups, reads by page) take slots too.
constexpr uint32_t kForegroundSlots = 1024;
constexpr auto kStatfsTimeout = std::chrono::seconds(2);
constexpr auto kBusyWait = std::chrono::milliseconds(500);
constexpr auto kUnmountTimeout = std::chrono::seconds(4);
constexpr auto kLockRetry = std::chrono::milliseconds(10);

// Two processes must never serve one journal. The lock belongs to a file description of our own, so it ends with us.
Result<UniqueFd> LockJournal(int journal_fd, const std::string& name, std::chrono::milliseconds wait) {
  UniqueFd fd(open(fmt::format("/proc/self/fd/{}", journal_fd).c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) return FailErrno("opening the request journal again", errno);
  const auto give_up = std::chrono::steady_clock::now() + wait;
  while (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (std::chrono::steady_clock::now() >= give_up) {
      return Fail(Code::kFailedPrecondition, fmt::format("FUSE session {} is served by another process", name));
    }
    std::this_thread::sleep_for(kLockRetry);
  }
  return fd;
}

// An aborted or unmounted connection reports an error to poll(2).
bool ConnectionLives(int fuse_fd) {
  pollfd state{fuse_fd, POLLIN, 0};
  return poll(&state, 1, 0) >= 0 && (state.revents & (POLLERR | POLLNVAL)) == 0;
}

Status SetNonblocking(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
    return FailErrno("making /dev/fuse non-blocking", errno);
  return {};
}

// Asks the server itself: stat(2) would be answered out of the kernel's cache of attributes.
bool IsDead(const std::string& dir) {
  struct statfs status {};
  return statfs(dir.c_str(), &status) != 0 && (errno == ENOTCONN || errno == ECONNABORTED);
}

// A FUSE mount whose server is gone for good answers ENOTCONN; anything else that is mounted there is not ours to take
// away.
Status ClearDeadMount(const std::string& dir) {
  for (;;) {
    BANYAN_ASSIGN(const std::optional<MountEntry> entry, FindMount(dir));
    if (!entry) return {};
    auto dead = std::make_shared<std::atomic<bool>>(false);
    const bool answered =
        entry->fs_type.starts_with("fuse") && RunWithTimeout([dead, dir] { *dead = IsDead(dir); }, kStatfsTimeout);
    if (!answered || !*dead) {
      return Fail(Code::kFailedPrecondition, fmt::format("{} is mounted at {} already", entry->fs_type, dir));
    }
    spdlog::info("taking away the dead FUSE mount at {}", dir);
    if (umount2(dir.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0)
      return FailErrno(fmt::format("unmounting {}", dir), errno);
  }
}

Status MountFuse(const FuseSessionOptions& options, int fuse_fd) {
  const std::string type = options.fs_subtype.empty() ? "fuse" : "fuse." + options.fs_subtype;
  const std::string data =
      fmt::format("fd={},rootmode=40000,user_id={},group_id={},allow_other,default_permissions,max_read={}{}", fuse_fd,
                  geteuid(), getegid(), kMaxReadBytes, options.mount_options);
  if (mount("banyan", options.mount_dir.c_str(), type.c_str(), MS_RDONLY | options.mount_flags, data.c_str()) != 0) {
    return FailErrno(fmt::format("mounting {} at {}", type, options.mount_dir), errno);
  }
  return {};
}

struct Taken {
  UniqueFd fuse;
  std::unique_ptr<Journal> journal;
  UniqueFd lock;
};

// Empty: there is nothing worth taking over, and the keeper has forgotten whatever there was.
Result<std::optional<Taken>> TryTakeOver(const FuseSessionOptions& options, uint32_t slots) {
  if (options.keeper == nullptr) return std::nullopt;
  Result<KeptSession> kept = options.keeper->Get(options.name);
  if (!kept && kept.error().code == Code::kNotFound) return std::nullopt;
  if (!kept) return Fail(std::move(kept).error());
  BANYAN_ASSIGN(UniqueFd lock, LockJournal(kept->journal.get(), options.name, options.takeover_wait));
  Result<std::unique_ptr<Journal>> journal = Journal::Open(std::move(kept->journal));
  const bool lives = ConnectionLives(kept->fuse.get());
  if (!journal && lives) {
    // Written by another version. What is in flight can only come back by RESEND.
    spdlog::warn("FUSE session {}: {}; beginning a new journal", options.name, journal.error().message);
    journal = Journal::Create(slots);
    if (!journal) return Fail(std::move(journal).error());
    (*journal)->negotiated().served = 1;
    BANYAN_ASSIGN(lock, LockJournal((*journal)->fd(), options.name, options.takeover_wait));
    BANYAN_TRY(options.keeper->Put(options.name, kept->fuse.get(), (*journal)->fd()));
  }
  if (!lives || (*journal)->negotiated().served == 0) {
    // Unmounted meanwhile, or its server died before the first request: nobody waits for it.
    BANYAN_TRY(options.keeper->Drop(options.name));
    return std::nullopt;
  }
  return Taken{std::move(kept->fuse), std::move(*journal), std::move(lock)};
}

}  // namespace

Result<std::unique_ptr<FuseSession>> FuseSession::Start(FuseSessionOptions options, FuseHandler* handler) {
  if (options.max_background == 0 || options.max_background > UINT16_MAX) {
    return Fail(Code::kInvalidArgument, fmt::format("max_background {} is not in [1, 65535]", options.max_background));
  }
  if (const char* resend = std::getenv("BANYAN_FUSE_RESEND"))
    options.resend = options.resend && std::string_view(resend) != "0";
  const uint32_t slots = options.max_background + static_cast<uint32_t>(options.worker_threads) + kForegroundSlots;
  std::unique_ptr<FuseSession> session(new FuseSession());
  BANYAN_ASSIGN(std::optional<Taken> taken, TryTakeOver(options, slots));
  session->taken_over_ = taken.has_value();
  if (!taken) {
    BANYAN_TRY(ClearDeadMount(options.mount_dir));
    BANYAN_ASSIGN(UniqueFd fuse, OpenFile("/dev/fuse", O_RDWR));
    BANYAN_ASSIGN(auto journal, Journal::Create(slots));
    BANYAN_ASSIGN(UniqueFd lock, LockJournal(journal->fd(), options.name, options.takeover_wait));
    // The keeper first: from the mount on, a crash must find a holder.
    if (options.keeper != nullptr) BANYAN_TRY(options.keeper->Put(options.name, fuse.get(), journal->fd()));
    Status mounted = MountFuse(options, fuse.get());
    if (!mounted) {
      if (options.keeper != nullptr) (void)options.keeper->Drop(options.name);
      return Fail(std::move(mounted).error());
    }
    taken = Taken{std::move(fuse), std::move(journal), std::move(lock)};
  }
  BANYAN_TRY(SetNonblocking(taken->fuse.get()));
  session->core_ = std::make_shared<FuseSessionCore>(std::move(options), handler, std::move(taken->fuse),
                                                     std::move(taken->journal), std::move(taken->lock));
  BANYAN_TRY(session->core_->StartServing(session->taken_over_));
  return session;
}

FuseSession::~FuseSession() {
  if (core_ == nullptr) return;
  if (core_->options().keeper != nullptr) {
    Detach();
  } else if (Status status = Shutdown(); !status) {
    spdlog::warn("FUSE session {}: {}", core_->options().name, status.error().message);
  }
}

const std::string& FuseSession::mount_dir() const { return core_->options().mount_dir; }

FuseSessionCounters FuseSession::counters() const { return core_->counters(); }

void FuseSession::Detach() {
  if (ended_.exchange(true)) return;
  core_->StopServing();
}

Status FuseSession::Shutdown() {
  if (ended_.exchange(true)) return {};
  const FuseSessionOptions& options = core_->options();
  core_->FailAll();
  Status unmounted = UnmountWithin(options.mount_dir, kBusyWait, kUnmountTimeout);
  core_->StopServing();
  // A file that is still open would make its owner wait for ever, on close(2), for an answer from nobody.
  core_->CloseConnection();
  if (options.keeper != nullptr) BANYAN_TRY(options.keeper->Drop(options.name));
  if (!unmounted && unmounted.error().code != Code::kNotFound) return unmounted;
  return {};
}

}  // namespace banyan::lazyfs
