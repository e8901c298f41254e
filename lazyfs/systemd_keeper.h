// The service manager as keeper: systemd's descriptor store, for units with FileDescriptorStoreMax=.
//
// Each session is two descriptors, stored under names made of the session's ("<name>.fuse", "<name>.journal"); a
// restarted service gets them with its sockets (sd_listen_fds_with_names(3)). They live until the unit is stopped, as
// banyan-keeper's do until it ends.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "common/result.h"
#include "common/unique_fd.h"
#include "lazyfs/keeper.h"

namespace banyan::lazyfs {

// Internally synchronised.
class SystemdKeeper final : public SessionKeeper {
 public:
  using NamedFds = std::vector<std::pair<std::string, UniqueFd>>;
  // Sends one message to the service manager, with a descriptor if it is not negative, and waits until it was taken.
  using Notify = std::function<Status(const std::string& message, int fd)>;

  // Takes the descriptors that the manager passed to this process (once in its life) and speaks to $NOTIFY_SOCKET.
  // kFailedPrecondition when the process was not started by a service manager.
  static Result<std::unique_ptr<SystemdKeeper>> Open();
  // For tests.
  SystemdKeeper(NamedFds inherited, Notify notify);

  Status Put(const std::string& name, int fuse_fd, int journal_fd) override;
  Result<KeptSession> Get(const std::string& name) override;
  Status Drop(const std::string& name) override;
  bool connected() const override { return true; }
  size_t sessions() const override { return held_count_ / 2; }

 private:
  Status Remove(const std::string& stored_name);

  const Notify notify_;
  std::mutex mutex_;
  std::map<std::string, UniqueFd> held_;  // what the manager holds, by stored name; guarded by mutex_
  std::atomic<size_t> held_count_{0};     // of held_
};

}  // namespace banyan::lazyfs
