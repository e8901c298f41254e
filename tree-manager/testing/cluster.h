// A cluster on a simulated clock: the manager's membership and the nodes around it. Nodes beat once a second unless
// they are silent; what they are told is kept, and what the manager wants stored is, so that it can be restarted. For
// tests.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tree-manager/membership.h"

namespace banyan::tree_manager {

using namespace std::chrono_literals;
using namespace proto::tree;

inline constexpr uint64_t kEpoch = 1'000'000;

class Cluster {
 public:
  struct Agent {
    SessionId session = 0;
    bool silent = false;
    uint64_t up = 0, down = 0;  // in its beats
    bool up_full = false;
    std::map<std::string, Assignment> assignments;
    std::map<std::string, uint64_t> told;  // how often, by function
    std::map<std::string, Profile> profiles;
    std::map<std::string, std::vector<std::string>> holders;  // by function
    bool peer_to_peer = true;
    uint64_t epoch = 0;
  };

  explicit Cluster(MembershipOptions options = {}) : options_(options) { Restart(false); }

  // A new manager; with what the old one kept, or without.
  void Restart(bool restore) {
    if (core_) Keep();
    core_ = std::make_unique<Membership>(options_, kEpoch, now_);
    core_->Watch(watch_);
    if (restore) core_->Restore(Stored(), now_);
    if (!restore) records_.clear();
    for (auto& [name, agent] : agents_) agent.session = 0;
    Pump();
  }

  void Connect(const std::string& name, const std::vector<std::string>& functions = {}, const std::string& zone = "",
               uint32_t port = 7000) {
    Agent& agent = agents_[name];
    agent.silent = false;
    agent.session = core_->Open("10.0.0.1", now_);
    NodeMessage message;
    Hello& hello = *message.mutable_hello();
    hello.set_node(name);
    hello.set_zone(zone);
    hello.set_port(port);
    for (const std::string& function : functions) hello.add_functions()->set_function(function);
    ASSERT_TRUE(core_->OnMessage(agent.session, message, now_));
    Pump();
  }
  void Send(const std::string& name, const NodeMessage& message) {
    ASSERT_TRUE(core_->OnMessage(agents_[name].session, message, now_));
  }
  void Join(const std::string& name, const std::string& function) {
    NodeMessage message;
    message.mutable_join()->set_function(function);
    Send(name, message);
  }
  void Leave(const std::string& name, const std::string& function) {
    NodeMessage message;
    message.mutable_leave()->set_function(function);
    Send(name, message);
  }
  void Hold(const std::string& name, const std::string& function, uint32_t permille, bool ready) {
    NodeMessage message;
    Holding& holding = *message.mutable_heartbeat()->add_holdings();
    holding.set_function(function);
    holding.set_present_permille(permille);
    holding.set_ready(ready);
    Send(name, message);
  }
  void Report(const std::string& name, const std::string& peer, PeerReport::Kind kind,
              const std::string& function = "f") {
    NodeMessage message;
    message.mutable_report()->set_function(function);
    message.mutable_report()->set_peer(peer);
    message.mutable_report()->set_kind(kind);
    Send(name, message);
  }
  void Touch(const std::string& name, const std::vector<uint32_t>& chunks) {
    NodeMessage message;
    message.mutable_touches()->set_function("f");
    message.mutable_touches()->mutable_chunks()->add_blobs("sha256:" + std::string(64, 'b'));
    for (const uint32_t chunk : chunks) {
      message.mutable_touches()->mutable_chunks()->add_blob(0);
      message.mutable_touches()->mutable_chunks()->add_chunk(chunk);
    }
    Send(name, message);
  }
  void Disconnect(const std::string& name) {
    core_->Close(agents_[name].session, now_);
    agents_[name].session = 0;
  }
  void Silence(const std::string& name) { agents_[name].silent = true; }

  // In steps of 10 ms; ticks and beats fall where they are due.
  void Run(std::chrono::milliseconds time) {
    const Time end = now_ + time;
    while (now_ < end) {
      now_ += 10ms;
      if ((now_ - Time()) % 1s == 0ms) Beats();
      if ((now_ - Time()) % 100ms == 0ms || now_ >= core_->NextDeadline()) core_->Tick(now_);
      Pump();
    }
  }
  // The manager is not scheduled: no ticks, and beats wait in its sockets; `first` is read before the clock is seen.
  void Stall(std::chrono::milliseconds time, const std::string& first) {
    now_ += time;
    Send(first, NodeMessage());
    core_->Tick(now_);
    Beats();
    Pump();
  }

