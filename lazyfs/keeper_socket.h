// Datagrams with descriptors on a SEQPACKET socket, for both ends. Header and source use nothing but the C library, so
// that banyan-keeper stays tiny.
#pragma once

#include <array>
#include <string>

#include "common/unique_fd.h"
#include "lazyfs/keeper_protocol.h"

namespace banyan::lazyfs::keeper {

struct Packet {
  Message message;
  std::array<UniqueFd, kDescriptors> fds;  // both or none
};

// Both return 0 or an errno value. Send takes -1 for "no descriptor".
int Send(int socket, const Message& message, int fd0 = -1, int fd1 = -1);
// EPIPE when the peer has gone, EPROTO for a datagram that is not one message of ours.
int Receive(int socket, Packet* packet);

// 0 or an errno value; ENAMETOOLONG beyond 107 bytes.
int Connect(const std::string& path, UniqueFd* out);
// Listens at `path`, mode 0600; a socket file whose keeper has died is replaced, EADDRINUSE when one answers.
int Listen(const std::string& path, UniqueFd* out);
// The user at the other end, or -1.
long PeerUser(int socket);

}  // namespace banyan::lazyfs::keeper
