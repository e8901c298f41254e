// Who is alive. A node that is taken out has its children moved, and must join again: so a live node must not be, and a
// dead one must be soon. What is known is only silence, and what others say.
//
//   missed beats        a beat is missed when it is a whole interval late; an ended session counts as one
//   suspect             `suspect_after` missed beats: a leaf of every tree, so that nobody waits for it
//   removed             `remove_after` missed beats; or one, and a child says that it cannot be reached: two witnesses,
//                       each by a way of its own. An ended session alone is an agent that restarts: it keeps its place.
//   self-doubt          many silent at once, and the common cause is more likely here than there: silence convicts
//                       nobody for a while. Two witnesses still do.
//   lateness            what this process slept through, it cannot hold against others
//
// A manager that hears nobody at all removes nobody: there is nobody to be told.
#include <algorithm>

#include <fmt/format.h>

#include "common/log.h"
#include "tree-manager/membership_internal.h"

namespace banyan::tree_manager {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds kDoubtWindow{2};
constexpr size_t kLeastDoubt = 3;         // nodes
constexpr size_t kDoubtShare = 5;         // one in so many
constexpr seconds kHelloTimeout{10};      // of a session
constexpr seconds kVisitInterval{1};      // of a function
constexpr seconds kCalm{5};               // without a join or a chunk that came
constexpr seconds kUnreachableProof{3};   // a peer whose beats still come so long after was alive when it was reported
constexpr seconds kSlowMemory{600};       // of an uplink that was seen to be slow
constexpr uint64_t kFasterPercent = 150;  // of the rate at which it was, and it is not any more
constexpr milliseconds kLate{400};        // a tick, beyond its usual time
constexpr size_t kDemotingReporters = 3;

}  // namespace

bool Membership::LeafOnly(const Node& node) const {
  return node.wants_leaf || node.port == 0 || node.address.empty() || node.draining || node.suspect || node.avoided;
}

uint32_t Membership::Missed(const Node& node, Time now) const {
  if (node.away) return 0;
  const auto intervals = static_cast<uint32_t>((now - node.last_beat) / options_.heartbeat);
  const uint32_t late = intervals > 0 ? intervals - 1 : 0;
  return node.session == 0 ? late + 1 : late;
}

void Membership::Beat(NodeId id, Node& node, Time now) {
  node.last_beat = now;
  node.counted_missed = 0;
  node.silent = false;
  for (size_t i = 0; i < node.unreachable.size();) {
    if (now - node.unreachable[i].time < kUnreachableProof) {
      ++i;
      continue;
    }
    CountAgainst(id, node.unreachable[i].reporter, now);
    node.unreachable.erase(node.unreachable.begin() + static_cast<std::ptrdiff_t>(i));
  }
  JudgeLies(id, node, now);
  if (!node.suspect) return;
  node.suspect = false;
  Retrait(id);
  NodeChanged(id);
}

void Membership::OnReport(NodeId reporter, const Node& from, const proto::tree::PeerReport& report, Time now) {
  const auto kind = static_cast<size_t>(report.kind());
  const auto peer = node_ids_.find(report.peer());
  if (peer == node_ids_.end() || peer->second == reporter || kind == 0 || kind >= counters_.reports.size()) return;
  Function* function = nullptr;
  if (FindMember(reporter, report.function(), &function) == nullptr) return;
  if (!function->members.contains(peer->second)) return;
  ++counters_.reports[kind];
  spdlog::info("{} reports {}: {}: {}", from.name, report.peer(), proto::tree::PeerReport::Kind_Name(report.kind()),
               report.detail().substr(0, kMaxNameBytes));
  if (report.kind() == proto::tree::PeerReport::LIED) return NoteLie(peer->second, reporter, *function, now);
  if (report.kind() != proto::tree::PeerReport::UNREACHABLE) return CountAgainst(peer->second, reporter, now);
  Node& node = *nodes_[peer->second];
  std::erase_if(node.unreachable, [&](const Node::Report& other) { return other.reporter == reporter; });
  if (node.unreachable.size() < kMaxReporters) node.unreachable.push_back({reporter, now});
}

void Membership::CountAgainst(NodeId peer, NodeId reporter, Time now) {
  Node& node = *nodes_[peer];
  std::erase_if(node.reports, [&](const Node::Report& other) {
    return other.reporter == reporter || now - other.time >= options_.report_memory;
  });
  if (node.reports.size() < kMaxReporters) node.reports.push_back({reporter, now});
  NodeChanged(peer);
  if (node.reports.size() < kDemotingReporters) return;
  if (!node.avoided) spdlog::warn("{}: avoided, after reports from {} nodes", node.name, node.reports.size());
  node.avoided = true;
  node.avoided_until = now + options_.report_memory;
  Retrait(peer);
}

