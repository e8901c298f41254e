// What others see of the membership: questions, orders, watchers, metrics.
#include <algorithm>

#include <fmt/format.h>

#include "tree-manager/membership_internal.h"

namespace banyan::tree_manager {
namespace {

using namespace proto::tree;

constexpr std::chrono::milliseconds kNodeEventInterval{500};
constexpr size_t kMaxFeeds = kMaxStripes * (Feed::From_MAX + 1);  // of a member
constexpr uint32_t kComplete = 1000;

std::string_view Hex(std::string_view name) {
  constexpr std::string_view kAlgorithm = "sha256:";
  return name.starts_with(kAlgorithm) ? name.substr(kAlgorithm.size()) : std::string_view();
}

}  // namespace

FunctionInfo Membership::InfoOf(const Function& function) const {
  FunctionInfo info;
  info.set_function(function.name);
  info.set_reference(function.reference);
  info.set_nodes(static_cast<uint32_t>(function.members.size()));
  info.set_height(function.tree.height());
  info.set_stripes(function.tree.stripes());
  info.set_version(function.version);
  info.set_reparentings(function.reparentings);
  info.set_profile_chunks(static_cast<uint32_t>(function.profile.size()));
  info.set_blob_bytes(function.blob_bytes);
  return info;
}

NodeState Membership::StateOf(const Node& node) const {
  if (node.away) return AWAY;
  if (node.suspect || node.session == 0) return SUSPECT;
  return node.draining ? DRAINING : LIVE;
}

NodeInfo Membership::InfoOf(const Node& node, Time now) const {
  NodeInfo info;
  info.set_node(node.name);
  info.set_zone(node.zone);
  info.set_address(node.address);
  info.set_port(node.port);
  info.set_version(node.version);
  info.set_state(StateOf(node));
  info.set_functions(static_cast<uint32_t>(node.functions.size()));
  info.set_uplink_bytes_per_second(node.uplink);
  info.set_downlink_bytes_per_second(node.downlink);
  const auto since = std::chrono::duration_cast<std::chrono::milliseconds>(now - node.last_beat).count();
  info.set_since_beat_millis(static_cast<uint64_t>(std::max<int64_t>(since, 0)));
  const auto counts = [&](const Node::Report& report) { return now - report.time < options_.report_memory; };
  info.set_reports(static_cast<uint32_t>(std::count_if(node.reports.begin(), node.reports.end(), counts)));
  info.set_avoided(node.avoided);
  info.set_store_bytes(node.store);
  info.set_store_budget_bytes(node.store_budget);
  return info;
}

TreeNode Membership::TreeNodeOf(const Function& function, NodeId id, const Member& member) const {
  TreeNode out;
  out.set_node(nodes_[id]->name);
  out.set_zone(nodes_[id]->zone);
  for (Stripe s = 0; s < function.tree.stripes(); ++s) {
    const NodeId parent = function.tree.ParentOf(id, s);
    out.add_parents(parent == kProxy ? std::string() : nodes_[parent]->name);
    out.add_depths(function.tree.DepthOf(id, s));
  }
  out.set_present_permille(member.present_permille);
  out.set_state(StateOf(*nodes_[id]));
  out.set_ready(member.ready);
  out.mutable_feeds()->Assign(member.feeds.begin(), member.feeds.end());
  return out;
}

FunctionsReply Membership::Functions() const {
  FunctionsReply reply;
  for (const auto& function : functions_) {
    if (!function || function->members.empty()) continue;
    FunctionInfo& info = *reply.add_functions();
    info = InfoOf(*function);
    uint32_t complete = 0;
    uint32_t starting = 0;
    for (const auto& [id, member] : function->members) {
      complete += member.present_permille == kComplete ? 1 : 0;
      starting += member.ready ? 0 : 1;
    }
    info.set_complete_nodes(complete);
    info.set_starting_nodes(starting);
  }
  return reply;
}

Result<TreeReply> Membership::Tree(const std::string& text) const {
  const Function* found = nullptr;
  if (text.empty()) return Fail(Code::kInvalidArgument, "which function?");
  for (const auto& slot : functions_) {
    if (!slot || slot->members.empty()) continue;
    if (slot->name == text) {
      found = slot.get();
      break;
    }
    if (!slot->name.starts_with(text) && !Hex(slot->name).starts_with(text) && slot->reference != text) continue;
    if (found != nullptr) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("'{}' may be {} or {}: give more of it", text, found->name, slot->name));
    }
    found = slot.get();
  }
  if (found == nullptr) return Fail(Code::kNotFound, fmt::format("no node runs a function '{}'", text));
  TreeReply reply;
  *reply.mutable_function() = InfoOf(*found);
  for (const auto& [id, member] : found->members) *reply.add_nodes() = TreeNodeOf(*found, id, member);
  return reply;
}

