// The tree-manager's mind: which nodes there are, which functions they run, who is alive, and what each must be told.
//
// Pure: no threads, no sockets, no clock (the time comes with each event and must not go back), no disk. Events come
// in; what is to be done about them is taken out: messages for sessions, sessions to end, records to store, events for
// watchers. So an hour of a cluster's life, or a thousand deaths at once, is a test of milliseconds.
//
// Idea. Each function has a FunctionTree; a member of it has an assignment, which is what the trees say of it now.
// Events only mark members whose assignment may have changed; 20 ms later all marks of a function are looked at
// together, and those whose assignment did change are told, with one new version. A message is made when a session can
// take it, from what holds then: a slow session has no queue, and the latest assignment wins by construction.
//
// Invariants. A node whose beats come is never removed. A version (epoch, version) never comes twice with a later
// meaning. What is taken out by TakeRecords(), together, is a state that Restore() makes the same trees of.
//
// Who is dead is the one hard question; see membership_life.cc. docs/tree-manager.md says what is decided when.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/result.h"
#include "proto/tree.pb.h"
#include "proto/tree_state.pb.h"
#include "tree-manager/burst_profile.h"
#include "tree-manager/function_tree.h"
#include "tree-manager/start_book.h"

namespace banyan::tree_manager {

using Time = std::chrono::steady_clock::time_point;
using SessionId = uint64_t;  // never 0, never reused

struct MembershipOptions {
  FunctionTree::Options tree;
  bool peer_to_peer = true;  // until the switch is used
  std::chrono::milliseconds heartbeat{1'000};
  uint32_t suspect_after = 2;  // missed beats
  uint32_t remove_after = 5;   // missed beats
  std::chrono::milliseconds batch{20};
  std::chrono::milliseconds doubt{15'000};
  std::chrono::milliseconds restart_patience{15'000};
  std::chrono::milliseconds idle_reclaim{15 * 60'000};
  std::chrono::milliseconds report_memory{10 * 60'000};  // and how long a node is avoided
};

// What is kept: names, and the values of proto/tree_state.proto.
struct StoredState {
  std::optional<proto::tree_state::Settings> settings;
  std::vector<std::string> drained;
  std::vector<std::pair<std::string, proto::tree_state::Node>> nodes;
  std::vector<std::pair<std::string, proto::tree_state::Function>> functions;
  std::vector<std::pair<std::string, proto::tree::ChunkList>> profiles;  // by function
  struct Member {
    std::string function;
    std::string node;
    proto::tree_state::Member value;
  };
  std::vector<Member> members;
};

// Changes of it. Deletions come before puts.
struct RecordChanges {
  enum class Kind : char { kSettings, kDrained, kNode, kFunction, kProfile, kMember };
  struct Change {
    Kind kind = Kind::kSettings;
    std::string name;                  // of the function for a member
    std::string node;                  // of a member
    std::optional<std::string> value;  // serialised; none: delete
  };
  std::vector<Change> changes;
};

// Since the start.
struct MembershipCounters {
  uint64_t joins = 0;
  uint64_t leaves = 0;
  uint64_t reclaimed = 0;  // members without use
  uint64_t removed = 0;    // nodes taken out as dead
  uint64_t beats = 0;
  uint64_t beats_missed = 0;
  uint64_t reparentings = 0;
  uint64_t assignments = 0;  // sent
  uint64_t doubts = 0;
  uint64_t refused = 0;               // by a limit
  uint64_t touches = 0;               // messages
  std::array<uint64_t, 5> reports{};  // by PeerReport::Kind
};
struct MembershipGauges {
  uint64_t nodes = 0, live = 0, suspect = 0, draining = 0, away = 0, avoided = 0;
  uint64_t sessions = 0, functions = 0, members = 0, height = 0, profile_chunks = 0;
  bool doubting = false;
};

// Externally synchronised.
class Membership {
 public:
  // Bounds of what clients can make it hold.
  static constexpr size_t kMaxNameBytes = 255;
  static constexpr size_t kMaxReferenceBytes = 1'024;
  static constexpr size_t kMaxNodes = 131'072;
  static constexpr size_t kMaxFunctions = 65'536;
  static constexpr size_t kMaxFunctionsOfNode = 4'096;
  static constexpr size_t kMaxMembers = 4'000'000;
  static constexpr size_t kMaxReporters = 16;  // remembered, of one node
  static constexpr size_t kMaxDrained = 65'536;
  static constexpr size_t kMaxProfileChunks = 16'000'000;  // of all functions

  // `unix_seconds` makes the epoch of a state that begins now.
  Membership(MembershipOptions options, uint64_t unix_seconds, Time now);
  ~Membership();
  Membership(const Membership&) = delete;
  Membership& operator=(const Membership&) = delete;

  // Before any event: every node where it stood, and AWAY. Returns how many functions' trees could not be restored;
  // their members were joined anew.
  size_t Restore(const StoredState& state, Time now);

  // ---- Events. ----
  // `peer_ip` is where the session comes from; empty: unknown.
  SessionId Open(std::string peer_ip, Time now);
  // An error: the session is to be ended with it, and is closed here already.
  Status OnMessage(SessionId session, const proto::tree::NodeMessage& message, Time now);
  // Whoever closed it.
  void Close(SessionId session, Time now);
  // What time brings: batches, deaths, reclaims. To be called about every kTick, and at NextDeadline().
  static constexpr std::chrono::milliseconds kTick{100};
  void Tick(Time now);
  // When Tick() has something to do before its usual time; Time::max(): nothing.
  Time NextDeadline() const { return flush_at_; }

  // ---- What is to be done. ----
  // Sessions that have a message since the last call.
  std::vector<SessionId> TakeReady();
  // The next message of a session; null: none.
  std::shared_ptr<const proto::tree::ManagerMessage> Next(SessionId session);
  // Sessions that the manager ends, with the reason.
  std::vector<std::pair<SessionId, Error>> TakeEnded();
  // In serialised form. Empty when nothing has changed.
  RecordChanges TakeRecords();
  // For watchers, without their times; none are made unless Watch(true).
  std::vector<proto::tree::WatchEvent> TakeEvents();
  void Watch(bool on) { watched_ = on; }

  // ---- Questions and orders. ----
  proto::tree::FunctionsReply Functions() const;
  // kNotFound; kInvalidArgument when the text is ambiguous.
  Result<proto::tree::TreeReply> Tree(const std::string& text) const;
  proto::tree::NodesReply Nodes(Time now) const;
  // kNotFound.
  Result<proto::tree::DrainReply> Drain(const std::string& node, bool undo, Time now);
  void SetPeerToPeer(bool on);
  // The latest cold starts, the oldest first.
  const StartBook& starts() const { return start_book_; }
  // The whole state as events, for a new watcher. `function` empty: all.
  std::vector<proto::tree::WatchEvent> Snapshot(const std::string& function, Time now) const;

  const MembershipCounters& counters() const { return counters_; }
  MembershipGauges gauges(Time now) const;
  uint64_t epoch() const { return epoch_; }
  bool peer_to_peer() const { return peer_to_peer_; }

 private:
  using FunctionId = uint32_t;
  struct Node;
  struct Member;
  struct Function;
  struct Session;

  // membership.cc
  Status OnHello(SessionId id, Session& session, const proto::tree::Hello& hello, Time now);
  Result<NodeId> NodeOf(const std::string& name);
  void TakeHello(NodeId id, Node& node, const proto::tree::Hello& hello, std::string address, Time now);
  void OnJoin(NodeId id, Node& node, const proto::tree::Join& join, Time now);
  void OnHeartbeat(NodeId id, Node& node, const proto::tree::Heartbeat& beat, Time now);
  void OnTouches(NodeId id, Node& node, const proto::tree::Touches& touches, Time now);
  void OnStart(const Node& node, const proto::tree::StartReport& start);
  Function* FunctionNamed(const std::string& name);
  Function* MakeFunction(const std::string& name, FunctionId* id);
  bool MakeRoomForFunction();
  void SeeEpoch(const proto::tree::Assignment& known);
  Member* FindMember(NodeId node, const std::string& function, Function** out);
  NodeTraits TraitsOf(const Node& node, const Member& member) const;
  void Apply(Function& function, const TreeChanges& changes);
  // Removes these members, and marks what changes for others.
  void RemoveMembers(Function& function, const std::vector<NodeId>& nodes);
  void DropFromNode(Node& node, FunctionId function);
  // The node's traits may have changed, in all its trees. Edges that changed.
  uint32_t Retrait(NodeId id);
  void AddressChanged(NodeId id);
  uint32_t ZoneId(const std::string& name);

  // membership_outbox.cc
  void MarkDirty(Function& function, NodeId node);
  void MarkPlaced(Function& function, NodeId node);
  void Flush(Function& function);
  void FlushAll();
  uint64_t Fingerprint(const Function& function, NodeId node, const Member& member) const;
  void FillAssignment(const Function& function, NodeId node, const Member& member, proto::tree::Assignment& out) const;
  void FillPeer(const Function& function, NodeId peer, proto::tree::Peer& out) const;
  void Queue(Node& node, Function& function, Member& member);
  void QueueGone(Node& node, const std::string& function);
  void MakeReady(Node& node);
  void SendProfiles(Time now);
  void QueueProfile(Node& node, Function& function, Member& member);
  void MakeProfileMessage(Function& function);

  // membership_holders.cc
  void HoldersChanged(Function& function);
  void HoldersChanged(const Node& node);
  bool Offers(const Function& function, NodeId node) const;
  void SendHolders(Time now);
  void QueueHolders(Node& node, Function& function, Member& member);
  std::shared_ptr<const proto::tree::ManagerMessage> HoldersFor(const Function& function, NodeId node) const;
  void NoteLie(NodeId peer, NodeId reporter, const Function& function, Time now);
  void JudgeLies(NodeId id, Node& node, Time now);

  // membership_life.cc
  uint32_t Missed(const Node& node, Time now) const;
  bool Silent(const Node& node, Time now) const { return Missed(node, now) > 0; }
  void Beat(NodeId id, Node& node, Time now);
  void OnReport(NodeId reporter, const Node& from, const proto::tree::PeerReport& report, Time now);
  void CountAgainst(NodeId peer, NodeId reporter, Time now);
  void ForgiveLateness(Time now);
  void JudgeNodes(Time now);
  bool Doubting(Time now);
  bool IsReportedDead(const Node& node, Time now) const;
  void RemoveNodes(const std::vector<NodeId>& nodes, std::string_view why);
  void ForgetNode(NodeId id);
  void JudgeAway(Time now);
  void EndSilentNewcomers(Time now);
  void LeaveUnconfirmed(Time now);
  void VisitFunctions(Time now);
  void FindSlowUplinks(Function& function, Time now);
  void ForgetSlowUplink(NodeId id, Node& node, Time now);
  void ReclaimIdle(Function& function, Time now);
  bool LeafOnly(const Node& node) const;

  // membership_state.cc
  void RestoreNode(const std::string& name, const proto::tree_state::Node& stored, Time now);
  void RestoreMember(Function& function, NodeId node, const proto::tree_state::Member& stored,
                     std::vector<FunctionTree::Member>& tree);
  bool RestoreTree(Function& function, const std::vector<FunctionTree::Member>& members);

  // membership_view.cc
  proto::tree::FunctionInfo InfoOf(const Function& function) const;
  proto::tree::NodeInfo InfoOf(const Node& node, Time now) const;
  proto::tree::NodeState StateOf(const Node& node) const;
  proto::tree::TreeNode TreeNodeOf(const Function& function, NodeId id, const Member& member) const;
  void TakeFeeds(NodeId id, Node& node, const proto::tree::Heartbeat& beat);
  void NodeChanged(NodeId id);
  void MemberChanged(Function& function, NodeId node, Member& member);
  void EmitNodes(Time now);
  void EmitMembers();
  void EmitTree(Function& function, const std::vector<NodeId>& changed);

  const MembershipOptions options_;
  const Time start_;
  uint64_t epoch_ = 0;
  uint64_t starts_ = 1;
  uint64_t version_ = 0;  // the last one given out; grows
  Time now_;              // of the event in hand
  bool peer_to_peer_ = true;

  // Slots are reused; null: free.
  std::vector<std::unique_ptr<Node>> nodes_;
  std::vector<NodeId> free_nodes_;
  std::unordered_map<std::string, NodeId> node_ids_;
  std::vector<std::unique_ptr<Function>> functions_;
  std::vector<FunctionId> free_functions_;
  std::unordered_map<std::string, FunctionId> function_ids_;
  std::unordered_map<std::string, uint32_t> zone_ids_;
  std::unordered_map<SessionId, Session> sessions_;
  SessionId last_session_ = 0;
  std::set<std::string> drained_;
  size_t member_count_ = 0;
  size_t profile_chunks_ = 0;
  uint64_t incarnations_ = 0;  // of nodes' addresses

  // Marks and queues.
  std::vector<FunctionId> dirty_functions_;
  Time flush_at_ = Time::max();
  std::vector<SessionId> ready_;
  std::vector<std::pair<SessionId, Error>> ended_;
  std::vector<FunctionId> growing_;  // profiles that members are to be told of, or that are not settled
  std::vector<FunctionId> stale_holders_;
  std::deque<std::pair<Time, SessionId>> unconfirmed_;  // whose hello may have left out functions

  // Records that changed, and names that are gone.
  bool settings_stored_ = false;
  std::vector<NodeId> stored_nodes_;
  std::vector<FunctionId> stored_functions_;
  std::vector<FunctionId> stored_profiles_;
  std::vector<std::pair<FunctionId, NodeId>> stored_members_;
  std::vector<RecordChanges::Change> deleted_;

  // Life.
  Time last_tick_;
  Time doubt_until_ = Time::min();
  Time away_until_ = Time::min();  // nobody is removed before
  bool away_extended_ = false;

  StartBook start_book_;

  // Watching.
  bool watched_ = false;
  std::vector<proto::tree::WatchEvent> events_;
  std::vector<NodeId> changed_nodes_;
  std::vector<FunctionId> changed_functions_;
  Time emitted_nodes_;

  MembershipCounters counters_;
};

}  // namespace banyan::tree_manager
