#include "lazyfs/systemd_keeper.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <systemd/sd-daemon.h>

#include <cerrno>
#include <cstdlib>

namespace banyan::lazyfs {

namespace {

constexpr size_t kMaxStoredName = 255;
constexpr uint64_t kTakenTimeoutMicros = 5'000'000;
constexpr const char* kFuse = ".fuse";
constexpr const char* kJournal = ".journal";

bool IsPlain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
         c == '/' || c == '_';
}

// Names in the store are of printable ASCII without ':'.
Result<std::string> StoredName(const std::string& name, const char* part) {
  std::string stored;
  for (const char c : name) {
    stored += IsPlain(c) ? std::string(1, c) : fmt::format("%{:02x}", static_cast<unsigned char>(c));
  }
  stored += part;
  if (name.empty() || stored.size() > kMaxStoredName) {
    return Fail(Code::kInvalidArgument, fmt::format("session '{}': no name for the descriptor store", name));
  }
  return stored;
}

Result<UniqueFd> Duplicate(int fd) {
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!copy) return FailErrno("duplicate a descriptor", errno);
  return copy;
}

Status NotifyManager(const std::string& message, int fd) {
  const int sent = fd < 0 ? ::sd_notify(0, message.c_str()) : ::sd_pid_notify_with_fds(0, 0, message.c_str(), &fd, 1);
  if (sent < 0) return FailErrno("the service manager's descriptor store", -sent);
  if (sent == 0) return Fail(Code::kFailedPrecondition, "no service manager listens");
  const int taken = ::sd_notify_barrier(0, kTakenTimeoutMicros);
  if (taken < 0) return FailErrno("the service manager's descriptor store", -taken);
  return {};
}

}  // namespace

Result<std::unique_ptr<SystemdKeeper>> SystemdKeeper::Open() {
  if (std::getenv("NOTIFY_SOCKET") == nullptr) {
    return Fail(Code::kFailedPrecondition,
                "keeper_socket = \"systemd\", but no service manager started this process ($NOTIFY_SOCKET is not set)");
  }
  char** names = nullptr;
  const int count = ::sd_listen_fds_with_names(1, &names);
  if (count < 0) return FailErrno("descriptors from the service manager", -count);
  NamedFds inherited;
  for (int i = 0; i < count; ++i) {
    inherited.emplace_back(names[i], UniqueFd(SD_LISTEN_FDS_START + i));
    std::free(names[i]);
  }
  std::free(static_cast<void*>(names));
  return std::make_unique<SystemdKeeper>(std::move(inherited), NotifyManager);
}

SystemdKeeper::SystemdKeeper(NamedFds inherited, Notify notify) : notify_(std::move(notify)) {
  for (auto& [name, fd] : inherited) held_[name] = std::move(fd);
  held_count_ = held_.size();
}

Status SystemdKeeper::Put(const std::string& name, int fuse_fd, int journal_fd) {
  const std::lock_guard lock(mutex_);
  for (const auto& [part, fd] : {std::pair{kFuse, fuse_fd}, std::pair{kJournal, journal_fd}}) {
    BANYAN_ASSIGN(const std::string stored, StoredName(name, part));
    BANYAN_TRY(Remove(stored));
    BANYAN_ASSIGN(UniqueFd copy, Duplicate(fd));
    // Without FDPOLL=0 the manager would drop a FUSE descriptor as soon as its mount has an error to report.
    BANYAN_TRY(notify_(fmt::format("FDSTORE=1\nFDPOLL=0\nFDNAME={}", stored), fd));
    held_[stored] = std::move(copy);
    held_count_ = held_.size();
  }
  return {};
}

Result<KeptSession> SystemdKeeper::Get(const std::string& name) {
  BANYAN_ASSIGN(const std::string fuse, StoredName(name, kFuse));
  BANYAN_ASSIGN(const std::string journal, StoredName(name, kJournal));
  const std::lock_guard lock(mutex_);
  if (!held_.contains(fuse) || !held_.contains(journal)) {
    return Fail(Code::kNotFound, fmt::format("session {}: not in the service manager's descriptor store", name));
  }
  KeptSession session;
  BANYAN_ASSIGN(session.fuse, Duplicate(held_.at(fuse).get()));
  BANYAN_ASSIGN(session.journal, Duplicate(held_.at(journal).get()));
  return session;
}

Status SystemdKeeper::Remove(const std::string& stored_name) {
  if (!held_.contains(stored_name)) return {};
  BANYAN_TRY(notify_("FDSTOREREMOVE=1\nFDNAME=" + stored_name, -1));
  held_.erase(stored_name);
  held_count_ = held_.size();
  return {};
}

Status SystemdKeeper::Drop(const std::string& name) {
  const std::lock_guard lock(mutex_);
  for (const char* part : {kFuse, kJournal}) {
    BANYAN_ASSIGN(const std::string stored, StoredName(name, part));
    BANYAN_TRY(Remove(stored));
  }
  return {};
}

}  // namespace banyan::lazyfs
