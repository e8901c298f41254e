// Images that the tree-manager has told this node to bring: one after the other, with a report a second.
//
// What is under way or waits is not begun again when the manager tells of it again (it does, in a new session); what
// has ended is reported again.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "common/result.h"
#include "proto/tree.pb.h"

namespace banyan::peer_agent {

// Internally synchronised. Only Stop() waits.
class Preheats {
 public:
  using OnProgress = std::function<bool(uint64_t present, uint64_t total)>;
  // Fetches the image whole; ends early with kCancelled when the callback says false.
  using Fetch = std::function<Status(const proto::tree::PreheatCommand& command, const OnProgress& progress)>;
  using Send = std::function<void(proto::tree::PreheatReport report)>;
  static constexpr size_t kMaxWaiting = 64;
  static constexpr size_t kMaxRemembered = 256;

  explicit Preheats(Fetch fetch) : fetch_(std::move(fetch)) {}
  // Stop()s.
  ~Preheats();

  // `send` is called on any thread; it must not block.
  void Take(const proto::tree::PreheatCommand& command, Send send);
  // Breaks off what is under way; takes no more.
  void Stop();

 private:
  void Run();
  proto::tree::PreheatReport Bring(const proto::tree::PreheatCommand& command, const Send& send);

  const Fetch fetch_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::pair<proto::tree::PreheatCommand, Send>> waiting_;  // guarded by mutex_, as is all that follows
  // By id and reference: a manager that was restarted begins its ids anew.
  std::map<std::pair<uint64_t, std::string>, proto::tree::PreheatReport> known_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace banyan::peer_agent
