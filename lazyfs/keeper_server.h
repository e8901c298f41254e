// The keeper's shelf of descriptors and its clients. Single-threaded: Step() does what poll(2) found.
#pragma once

#include <poll.h>

#include <map>
#include <string>
#include <vector>

#include "common/unique_fd.h"
#include "lazyfs/keeper_protocol.h"
#include "lazyfs/keeper_socket.h"

namespace banyan::lazyfs::keeper {

// Externally synchronised.
class Server {
 public:
  static constexpr size_t kMaxSessions = 4096;
  static constexpr size_t kMaxClients = 64;

  explicit Server(UniqueFd listener) : listener_(std::move(listener)) {}

  // Appends the descriptors to wait for.
  void AppendPolls(std::vector<pollfd>& polls) const;
  // Handles those that are ready, without blocking.
  void Step(const std::vector<pollfd>& polls);

  size_t sessions() const { return shelf_.size(); }

 private:
  struct Kept {
    UniqueFd fuse;
    UniqueFd journal;
  };

  void Accept();
  // False: the client is to be dropped.
  bool Serve(int client);
  Message Answer(Packet& question, const Kept** give);

  UniqueFd listener_;
  std::vector<UniqueFd> clients_;
  std::map<std::string, Kept> shelf_;
};

}  // namespace banyan::lazyfs::keeper
