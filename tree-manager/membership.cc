#include "tree-manager/membership.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "common/log.h"
#include "common/settings.h"
#include "tree-manager/membership_internal.h"

namespace banyan::tree_manager {
namespace {

using proto::tree::NodeMessage;

constexpr std::chrono::seconds kConfirm{10};
constexpr uint32_t kUsualWeight = 100;
constexpr uint32_t kMaxWeight = 1'000'000;
constexpr uint32_t kComplete = 1000;
constexpr size_t kMaxHoldings = Membership::kMaxFunctionsOfNode;
constexpr size_t kMaxVersionBytes = 64;
constexpr uint64_t kTenYears = 10ULL * 366 * 24 * 3600;

bool IsName(const std::string& text) {
  const auto bad = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
  return !text.empty() && text.size() <= Membership::kMaxNameBytes && std::none_of(text.begin(), text.end(), bad);
}

Status CheckHello(const proto::tree::Hello& hello) {
  const auto bad = [](const char* what) { return Fail(Code::kInvalidArgument, fmt::format("hello: {}", what)); };
  if (!IsName(hello.node())) return bad("node is no name of 1 to 255 bytes without controls");
  if (!hello.zone().empty() && !IsName(hello.zone())) return bad("zone is no name");
  if (!hello.address().empty() && !IsIpAddress(hello.address())) return bad("address is no IP address");
  if (hello.port() > 65'535) return bad("port is none");
  return {};
}

}  // namespace

Membership::Membership(MembershipOptions options, uint64_t unix_seconds, Time now)
    : options_(options),
      start_(now),
      epoch_(unix_seconds),
      version_(uint64_t{1} << 32),
      now_(now),
      peer_to_peer_(options.peer_to_peer),
      last_tick_(now),
      emitted_nodes_(now) {}

Membership::~Membership() = default;

SessionId Membership::Open(std::string peer_ip, Time now) {
  now_ = now;
  const SessionId id = ++last_session_;
  sessions_[id] = Session{std::move(peer_ip), now, kProxy};
  return id;
}

Status Membership::OnMessage(SessionId id, const NodeMessage& message, Time now) {
  now_ = now;
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return Fail(Code::kAborted, "this session has ended");
  Session& session = found->second;
  if (session.node == kProxy) {
    Status status = message.has_hello() ? OnHello(id, session, message.hello(), now)
                                        : Fail(Code::kFailedPrecondition, "the first message is to be a hello");
    if (!status) sessions_.erase(id);
    return status;
  }
  const NodeId node_id = session.node;
  Node& node = *nodes_[node_id];
  Beat(node_id, node, now);
  switch (message.message_case()) {
    case NodeMessage::kHeartbeat:
      OnHeartbeat(node_id, node, message.heartbeat(), now);
      break;
    case NodeMessage::kJoin:
      OnJoin(node_id, node, message.join(), now);
      break;
    case NodeMessage::kLeave: {
      Function* function = nullptr;
      if (FindMember(node_id, message.leave().function(), &function) == nullptr) break;
      RemoveMembers(*function, {node_id});
      ++counters_.leaves;
      break;
    }
    case NodeMessage::kReport:
      OnReport(node_id, node, message.report(), now);
      break;
    case NodeMessage::kTouches:
      OnTouches(node_id, node, message.touches(), now);
      break;
    case NodeMessage::kStart:
      OnStart(node, message.start());
      break;
    case NodeMessage::kPreheat:  // the manager's own affair
    case NodeMessage::kSwarms:   // likewise
    case NodeMessage::kHello:    // only once a session
    case NodeMessage::MESSAGE_NOT_SET:
      break;
  }
  return {};
}

void Membership::Close(SessionId id, Time now) {
  now_ = now;
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  const NodeId node_id = found->second.node;
  sessions_.erase(found);
  if (node_id == kProxy || nodes_[node_id]->session != id) return;
  Node& node = *nodes_[node_id];
  node.session = 0;
  node.ended = now;
  HoldersChanged(node);
  NodeChanged(node_id);
}

Status Membership::OnHello(SessionId id, Session& session, const proto::tree::Hello& hello, Time now) {
  BANYAN_TRY(CheckHello(hello));
  BANYAN_ASSIGN(const NodeId node_id, NodeOf(hello.node()));
  Node& node = *nodes_[node_id];
  if (node.session != 0) {
    sessions_.erase(node.session);
    ended_.emplace_back(node.session, Error{Code::kAborted, "a newer session of this node has taken over"});
  }
  session.node = node_id;
  node.session = id;
  TakeHello(node_id, node, hello, hello.address().empty() ? session.peer_ip : hello.address(), now);
  for (const proto::tree::Join& join : hello.functions()) {
    if (join.has_known()) SeeEpoch(join.known());
  }
  node.welcome = true;
  node.settings = false;
  node.ready = false;
  node.gone.clear();
  node.assignments.clear();
  node.profiles.clear();
  node.holders.clear();
  for (const FunctionId function : node.functions) {
    Member& member = functions_[function]->members.at(node_id);
    member.confirmed = member.queued = member.profile_queued = member.holders_queued = false;
  }
  unconfirmed_.emplace_back(now + kConfirm, id);
  for (const proto::tree::Join& join : hello.functions()) OnJoin(node_id, node, join, now);
  // What it was told before the session broke off may not have arrived.
  for (const FunctionId function_id : node.functions) {
    Function& function = *functions_[function_id];
    Member& member = function.members.at(node_id);
    if (member.version != 0) Queue(node, function, member);
    if (member.version != 0) QueueProfile(node, function, member);
    QueueHolders(node, function, member);
    HoldersChanged(function);
  }
  MakeReady(node);
  NodeChanged(node_id);
  return {};
}

void Membership::TakeHello(NodeId id, Node& node, const proto::tree::Hello& hello, std::string address, Time now) {
  node.last_beat = now;
  node.away = false;
  node.suspect = false;
  node.silent = false;
  node.counted_missed = 0;
  node.unreachable.clear();
  node.version = hello.version().substr(0, kMaxVersionBytes);
  node.weight = hello.weight() == 0 ? kUsualWeight : std::min(hello.weight(), kMaxWeight);
  node.wants_leaf = hello.leaf_only();
  if (node.zone != hello.zone()) {
    const std::vector<FunctionId> functions = node.functions;  // trees of another zone know nothing of these places
    for (const FunctionId function : functions) RemoveMembers(*functions_[function], {id});
    node.zone = hello.zone();
    node.zone_id = ZoneId(node.zone);
  }
  if (node.address != address || node.port != hello.port()) {
    node.address = std::move(address);
    node.port = hello.port();
    node.incarnation = ++incarnations_;
    AddressChanged(id);
  }
  if (!node.stored) {
    node.stored = true;
    stored_nodes_.push_back(id);
  }
  Retrait(id);
}

Result<NodeId> Membership::NodeOf(const std::string& name) {
  const auto found = node_ids_.find(name);
  if (found != node_ids_.end()) return found->second;
  if (node_ids_.size() >= kMaxNodes) {
    ++counters_.refused;
    return Fail(Code::kResourceExhausted, fmt::format("there are {} nodes already", kMaxNodes));
  }
  NodeId id = 0;
  if (!free_nodes_.empty()) {
    id = free_nodes_.back();
    free_nodes_.pop_back();
  } else {
    id = static_cast<NodeId>(nodes_.size());
    nodes_.emplace_back();
  }
  nodes_[id] = std::make_unique<Node>();
  nodes_[id]->name = name;
  nodes_[id]->zone_id = ZoneId("");
  nodes_[id]->incarnation = ++incarnations_;
  nodes_[id]->draining = drained_.contains(name);
  node_ids_.emplace(name, id);
  return id;
}

uint32_t Membership::ZoneId(const std::string& name) {
  const auto found = zone_ids_.find(name);
  if (found != zone_ids_.end()) return found->second;
  if (zone_ids_.size() >= kMaxNodes) return 0;  // names that come and go for ever share a zone in the end
  const auto id = static_cast<uint32_t>(zone_ids_.size());
  zone_ids_.emplace(name, id);
  return id;
}

// A manager that has lost its state, on a machine whose clock went back, must still be newer than its past.
void Membership::SeeEpoch(const proto::tree::Assignment& known) {
  const bool same = known.epoch() == epoch_ && known.version() <= version_;
  if (same || known.epoch() < epoch_ || known.epoch() > epoch_ + kTenYears) return;
  spdlog::warn("a node has assignments of epoch {}, which this manager, of epoch {}, knows nothing of", known.epoch(),
               epoch_);
  epoch_ = known.epoch() + 1;
  settings_stored_ = false;
  for (const auto& node : nodes_) {
    if (!node || node->session == 0) continue;
    node->welcome = true;
    for (const FunctionId id : node->functions) {
      Member& member = functions_[id]->members.at(node_ids_.at(node->name));
      if (member.version != 0) Queue(*node, *functions_[id], member);
    }
    MakeReady(*node);
  }
}

Membership::Function* Membership::FunctionNamed(const std::string& name) {
  const auto found = function_ids_.find(name);
  return found == function_ids_.end() ? nullptr : functions_[found->second].get();
}

// Those that nobody runs are kept for their profile, as long as there is room.
bool Membership::MakeRoomForFunction() {
  Function* oldest = nullptr;
  for (const auto& function : functions_) {
    if (function && function->members.empty() && (oldest == nullptr || function->last_use < oldest->last_use)) {
      oldest = function.get();
    }
  }
  if (oldest == nullptr) return false;
  using Kind = RecordChanges::Kind;
  deleted_.push_back({Kind::kFunction, oldest->name, {}, {}});
  deleted_.push_back({Kind::kProfile, oldest->name, {}, {}});
  profile_chunks_ -= oldest->profile.size();
  function_ids_.erase(oldest->name);
  std::erase(dirty_functions_, oldest->id);
  std::erase(growing_, oldest->id);
  std::erase(stale_holders_, oldest->id);
  std::erase(changed_functions_, oldest->id);
  std::erase(stored_functions_, oldest->id);
  std::erase(stored_profiles_, oldest->id);
  free_functions_.push_back(oldest->id);
  functions_[oldest->id].reset();
  return true;
}

Membership::Function* Membership::MakeFunction(const std::string& name, FunctionId* id) {
  const auto found = function_ids_.find(name);
  if (found != function_ids_.end()) {
    *id = found->second;
    return functions_[found->second].get();
  }
  if (function_ids_.size() >= kMaxFunctions && !MakeRoomForFunction()) return nullptr;
  if (!free_functions_.empty()) {
    *id = free_functions_.back();
    free_functions_.pop_back();
  } else {
    *id = static_cast<FunctionId>(functions_.size());
    functions_.emplace_back();
  }
  functions_[*id] = std::make_unique<Function>(options_.tree);
  functions_[*id]->name = name;
  functions_[*id]->id = *id;
  function_ids_.emplace(name, *id);
  return functions_[*id].get();
}

void Membership::OnJoin(NodeId id, Node& node, const proto::tree::Join& join, Time now) {
  if (!IsName(join.function())) {
    ++counters_.refused;
    return;
  }
  Function* function = nullptr;
  if (Member* member = FindMember(id, join.function(), &function)) {
    member->last_use = now;
    function->last_use = now;
    member->confirmed = true;
    member->present_permille = std::max(member->present_permille, std::min(join.present_permille(), kComplete));
    const bool knows = join.known().epoch() == epoch_ && join.known().version() == member->version;
    if (!knows && member->version != 0) Queue(node, *function, *member);
    return;
  }
  FunctionId function_id = 0;
  const bool room = node.functions.size() < kMaxFunctionsOfNode && member_count_ < kMaxMembers;
  function = room ? MakeFunction(join.function(), &function_id) : nullptr;
  if (function == nullptr) {
    ++counters_.refused;
    return QueueGone(node, join.function());
  }
  Member member;
  member.present_permille = std::min(join.present_permille(), kComplete);
  member.last_use = now;
  member.traits = TraitsOf(node, member);
  auto changes = function->tree.Join(id, member.traits);
  if (!changes) {
    spdlog::error("{} joins {}: {}", node.name, function->name, changes.error().message);
    return;
  }
  const bool first = function->members.empty();
  function->members.emplace(id, member);
  function->last_use = now;
  node.functions.push_back(function_id);
  ++member_count_;
  ++counters_.joins;
  const std::string reference = join.reference().substr(0, kMaxReferenceBytes);
  if (!reference.empty() && function->reference != reference) {
    function->reference = reference;
    function->stored = false;
  }
  if ((first || !reference.empty()) && !function->stored) {
    function->stored = true;
    stored_functions_.push_back(function_id);
  }
  if (member.present_permille == kComplete) HoldersChanged(*function);
  MarkDirty(*function, id);
  MarkPlaced(*function, id);
  Apply(*function, *changes);
}

void Membership::OnHeartbeat(NodeId id, Node& node, const proto::tree::Heartbeat& beat, Time now) {
  ++counters_.beats;
  const bool changed = node.uplink != beat.uplink_bytes_per_second() ||  //
                       node.downlink != beat.downlink_bytes_per_second();
  node.uplink = beat.uplink_bytes_per_second();
  node.downlink = beat.downlink_bytes_per_second();
  if (std::exchange(node.uplink_full, beat.uplink_full()) != beat.uplink_full()) HoldersChanged(node);
  ForgetSlowUplink(id, node, now);
  if (changed || node.store != beat.store_bytes()) NodeChanged(id);
  node.store = beat.store_bytes();
  node.store_budget = beat.store_budget_bytes();
  TakeFeeds(id, node, beat);
  size_t taken = 0;
  for (const proto::tree::Holding& holding : beat.holdings()) {
    if (++taken > kMaxHoldings) break;
    Function* function = nullptr;
    Member* member = FindMember(id, holding.function(), &function);
    if (member == nullptr) continue;
    member->confirmed = true;
    if (holding.blob_bytes() != 0) function->blob_bytes = holding.blob_bytes();
    const uint32_t present = std::min(holding.present_permille(), kComplete);
    if (present > member->present_permille || !holding.ready()) {
      member->last_use = now;
      function->last_use = now;
    }
    if (present == member->present_permille && holding.ready() == member->ready) continue;
    if ((present == kComplete) != (member->present_permille == kComplete)) HoldersChanged(*function);
    member->present_permille = present;
    member->ready = holding.ready();
    MemberChanged(*function, id, *member);
    MarkPlaced(*function, id);
    const NodeTraits traits = TraitsOf(node, *member);
    if (traits == member->traits) continue;
    member->traits = traits;
    if (auto changes = function->tree.Update(id, traits)) Apply(*function, *changes);
  }
}

void Membership::OnTouches(NodeId id, Node& node, const proto::tree::Touches& touches, Time now) {
  Function* function = nullptr;
  Member* member = FindMember(id, touches.function(), &function);
  if (member == nullptr) return;
  ++counters_.touches;
  member->last_use = now;
  function->last_use = now;
  const size_t before = function->profile.size();
  const size_t room = profile_chunks_ < kMaxProfileChunks ? kMaxProfileChunks - profile_chunks_ : 0;
  const bool changed = function->profile.Add(node.name, touches.chunks(), room, now);
  profile_chunks_ += function->profile.size() - before;
  function->profile_changed |= changed;
  if (!function->growing) {
    function->growing = true;
    growing_.push_back(function->id);
  }
}

Membership::Member* Membership::FindMember(NodeId node, const std::string& name, Function** out) {
  Function* function = FunctionNamed(name);
  if (function == nullptr) return nullptr;
  const auto found = function->members.find(node);
  if (found == function->members.end()) return nullptr;
  *out = function;
  return &found->second;
}

NodeTraits Membership::TraitsOf(const Node& node, const Member& member) const {
  const uint32_t weight = node.seen_weight == 0 ? node.weight : std::min(node.weight, node.seen_weight);
  return {node.zone_id, weight, LeafOnly(node), member.present_permille};
}

void Membership::Apply(Function& function, const TreeChanges& changes) {
  for (const EdgeChange& edge : changes.moved) MarkDirty(function, edge.node);
  for (const NodeId node : changes.spares_changed) MarkDirty(function, node);
  for (const NodeId node : changes.placed) MarkPlaced(function, node);
  function.reparentings += changes.moved.size();
  counters_.reparentings += changes.moved.size();
}

void Membership::RemoveMembers(Function& function, const std::vector<NodeId>& nodes) {
  for (const NodeId id : nodes) {
    for (Stripe s = 0; s < function.tree.stripes(); ++s) {
      const NodeId parent = function.tree.ParentOf(id, s);
      if (parent != kProxy) MarkDirty(function, parent);
    }
  }
  const auto changes = function.tree.Leave(nodes);
  if (!changes) spdlog::error("{} nodes leave {}: {}", nodes.size(), function.name, changes.error().message);
  for (const NodeId id : nodes) {
    Node& node = *nodes_[id];
    function.members.erase(id);
    DropFromNode(node, function.id);
    --member_count_;
    deleted_.push_back({RecordChanges::Kind::kMember, function.name, node.name, {}});
    if (watched_) function.gone.push_back(node.name);
    NodeChanged(id);
  }
  if (changes) Apply(function, *changes);
  HoldersChanged(function);
  if (!function.in_dirty) {
    function.in_dirty = true;
    dirty_functions_.push_back(function.id);
  }
  flush_at_ = std::min(flush_at_, now_ + options_.batch);
}

void Membership::DropFromNode(Node& node, FunctionId function) {
  std::erase(node.functions, function);
  std::erase(node.assignments, function);
  std::erase(node.profiles, function);
  std::erase(node.holders, function);
  std::erase(node.fed, function);
}

uint32_t Membership::Retrait(NodeId id) {
  Node& node = *nodes_[id];
  uint32_t moved = 0;
  for (const FunctionId function_id : node.functions) {
    Function& function = *functions_[function_id];
    Member& member = function.members.at(id);
    const NodeTraits traits = TraitsOf(node, member);
    if (traits == member.traits) continue;
    member.traits = traits;
    MarkPlaced(function, id);
    HoldersChanged(function);
    const auto changes = function.tree.Update(id, traits);
    if (!changes) continue;
    moved += static_cast<uint32_t>(changes->moved.size());
    Apply(function, *changes);
  }
  return moved;
}

// Whoever has it as a parent or a spare is among the members; their fingerprints tell who.
void Membership::AddressChanged(NodeId id) {
  for (const FunctionId function_id : nodes_[id]->functions) {
    Function& function = *functions_[function_id];
    for (const auto& [member_id, member] : function.members) MarkDirty(function, member_id);
  }
}

}  // namespace banyan::tree_manager
