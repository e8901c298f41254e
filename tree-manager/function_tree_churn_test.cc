// docs/trees.md names the invariants; here a good million of random events try to break them. BANYAN_TREE_EVENTS=n
// makes it n times as many.
#include <algorithm>
#include <cstdlib>
#include <random>

#include <gtest/gtest.h>

#include "tree-manager/testing/checked_tree.h"

namespace banyan::tree_manager {
namespace {

size_t Events(size_t events) {
  const char* factor = std::getenv("BANYAN_TREE_EVENTS");
  return factor == nullptr ? events : events * std::max(1, std::atoi(factor));
}

// A run of random joins and leaves that wanders between few nodes and `max_size`.
class Churn {
 public:
  Churn(CheckedTree& tree, uint32_t max_size, uint32_t seed)
      : tree_(tree), max_size_(max_size), random_(seed), steps_left_(2 * max_size) {}

  bool NextIsJoin() {
    if (steps_left_-- == 0) {
      steps_left_ = max_size_ / 2 + random_() % (max_size_ + 1);
      join_percent_ = 20 + random_() % 61;
    }
    const size_t size = tree_.members().size();
    largest_ = std::max(largest_, size);
    return size == 0 || (size < max_size_ && random_() % 100 < join_percent_);
  }
  NodeId NewNode() { return next_++ * 7919U; }  // not dense
  std::mt19937& random() { return random_; }
  size_t largest() const { return largest_; }

 private:
  CheckedTree& tree_;
  const uint32_t max_size_;
  std::mt19937 random_;
  uint32_t steps_left_;  // at this mix; at first it climbs
  size_t largest_ = 0;
  NodeId next_ = 1;
  uint32_t join_percent_ = 80;
};

// ---- Equal nodes, one zone ----

struct EqualCase {
  Stripe stripes;
  uint32_t max_size;
  size_t events;
  size_t events_a_full_check;
  uint32_t weight;
};

class EqualNodes : public testing::TestWithParam<EqualCase> {};

TEST_P(EqualNodes, FewEdgesMoveAndInteriorsStayDisjoint) {
  const EqualCase& param = GetParam();
  CheckedTree tree({.stripes = param.stripes});
  Churn churn(tree, param.max_size, 1);
  const NodeTraits traits{.weight = param.weight};
  size_t most_by_join = 0;
  size_t most_by_leave = 0;
  for (size_t event = 0; event < Events(param.events) && !HasFailure(); ++event) {
    if (churn.NextIsJoin()) {
      most_by_join = std::max(most_by_join, tree.Join(churn.NewNode(), traits));
    } else {
      most_by_leave = std::max(most_by_leave, tree.Leave(tree.Random(churn.random())));
    }
    if (event % param.events_a_full_check == 0) {
      tree.CheckAll();
      tree.CheckEqual();
    } else if (!tree.members().empty()) {
      tree.CheckNode(tree.Random(churn.random()));
    }
  }
  RecordProperty("most_by_join", static_cast<int>(most_by_join));
  RecordProperty("most_by_leave", static_cast<int>(most_by_leave));
  RecordProperty("most_spares", static_cast<int>(tree.max_spare_changes));
  EXPECT_GT(churn.largest(), param.max_size / 2);
  EXPECT_LE(most_by_join, param.stripes == 1 ? 0U : 3U);
  EXPECT_LE(most_by_leave, param.stripes == 1 ? 4U : 5U);
  EXPECT_LE(tree.max_spare_changes, 48U);
  EXPECT_EQ(tree.Improve(), 0U);
}

INSTANTIATE_TEST_SUITE_P(Sizes, EqualNodes,
                         testing::Values(EqualCase{2, 20, 100'000, 1, 100}, EqualCase{1, 20, 50'000, 1, 100},
                                         EqualCase{2, 20, 20'000, 1, 30}, EqualCase{2, 20, 20'000, 1, 400},
                                         EqualCase{2, 300, 200'000, 100, 100},
                                         EqualCase{2, 10'000, 300'000, 20'000, 100},
                                         EqualCase{1, 10'000, 150'000, 20'000, 100}));

// ---- Nodes that are not equal ----

struct MixedCase {
  Stripe stripes;
  uint32_t max_size;
  size_t events;
  size_t events_a_full_check;
  uint32_t leaf_only_percent;
  uint32_t zones;
  uint32_t max_degree;
  bool weights_spread;
  bool weights_change = false;
};

class MixedNodes : public testing::TestWithParam<MixedCase> {
 protected:
  NodeTraits RandomTraits(std::mt19937& random) const {
    const MixedCase& param = GetParam();
    NodeTraits traits;
    traits.zone = random() % param.zones;
    traits.leaf_only = random() % 100 < param.leaf_only_percent;
    if (param.weights_spread) traits.weight = 20 + random() % 181;
    if (random() % 3 == 0) traits.present_permille = random() % 1001;
    return traits;
  }
};

TEST_P(MixedNodes, EveryNodeReachesTheProxy) {
  const MixedCase& param = GetParam();
  CheckedTree tree({.stripes = param.stripes, .max_degree = param.max_degree});
  Churn churn(tree, param.max_size, 2);
  std::mt19937& random = churn.random();
  size_t most = 0;
  for (size_t event = 0; event < Events(param.events) && !HasFailure(); ++event) {
    const uint32_t kind = random() % 10;
    if (kind == 0 && !tree.members().empty()) {
      const NodeId node = tree.Random(random);
      NodeTraits traits = RandomTraits(random);
      if (!param.weights_change) traits.weight = tree.traits(node).weight;
      most = std::max(most, tree.Update(node, traits));
    } else if (kind == 1) {
      most = std::max(most, tree.Improve());
    } else if (churn.NextIsJoin()) {
      most = std::max(most, tree.Join(churn.NewNode(), RandomTraits(random)));
    } else {
      most = std::max(most, tree.Leave(tree.Random(random)));
    }
    if (event % param.events_a_full_check == 0) {
      tree.CheckAll();
      if (!param.weights_change) tree.CheckOrderOfConcessions();
    } else if (!tree.members().empty()) {
      tree.CheckNode(tree.Random(random));
    }
    if (event % (param.events / 5) == 0) tree.RestoreFromPlacements();
  }
  RecordProperty("most", static_cast<int>(most));
  RecordProperty("most_spares", static_cast<int>(tree.max_spare_changes));
  EXPECT_GT(churn.largest(), param.max_size / 2);
  EXPECT_LE(most, 40U);
  EXPECT_LE(tree.max_spare_changes, 150U);
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, MixedNodes,
    testing::Values(MixedCase{2, 16, 40'000, 1, 30, 1, 4, false}, MixedCase{2, 16, 40'000, 1, 30, 2, 4, true},
                    MixedCase{2, 16, 20'000, 1, 80, 1, 4, true}, MixedCase{2, 16, 10'000, 1, 50, 1, 2, true},
                    MixedCase{2, 16, 10'000, 1, 90, 1, 6, true}, MixedCase{1, 16, 20'000, 1, 30, 2, 4, true},
                    MixedCase{2, 40, 20'000, 1, 30, 1, 4, true, true},
                    MixedCase{2, 2'000, 100'000, 5'000, 30, 1, 4, false},
                    MixedCase{2, 2'000, 100'000, 5'000, 0, 3, 4, true},
                    MixedCase{2, 10'000, 100'000, 20'000, 30, 1, 4, true, true},
                    MixedCase{1, 2'000, 50'000, 5'000, 30, 1, 4, true}));

}  // namespace
}  // namespace banyan::tree_manager