NodesReply Membership::Nodes(Time now) const {
  NodesReply reply;
  reply.set_peer_to_peer(peer_to_peer_);
  for (const auto& node : nodes_) {
    if (node) *reply.add_nodes() = InfoOf(*node, now);
  }
  return reply;
}

Result<DrainReply> Membership::Drain(const std::string& name, bool undo, Time now) {
  now_ = now;
  const auto found = node_ids_.find(name);
  if (found == node_ids_.end() && !(undo && drained_.contains(name))) {
    return Fail(Code::kNotFound, fmt::format("there is no node '{}'", name));
  }
  if (!undo && drained_.size() >= kMaxDrained) return Fail(Code::kResourceExhausted, "too many nodes are drained");
  const bool changed = undo ? drained_.erase(name) > 0 : drained_.insert(name).second;
  if (changed) {
    deleted_.push_back({RecordChanges::Kind::kDrained, name, {}, {}});
    if (!undo) deleted_.back().value = "";
  }
  DrainReply reply;
  if (found == node_ids_.end()) return reply;
  nodes_[found->second]->draining = !undo;
  reply.set_moved(Retrait(found->second));
  NodeChanged(found->second);
  return reply;
}

void Membership::SetPeerToPeer(bool on) {
  if (peer_to_peer_ == on) return;
  peer_to_peer_ = on;
  settings_stored_ = false;
  for (const auto& node : nodes_) {
    if (!node || node->session == 0) continue;
    node->settings = true;
    MakeReady(*node);
  }
}

std::vector<WatchEvent> Membership::Snapshot(const std::string& name, Time now) const {
  std::vector<WatchEvent> events;
  for (NodeId id = 0; id < nodes_.size(); ++id) {
    if (nodes_[id]) *events.emplace_back().mutable_node() = InfoOf(*nodes_[id], now);
  }
  for (const auto& function : functions_) {
    if (!function || function->members.empty() || (!name.empty() && function->name != name)) continue;
    TreeChange& tree = *events.emplace_back().mutable_tree();
    *tree.mutable_function() = InfoOf(*function);
    for (const auto& [id, member] : function->members) *tree.add_nodes() = TreeNodeOf(*function, id, member);
  }
  for (const StartReport& start : start_book_.starts()) *events.emplace_back().mutable_start() = start;
  events.emplace_back().set_synced(true);
  return events;
}

std::vector<WatchEvent> Membership::TakeEvents() { return std::exchange(events_, {}); }

void Membership::OnStart(const Node& node, const StartReport& start) {
  const StartReport* const kept = start_book_.Add(node.name, start);
  if (kept != nullptr && watched_) *events_.emplace_back().mutable_start() = *kept;
}

void Membership::NodeChanged(NodeId id) {
  if (!watched_ || nodes_[id]->changed) return;
  nodes_[id]->changed = true;
  changed_nodes_.push_back(id);
}

