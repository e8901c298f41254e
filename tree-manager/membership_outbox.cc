// What sessions are to be told: marks, batches, messages.
#include <algorithm>

#include "tree-manager/membership_internal.h"

namespace banyan::tree_manager {
namespace {

using proto::tree::ManagerMessage;

constexpr size_t kAssignmentsAMessage = 256;
constexpr uint32_t kComplete = 1000;
// A profile that grows is sent again after this time, and after more when it is long: about 10 chunks a millisecond
// and member.
constexpr std::chrono::milliseconds kProfileInterval{100};
constexpr size_t kProfileChunksAMilli = 10;

void Mix(uint64_t& hash, uint64_t value) {
  hash ^= value + 0x9e3779b97f4a7c15ULL + (hash << 6) + (hash >> 2);
  hash *= 0xff51afd7ed558ccdULL;
}

}  // namespace

void Membership::MarkDirty(Function& function, NodeId node) {
  const auto member = function.members.find(node);
  if (member == function.members.end() || member->second.dirty) return;
  member->second.dirty = true;
  function.dirty.push_back(node);
  if (!function.in_dirty) {
    function.in_dirty = true;
    dirty_functions_.push_back(function.id);
  }
  flush_at_ = std::min(flush_at_, now_ + options_.batch);
}

void Membership::MarkPlaced(Function& function, NodeId node) {
  const auto member = function.members.find(node);
  if (member == function.members.end() || member->second.placed) return;
  member->second.placed = true;
  stored_members_.emplace_back(function.id, node);
}

void Membership::FlushAll() {
  flush_at_ = Time::max();
  std::vector<FunctionId> dirty;
  dirty.swap(dirty_functions_);
  for (const FunctionId id : dirty) {
    if (functions_[id]) Flush(*functions_[id]);
  }
}

void Membership::Flush(Function& function) {
  function.in_dirty = false;
  std::vector<NodeId> dirty;
  dirty.swap(function.dirty);
  std::vector<NodeId> reparented;
  // Who gained or lost a child has another assignment as well; the list grows while it is walked.
  const auto also = [&](NodeId node) {
    const auto member = function.members.find(node);
    if (member == function.members.end() || member->second.dirty) return;
    member->second.dirty = true;
    dirty.push_back(node);
  };
  for (size_t i = 0; i < dirty.size(); ++i) {
    const auto found = function.members.find(dirty[i]);
    if (found == function.members.end()) continue;
    Member& member = found->second;
    bool changed = member.fresh;
    for (Stripe s = 0; s < function.tree.stripes(); ++s) {
      const NodeId parent = function.tree.ParentOf(dirty[i], s);
      if (parent == member.parents[s] && !member.fresh) continue;
      changed = true;
      also(member.parents[s]);
      also(parent);
      member.parents[s] = parent;
    }
    member.fresh = false;
    if (changed) reparented.push_back(dirty[i]);
  }
  const uint64_t version = version_ + 1;
  for (const NodeId id : dirty) {
    const auto found = function.members.find(id);
    if (found == function.members.end() || !found->second.dirty) continue;
    Member& member = found->second;
    member.dirty = false;
    const uint64_t fingerprint = Fingerprint(function, id, member);
    if (fingerprint == member.fingerprint) continue;
    const bool first = member.version == 0;
    member.fingerprint = fingerprint;
    member.version = version_ = function.version = version;
    Queue(*nodes_[id], function, member);
    if (!first) continue;
    QueueProfile(*nodes_[id], function, member);
    if (!function.holders.empty()) QueueHolders(*nodes_[id], function, member);
  }
  if (watched_) EmitTree(function, reparented);
}

uint64_t Membership::Fingerprint(const Function& function, NodeId node, const Member& member) const {
  uint64_t hash = 1;
  const auto mix_peer = [&](NodeId peer) { Mix(hash, peer == kProxy ? 0 : nodes_[peer]->incarnation); };
  for (Stripe s = 0; s < function.tree.stripes(); ++s) {
    mix_peer(member.parents[s]);
    Mix(hash, function.tree.ChildCountOf(node, s));
    for (const NodeId spare : function.tree.SparesOf(node, s)) mix_peer(spare);
  }
  return hash == 0 ? 1 : hash;
}

void Membership::FillPeer(const Function& function, NodeId peer, proto::tree::Peer& out) const {
  const Node& node = *nodes_[peer];
  out.set_node(node.name);
  out.set_address(node.address);
  out.set_port(node.port);
  out.set_complete(function.members.at(peer).present_permille == kComplete);
}

void Membership::FillAssignment(const Function& function, NodeId node, const Member& member,
                                proto::tree::Assignment& out) const {
  out.set_function(function.name);
  out.set_epoch(epoch_);
  out.set_version(member.version);
  uint32_t depth = 0;
  for (Stripe s = 0; s < function.tree.stripes(); ++s) {
    proto::tree::StripeParents& stripe = *out.add_stripes();
    const NodeId parent = function.tree.ParentOf(node, s);
    if (parent != kProxy) FillPeer(function, parent, *stripe.mutable_parent());
    for (const NodeId spare : function.tree.SparesOf(node, s)) {
      if (spare != kProxy) FillPeer(function, spare, *stripe.add_spares());
    }
    stripe.set_children(function.tree.ChildCountOf(node, s));
    depth = std::max(depth, function.tree.DepthOf(node, s));
  }
  out.set_depth(depth);
}

void Membership::MakeReady(Node& node) {
  if (node.session == 0 || node.ready) return;
  node.ready = true;
  ready_.push_back(node.session);
}

void Membership::Queue(Node& node, Function& function, Member& member) {
  if (node.session == 0) return;  // its next hello brings it all
  if (!member.queued) {
    member.queued = true;
    node.assignments.push_back(function.id);
  }
  MakeReady(node);
}

void Membership::QueueGone(Node& node, const std::string& function) {
  if (node.session == 0 || node.gone.size() >= kMaxFunctionsOfNode) return;
  node.gone.emplace_back(function, ++version_);
  MakeReady(node);
}

void Membership::QueueProfile(Node& node, Function& function, Member& member) {
  const bool wants = node.session != 0 && !function.profile.empty() && member.present_permille < kComplete;
  if (!wants || member.profile_queued) return;
  member.profile_queued = true;
  node.profiles.push_back(function.id);
  MakeReady(node);
}

void Membership::MakeProfileMessage(Function& function) {
  auto message = std::make_shared<ManagerMessage>();
  proto::tree::Profile& profile = *message->mutable_profile();
  profile.set_function(function.name);
  profile.set_version(++version_);
  profile.set_provisional(function.profile.provisional());
  *profile.mutable_chunks() = function.profile.List();
  function.profile_message = std::move(message);
}

void Membership::SendProfiles(Time now) {
  std::erase_if(growing_, [&](FunctionId id) {
    Function& function = *functions_[id];
    const size_t before = function.profile.size();
    if (function.profile.Settle(now)) {
      profile_chunks_ -= before - function.profile.size();
      function.profile_changed = true;
      if (!function.profile_stored) {
        function.profile_stored = true;
        stored_profiles_.push_back(id);
      }
    }
    if (function.profile_changed && now >= function.next_profile) {
      function.profile_changed = false;
      const std::chrono::milliseconds by_length(function.profile.size() / kProfileChunksAMilli);
      function.next_profile = now + std::max(kProfileInterval, by_length);
      MakeProfileMessage(function);
      for (auto& [node_id, member] : function.members) {
        if (member.version != 0) QueueProfile(*nodes_[node_id], function, member);
      }
    }
    function.growing = function.profile.provisional() || function.profile_changed;
    return !function.growing;
  });
}

std::vector<SessionId> Membership::TakeReady() {
  std::vector<SessionId> ready;
  for (const SessionId id : ready_) {
    const auto session = sessions_.find(id);
    if (session == sessions_.end()) continue;
    nodes_[session->second.node]->ready = false;
    ready.push_back(id);
  }
  ready_.clear();
  return ready;
}

std::shared_ptr<const ManagerMessage> Membership::Next(SessionId id) {
  const auto session = sessions_.find(id);
  if (session == sessions_.end() || session->second.node == kProxy) return nullptr;
  const NodeId node_id = session->second.node;
  Node& node = *nodes_[node_id];
  auto message = std::make_shared<ManagerMessage>();
  if (node.welcome) {
    node.welcome = node.settings = false;
    message->mutable_welcome()->set_epoch(epoch_);
    message->mutable_welcome()->set_heartbeat_millis(static_cast<uint32_t>(options_.heartbeat.count()));
    message->mutable_welcome()->mutable_settings()->set_peer_to_peer(peer_to_peer_);
    return message;
  }
  if (node.settings) {
    node.settings = false;
    message->mutable_settings()->set_peer_to_peer(peer_to_peer_);
    return message;
  }
  if (!node.gone.empty() || !node.assignments.empty()) {
    proto::tree::Assignments& out = *message->mutable_assignments();
    for (const auto& [function, version] : node.gone) {
      proto::tree::Assignment& gone = *out.add_assignments();
      gone.set_function(function);
      gone.set_epoch(epoch_);
      gone.set_version(version);
    }
    node.gone.clear();
    const size_t count = std::min(node.assignments.size(), kAssignmentsAMessage);
    for (size_t i = 0; i < count; ++i) {
      const Function& function = *functions_[node.assignments[i]];
      Member& member = functions_[node.assignments[i]]->members.at(node_id);
      member.queued = false;
      FillAssignment(function, node_id, member, *out.add_assignments());
    }
    node.assignments.erase(node.assignments.begin(), node.assignments.begin() + static_cast<std::ptrdiff_t>(count));
    counters_.assignments += static_cast<uint64_t>(out.assignments_size());
    return message;
  }
  if (!node.profiles.empty()) {
    Function& function = *functions_[node.profiles.back()];
    node.profiles.pop_back();
    function.members.at(node_id).profile_queued = false;
    if (!function.profile_message) MakeProfileMessage(function);
    return function.profile_message;
  }
  if (!node.holders.empty()) {
    const Function& function = *functions_[node.holders.back()];
    functions_[node.holders.back()]->members.at(node_id).holders_queued = false;
    node.holders.pop_back();
    return HoldersFor(function, node_id);
  }
  return nullptr;
}

std::vector<std::pair<SessionId, Error>> Membership::TakeEnded() { return std::exchange(ended_, {}); }

}  // namespace banyan::tree_manager
