#include "lazyfs/keeper_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace banyan::lazyfs::keeper {
namespace {

constexpr int kBacklog = 16;

struct Control {
  alignas(cmsghdr) char bytes[CMSG_SPACE(sizeof(int) * kDescriptors)] = {};
};

int MakeSocket(const std::string& path, sockaddr_un* address, UniqueFd* out) {
  *address = {};
  address->sun_family = AF_UNIX;
  if (path.size() >= sizeof(address->sun_path)) return ENAMETOOLONG;
  std::memcpy(address->sun_path, path.data(), path.size());
  out->reset(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  return out->valid() ? 0 : errno;
}

void TakeDescriptors(msghdr* header, Packet* packet) {
  for (cmsghdr* part = CMSG_FIRSTHDR(header); part != nullptr; part = CMSG_NXTHDR(header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      UniqueFd owned(fd);
      if (i < packet->fds.size()) packet->fds[i] = std::move(owned);
    }
  }
}

}  // namespace

int Send(int socket, const Message& message, int fd0, int fd1) {
  iovec part{const_cast<Message*>(&message), sizeof(message)};
  Control control;
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (fd0 >= 0) {
    header.msg_control = control.bytes;
    header.msg_controllen = sizeof(control.bytes);
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int) * kDescriptors);
    const int fds[kDescriptors] = {fd0, fd1};
    std::memcpy(CMSG_DATA(rights), fds, sizeof(fds));
  }
  while (sendmsg(socket, &header, MSG_NOSIGNAL) < 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

int Receive(int socket, Packet* packet) {
  iovec part{&packet->message, sizeof(packet->message)};
  Control control;
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.bytes;
  header.msg_controllen = sizeof(control.bytes);
  ssize_t got = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  while (got < 0 && errno == EINTR) got = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  if (got < 0) return errno;
  TakeDescriptors(&header, packet);
  if (got == 0) return EPIPE;
  Message& message = packet->message;
  if (got != sizeof(message) || (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || message.magic != kMagic) {
    return EPROTO;
  }
  message.name[kNameBytes - 1] = '\0';
  return 0;
}

int Connect(const std::string& path, UniqueFd* out) {
  sockaddr_un address;
  if (int error = MakeSocket(path, &address, out); error != 0) return error;
  return connect(out->get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 ? 0 : errno;
}

int Listen(const std::string& path, UniqueFd* out) {
  sockaddr_un address;
  UniqueFd probe;
  if (Connect(path, &probe) == 0) return EADDRINUSE;
  if (int error = MakeSocket(path, &address, out); error != 0) return error;
  struct stat status {};
  if (lstat(path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode)) unlink(path.c_str());
  const mode_t old_mask = umask(0177);
  const int bound = bind(out->get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 ? 0 : errno;
  umask(old_mask);
  if (bound != 0) return bound;
  return listen(out->get(), kBacklog) == 0 ? 0 : errno;
}

long PeerUser(int socket) {
  ucred peer{};
  socklen_t length = sizeof(peer);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return -1;
  return static_cast<long>(peer.uid);
}

}  // namespace banyan::lazyfs::keeper