  std::string Shape(const std::string& function = "f") const {
    const auto tree = core_->Tree(function);
    if (!tree) return {};
    std::map<std::string, std::string> parents;
    for (const TreeNode& node : tree->nodes()) {
      for (const std::string& parent : node.parents()) parents[node.node()] += parent + ",";
    }
    std::string text;
    for (const auto& [node, list] : parents) text += node + ":" + list + " ";
    return text;
  }
  std::set<std::string> Members(const std::string& function = "f") const {
    std::set<std::string> names;
    if (const auto tree = core_->Tree(function)) {
      for (const TreeNode& node : tree->nodes()) names.insert(node.node());
    }
    return names;
  }
  std::set<std::string> ChildrenOf(const std::string& name) const {
    std::set<std::string> children;
    if (const auto tree = core_->Tree("f")) {
      for (const TreeNode& node : tree->nodes()) {
        for (const std::string& parent : node.parents()) {
          if (parent == name) children.insert(node.node());
        }
      }
    }
    return children;
  }
  // Some node that feeds others.
  std::string Interior() const {
    for (const std::string& name : Members()) {
      if (!ChildrenOf(name).empty()) return name;
    }
    return {};
  }
  NodeInfo Info(const std::string& name) const {
    const NodesReply reply = core_->Nodes(now_);
    for (const NodeInfo& node : reply.nodes()) {
      if (node.node() == name) return node;
    }
    return {};
  }
  // What every agent acts by is what the trees say.
  void ExpectToldTheTruth() {
    const auto tree = core_->Tree("f");
    if (!tree) return;
    std::map<std::pair<std::string, int>, uint32_t> children;
    for (const TreeNode& node : tree->nodes()) {
      for (int s = 0; s < node.parents_size(); ++s) ++children[{node.parents(s), s}];
    }
    for (const TreeNode& node : tree->nodes()) {
      const Agent& agent = agents_.at(node.node());
      if (agent.session == 0) continue;
      ASSERT_TRUE(agent.assignments.contains("f")) << node.node();
      const Assignment& told = agent.assignments.at("f");
      ASSERT_EQ(told.stripes_size(), node.parents_size()) << node.node();
      for (int s = 0; s < node.parents_size(); ++s) {
        EXPECT_EQ(told.stripes(s).parent().node(), node.parents(s)) << node.node();
        const auto found = children.find({node.node(), s});
        EXPECT_EQ(told.stripes(s).children(), found == children.end() ? 0 : found->second) << node.node();
      }
    }
  }

  void Start(int nodes, const std::string& zone = "") {
    for (int i = 0; i < nodes; ++i) Connect(fmt::format("{}n{}", zone, i), {"f"}, zone);
    Run(100ms);
  }

  void SetWatch(bool on) {
    watch_ = on;
    core_->Watch(on);
  }

  Membership& core() { return *core_; }
  Agent& agent(const std::string& name) { return agents_[name]; }
  Time now() const { return now_; }
  std::vector<std::pair<SessionId, Error>> ended_;
  std::vector<WatchEvent> events_;
  MembershipOptions options_;

 private:
  void Beats() {
    for (auto& [name, agent] : agents_) {
      if (agent.session == 0 || agent.silent) continue;
      NodeMessage message;
      message.mutable_heartbeat()->set_uplink_bytes_per_second(agent.up);
      message.mutable_heartbeat()->set_downlink_bytes_per_second(agent.down);
      message.mutable_heartbeat()->set_uplink_full(agent.up_full);
      (void)core_->OnMessage(agent.session, message, now_);
    }
  }
  void Pump() {
    for (auto& [session, reason] : core_->TakeEnded()) {
      for (auto& [name, agent] : agents_) {
        if (agent.session == session) agent.session = 0;
      }
      ended_.emplace_back(session, reason);
    }
    for (const SessionId session : core_->TakeReady()) {
      for (auto& [name, agent] : agents_) {
        if (agent.session != session || agent.silent) continue;
        while (const auto message = core_->Next(session)) Take(agent, *message);
      }
    }
    for (WatchEvent& event : core_->TakeEvents()) events_.push_back(std::move(event));
    Keep();
  }
  static void Take(Agent& agent, const ManagerMessage& message) {
    if (message.has_welcome()) {
      agent.epoch = message.welcome().epoch();
      agent.peer_to_peer = message.welcome().settings().peer_to_peer();
    }
    if (message.has_settings()) agent.peer_to_peer = message.settings().peer_to_peer();
    if (message.has_holders()) {
      std::vector<std::string>& holders = agent.holders[message.holders().function()];
      holders.clear();
      for (const Peer& peer : message.holders().peers()) holders.push_back(peer.node());
    }
    if (message.has_profile()) agent.profiles[message.profile().function()] = message.profile();
    for (const Assignment& assignment : message.assignments().assignments()) {
      Assignment& newest = agent.assignments[assignment.function()];
      ++agent.told[assignment.function()];
      if (std::pair(newest.epoch(), newest.version()) < std::pair(assignment.epoch(), assignment.version())) {
        newest = assignment;
      }
    }
  }
  // As the database would.
  void Keep() {
    for (RecordChanges::Change& change : core_->TakeRecords().changes) {
      const auto key = std::tuple(change.kind, change.name, change.node);
      if (change.value) {
        records_[key] = *change.value;
      } else {
        records_.erase(key);
      }
    }
  }
  StoredState Stored() const {
    using Kind = RecordChanges::Kind;
    StoredState state;
    for (const auto& [key, value] : records_) {
      const auto& [kind, name, node] = key;
      if (kind == Kind::kSettings) state.settings.emplace().ParseFromString(value);
      if (kind == Kind::kDrained) state.drained.push_back(name);
      if (kind == Kind::kNode) state.nodes.emplace_back(name, proto::tree_state::Node()).second.ParseFromString(value);
      if (kind == Kind::kFunction) {
        state.functions.emplace_back(name, proto::tree_state::Function()).second.ParseFromString(value);
      }
      if (kind == Kind::kProfile) state.profiles.emplace_back(name, ChunkList()).second.ParseFromString(value);
      if (kind != Kind::kMember) continue;
      state.members.push_back({name, node, {}});
      state.members.back().value.ParseFromString(value);
    }
    return state;
  }

  std::map<std::tuple<RecordChanges::Kind, std::string, std::string>, std::string> records_;
  std::map<std::string, Agent> agents_;
  std::unique_ptr<Membership> core_;
  Time now_ = Time() + 1000s;
  bool watch_ = false;
};

}  // namespace banyan::tree_manager
