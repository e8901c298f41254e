#include "lazyfs/keeper_server.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <utility>

namespace banyan::lazyfs::keeper {

void Server::AppendPolls(std::vector<pollfd>& polls) const {
  polls.push_back({listener_.get(), POLLIN, 0});
  for (const UniqueFd& client : clients_) polls.push_back({client.get(), POLLIN, 0});
}

void Server::Step(const std::vector<pollfd>& polls) {
  for (const pollfd& one : polls) {
    if (one.revents == 0) continue;
    if (one.fd == listener_.get()) {
      Accept();
      continue;
    }
    const auto client =
        std::find_if(clients_.begin(), clients_.end(), [&](const UniqueFd& c) { return c.get() == one.fd; });
    if (client != clients_.end() && !Serve(client->get())) clients_.erase(client);
  }
}

void Server::Accept() {
  UniqueFd client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!client) return;
  if (PeerUser(client.get()) != static_cast<long>(geteuid())) {
    Message refusal;
    refusal.status = EPERM;
    (void)Send(client.get(), refusal);
    return;
  }
  if (clients_.size() >= kMaxClients) return;
  clients_.push_back(std::move(client));
}

bool Server::Serve(int client) {
  Packet question;
  const int error = Receive(client, &question);
  if (error == EAGAIN) return true;
  if (error != 0) return false;
  const Kept* give = nullptr;
  const Message answer = Answer(question, &give);
  const int sent = give == nullptr ? Send(client, answer) : Send(client, answer, give->fuse.get(), give->journal.get());
  return sent == 0;
}

Message Server::Answer(Packet& question, const Kept** give) {
  const Message& asked = question.message;
  Message answer;
  answer.op = asked.op;
  const std::string name(asked.name);
  if (asked.version != kVersion) {
    answer.status = EPROTONOSUPPORT;
    return answer;
  }
  switch (asked.op) {
    case Op::kHello:
      break;
    case Op::kPut:
      if (name.empty() || !question.fds[0] || !question.fds[1]) {
        answer.status = EINVAL;
      } else if (!shelf_.contains(name) && shelf_.size() >= kMaxSessions) {
        answer.status = ENOSPC;
      } else {
        shelf_[name] = {std::move(question.fds[0]), std::move(question.fds[1])};
      }
      break;
    case Op::kGet: {
      const auto place = shelf_.find(name);
      if (place == shelf_.end()) {
        answer.status = ENOENT;
      } else {
        *give = &place->second;
      }
      break;
    }
    case Op::kDrop:
      shelf_.erase(name);
      break;
    case Op::kList: {
      if (asked.index >= shelf_.size()) {
        answer.status = ENOENT;
      } else {
        const std::string& found = std::next(shelf_.begin(), static_cast<std::ptrdiff_t>(asked.index))->first;
        std::memcpy(answer.name, found.data(), found.size());
      }
      break;
    }
    default:
      answer.status = EINVAL;
  }
  return answer;
}

}  // namespace banyan::lazyfs::keeper
