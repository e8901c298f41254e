// What others see of the membership: questions, orders, watchers, metrics.
#include <algorithm>

#include <fmt/format.h>

#include "tree-manager/membership_internal.h"

namespace banyan::tree_manager {
namespace {

using namespace proto::tree;

constexpr std::chrono::seconds kNodeEventInterval{1};

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
  return out;
}

FunctionsReply Membership::Functions() const {
  FunctionsReply reply;
  for (const auto& function : functions_) {
    if (function && !function->members.empty()) *reply.add_functions() = InfoOf(*function);
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
  events.emplace_back().set_synced(true);
  return events;
}

std::vector<WatchEvent> Membership::TakeEvents() { return std::exchange(events_, {}); }

void Membership::NodeChanged(NodeId id) {
  if (!watched_ || nodes_[id]->changed) return;
  nodes_[id]->changed = true;
  changed_nodes_.push_back(id);
}

void Membership::EmitNodes(Time now) {
  if (now - emitted_nodes_ < kNodeEventInterval) return;
  emitted_nodes_ = now;
  for (const NodeId id : std::exchange(changed_nodes_, {})) {
    if (!nodes_[id]) continue;
    nodes_[id]->changed = false;
    if (watched_) *events_.emplace_back().mutable_node() = InfoOf(*nodes_[id], now);
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
