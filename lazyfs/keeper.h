// The agent's side of banyan-keeper: a tiny process that outlives the agent and holds, for every FUSE session, the
// /dev/fuse descriptor and the memfd journal of requests in flight. As long as one process holds that descriptor the
// mount lives and readers merely wait; a successor gets both descriptors back and goes on
// (docs/decisions/0002-raw-fuse-protocol.md).
//
// The protocol is one SEQPACKET datagram each way (keeper_protocol.h). Only processes of the keeper's own user are
// served.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"
#include "common/unique_fd.h"

namespace banyan::lazyfs {

// What the keeper holds under one name.
struct KeptSession {
  UniqueFd fuse;     // /dev/fuse
  UniqueFd journal;  // memfd
};

// Who holds sessions beyond this process' life: banyan-keeper (below) or the service manager (systemd_keeper.h).
// Internally synchronised.
class SessionKeeper {
 public:
  virtual ~SessionKeeper() = default;
  // Hands copies of both descriptors over, replacing what the name had. Names: 1 to 127 bytes without NUL.
  // kResourceExhausted when the keeper is full.
  virtual Status Put(const std::string& name, int fuse_fd, int journal_fd) = 0;
  // New copies of the descriptors; kNotFound when the name is unknown.
  virtual Result<KeptSession> Get(const std::string& name) = 0;
  // Makes the keeper forget a name; one it does not know is no error.
  virtual Status Drop(const std::string& name) = 0;
  // Whether the keeper was there when last looked at (at most about a second ago).
  virtual bool connected() const = 0;
  // How many sessions of this process it holds, as far as is known; 0 while it is not there. Does not block.
  virtual size_t sessions() const = 0;
};

// Internally synchronised. While it lives, a keeper that was restarted is found again and given everything that was Put
// through this client and not dropped since.
class KeeperClient final : public SessionKeeper {
 public:
  // The variable in which banyan-keeper --supervise tells its child the socket's path.
  static constexpr const char* kSocketVariable = "BANYAN_KEEPER_SOCKET";

  // Waits at most `timeout` for an answer. kUnavailable when no keeper answers there, kPermissionDenied when it is
  // another user's, kFailedPrecondition when it speaks another protocol version.
  static Result<std::unique_ptr<KeeperClient>> Connect(const std::string& socket_path,
                                                       std::chrono::milliseconds timeout = std::chrono::seconds(5));
  ~KeeperClient() override;
  KeeperClient(const KeeperClient&) = delete;
  KeeperClient& operator=(const KeeperClient&) = delete;

  Status Put(const std::string& name, int fuse_fd, int journal_fd) override;
  Result<KeptSession> Get(const std::string& name) override;
  Status Drop(const std::string& name) override;
  bool connected() const override;
  size_t sessions() const override;
  // The names held, sorted.
  Result<std::vector<std::string>> List();

 private:
  class Impl;
  explicit KeeperClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace banyan::lazyfs