void Membership::Tick(Time now) {
  now_ = now;
  if (now >= flush_at_) FlushAll();
  if (now - last_tick_ < kTick) return;
  ForgiveLateness(now);
  last_tick_ = now;
  JudgeNodes(now);
  JudgeAway(now);
  EndSilentNewcomers(now);
  LeaveUnconfirmed(now);
  VisitFunctions(now);
  SendProfiles(now);
  SendHolders(now);
  EmitNodes(now);
}

void Membership::ForgiveLateness(Time now) {
  const auto late = now - last_tick_ - kTick;
  if (late < kLate) return;
  spdlog::info("the manager was {} ms late: nobody's silence counts for that time",
               std::chrono::duration_cast<milliseconds>(late).count());
  for (const auto& node : nodes_) {
    if (!node) continue;
    node->last_beat = std::min(now, node->last_beat + late);
    node->ended = std::min(now, node->ended + late);
    // What was said of it since its last beat stays later than that.
    for (Node::Report& report : node->unreachable) report.time = std::min(now, report.time + late);
  }
}

bool Membership::IsReportedDead(const Node& node, Time now) const {
  // An agent that restarts is unreachable for a moment, too.
  if (node.session == 0 && now - node.ended < options_.heartbeat) return false;
  return std::any_of(node.unreachable.begin(), node.unreachable.end(),
                     [&](const Node::Report& report) { return report.time >= node.last_beat; });
}

// Takes note of who has gone silent since the last tick, and says whether silence convicts anybody now.
bool Membership::Doubting(Time now) {
  size_t total = 0;
  size_t recent = 0;
  size_t heard = 0;
  bool another = false;
  std::unordered_map<uint32_t, std::pair<size_t, size_t>> zones;  // → recent, total
  for (NodeId id = 0; id < nodes_.size(); ++id) {
    if (!nodes_[id] || nodes_[id]->away) continue;
    Node& node = *nodes_[id];
    const uint32_t missed = Missed(node, now);
    if (missed > node.counted_missed) {
      counters_.beats_missed += missed - node.counted_missed;
      node.counted_missed = missed;
    }
    if (missed > 0 && !node.silent) {
      node.silent_since = now;
      another = true;
    }
    node.silent = missed > 0;
    auto& [zone_recent, zone_total] = zones[node.zone_id];
    ++total;
    ++zone_total;
    if (!node.silent) {
      ++heard;
    } else if (now - node.silent_since <= kDoubtWindow) {
      ++recent;
      ++zone_recent;
    }
    if (node.avoided && now >= node.avoided_until) {
      node.avoided = false;
      Retrait(id);
      NodeChanged(id);
    }
  }
  const bool share = recent >= kLeastDoubt && recent * kDoubtShare > total;
  const bool zone = std::any_of(zones.begin(), zones.end(), [](const auto& entry) {
    return entry.second.first >= kLeastDoubt && entry.second.first == entry.second.second;
  });
  if (another && (share || zone)) {
    if (now >= doubt_until_) {
      ++counters_.doubts;
      spdlog::warn("{} of {} nodes have gone silent at once: waiting", recent, total);
    }
    doubt_until_ = now + options_.doubt;
  }
  return now < doubt_until_ || heard == 0;
}

void Membership::JudgeNodes(Time now) {
  const bool doubting = Doubting(now);
  if (now < away_until_) return;
  std::vector<NodeId> dead;
  for (NodeId id = 0; id < nodes_.size(); ++id) {
    if (!nodes_[id] || !nodes_[id]->silent || nodes_[id]->away) continue;
    Node& node = *nodes_[id];
    const uint32_t missed = Missed(node, now);
    if (IsReportedDead(node, now) || (missed >= options_.remove_after && !doubting)) {
      dead.push_back(id);
    } else if (missed >= options_.suspect_after && !doubting && !node.suspect) {
      node.suspect = true;
      Retrait(id);
      NodeChanged(id);
    }
  }
  RemoveNodes(dead, "no sign of life");
}

// Nodes of before the restart. One more wait if many are missing: then it is rather the way to them.
void Membership::JudgeAway(Time now) {
  if (away_until_ == Time::min() || now < away_until_) return;
  std::vector<NodeId> away;
  size_t back = 0;
  for (NodeId id = 0; id < nodes_.size(); ++id) {
    if (!nodes_[id]) continue;
    if (nodes_[id]->away) {
      away.push_back(id);
    } else {
      ++back;
    }
  }
  const bool many = away.size() * kDoubtShare > away.size() + back;
  if (!away.empty() && (back == 0 || (many && !away_extended_))) {
    away_extended_ = away_extended_ || back > 0;
    away_until_ = now + options_.restart_patience;
    return;
  }
  away_until_ = Time::min();
  RemoveNodes(away, "not back since the manager's restart");
}

