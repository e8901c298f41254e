// What nodes send, from raw bytes to the manager's mind: three sessions, their messages in any order, time that passes,
// sessions that end. Whatever comes, a session is either taken on or ended with a reason, what is to be sent ends, and
// everything that can be asked has an answer.
//
// Input: frames. A byte: whose (the rest by 3) and what (divided by 3): 0 to 40: a message, its length in two bytes and
// the message; beyond: so many times 100 ms pass, or (255) the session ends.
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <string>

#include <spdlog/spdlog.h>

#include "tree-manager/membership.h"

namespace {

using namespace std::chrono_literals;
using banyan::tree_manager::Membership;
using banyan::tree_manager::SessionId;
using banyan::tree_manager::Time;

constexpr int kSessions = 3;

class Play {
 public:
  Play() : core_({}, 1'000'000, now_) {
    core_.Watch(true);
    for (SessionId& session : sessions_) session = core_.Open("10.0.0.1", now_);
  }
  void Run(const uint8_t* data, size_t size) {
    while (size > 0) {
      const uint8_t head = *data++;
      --size;
      SessionId& session = sessions_[head % kSessions];
      if (head == 255) {
        core_.Close(session, now_);
        session = core_.Open("", now_);
      } else if (head / kSessions > 40) {
        Pass((head / kSessions - 40) * 100ms);
      } else {
        const size_t length = size < 2 ? size : data[0] + 256 * size_t{data[1]};
        const size_t skipped = size < 2 ? 0 : 2;
        const size_t taken = std::min(length, size - skipped);
        Deliver(session, data + skipped, taken);
        data += skipped + taken;
        size -= skipped + taken;
      }
      Drain();
    }
    Pass(30s);
    Drain();
  }

 private:
  void Deliver(SessionId& session, const uint8_t* data, size_t size) {
    banyan::proto::tree::NodeMessage message;
    if (!message.ParseFromArray(data, static_cast<int>(size))) return;  // gRPC ends the call
    if (!core_.OnMessage(session, message, now_)) session = core_.Open("10.0.0.1", now_);
  }
  void Pass(std::chrono::milliseconds time) {
    for (; time > 0ms; time -= 100ms) {
      now_ += 100ms;
      core_.Tick(now_);
    }
  }
  void Drain() {
    core_.Tick(now_);
    for (const SessionId session : core_.TakeReady()) {
      int messages = 0;
      while (core_.Next(session)) {
        if (++messages > 100'000) std::abort();
      }
    }
    for (const auto& [ended, why] : core_.TakeEnded()) {
      if (why.message.empty()) std::abort();
      for (SessionId& session : sessions_) {
        if (session == ended) session = core_.Open("", now_);
      }
    }
    (void)core_.TakeRecords();
    (void)core_.TakeEvents();
    const auto functions = core_.Functions();
    for (const auto& function : functions.functions()) {
      const auto tree = core_.Tree(function.function());
      if (!tree || static_cast<uint32_t>(tree->nodes_size()) != function.nodes()) std::abort();
    }
    if (static_cast<size_t>(core_.Nodes(now_).nodes_size()) > Membership::kMaxNodes) std::abort();
    (void)core_.Snapshot("", now_);
    (void)core_.gauges(now_);
  }

  Time now_{1h};
  Membership core_;
  SessionId sessions_[kSessions];
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  spdlog::set_level(spdlog::level::off);
  Play().Run(data, size);
  return 0;
}
