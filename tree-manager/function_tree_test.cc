#include "tree-manager/function_tree.h"

#include <algorithm>
#include <numeric>
#include <random>

#include <gtest/gtest.h>

#include "tree-manager/testing/checked_tree.h"

namespace banyan::tree_manager {
namespace {

using Members = std::vector<FunctionTree::Member>;

void JoinMany(CheckedTree& tree, uint32_t count, const NodeTraits& traits = {}, NodeId first = 0) {
  for (NodeId node = first; node < first + count; ++node) tree.Join(node, traits);
}

// Until there is nothing to improve; how many swaps that took.
size_t ImproveAll(CheckedTree& tree) {
  size_t swaps = 0;
  while (true) {
    const size_t moved = tree.Improve();
    if (moved == 0) return swaps;
    EXPECT_LE(moved, 12U);  // two nodes, their parents' changes and up to max_degree children each, in one stripe
    ++swaps;
    if (swaps > 100'000) {
      ADD_FAILURE() << "no end to improving";
      return swaps;
    }
  }
}

uint32_t ChildrenInAll(const CheckedTree& tree, NodeId node) {
  uint32_t children = 0;
  for (Stripe stripe = 0; stripe < tree.tree().stripes(); ++stripe) {
    children += tree.tree().ChildCountOf(node, stripe);
  }
  return children;
}

// ---- Small ones, by hand ----

TEST(FunctionTree, OneNodeIsFedByTheProxy) {
  CheckedTree tree({.stripes = 2});
  tree.Join(5, {});
  EXPECT_EQ(tree.tree().ParentOf(5, 0), kProxy);
  EXPECT_EQ(tree.tree().ParentOf(5, 1), kProxy);
  EXPECT_EQ(tree.tree().DepthOf(5, 0), 1U);
  EXPECT_EQ(tree.tree().height(), 1U);
  tree.Leave(5);
  EXPECT_EQ(tree.tree().height(), 0U);
  EXPECT_EQ(tree.tree().size(), 0U);
}

TEST(FunctionTree, TwoNodesFeedEachOther) {
  CheckedTree tree({.stripes = 2});
  JoinMany(tree, 2);
  const Stripe of_first = tree.tree().ParentOf(0, 0) == kProxy ? 0 : 1;
  EXPECT_EQ(tree.tree().ParentOf(0, of_first), kProxy);
  EXPECT_EQ(tree.tree().ParentOf(1, of_first), 0U);
  EXPECT_EQ(tree.tree().ParentOf(0, of_first ^ 1), 1U);
  EXPECT_EQ(tree.tree().ParentOf(1, of_first ^ 1), kProxy);
}

TEST(FunctionTree, OneStripeGrowsAtItsEnd) {
  CheckedTree tree({.stripes = 1});
  for (NodeId node = 1; node <= 15; ++node) EXPECT_EQ(tree.Join(node, {}), 0U);
  EXPECT_EQ(tree.tree().ParentOf(1, 0), kProxy);
  for (NodeId node = 2; node <= 15; ++node) EXPECT_EQ(tree.tree().ParentOf(node, 0), node / 2);
  EXPECT_EQ(tree.tree().height(), 4U);
}

TEST(FunctionTree, RefusesWhatIsNotSo) {
  FunctionTree tree({});
  ASSERT_TRUE(tree.Join(1, {}));
  EXPECT_EQ(tree.Join(1, {}).error().code, Code::kAlreadyExists);
  EXPECT_EQ(tree.Join(kProxy, {}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(tree.Leave(2).error().code, Code::kNotFound);
  EXPECT_EQ(tree.Update(2, {}).error().code, Code::kNotFound);
  const NodeId nodes[] = {1, 2};
  EXPECT_EQ(tree.Leave(nodes).error().code, Code::kNotFound);
  EXPECT_TRUE(tree.Contains(1));
  const NodeId twice[] = {1, 1};
  EXPECT_TRUE(tree.Leave(twice));
  EXPECT_EQ(tree.size(), 0U);
}

// ---- What gives way ----

TEST(FunctionTree, OneOfTwoThatGivesNothingIsFedByTheOtherInBothStripes) {
  CheckedTree tree({.stripes = 2});
  tree.Join(1, {.leaf_only = true});
  tree.Join(2, {});
  for (Stripe stripe = 0; stripe < 2; ++stripe) {
    EXPECT_EQ(tree.tree().ParentOf(2, stripe), kProxy);
    EXPECT_EQ(tree.tree().ParentOf(1, stripe), 2U);
  }
}

TEST(FunctionTree, WhereNobodyGivesTheProxyFeedsAll) {
  CheckedTree tree({.stripes = 2});
  JoinMany(tree, 50, {.leaf_only = true});
  tree.CheckAll();
  EXPECT_EQ(tree.tree().height(), 1U);
}

// 30 % leaves: 70 interiors have 2 x 99 children, none need more than three.
TEST(FunctionTree, LeafOnlyNodesCostTheOthersAThirdChildEach) {
  CheckedTree tree({.stripes = 2});
  for (NodeId node = 0; node < 1000; ++node) tree.Join(node, {.leaf_only = node % 10 < 3});
  ImproveAll(tree);
  tree.CheckAll();
  tree.CheckOrderOfConcessions();
  for (const NodeId node : tree.members()) EXPECT_LE(ChildrenInAll(tree, node), 3U);
}

TEST(FunctionTree, WeakNodesAreLeavesWhileTheStrongHaveUplinkToSpare) {
  CheckedTree tree({.stripes = 2});
  for (NodeId node = 0; node < 400; ++node) tree.Join(node, {.weight = node % 2 == 0 ? 20U : 200U});
  ImproveAll(tree);
  tree.CheckAll();
  for (const NodeId node : tree.members()) {
    EXPECT_LE(ChildrenInAll(tree, node), node % 2 == 0 ? 0U : 4U) << node;
  }
}

// Once there is nothing to improve: nobody has more children than its uplink pays for, while another interior of that
// stripe has uplink to spare.
TEST(FunctionTree, FurtherChildrenGoToThoseWithUplinkToSpare) {
  const auto quota = [](const NodeTraits& traits) { return std::min(4U, (traits.weight + 25) / 50); };
  size_t spare_used = 0;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    CheckedTree tree({.stripes = 2});
    std::mt19937 random(seed);
    for (NodeId node = 0; node < 600; ++node) {
      NodeTraits traits;
      traits.weight = 80 + random() % 150;
      traits.leaf_only = random() % 10 < 3;
      tree.Join(node, traits);
      if (node % 3 == 2) tree.Leave(tree.Random(random));
    }
    ImproveAll(tree);
    tree.CheckAll();
    for (Stripe stripe = 0; stripe < 2; ++stripe) {
      bool spare = false;
      bool overloaded = false;
      for (const NodeId node : tree.members()) {
        const uint32_t children = tree.tree().ChildCountOf(node, stripe);
        if (children == 0) continue;
        spare = spare || children < quota(tree.traits(node));
        overloaded = overloaded || children > quota(tree.traits(node));
        if (children > 2 && children <= quota(tree.traits(node))) ++spare_used;
      }
      EXPECT_FALSE(spare && overloaded);
    }
  }
  EXPECT_GT(spare_used, 0U);
}

// With all others equal there is one place for a slow node: none if their number is odd, else that with one child.
TEST(FunctionTree, TheSlowestNodeHasTheFewestChildren) {
  for (const uint32_t size : {15U, 16U, 63U, 64U}) {
    for (NodeId slow = 0; slow < size; ++slow) {
      CheckedTree tree({.stripes = 2});
      for (NodeId node = 0; node < size; ++node) tree.Join(node, {.weight = node == slow ? 50U : 100U});
      EXPECT_LE(ImproveAll(tree), 2U);
      EXPECT_EQ(ChildrenInAll(tree, slow), size % 2 == 0 ? 1U : 0U) << size << " nodes, " << slow << " is slow";
    }
  }
}

// At once, whether it was known when it joined or is seen later: all below it are as slow as it is.
TEST(FunctionTree, ASlowNodeNeedsNoImprovement) {
  for (const uint32_t size : {15U, 16U, 63U, 64U}) {
    for (NodeId slow = 0; slow < size; ++slow) {
      CheckedTree known({.stripes = 2});
      for (NodeId node = 0; node < size; ++node) known.Join(node, {.weight = node == slow ? 50U : 100U});
      CheckedTree seen({.stripes = 2});
      JoinMany(seen, size);
      EXPECT_LE(seen.Update(slow, {.weight = 50}), 8U);
      for (const CheckedTree* tree : {&known, &seen}) {
        EXPECT_EQ(ChildrenInAll(*tree, slow), size % 2 == 0 ? 1U : 0U) << size << " nodes, " << slow << " is slow";
        tree->CheckAll();
      }
    }
  }
}

TEST(FunctionTree, ANodeThatGivesNothingFromNowOnLosesItsChildrenAndNobodyElseMovesFar) {
  CheckedTree tree({.stripes = 2});
  JoinMany(tree, 1000);
  for (NodeId node = 0; node < 300; ++node) EXPECT_LE(tree.Update(node * 3, {.leaf_only = true}), 20U);
  tree.CheckAll();
  for (NodeId node = 0; node < 300; ++node) EXPECT_EQ(ChildrenInAll(tree, node * 3), 0U);
  for (NodeId node = 0; node < 300; ++node) EXPECT_LE(tree.Update(node * 3, {}), 20U);
  tree.CheckAll();
  tree.CheckOrderOfConcessions();
}

TEST(FunctionTree, AWeightOrWarmthAloneMovesNobody) {
  CheckedTree tree({.stripes = 2});
  JoinMany(tree, 100);
  for (NodeId node = 0; node < 100; ++node) {
    EXPECT_EQ(tree.Update(node, {.weight = 75 + node * 5, .present_permille = node * 10}), 0U);
  }
  EXPECT_GT(ImproveAll(tree), 0U);
  tree.CheckAll();
}

// ---- Warmth ----

TEST(FunctionTree, WarmNodesComeToStandAboveEmptyOnes) {
  for (const Stripe stripes : {Stripe{1}, Stripe{2}}) {
    CheckedTree tree({.stripes = stripes});
    std::mt19937 random(3);
    for (NodeId node = 0; node < 500; ++node) tree.Join(node, {.present_permille = random() % 4 == 0 ? 1000U : 0U});
    ImproveAll(tree);
    tree.CheckAll();
    tree.CheckEqual();
    for (const NodeId node : tree.members()) {
      for (Stripe stripe = 0; stripe < stripes; ++stripe) {
        const NodeId parent = tree.tree().ParentOf(node, stripe);
        if (parent == kProxy || tree.tree().ChildCountOf(node, stripe) == 0) continue;
        EXPECT_GE(tree.traits(parent).present_permille, tree.traits(node).present_permille);
      }
    }
  }
}

// ---- Zones ----

TEST(FunctionTree, EachZoneHasTreesOfItsOwn) {
  CheckedTree tree({.stripes = 2});
  const uint32_t sizes[] = {1, 2, 33, 500};
  std::vector<uint32_t> zones;
  for (uint32_t zone = 0; zone < 4; ++zone) zones.insert(zones.end(), sizes[zone], zone * 1000);
  std::mt19937 random(4);
  std::shuffle(zones.begin(), zones.end(), random);
  NodeId next = 0;
  for (const uint32_t zone : zones) tree.Join(next++, {.zone = zone});
  tree.CheckAll();
  tree.CheckEqual();
  EXPECT_EQ(tree.tree().height(), 9U);
  // One leaves, another comes: the sizes stay.
  for (int event = 0; event < 3000; ++event) {
    const NodeId node = tree.Random(random);
    const uint32_t zone = tree.traits(node).zone;
    tree.Leave(node);
    tree.Join(next++, {.zone = zone});
    if (event % 100 == 0) {
      tree.CheckAll();
      tree.CheckEqual();
    }
  }
  // A node may change its zone.
  for (int event = 0; event < 300; ++event) tree.Update(tree.Random(random), {.zone = sizes[random() % 4]});
  tree.CheckAll();
  tree.CheckEqual();
}

// ---- Failures ----

TEST(FunctionTree, AThirdFailsAtOnce) {
  for (const uint32_t leaf_only_percent : {0U, 30U}) {
    for (const uint32_t size : {3U, 33U, 3000U}) {
      CheckedTree tree({.stripes = 2});
      std::mt19937 random(size);
      for (NodeId node = 0; node < size; ++node) tree.Join(node, {.leaf_only = random() % 100 < leaf_only_percent});
      std::vector<NodeId> failed(size);
      std::iota(failed.begin(), failed.end(), 0);
      std::shuffle(failed.begin(), failed.end(), random);
      failed.resize(size / 3);
      const size_t moved = tree.Leave(failed);
      tree.CheckAll();
      tree.CheckOrderOfConcessions();
      if (leaf_only_percent == 0) {
        tree.CheckEqual();
        EXPECT_LE(moved, 5 * failed.size());
      }
    }
  }
}

TEST(FunctionTree, NoNodeIsTheSpareOfMany) {
  CheckedTree tree({.stripes = 2});
  JoinMany(tree, 3000);
  for (Stripe stripe = 0; stripe < 2; ++stripe) {
    std::vector<uint32_t> spare_of(3000);
    for (const NodeId node : tree.members()) {
      for (const NodeId spare : tree.tree().SparesOf(node, stripe)) ++spare_of[spare];
    }
    EXPECT_LE(*std::max_element(spare_of.begin(), spare_of.end()), 12U);
  }
}

// ---- Restore ----

CheckedTree RandomTree(uint32_t size, uint32_t seed) {
  CheckedTree tree({.stripes = 2});
  std::mt19937 random(seed);
  NodeId next = 0;
  for (uint32_t event = 0; event < size * 3; ++event) {
    if (tree.members().size() < size) {
      NodeTraits traits;
      traits.zone = random() % 2;
      traits.weight = 20 + random() % 181;
      traits.leaf_only = random() % 4 == 0;
      tree.Join(next++, traits);
    } else {
      tree.Leave(tree.Random(random));
    }
  }
  return tree;
}

TEST(FunctionTree, RestoresWhatItWas) {
  for (uint32_t seed = 0; seed < 200 && !HasFailure(); ++seed) RandomTree(1 + seed, seed).RestoreFromPlacements();
}

TEST(FunctionTree, RefusesPlacementsThatAreNoTrees) {
  CheckedTree good({.stripes = 2});
  JoinMany(good, 9);
  good.Update(4, {.leaf_only = true});
  good.Update(5, {.leaf_only = true});
  const auto refuses = [&good](const auto& spoil) {
    Members members = good.Placements();
    std::sort(members.begin(), members.end(), [](const auto& a, const auto& b) { return a.node < b.node; });
    spoil(members);
    FunctionTree tree({.stripes = 2});
    EXPECT_TRUE(tree.Join(77, {}));
    const Status status = tree.Restore(members);
    EXPECT_EQ(tree.size(), status ? members.size() : 0U);
    return !status && status.error().code == Code::kDataLoss;
  };
  EXPECT_FALSE(refuses([](Members&) {}));
  EXPECT_TRUE(refuses([](Members& members) { members.pop_back(); }));
  EXPECT_TRUE(refuses([](Members& members) { members[0].placement.slot[1] = 0; }));
  EXPECT_TRUE(refuses([](Members& members) { members[0].placement.slot[0] = UINT32_MAX; }));
  EXPECT_TRUE(refuses([](Members& members) { members[0].placement.slot[0] = members[1].placement.slot[0]; }));
  EXPECT_TRUE(refuses([](Members& members) { members[0].placement.feeder[0] = 9; }));
  EXPECT_TRUE(refuses([](Members& members) { members[0].placement.feeder[1] = UINT32_MAX; }));
  EXPECT_TRUE(refuses([](Members& members) { members[0].placement.relays ^= 3; }));
  EXPECT_TRUE(refuses([](Members& members) { members[0].placement.relays |= 4; }));
  EXPECT_TRUE(refuses([](Members& members) { members[0].traits.leaf_only = true; }));
  EXPECT_TRUE(refuses([](Members& members) { members[0].traits.zone = 1; }));
  EXPECT_TRUE(refuses([](Members& members) { members[0].node = members[1].node; }));
  EXPECT_TRUE(refuses([](Members& members) { members[0].node = kProxy; }));
}

// Every chain of parents ends at the proxy, whatever was restored; and it can be worked with.
TEST(FunctionTree, HostilePlacementsAreRefusedOrMakeTrees) {
  std::mt19937 random(6);
  size_t accepted = 0;
  for (int round = 0; round < 3000 && !HasFailure(); ++round) {
    Members members = RandomTree(2 + random() % 12, random()).Placements();
    for (uint32_t i = 0; i <= random() % 3; ++i) {
      Placement& placement = members[random() % members.size()].placement;
      const Stripe stripe = random() % 2;
      const uint32_t value = random() % (members.size() + 2);
      if (random() % 3 == 0) placement.slot[stripe] = value;
      if (random() % 3 == 0) placement.feeder[stripe] = value;
      if (random() % 3 == 0) placement.relays = static_cast<uint8_t>(random() % 4);
    }
    FunctionTree tree({.stripes = 2});
    if (!tree.Restore(members)) {
      EXPECT_EQ(tree.size(), 0U);
      continue;
    }
    ++accepted;
    for (NodeId node = 1000; node < 1020; ++node) EXPECT_TRUE(tree.Join(node, {}));
    for (const FunctionTree::Member& member : members) {
      for (Stripe stripe = 0; stripe < 2; ++stripe) {
        NodeId up = member.node;
        for (uint32_t depth = tree.DepthOf(member.node, stripe); depth > 0; --depth) up = tree.ParentOf(up, stripe);
        EXPECT_EQ(up, kProxy);
      }
    }
    for (const FunctionTree::Member& member : members) EXPECT_TRUE(tree.Leave(member.node));
  }
  EXPECT_GT(accepted, 0U);
}

}  // namespace
}  // namespace banyan::tree_manager
