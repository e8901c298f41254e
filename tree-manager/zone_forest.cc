// How many interiors. With N nodes, the first ⌊N/2⌋ slots of a binary heap have children. So with two stripes and equal
// nodes everyone is an interior of exactly one (but one, if N is odd: the idle one), and there is no choice. There is
// one when nodes are not equal:
// - leaf_only nodes are interiors of none;
// - reluctant ones, whose uplink does not feed two children, are interiors only as far as the others' uplinks do not
//   suffice for all, and then the last ones, with at most one child where that can be; at once, since all that are
//   below such a node are as slow as it is;
// - what is missing then, is made up by the others with third and further children (the heap's guests): no second
//   stripe for them, since a child more in the own stripe costs their uplink as much as one in the other, and a node
//   that fails still takes its children of one stripe only;
// - when even max_degree does not suffice, nodes are interiors of both; then the proxy feeds the rest.
#include "tree-manager/zone_forest.h"

#include <algorithm>
#include <bit>

#include <fmt/format.h>

namespace banyan::tree_manager {
namespace {

// An event changes the wanted numbers by one or two. What more is to do (weights have changed, say) is left to the next
// ones and to Improve(), so that no event moves many.
constexpr int kStepsPerEvent = 6;
// How far Improve() looks a call, and PickIdle().
constexpr uint32_t kSlotsToImprove = 1024;
constexpr uint32_t kIdleToCompare = 8;

// Its uplink does not feed two children.
bool IsReluctant(const NodeTraits& traits) { return QuotaOf(traits, kMaxDegree) < 2; }

// Who should stand above whom; a total order, so that improving comes to an end. Coarse, so that it does not follow
// every wobble.
uint32_t ScoreOf(const NodeTraits& traits) {
  const uint32_t warmth = traits.present_permille >= 1000 ? 2 : traits.present_permille >= 500 ? 1 : 0;
  const auto octave = static_cast<uint32_t>(std::bit_width(traits.weight));
  const uint32_t half_octave = octave < 2 ? 0 : traits.weight >> (octave - 2) & 1;
  const uint32_t willing = IsReluctant(traits) ? 0 : 1;
  return willing << 16 | warmth << 8 | octave << 1 | half_octave;
}

uint32_t CeilDiv(uint64_t value, uint32_t by) { return static_cast<uint32_t>((value + by - 1) / by); }

}  // namespace

ZoneForest::ZoneForest(NodePool& pool, const FunctionTree::Options& options) : pool_(pool), options_(options) {
  for (Stripe stripe = 0; stripe < options.stripes; ++stripe) heaps_.emplace_back(pool, stripe, options.max_degree);
}

void ZoneForest::Add(NodeIndex node) {
  pool_[node].roles = 0;
  for (StripeHeap& heap : heaps_) heap.Append(node);
  EnterBucket(node);
  Rebalance();
  TouchSpareUsers();
}

void ZoneForest::Remove(NodeIndex node) {
  LeaveBucket(node);
  GiveUpRoles(node, size() - 1);
  for (Stripe stripe = 0; stripe < options_.stripes; ++stripe) heaps_[stripe].RemoveLeaf(pool_[node].slot[stripe]);
  Rebalance();
  TouchSpareUsers();
}

void ZoneForest::SetTraits(NodeIndex node, const NodeTraits& traits) {
  Node& entry = pool_[node];
  const bool ability_changes = entry.traits.leaf_only != traits.leaf_only;
  const bool reluctance_changes = IsReluctant(entry.traits) != IsReluctant(traits);
  LeaveBucket(node);
  if (ability_changes) GiveUpRoles(node, size());
  entry.traits = traits;
  EnterBucket(node);
  for (Stripe stripe = 0; stripe < options_.stripes; ++stripe) {
    if (IsInterior(node, stripe)) heaps_[stripe].QuotaChanged(entry.slot[stripe]);
  }
  if (!ability_changes && !reluctance_changes) return;
  Rebalance();
  TouchSpareUsers();
}

Status ZoneForest::Load(const std::vector<NodeIndex>& nodes) {
  const auto size = static_cast<uint32_t>(nodes.size());
  for (const NodeIndex node : nodes) {
    Node& entry = pool_[node];
    entry.roles = entry.known.placement.relays;
    if (entry.roles >> options_.stripes != 0) return Fail(Code::kDataLoss, "an interior of a stripe that is not there");
    if (entry.roles != 0 && entry.traits.leaf_only) return Fail(Code::kDataLoss, "a leaf_only node is an interior");
    EnterBucket(node);
  }
  for (Stripe stripe = 0; stripe < options_.stripes; ++stripe) {
    std::vector<NodeIndex> by_slot(size + 1, kNoNode);
    uint32_t interiors = 0;
    for (const NodeIndex node : nodes) {
      const uint32_t slot = pool_[node].known.placement.slot[stripe];
      if (slot == 0 || slot > size || by_slot[slot] != kNoNode) {
        return Fail(Code::kDataLoss, fmt::format("slot {} of {} is not there, or taken", slot, size));
      }
      by_slot[slot] = node;
      if (IsInterior(node, stripe)) ++interiors;
    }
    for (uint32_t slot = 1; slot <= interiors; ++slot) {
      if (!IsInterior(by_slot[slot], stripe)) return Fail(Code::kDataLoss, "an interior below the leaves");
    }
    if (!heaps_[stripe].Load(std::move(by_slot), interiors)) {
      return Fail(Code::kDataLoss, "a node is fed by one that cannot");
    }
  }
  return {};
}

void ZoneForest::TouchSpareUsers() {
  for (StripeHeap& heap : heaps_) heap.TouchSpareUsers();
}

// ---- Who could be an interior ----

void ZoneForest::EnterBucket(NodeIndex node) {
  Node& entry = pool_[node];
  if (entry.traits.leaf_only) return;
  const bool reluctant = IsReluctant(entry.traits);
  entry.bucket = static_cast<uint8_t>(entry.roles + (reluctant ? kRoles : 0));
  entry.bucket_position = static_cast<uint32_t>(buckets_[entry.bucket].size());
  buckets_[entry.bucket].push_back(node);
  ++capable_;
  if (reluctant) return;
  ++willing_;
  willing_quota_ += QuotaOf(entry.traits, options_.max_degree);
}

void ZoneForest::LeaveBucket(NodeIndex node) {
  const Node& entry = pool_[node];
  if (entry.traits.leaf_only) return;
  std::vector<NodeIndex>& bucket = buckets_[entry.bucket];
  bucket[entry.bucket_position] = bucket.back();
  pool_[bucket.back()].bucket_position = entry.bucket_position;
  bucket.pop_back();
  --capable_;
  if (entry.bucket >= kRoles) return;
  --willing_;
  willing_quota_ -= QuotaOf(entry.traits, options_.max_degree);
}

void ZoneForest::SetRoles(NodeIndex node, uint32_t roles) {
  LeaveBucket(node);
  pool_[node].roles = static_cast<uint8_t>(roles);
  EnterBucket(node);
}

NodeIndex ZoneForest::PickIdle(NodeIndex favourite) const {
  for (const uint32_t bucket : {0U, kRoles}) {
    const std::vector<NodeIndex>& idle = buckets_[bucket];
    NodeIndex best = kNoNode;
    if (favourite != kNoNode && IsIdle(favourite) && pool_[favourite].bucket == bucket) best = favourite;
    const auto few = std::min<size_t>(idle.size(), kIdleToCompare);
    for (size_t i = idle.size() - few; i < idle.size(); ++i) {
      if (best == kNoNode || ScoreOf(pool_[idle[i]].traits) > ScoreOf(pool_[best].traits)) best = idle[i];
    }
    if (best != kNoNode) return best;
  }
  return kNoNode;
}

NodeIndex ZoneForest::PickForSecondRole(Stripe stripe) const {
  const uint32_t other = 2U >> stripe;  // the bit of the other stripe
  for (const uint32_t bucket : {other, other + kRoles}) {
    if (!buckets_[bucket].empty()) return buckets_[bucket].back();
  }
  return kNoNode;
}

// ---- How many interiors ----

ZoneForest::Wanted ZoneForest::WantedInteriors(uint32_t size, const Interiors& now) const {
  const uint32_t stripes = options_.stripes;
  const uint64_t edges = static_cast<uint64_t>(size) * stripes;
  const uint32_t reluctant_needed = edges > willing_quota_ ? CeilDiv(edges - willing_quota_, 2) : 0;
  const uint32_t total = std::min({capable_, size / 2 * stripes, willing_ + reluctant_needed});
  if (stripes == 1) return {total, 0};
  // So many a stripe that max_degree suffices.
  const uint32_t least = size == 0 ? 0 : std::min(capable_, CeilDiv(size - 1, options_.max_degree));
  const uint32_t half = total / 2;
  if (least > half) return {least, least};
  // The odd one stays where it is.
  if (now[1] > now[0]) return {half, total - half};
  return {total - half, half};
}

ZoneForest::Interiors ZoneForest::InteriorsNow() const {
  Interiors now = {};
  for (Stripe stripe = 0; stripe < options_.stripes; ++stripe) now[stripe] = heaps_[stripe].interiors();
  return now;
}

void ZoneForest::Rebalance() {
  for (int step = 0; step < kStepsPerEvent && RebalanceStep(); ++step) continue;
  RelieveOneReluctant();
  for (StripeHeap& heap : heaps_) heap.SeatGuests();
}

bool ZoneForest::RebalanceStep() {
  const Interiors now = InteriorsNow();
  const Wanted wanted = WantedInteriors(size(), now);
  for (Stripe stripe = 0; stripe < options_.stripes; ++stripe) {
    if (now[stripe] <= wanted[stripe]) continue;
    DemoteOne(stripe);
    return true;
  }
  const uint32_t missing_0 = wanted[0] - now[0];
  const uint32_t missing_1 = options_.stripes == 1 ? 0 : wanted[1] - now[1];
  if (missing_0 == 0 && missing_1 == 0) return ReplaceOneOfBoth();
  if (missing_0 != missing_1) return PromoteOne(missing_0 > missing_1 ? 0 : 1);
  // Where an idle node stands in the right slot already, nobody moves.
  return PromoteOne(!IsIdle(heaps_[0].At(now[0] + 1)) && IsIdle(heaps_[1].At(now[1] + 1)) ? 1 : 0);
}

void ZoneForest::GiveUpRoles(NodeIndex node, uint32_t future_size) {
  for (Stripe stripe = 0; stripe < options_.stripes; ++stripe) {
    if (!IsInterior(node, stripe)) continue;
    StripeHeap& heap = heaps_[stripe];
    Interiors after = InteriorsNow();
    --after[stripe];
    const Wanted wanted = WantedInteriors(future_size, after);
    if (wanted[stripe] > after[stripe]) {
      const Stripe other = stripe ^ 1;
      const bool other_has_one_to_give = options_.stripes == 2 && after[other] > wanted[other];
      if (buckets_[0].empty() && other_has_one_to_give && !IsInterior(node, other)) DemoteOne(other);
      const NodeIndex idle = PickIdle(heap.At(heap.size()));
      if (idle != kNoNode) {
        Substitute(node, idle, stripe);
        continue;
      }
    }
    Demote(node, stripe);
  }
}

void ZoneForest::Demote(NodeIndex node, Stripe stripe) {
  StripeHeap& heap = heaps_[stripe];
  heap.Swap(pool_[node].slot[stripe], heap.interiors());
  heap.Shrink();
  pool_[node].roles &= static_cast<uint8_t>(~(1U << stripe));
}

// Of both, if there are such; else reluctant, if there are such; else any. The last interior, if it will do: nobody
// moves.
void ZoneForest::DemoteOne(Stripe stripe) {
  const StripeHeap& heap = heaps_[stripe];
  const uint32_t single = 1U << stripe;
  NodeIndex node = heap.At(heap.interiors());
  for (const uint32_t bucket : {kBoth + kRoles, kBoth + 0U, single + kRoles}) {
    if (pool_[node].bucket == bucket) break;
    if (buckets_[bucket].empty()) continue;
    node = buckets_[bucket].back();
    break;
  }
  LeaveBucket(node);
  Demote(node, stripe);
  EnterBucket(node);
}

bool ZoneForest::PromoteOne(Stripe stripe) {
  StripeHeap& heap = heaps_[stripe];
  NodeIndex node = PickIdle(heap.At(heap.interiors() + 1));
  if (node == kNoNode) node = PickForSecondRole(stripe);
  if (node == kNoNode) return false;
  heap.Swap(pool_[node].slot[stripe], heap.interiors() + 1);
  SetRoles(node, pool_[node].roles | 1U << stripe);
  heap.Grow();
  return true;
}

bool ZoneForest::ReplaceOneOfBoth() {
  if (buckets_[0].empty() && buckets_[kRoles].empty()) return false;
  for (const uint32_t bucket : {kBoth + kRoles, 0U + kBoth}) {
    if (buckets_[bucket].empty()) continue;
    const NodeIndex node = buckets_[bucket].back();
    SubstituteMember(node, PickIdle(kNoNode), 1);
    return true;
  }
  return false;
}

// A reluctant interior gives its place to an idle node, or changes it with the last interior, which has one child where
// the number of nodes is even.
bool ZoneForest::RelieveOneReluctant() {
  for (Stripe stripe = 0; stripe < options_.stripes; ++stripe) {
    const std::vector<NodeIndex>& reluctant = buckets_[(1U << stripe) + kRoles];
    if (reluctant.empty()) continue;
    if (!buckets_[0].empty()) {
      SubstituteMember(reluctant.back(), PickIdle(kNoNode), stripe);
      return true;
    }
    StripeHeap& heap = heaps_[stripe];
    const uint32_t last = heap.interiors();
    if (heap.size() != 2 * last || IsReluctant(pool_[heap.At(last)].traits)) continue;
    heap.Swap(pool_[reluctant.back()].slot[stripe], last);
    return true;
  }
  return false;
}

// ---- Better ones above ----

void ZoneForest::Substitute(NodeIndex interior, NodeIndex idle, Stripe stripe) {
  const uint32_t role = 1U << stripe;
  heaps_[stripe].Swap(pool_[interior].slot[stripe], pool_[idle].slot[stripe]);
  SetRoles(idle, role);
  pool_[interior].roles &= static_cast<uint8_t>(~role);
}

void ZoneForest::SubstituteMember(NodeIndex interior, NodeIndex idle, Stripe stripe) {
  LeaveBucket(interior);
  Substitute(interior, idle, stripe);
  EnterBucket(interior);
}

bool ZoneForest::Improve() {
  const bool improved = ImproveOnce();
  if (improved) TouchSpareUsers();
  return improved;
}

bool ZoneForest::ImproveOnce() {
  if (RebalanceStep() || RelieveOneReluctant()) {
    for (StripeHeap& heap : heaps_) heap.SeatGuests();
    return true;
  }
  uint32_t total = 0;
  for (const StripeHeap& heap : heaps_) total += heap.interiors();
  for (uint32_t i = 0; i < std::min(total, kSlotsToImprove); ++i) {
    if (improve_cursor_ >= total) improve_cursor_ = 0;
    const uint32_t at = improve_cursor_++;
    const bool first = at < heaps_[0].interiors();
    if (ImproveAt(first ? 0 : 1, first ? at + 1 : at - heaps_[0].interiors() + 1)) return true;
  }
  return false;
}

bool ZoneForest::ImproveAt(Stripe stripe, uint32_t slot) {
  StripeHeap& heap = heaps_[stripe];
  const NodeIndex node = heap.At(slot);
  const uint32_t score = ScoreOf(pool_[node].traits);
  // A leaf of both stripes that deserves the place more.
  const NodeIndex idle = PickIdle(kNoNode);
  if (idle != kNoNode && ScoreOf(pool_[idle].traits) > score) {
    SubstituteMember(node, idle, stripe);
    return true;
  }
  // With an even number of nodes the last interior has one child only: the place for the weakest.
  const uint32_t last = heap.interiors();
  if (slot != last && heap.size() == 2 * last && score < ScoreOf(pool_[heap.At(last)].traits)) {
    heap.Swap(slot, last);
    return true;
  }
  // A child that does; of the two the better. A leaf's place is its own to leave only when it is idle.
  uint32_t better = 0;
  uint32_t best_score = score;
  for (uint32_t child = 2 * slot; child <= std::min(2 * slot + 1, heap.size()); ++child) {
    if (child > heap.interiors() && !IsIdle(heap.At(child))) continue;
    const uint32_t child_score = ScoreOf(pool_[heap.At(child)].traits);
    if (child_score > best_score) {
      better = child;
      best_score = child_score;
    }
  }
  if (better > heap.interiors()) {
    SubstituteMember(node, heap.At(better), stripe);
    return true;
  }
  if (better != 0) {
    heap.Swap(slot, better);
    return true;
  }
  return heap.RelieveHost(slot);
}

}  // namespace banyan::tree_manager
