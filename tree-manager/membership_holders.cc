// Who may be asked for what the trees are not made for: members that hold all of a function and have uplink to spare.
//
// Holdings come with the beats. When they, or who can give, change, the function is looked at again, at most every 2 s,
// and if its list has changed, members that do not hold it all get a few names of it: each begins at another place, so
// that a burst of readers does not herd onto the first one. A list is a hint: whoever is on it may have evicted a chunk
// or be busy by now. A node that is reported for not holding what it claims is believed if it takes its claim back with
// one of its next beats, and has lied otherwise.
#include <algorithm>
#include <utility>

#include "tree-manager/membership_internal.h"

namespace banyan::tree_manager {
namespace {

using proto::tree::ManagerMessage;

constexpr uint32_t kComplete = 1000;
constexpr size_t kHoldersGiven = 4;
constexpr uint64_t kPrime = 0x9e3779b97f4a7c15ULL;
constexpr std::chrono::seconds kHoldersInterval{2};
constexpr std::chrono::seconds kTakenBackWithin{3};

}  // namespace

void Membership::HoldersChanged(Function& function) {
  if (function.holders_stale) return;
  function.holders_stale = true;
  stale_holders_.push_back(function.id);
}

void Membership::HoldersChanged(const Node& node) {
  for (const FunctionId function : node.functions) HoldersChanged(*functions_[function]);
}

bool Membership::Offers(const Function& function, NodeId id) const {
  const auto member = function.members.find(id);
  if (member == function.members.end() || member->second.present_permille < kComplete) return false;
  const Node& node = *nodes_[id];
  return node.session != 0 && !node.uplink_full && !LeafOnly(node);
}

void Membership::SendHolders(Time now) {
  std::erase_if(stale_holders_, [&](FunctionId id) {
    Function& function = *functions_[id];
    if (now < function.next_holders) return false;
    function.holders_stale = false;
    function.next_holders = now + kHoldersInterval;
    function.holders.clear();
    for (const auto& [node, member] : function.members) {
      if (Offers(function, node)) function.holders.push_back(node);
    }
    std::sort(function.holders.begin(), function.holders.end());
    uint64_t fingerprint = 0;
    for (const NodeId holder : function.holders) fingerprint = fingerprint * kPrime + nodes_[holder]->incarnation;
    if (std::exchange(function.holders_fingerprint, fingerprint) == fingerprint) return true;
    for (auto& [node, member] : function.members) QueueHolders(*nodes_[node], function, member);
    return true;
  });
}

void Membership::QueueHolders(Node& node, Function& function, Member& member) {
  const bool wants = node.session != 0 && member.version != 0 && member.present_permille < kComplete;
  if (!wants || member.holders_queued) return;
  member.holders_queued = true;
  node.holders.push_back(function.id);
  MakeReady(node);
}

std::shared_ptr<const ManagerMessage> Membership::HoldersFor(const Function& function, NodeId asker) const {
  auto message = std::make_shared<ManagerMessage>();
  proto::tree::Holders& out = *message->mutable_holders();
  out.set_function(function.name);
  const size_t count = function.holders.size();
  const uint64_t spread = asker * kPrime >> 32;
  for (size_t i = 0; i < count && static_cast<size_t>(out.peers_size()) < kHoldersGiven; ++i) {
    const NodeId holder = function.holders[(spread + i) % count];
    if (holder == asker || !Offers(function, holder)) continue;
    if (nodes_[holder]->zone_id == nodes_[asker]->zone_id) FillPeer(function, holder, *out.add_peers());
  }
  return message;
}

// Not when the claim has been taken back already.
void Membership::NoteLie(NodeId peer, NodeId reporter, const Function& function, Time now) {
  if (function.members.at(peer).present_permille < kComplete) return;
  Node& node = *nodes_[peer];
  const bool known = std::any_of(node.lies.begin(), node.lies.end(),
                                 [&](const Node::Lie& lie) { return lie.report.reporter == reporter; });
  if (!known && node.lies.size() < kMaxReporters) node.lies.push_back({{reporter, now}, function.id});
}

void Membership::JudgeLies(NodeId id, Node& node, Time now) {
  for (size_t i = 0; i < node.lies.size();) {
    const Node::Lie lie = node.lies[i];
    if (now - lie.report.time < kTakenBackWithin) {
      ++i;
      continue;
    }
    node.lies.erase(node.lies.begin() + static_cast<std::ptrdiff_t>(i));
    const auto& function = functions_[lie.function];
    const auto member = function ? function->members.find(id) : std::unordered_map<NodeId, Member>::const_iterator();
    const bool still = function && member != function->members.end() && member->second.present_permille == kComplete;
    if (still) CountAgainst(id, lie.report.reporter, now);
  }
}

}  // namespace banyan::tree_manager