// What the node's last beat said; functions that it does not name are fed by nobody now.
void Membership::TakeFeeds(NodeId id, Node& node, const Heartbeat& beat) {
  for (const FunctionId function_id : std::exchange(node.fed, {})) {
    Function& function = *functions_[function_id];
    Member& member = function.members.at(id);
    member.feeds.clear();
    MemberChanged(function, id, member);
  }
  const int count = std::min<int>(beat.feeds_size(), kMaxFunctionsOfNode);
  for (int i = 0; i < count; ++i) {
    Function* function = nullptr;
    Member* member = FindMember(id, beat.feeds(i).function(), &function);
    if (member == nullptr || member->feeds.size() >= kMaxFeeds || beat.feeds(i).stripe() >= kMaxStripes) continue;
    if (member->feeds.empty()) node.fed.push_back(function->id);
    member->feeds.push_back(beat.feeds(i));
    member->feeds.back().clear_function();
    // With one tree the node's two lanes go the same way.
    member->feeds.back().set_stripe(beat.feeds(i).stripe() % function->tree.stripes());
    MemberChanged(*function, id, *member);
  }
}

void Membership::MemberChanged(Function& function, NodeId node, Member& member) {
  if (!watched_ || member.changed) return;
  member.changed = true;
  function.changed.push_back(node);
  if (std::exchange(function.in_changed, true)) return;
  changed_functions_.push_back(function.id);
}

void Membership::EmitNodes(Time now) {
  if (now - emitted_nodes_ < kNodeEventInterval) return;
  emitted_nodes_ = now;
  for (const NodeId id : std::exchange(changed_nodes_, {})) {
    if (!nodes_[id]) continue;
    Node& node = *nodes_[id];
    node.changed = false;
    if (!watched_) continue;
    *events_.emplace_back().mutable_node() = InfoOf(node, now);
    const NodeState state = StateOf(node);
    if (std::exchange(node.shown_state, state) == state) continue;
    for (const FunctionId function : node.functions) {
      MemberChanged(*functions_[function], id, functions_[function]->members.at(id));
    }
  }
  EmitMembers();
}

void Membership::EmitMembers() {
  for (const FunctionId function_id : std::exchange(changed_functions_, {})) {
    Function& function = *functions_[function_id];
    function.in_changed = false;
    std::vector<NodeId> changed;
    for (const NodeId id : std::exchange(function.changed, {})) {
      const auto member = function.members.find(id);
      if (member == function.members.end() || !std::exchange(member->second.changed, false)) continue;
      changed.push_back(id);
    }
    if (watched_ && !changed.empty()) EmitTree(function, changed);
  }
}

void Membership::EmitTree(Function& function, const std::vector<NodeId>& changed) {
  std::vector<std::string> gone = std::exchange(function.gone, {});
  if (function.members.empty()) {
    events_.emplace_back().set_function_gone(function.name);
    return;
  }
  if (changed.empty() && gone.empty()) return;
  TreeChange& tree = *events_.emplace_back().mutable_tree();
  *tree.mutable_function() = InfoOf(function);
  for (const NodeId id : changed) *tree.add_nodes() = TreeNodeOf(function, id, function.members.at(id));
  for (std::string& name : gone) tree.add_gone(std::move(name));
}

MembershipGauges Membership::gauges(Time now) const {
  MembershipGauges gauges;
  for (const auto& node : nodes_) {
    if (!node) continue;
    ++gauges.nodes;
    gauges.live += StateOf(*node) == LIVE ? 1 : 0;
    gauges.suspect += StateOf(*node) == SUSPECT ? 1 : 0;
    gauges.draining += node->draining ? 1 : 0;
    gauges.away += node->away ? 1 : 0;
    gauges.avoided += node->avoided ? 1 : 0;
  }
  for (const auto& function : functions_) {
    if (!function || function->members.empty()) continue;
    ++gauges.functions;
    gauges.height = std::max<uint64_t>(gauges.height, function->tree.height());
  }
  gauges.sessions = sessions_.size();
  gauges.members = member_count_;
  gauges.profile_chunks = profile_chunks_;
  gauges.doubting = now < doubt_until_;
  return gauges;
}

}  // namespace banyan::tree_manager
