// What is kept of the membership, and how it is made again of that.
#include <algorithm>

#include "common/log.h"
#include "tree-manager/membership_internal.h"

namespace banyan::tree_manager {
namespace {

constexpr uint32_t kMaxWeight = 1'000'000;
constexpr uint32_t kComplete = 1000;

}  // namespace

size_t Membership::Restore(const StoredState& state, Time now) {
  now_ = now;
  if (state.settings) {
    epoch_ = state.settings->epoch();
    starts_ = state.settings->starts() + 1;
    version_ = starts_ << 32;
    peer_to_peer_ = !state.settings->peer_to_peer_off();
  }
  drained_.insert(state.drained.begin(), state.drained.end());
  for (const auto& [name, stored] : state.nodes) RestoreNode(name, stored, now);
  if (!state.nodes.empty()) away_until_ = now + options_.restart_patience;
  for (const auto& [name, stored] : state.functions) {
    FunctionId id = 0;
    if (Function* function = MakeFunction(name, &id)) function->reference = stored.reference();
  }
  for (const auto& [name, list] : state.profiles) {
    Function* function = FunctionNamed(name);
    if (function == nullptr) continue;
    function->profile.Restore(list);
    profile_chunks_ += function->profile.size();
  }
  std::map<FunctionId, std::vector<FunctionTree::Member>> trees;
  for (const StoredState::Member& stored : state.members) {
    const auto function = function_ids_.find(stored.function);
    const auto node = node_ids_.find(stored.node);
    if (function == function_ids_.end() || node == node_ids_.end()) continue;
    RestoreMember(*functions_[function->second], node->second, stored.value, trees[function->second]);
  }
  size_t lost = 0;
  for (const auto& [id, members] : trees) lost += RestoreTree(*functions_[id], members) ? 0 : 1;
  for (NodeId id = 0; id < nodes_.size(); ++id) {
    if (nodes_[id] && (nodes_[id]->draining || nodes_[id]->wants_leaf)) Retrait(id);
  }
  return lost;
}

void Membership::RestoreNode(const std::string& name, const proto::tree_state::Node& stored, Time now) {
  const auto id = NodeOf(name);
  if (!id) return;
  Node& node = *nodes_[*id];
  node.zone = stored.zone();
  node.zone_id = ZoneId(node.zone);
  node.address = stored.address();
  node.port = stored.port();
  node.version = stored.version();
  node.weight = std::clamp(stored.weight(), 1U, kMaxWeight);
  node.wants_leaf = stored.leaf_only();
  node.away = true;
  node.last_beat = now;
  node.ended = now;
}

void Membership::RestoreMember(Function& function, NodeId id, const proto::tree_state::Member& stored,
                               std::vector<FunctionTree::Member>& tree) {
  Node& node = *nodes_[id];
  Member member;
  member.present_permille = std::min(stored.present_permille(), kComplete);
  member.ready = stored.ready();
  member.traits = {node.zone_id, std::clamp(stored.weight(), 1U, kMaxWeight), stored.leaf_only(),
                   member.present_permille};
  member.last_use = now_;
  member.confirmed = false;
  if (!function.members.emplace(id, member).second) return;
  node.functions.push_back(function.id);
  ++member_count_;
  FunctionTree::Member& placed = tree.emplace_back();
  placed.node = id;
  placed.traits = member.traits;
  const int stripes = std::min<int>({kMaxStripes, stored.slots_size(), stored.feeders_size()});
  for (int s = 0; s < stripes; ++s) {
    placed.placement.slot[s] = stored.slots(s);
    placed.placement.feeder[s] = stored.feeders(s);
  }
  placed.placement.relays = static_cast<uint8_t>(stored.relays());
}

// False: the nodes had to be placed anew.
bool Membership::RestoreTree(Function& function, const std::vector<FunctionTree::Member>& members) {
  function.version = version_;
  const Status restored = function.tree.Restore(members);
  if (!restored) {
    spdlog::warn("trees of {}: {}; its {} nodes are placed anew", function.name, restored.error().message,
                 members.size());
    for (const FunctionTree::Member& member : members) {
      if (auto changes = function.tree.Join(member.node, member.traits)) Apply(function, *changes);
    }
  }
  for (auto& [id, member] : function.members) {
    member.fresh = false;
    for (Stripe s = 0; s < function.tree.stripes(); ++s) member.parents[s] = function.tree.ParentOf(id, s);
    member.fingerprint = Fingerprint(function, id, member);
    member.version = version_;
  }
  return restored.has_value();
}

RecordChanges Membership::TakeRecords() {
  using Kind = RecordChanges::Kind;
  RecordChanges out;
  out.changes = std::exchange(deleted_, {});
  if (!settings_stored_) {
    settings_stored_ = true;
    proto::tree_state::Settings settings;
    settings.set_epoch(epoch_);
    settings.set_starts(starts_);
    settings.set_peer_to_peer_off(!peer_to_peer_);
    out.changes.push_back({Kind::kSettings, {}, {}, settings.SerializeAsString()});
  }
  for (const NodeId id : std::exchange(stored_nodes_, {})) {
    if (!nodes_[id]) continue;
    Node& node = *nodes_[id];
    node.stored = false;
    proto::tree_state::Node value;
    value.set_zone(node.zone);
    value.set_address(node.address);
    value.set_port(node.port);
    value.set_version(node.version);
    value.set_weight(node.weight);
    value.set_leaf_only(node.wants_leaf);
    out.changes.push_back({Kind::kNode, node.name, {}, value.SerializeAsString()});
  }
  for (const FunctionId id : std::exchange(stored_functions_, {})) {
    if (!functions_[id]) continue;
    functions_[id]->stored = false;
    proto::tree_state::Function value;
    value.set_reference(functions_[id]->reference);
    out.changes.push_back({Kind::kFunction, functions_[id]->name, {}, value.SerializeAsString()});
  }
  for (const FunctionId id : std::exchange(stored_profiles_, {})) {
    if (!functions_[id]) continue;
    functions_[id]->profile_stored = false;
    out.changes.push_back(
        {Kind::kProfile, functions_[id]->name, {}, functions_[id]->profile.List().SerializeAsString()});
  }
  for (const auto& [function_id, node_id] : std::exchange(stored_members_, {})) {
    if (!functions_[function_id]) continue;
    const Function& function = *functions_[function_id];
    const auto found = functions_[function_id]->members.find(node_id);
    if (found == function.members.end()) continue;
    found->second.placed = false;
    const Placement placement = function.tree.PlacementOf(node_id);
    proto::tree_state::Member value;
    for (Stripe s = 0; s < function.tree.stripes(); ++s) {
      value.add_slots(placement.slot[s]);
      value.add_feeders(placement.feeder[s]);
    }
    value.set_relays(placement.relays);
    value.set_weight(found->second.traits.weight);
    value.set_leaf_only(found->second.traits.leaf_only);
    value.set_present_permille(found->second.present_permille);
    value.set_ready(found->second.ready);
    out.changes.push_back({Kind::kMember, function.name, nodes_[node_id]->name, value.SerializeAsString()});
  }
  return out;
}

}  // namespace banyan::tree_manager