void Membership::EndSilentNewcomers(Time now) {
  std::vector<SessionId> late;
  for (const auto& [id, session] : sessions_) {
    if (session.node == kProxy && now - session.opened >= kHelloTimeout) late.push_back(id);
  }
  for (const SessionId id : late) {
    sessions_.erase(id);
    ended_.emplace_back(id, Error{Code::kDeadlineExceeded, "no hello came"});
  }
}

// A node that came back without a function has left it.
void Membership::LeaveUnconfirmed(Time now) {
  while (!unconfirmed_.empty() && unconfirmed_.front().first <= now) {
    const auto session = sessions_.find(unconfirmed_.front().second);
    unconfirmed_.pop_front();
    if (session == sessions_.end()) continue;
    const NodeId id = session->second.node;
    const std::vector<FunctionId> functions = nodes_[id]->functions;
    for (const FunctionId function_id : functions) {
      Function& function = *functions_[function_id];
      if (function.members.at(id).confirmed) continue;
      RemoveMembers(function, {id});
      QueueGone(*nodes_[id], function.name);
      ++counters_.leaves;
    }
  }
}

void Membership::VisitFunctions(Time now) {
  for (const auto& slot : functions_) {
    if (!slot || now < slot->next_visit) continue;
    slot->next_visit = now + kVisitInterval;
    // Not while a stream runs: a swap would make new parents fetch what their children have. But a node that cannot
    // keep up is seen only then, and gives its place up at once.
    if (slot->members.size() > 1) {
      if (now - slot->last_use >= kCalm) {
        Apply(*slot, slot->tree.Improve());
      } else {
        FindSlowUplinks(*slot, now);
      }
    }
    if (now >= slot->next_reclaim) ReclaimIdle(*slot, now);
  }
}

void Membership::FindSlowUplinks(Function& function, Time now) {
  const auto load_of = [this](NodeId id) {
    const Node& node = *nodes_[id];
    return NodeLoad{node.uplink, node.downlink, node.uplink_full};
  };
  for (const SlowUplink& slow : function.slow_uplinks.Look(function.tree, load_of)) {
    Node& node = *nodes_[slow.node];
    node.slow_until = now + kSlowMemory;
    if (node.seen_weight != 0 && node.seen_weight <= slow.weight) continue;
    spdlog::info("{}: its uplink is full at {} kB/s, {} % of what its children need: it gets fewer", node.name,
                 node.uplink / 1000, slow.weight);
    node.seen_weight = slow.weight;
    node.slow_rate = node.uplink;
    Retrait(slow.node);
  }
}

// An uplink that was slow and is not, or was so long ago, is tried again.
void Membership::ForgetSlowUplink(NodeId id, Node& node, Time now) {
  if (node.seen_weight == 0) return;
  if (now < node.slow_until && node.uplink * 100 < node.slow_rate * kFasterPercent) return;
  node.seen_weight = 0;
  Retrait(id);
}

void Membership::ReclaimIdle(Function& function, Time now) {
  std::vector<NodeId> idle;
  function.next_reclaim = now + options_.idle_reclaim;
  for (const auto& [id, member] : function.members) {
    const Time end = member.last_use + options_.idle_reclaim;
    if (end <= now) {
      idle.push_back(id);
    } else {
      function.next_reclaim = std::min(function.next_reclaim, end);
    }
  }
  if (idle.empty()) return;
  RemoveMembers(function, idle);
  counters_.reclaimed += idle.size();
  for (const NodeId id : idle) QueueGone(*nodes_[id], function.name);
}

void Membership::RemoveNodes(const std::vector<NodeId>& nodes, std::string_view why) {
  std::map<FunctionId, std::vector<NodeId>> leavers;
  for (const NodeId id : nodes) {
    for (const FunctionId function : nodes_[id]->functions) leavers[function].push_back(id);
  }
  for (const auto& [function, members] : leavers) RemoveMembers(*functions_[function], members);
  for (const NodeId id : nodes) {
    spdlog::info("{}: taken out: {}", nodes_[id]->name, why);
    ++counters_.removed;
    ForgetNode(id);
  }
}

void Membership::ForgetNode(NodeId id) {
  Node& node = *nodes_[id];
  if (node.session != 0) {
    sessions_.erase(node.session);
    ended_.emplace_back(node.session, Error{Code::kUnavailable, "no heartbeat came: taken out; say hello again"});
  }
  deleted_.push_back({RecordChanges::Kind::kNode, node.name, {}, {}});
  if (watched_) {
    proto::tree::WatchEvent event;
    event.set_node_gone(node.name);
    events_.push_back(std::move(event));
  }
  node_ids_.erase(node.name);
  nodes_[id].reset();
  free_nodes_.push_back(id);
}

}  // namespace banyan::tree_manager
