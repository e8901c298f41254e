// The tree-manager, as far as trees are concerned: tree-manager/function_tree.h, and when it is called.
//
// Joins, leaves and deaths change the trees at once; members whose parents or spares changed are told 20 ms later, all
// of a batch together. Who is dead: as tree-manager/membership_life.cc has it, in beats of a second: a killed node
// (its session ends) is removed a second later when a child has reported it, else with the fifth missed beat; a silent
// one after two seconds when it was reported, else with the fifth missed beat; with the second one it becomes a leaf.
// When a fifth of the nodes go silent within two seconds, silence alone convicts nobody for 15 s. Nodes' loads, from
// their beats, go to tree-manager/slow_uplinks.h once a second while a function is in use; what it finds stays true.
#pragma once

#include <memory>
#include <set>
#include <vector>

#include "sim/event_queue.h"
#include "sim/links.h"
#include "sim/scenario.h"
#include "tree-manager/function_tree.h"
#include "tree-manager/slow_uplinks.h"

namespace banyan::sim {

inline constexpr size_t kStripes = tree_manager::kMaxStripes;

struct Routes {
  uint8_t stripes = 1;
  PeerId parent[kStripes] = {kNobody, kNobody};  // kNobody: the proxy
  uint8_t spares[kStripes] = {};
  PeerId spare[kStripes][2] = {};
  uint32_t children[kStripes] = {};
};

class RoutesObserver {
 public:
  virtual ~RoutesObserver() = default;
  virtual void OnRoutes(PeerId node, FunctionId function, const Routes& routes) = 0;
};

// Externally synchronised.
class Manager {
 public:
  // All must outlive it. `traits` of each node.
  Manager(const Scenario& scenario, std::vector<tree_manager::NodeTraits> traits, EventQueue& events,
          RoutesObserver& observer);

  // Beats come once a second from then on, at moments that are each node's own.
  Nanos FirstBeat(PeerId node) const;
  // What nodes send; it arrives later.
  void SendJoin(PeerId node, FunctionId function);
  void SendLeave(PeerId node, FunctionId function);
  void SendReport(PeerId peer);
  void NodeDied(PeerId node, bool session_ended);

  void OnJoin(PeerId node, FunctionId function);
  void OnLeave(PeerId node, FunctionId function);
  void OnReport(PeerId peer);
  void OnFlush(FunctionId function);
  void OnAssignment(PeerId node, FunctionId function);
  void OnJudge(PeerId node);
  // With a node's loads since its last beat.
  void OnBeat(PeerId node, const tree_manager::NodeLoad& load);
  // Once a second: swaps that pay off when nothing streams, slow uplinks when something does.
  void OnVisit();

  // In no tree, so that it may join again.
  bool Forgotten(PeerId node) const { return nodes_[node].functions.empty() && nodes_[node].died < 0; }
  const tree_manager::FunctionTree* TreeOf(FunctionId function) const { return functions_[function].tree.get(); }
  uint64_t moved_edges() const { return moved_edges_; }
  uint64_t changed_spares() const { return changed_spares_; }
  uint32_t height() const;

 private:
  struct Node {
    tree_manager::NodeTraits traits;
    std::vector<FunctionId> functions;
    Nanos died = -1;
    bool session_ended = false;
    bool reported = false;
    bool suspect = false;
    tree_manager::NodeLoad load;
  };
  struct Function {
    std::unique_ptr<tree_manager::FunctionTree> tree;  // null: static trees
    tree_manager::SlowUplinks slow_uplinks;
    Nanos last_use = 0;
    std::vector<PeerId> order;    // of arrival
    std::vector<uint32_t> place;  // of a node in `order`
    std::set<PeerId> dirty;
    bool flushing = false;
  };

  Nanos LastBeat(PeerId node) const;
  bool Doubting() const;
  void Suspect(PeerId node);
  void Remove(PeerId node);
  void Update(PeerId node);
  void Apply(FunctionId function, const tree_manager::TreeChanges& changes);
  void MarkDirty(FunctionId function, PeerId node);
  Routes RoutesOf(FunctionId function, PeerId node) const;
  Routes StaticRoutesOf(const Function& function, PeerId node) const;

  const Scenario& scenario_;
  EventQueue& events_;
  RoutesObserver& observer_;
  std::vector<Node> nodes_;
  std::vector<Function> functions_;
  std::vector<Nanos> deaths_;  // when nodes fell silent, of late
  Nanos doubt_until_ = 0;
  uint64_t moved_edges_ = 0;
  uint64_t changed_spares_ = 0;
};

}  // namespace banyan::sim
