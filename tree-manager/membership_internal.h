// What Membership is made of; for its own .cc files.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "tree-manager/membership.h"
#include "tree-manager/slow_uplinks.h"

namespace banyan::tree_manager {

struct Membership::Node {
  std::string name;
  std::string zone;
  uint32_t zone_id = 0;
  std::string address;  // empty: nobody can reach it
  uint32_t port = 0;
  uint64_t incarnation = 0;  // of name, address and port; never two alike
  std::string version;
  uint32_t weight = 100;
  bool wants_leaf = false;

  SessionId session = 0;  // 0: none
  Time last_beat{};       // or any message
  Time ended{};           // without a session: when it ended
  bool away = false;      // not seen since the manager's restart
  bool suspect = false;
  bool silent = false;  // as JudgeNodes saw it last
  Time silent_since{};
  uint32_t counted_missed = 0;  // in the counter already
  bool draining = false;
  bool avoided = false;
  Time avoided_until{};
  struct Report {
    NodeId reporter = 0;
    Time time;
  };
  std::vector<Report> reports;      // that count, one a reporter
  std::vector<Report> unreachable;  // that its silence may confirm, one a reporter
  struct Lie {
    Report report;
    FunctionId function = 0;
  };
  std::vector<Lie> lies;  // that it claimed to hold a function: they count if it does not take that back
  uint64_t uplink = 0, downlink = 0;
  bool uplink_full = false;
  // A weight less than its own, since its uplink was seen to be slow: at `slow_rate` bytes per second; 0: was not.
  uint32_t seen_weight = 0;
  uint64_t slow_rate = 0;
  Time slow_until{};
  uint64_t store = 0, store_budget = 0;
  std::vector<FunctionId> fed;                                     // that its last beat told feeds of
  bool changed = false;                                            // for watchers
  proto::tree::NodeState shown_state = proto::tree::NODE_UNKNOWN;  // to watchers
  bool stored = false;                                             // in stored_nodes_

  std::vector<FunctionId> functions;  // that it is a member of

  // For its session.
  bool ready = false;  // in ready_
  bool welcome = false;
  bool settings = false;
  std::vector<std::pair<std::string, uint64_t>> gone;  // functions that it was taken out of, and the version
  std::vector<FunctionId> assignments;
  std::vector<FunctionId> profiles;
  std::vector<FunctionId> holders;
};

struct Membership::Member {
  uint32_t present_permille = 0;
  bool ready = false;
  NodeTraits traits;  // as the tree has them
  Time last_use;
  bool confirmed = true;                           // by the node, since its hello
  bool dirty = false;                              // in Function::dirty
  bool placed = false;                             // in stored_members_
  bool fresh = true;                               // never flushed
  NodeId parents[kMaxStripes] = {kProxy, kProxy};  // at the last flush
  uint64_t fingerprint = 0;                        // of what was sent last; 0: nothing
  uint64_t version = 0;                            // of the same
  bool queued = false;                             // in Node::assignments
  bool profile_queued = false;                     // in Node::profiles
  bool holders_queued = false;                     // in Node::holders
  bool changed = false;                            // in Function::changed
  std::vector<proto::tree::Feed> feeds;            // by the last beat
};

struct Membership::Function {
  std::string name;
  FunctionId id = 0;
  std::string reference;
  FunctionTree tree;
  SlowUplinks slow_uplinks;
  std::unordered_map<NodeId, Member> members;
  uint64_t version = 0;
  uint64_t reparentings = 0;
  Time last_use;
  Time next_visit{};    // by VisitFunctions
  Time next_reclaim{};  // no member can be idle for too long before

  std::vector<NodeId> dirty;
  std::vector<std::string> gone;  // for watchers
  std::vector<NodeId> changed;    // for watchers, besides `dirty`
  bool in_changed = false;        // in changed_functions_
  uint64_t blob_bytes = 0;        // compressed, of its layers; 0: unknown
  bool in_dirty = false;          // in dirty_functions_
  bool stored = false;            // in stored_functions_

  BurstProfile profile;
  bool growing = false;          // in growing_
  bool profile_changed = false;  // members are to be told
  bool profile_stored = false;   // in stored_profiles_
  Time next_profile{};
  std::shared_ptr<const proto::tree::ManagerMessage> profile_message;  // null: none, or out of date

  std::vector<NodeId> holders;       // with uplink to spare, when it was looked at last
  uint64_t holders_fingerprint = 0;  // of these
  bool holders_stale = false;        // in stale_holders_
  Time next_holders{};

  explicit Function(const FunctionTree::Options& options) : tree(options) {}
};

struct Membership::Session {
  std::string peer_ip;
  Time opened;
  NodeId node = kProxy;  // kProxy: no hello yet
};

}  // namespace banyan::tree_manager
