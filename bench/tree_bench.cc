// What a join and a leave of a function's trees cost, in process, at a steady size; items are events. Random nodes
// leave. `mixed`: 30 % leaf-only, uplinks 1 : 10, 16 zones.
#include <algorithm>
#include <random>
#include <vector>

#include <benchmark/benchmark.h>

#include "tree-manager/function_tree.h"

namespace banyan::bench {
namespace {

using tree_manager::FunctionTree;
using tree_manager::NodeId;
using tree_manager::NodeTraits;
using tree_manager::Stripe;

constexpr size_t kBatch = 512;

class Crowd {
 public:
  Crowd(Stripe stripes, size_t size, bool mixed) : tree_({.stripes = stripes}), mixed_(mixed) {
    for (size_t i = 0; i < size; ++i) Join(Prepare());
  }

  struct Newcomer {
    NodeId node;
    NodeTraits traits;
  };
  Newcomer Prepare() {
    Newcomer newcomer{.node = next_++, .traits = {}};
    if (mixed_) {
      newcomer.traits.zone = random_() % 16;
      newcomer.traits.leaf_only = random_() % 100 < 30;
      newcomer.traits.weight = 20 + random_() % 181;
    }
    return newcomer;
  }
  void Join(const Newcomer& newcomer) {
    auto changes = tree_.Join(newcomer.node, newcomer.traits);
    benchmark::DoNotOptimize(changes);
    members_.push_back(newcomer.node);
  }
  // `kBatch` random members to the end of the list, from where they leave.
  void ShuffleLast() {
    for (size_t i = 0; i < kBatch; ++i) {
      std::swap(members_[members_.size() - 1 - i], members_[random_() % (members_.size() - i)]);
    }
  }
  void LeaveLast() {
    auto changes = tree_.Leave(members_.back());
    benchmark::DoNotOptimize(changes);
    members_.pop_back();
  }

 private:
  FunctionTree tree_;
  const bool mixed_;
  std::mt19937 random_{1};
  NodeId next_ = 0;
  std::vector<NodeId> members_;
};

void Joins(benchmark::State& state, bool mixed) {
  Crowd crowd(static_cast<Stripe>(state.range(0)), static_cast<size_t>(state.range(1)), mixed);
  std::vector<Crowd::Newcomer> newcomers(kBatch);
  for (auto _ : state) {
    state.PauseTiming();
    crowd.ShuffleLast();
    for (size_t i = 0; i < kBatch; ++i) crowd.LeaveLast();
    for (Crowd::Newcomer& newcomer : newcomers) newcomer = crowd.Prepare();
    state.ResumeTiming();
    for (const Crowd::Newcomer& newcomer : newcomers) crowd.Join(newcomer);
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * kBatch));
}

void Leaves(benchmark::State& state, bool mixed) {
  Crowd crowd(static_cast<Stripe>(state.range(0)), static_cast<size_t>(state.range(1)), mixed);
  for (auto _ : state) {
    state.PauseTiming();
    for (size_t i = 0; i < kBatch; ++i) crowd.Join(crowd.Prepare());
    crowd.ShuffleLast();
    state.ResumeTiming();
    for (size_t i = 0; i < kBatch; ++i) crowd.LeaveLast();
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * kBatch));
}

void Sizes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"stripes", "nodes"})->ArgsProduct({{1, 2}, {1'000, 50'000}})->Unit(benchmark::kMicrosecond);
}

BENCHMARK_CAPTURE(Joins, equal, false)->Apply(Sizes);
BENCHMARK_CAPTURE(Leaves, equal, false)->Apply(Sizes);
BENCHMARK_CAPTURE(Joins, mixed, true)->Apply(Sizes);
BENCHMARK_CAPTURE(Leaves, mixed, true)->Apply(Sizes);

}  // namespace
}  // namespace banyan::bench

BENCHMARK_MAIN();
