#include "sim/manager.h"

#include <algorithm>

#include "sim/random.h"

namespace banyan::sim {

namespace {

constexpr Nanos kBatch = 20 * kMillisecond;
constexpr Nanos kTick = 100 * kMillisecond;
constexpr Nanos kDoubtWindow = 2 * kSecond;
constexpr Nanos kDoubt = 15 * kSecond;
constexpr size_t kLeastDoubt = 3;
constexpr size_t kDoubtShare = 5;
constexpr Nanos kCalm = 5 * kSecond;

}  // namespace

Manager::Manager(const Scenario& scenario, std::vector<tree_manager::NodeTraits> traits, EventQueue& events,
                 RoutesObserver& observer)
    : scenario_(scenario), events_(events), observer_(observer), nodes_(traits.size()), functions_(scenario.functions) {
  for (size_t i = 0; i < traits.size(); ++i) nodes_[i].traits = traits[i];
  for (Function& function : functions_) {
    if (scenario.trees != Trees::kForest) {
      function.place.assign(nodes_.size(), UINT32_MAX);
      continue;
    }
    tree_manager::FunctionTree::Options options;
    options.stripes = static_cast<tree_manager::Stripe>(scenario.stripes);
    function.tree = std::make_unique<tree_manager::FunctionTree>(options);
  }
  if (scenario.trees == Trees::kForest) events_.In(kSecond, EventKind::kVisit);
}

void Manager::SendJoin(PeerId node, FunctionId function) {
  events_.In(scenario_.latency, EventKind::kJoinArrives, node, function);
}

void Manager::SendLeave(PeerId node, FunctionId function) {
  events_.In(scenario_.latency, EventKind::kLeaveArrives, node, function);
}

void Manager::SendReport(PeerId peer) { events_.In(scenario_.latency, EventKind::kReportArrives, peer); }

void Manager::OnJoin(PeerId id, FunctionId function_id) {
  Function& function = functions_[function_id];
  Node& node = nodes_[id];
  if (node.died >= 0) return;
  if (function.tree == nullptr) {
    function.place[id] = static_cast<uint32_t>(function.order.size());
    function.order.push_back(id);
    MarkDirty(function_id, id);
    return;
  }
  auto changes = function.tree->Join(id, node.traits);
  if (!changes) return;
  node.functions.push_back(function_id);
  function.last_use = events_.now();
  Apply(function_id, *changes);
  MarkDirty(function_id, id);
  for (tree_manager::Stripe stripe = 0; stripe < function.tree->stripes(); ++stripe) {
    const tree_manager::NodeId parent = function.tree->ParentOf(id, stripe);
    if (parent != tree_manager::kProxy) MarkDirty(function_id, parent);
  }
}

void Manager::OnLeave(PeerId id, FunctionId function_id) {
  Function& function = functions_[function_id];
  if (function.tree == nullptr) return;
  auto changes = function.tree->Leave(id);
  if (!changes) return;
  std::erase(nodes_[id].functions, function_id);
  Apply(function_id, *changes);
}

void Manager::Apply(FunctionId function, const tree_manager::TreeChanges& changes) {
  moved_edges_ += changes.moved.size();
  changed_spares_ += changes.spares_changed.size();
  for (const tree_manager::EdgeChange& edge : changes.moved) {
    MarkDirty(function, edge.node);
    if (edge.parent != tree_manager::kProxy) MarkDirty(function, edge.parent);
  }
  for (tree_manager::NodeId node : changes.spares_changed) MarkDirty(function, node);
}

void Manager::MarkDirty(FunctionId id, PeerId node) {
  Function& function = functions_[id];
  function.dirty.insert(node);
  if (function.flushing) return;
  function.flushing = true;
  events_.In(kBatch, EventKind::kFlush, id);
}

void Manager::OnFlush(FunctionId id) {
  Function& function = functions_[id];
  function.flushing = false;
  for (PeerId node : function.dirty) events_.In(scenario_.latency, EventKind::kAssignmentArrives, node, id);
  function.dirty.clear();
}

void Manager::OnAssignment(PeerId node, FunctionId id) {
  const Function& function = functions_[id];
  const bool member = function.tree ? function.tree->Contains(node) : function.place[node] != UINT32_MAX;
  if (member) observer_.OnRoutes(node, id, RoutesOf(id, node));
}

Routes Manager::RoutesOf(FunctionId id, PeerId node) const {
  const Function& function = functions_[id];
  if (function.tree == nullptr) return StaticRoutesOf(function, node);
  Routes routes;
  routes.stripes = function.tree->stripes();
  for (uint8_t stripe = 0; stripe < routes.stripes; ++stripe) {
    const tree_manager::NodeId parent = function.tree->ParentOf(node, stripe);
    routes.parent[stripe] = parent == tree_manager::kProxy ? kNobody : parent;
    routes.children[stripe] = function.tree->ChildCountOf(node, stripe);
    for (tree_manager::NodeId spare : function.tree->SparesOf(node, stripe)) {
      if (routes.spares[stripe] < 2) routes.spare[stripe][routes.spares[stripe]++] = spare;
    }
  }
  return routes;
}

Routes Manager::StaticRoutesOf(const Function& function, PeerId node) const {
  Routes routes;
  const uint32_t place = function.place[node];
  if (scenario_.trees == Trees::kChain && place > 0) routes.parent[0] = function.order[place - 1];
  // A heap whose slot 1 is the root server; the node at `place` has slot place + 2.
  const uint32_t above = (place + 2) / 2;
  if (scenario_.trees == Trees::kStatic && above > 1) routes.parent[0] = function.order[above - 2];
  return routes;
}

// ---- Life and death ----

Nanos Manager::FirstBeat(PeerId node) const { return static_cast<Nanos>(Mix(scenario_.seed + node) % kSecond); }

Nanos Manager::LastBeat(PeerId node) const {
  const Nanos phase = FirstBeat(node);
  const Nanos died = nodes_[node].died;
  return died < phase ? 0 : died - (died - phase) % kSecond;
}

void Manager::NodeDied(PeerId id, bool session_ended) {
  Node& node = nodes_[id];
  if (node.died >= 0) return;
  node.died = events_.now();
  node.session_ended = session_ended;
  const Nanos ahead = session_ended ? 0 : kSecond;
  const Nanos beat = LastBeat(id);
  deaths_.push_back(beat + ahead + kSecond);
  for (Nanos after : {kSecond, 2 * kSecond, 5 * kSecond}) {
    events_.At(std::max(beat + after + ahead, node.died) + kTick / 2, EventKind::kJudge, id);
  }
  if (session_ended) events_.At(node.died + kSecond + kTick / 2, EventKind::kJudge, id);
}

void Manager::OnReport(PeerId peer) {
  Node& node = nodes_[peer];
  if (node.died < 0) return;
  node.reported = true;
  events_.In(kTick / 2, EventKind::kJudge, peer);
}

bool Manager::Doubting() const {
  const Nanos now = events_.now();
  size_t recent = 0;
  for (Nanos silent : deaths_) recent += silent <= now && silent > now - kDoubtWindow ? 1 : 0;
  return recent >= kLeastDoubt && recent * kDoubtShare > nodes_.size();
}

void Manager::OnJudge(PeerId id) {
  Node& node = nodes_[id];
  if (node.died < 0) return;
  const Nanos now = events_.now();
  if (Doubting()) doubt_until_ = now + kDoubt;
  std::erase_if(deaths_, [now](Nanos silent) { return silent < now - kDoubtWindow; });
  const Nanos late = now - LastBeat(id) + (node.session_ended ? kSecond : 0);  // 2 s: a missed beat
  const bool restarts = node.session_ended && now - node.died < kSecond;
  if (node.reported && late >= 2 * kSecond && !restarts) return Remove(id);
  if (now < doubt_until_) {
    events_.At(doubt_until_, EventKind::kJudge, id);
    return;
  }
  if (late >= 6 * kSecond) return Remove(id);
  if (late >= 3 * kSecond) Suspect(id);
}

void Manager::Suspect(PeerId id) {
  Node& node = nodes_[id];
  if (node.suspect) return;
  node.suspect = true;
  Update(id);
}

// Its traits are others.
void Manager::Update(PeerId id) {
  const Node& node = nodes_[id];
  tree_manager::NodeTraits traits = node.traits;
  traits.leaf_only = traits.leaf_only || node.suspect;
  for (FunctionId function : node.functions) {
    auto changes = functions_[function].tree->Update(id, traits);
    if (changes) Apply(function, *changes);
  }
}

void Manager::Remove(PeerId id) {
  Node& node = nodes_[id];
  const std::vector<FunctionId> functions = node.functions;
  for (FunctionId function : functions) OnLeave(id, function);
  node.died = -1;
  node.reported = node.suspect = node.session_ended = false;
}

// ---- Better trees ----

void Manager::OnBeat(PeerId id, const tree_manager::NodeLoad& load) {
  nodes_[id].load = load;
  if (load.down == 0) return;
  for (FunctionId function : nodes_[id].functions) functions_[function].last_use = events_.now();
}

void Manager::OnVisit() {
  for (FunctionId id = 0; id < functions_.size(); ++id) {
    Function& function = functions_[id];
    if (function.tree == nullptr || function.tree->size() == 0) continue;
    if (events_.now() - function.last_use >= kCalm) {
      Apply(id, function.tree->Improve());
      continue;
    }
    if (!scenario_.learns_links || scenario_.coarse) continue;
    const auto load_of = [this](PeerId node) { return nodes_[node].load; };
    for (const tree_manager::SlowUplink& slow : function.slow_uplinks.Look(*function.tree, load_of)) {
      Node& node = nodes_[slow.node];
      if (slow.weight >= node.traits.weight) continue;
      node.traits.weight = slow.weight;
      Update(slow.node);
    }
  }
  events_.In(kSecond, EventKind::kVisit);
}

uint32_t Manager::height() const {
  uint32_t height = 0;
  for (const Function& function : functions_) {
    if (function.tree) height = std::max(height, function.tree->height());
  }
  return height;
}

}  // namespace banyan::sim
