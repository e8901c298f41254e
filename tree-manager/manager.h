// The tree-manager as a running thing: Membership under one lock, a thread that brings it the time, one that stores
// what changed, and the sessions and watchers that hang on it, whatever carries them.
//
// Nothing blocks under the lock: RPC threads enter with an event and leave; the state goes to disk from a thread of its
// own, in batches, after the fact. What a crash takes with it, the agents bring back with their next hello.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "common/metrics.h"
#include "common/mutex.h"
#include "common/result.h"
#include "tree-manager/membership.h"
#include "tree-manager/preheats.h"
#include "tree-manager/state_store.h"

namespace banyan::tree_manager {

// The manager's way to a session. Called on any thread, without the manager's lock; must not block.
class SessionSink {
 public:
  virtual ~SessionSink() = default;
  // There is a message for it: Manager::Next().
  virtual void Poke() = 0;
  virtual void End(const Error& reason) = 0;
};

using SharedEvent = std::shared_ptr<const proto::tree::WatchEvent>;

class WatchSink {
 public:
  virtual ~WatchSink() = default;
  virtual void Offer(const SharedEvent& event) = 0;
};

// Internally synchronised.
class Manager {
 public:
  struct Options {
    MembershipOptions membership;
    std::string state_path;  // of the database; empty: nothing is kept
    std::chrono::milliseconds store_interval{50};
    // What the tracker answers a node, of this zone and with this address, that announces swarms by its session. Any
    // thread, without the manager's lock; must not block. Null: there is no tracker.
    std::function<proto::tree::SwarmPeers(const proto::tree::SwarmAnnounce&, const std::string& zone,
                                          const std::string& address)>
        announce = {};
  };
  // Restores what was kept.
  static Result<std::unique_ptr<Manager>> Start(Options options);
  // After the sessions and watchers have gone. Stores the rest.
  ~Manager();

  SessionId Open(const std::shared_ptr<SessionSink>& sink, std::string peer_ip);
  // As Membership's.
  Status OnMessage(SessionId session, const proto::tree::NodeMessage& message);
  void Close(SessionId session);
  std::shared_ptr<const proto::tree::ManagerMessage> Next(SessionId session);

  proto::tree::FunctionsReply Functions();
  Result<proto::tree::TreeReply> Tree(const std::string& function);
  proto::tree::NodesReply Nodes();
  // The latest cold starts, the oldest first.
  std::vector<proto::tree::StartReport> Starts();
  struct Summary {
    MembershipGauges gauges;
    uint64_t epoch = 0;
    bool peer_to_peer = true;
  };
  Summary Summarise();
  Result<proto::tree::DrainReply> Drain(const std::string& node, bool undo);
  void SetPeerToPeer(bool on);
  // As Preheats'.
  Result<proto::tree::PreheatReply> Preheat(const proto::tree::PreheatRequest& request);
  Result<proto::tree::PreheatProgressReply> PreheatProgress(uint64_t id);
  // The state now, and what changes later by `sink`, until Unwatch(); that may begin to come before this returns.
  // kResourceExhausted: too many watch.
  Result<std::vector<SharedEvent>> Watch(const std::shared_ptr<WatchSink>& sink, const std::string& function);
  void Unwatch(const WatchSink* sink);

  void AddMetrics(MetricsPage& page);

 private:
  static constexpr size_t kMaxWatchers = 64;
  static constexpr size_t kMaxAnswers = 64;  // to one caller
  struct Watcher {
    std::shared_ptr<WatchSink> sink;
    std::string function;
  };

  // A node in session.
  struct Caller {
    std::string address;  // the session's until it says another
    std::string node;     // empty: it has not said hello
    std::string zone;
    std::deque<std::shared_ptr<const proto::tree::ManagerMessage>> answers;  // that wait to be sent
  };

  explicit Manager(Options options);
  void OnAnnounce(SessionId session, const proto::tree::SwarmAnnounce& announce);
  void Tick();
  void Store();
  // Hands out what an event has brought. Without the lock.
  struct Work {
    std::vector<std::shared_ptr<SessionSink>> ready;
    std::vector<std::pair<std::shared_ptr<SessionSink>, Error>> ended;
    std::vector<SharedEvent> events;
    std::vector<Watcher> watchers;
  };
  Work TakeWork() BANYAN_REQUIRES(mutex_);
  void TakeEvents(Work& work) BANYAN_REQUIRES(mutex_);
  static void Do(const Work& work);
  void WriteRecords(RecordChanges changes);

  const Options options_;
  std::unique_ptr<StateStore> store_;  // null: nothing is kept

  Mutex mutex_;
  std::condition_variable wake_ticker_;
  std::condition_variable wake_storer_;
  Membership membership_ BANYAN_GUARDED_BY(mutex_);
  std::unordered_map<SessionId, std::shared_ptr<SessionSink>> sinks_ BANYAN_GUARDED_BY(mutex_);
  std::vector<Watcher> watchers_ BANYAN_GUARDED_BY(mutex_);
  Preheats preheats_ BANYAN_GUARDED_BY(mutex_);
  std::unordered_map<SessionId, Caller> callers_ BANYAN_GUARDED_BY(mutex_);
  Time ticker_wakes_ BANYAN_GUARDED_BY(mutex_) = Time::max();
  bool stopping_ BANYAN_GUARDED_BY(mutex_) = false;
  uint64_t store_failures_ BANYAN_GUARDED_BY(mutex_) = 0;
  uint64_t records_stored_ BANYAN_GUARDED_BY(mutex_) = 0;

  // The storing thread's own.
  RecordChanges unwritten_;

  std::thread ticker_;
  std::thread storer_;
};

}  // namespace banyan::tree_manager
