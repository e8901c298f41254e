#include "tree-manager/stripe_heap.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace banyan::tree_manager {

uint32_t QuotaOf(const NodeTraits& traits, uint32_t max_degree) {
  constexpr uint32_t kWeightOfAChild = 50;
  constexpr uint32_t kEnough = kWeightOfAChild * kMaxDegree;
  return std::min(max_degree, (std::min(traits.weight, kEnough) + kWeightOfAChild / 2) / kWeightOfAChild);
}

StripeHeap::StripeHeap(NodePool& pool, Stripe stripe, uint32_t max_degree)
    : pool_(pool), stripe_(stripe), max_guests_(max_degree - 2), max_degree_(max_degree), slots_(1) {}

void StripeHeap::Append(NodeIndex node) {
  slots_.push_back(Slot{.node = node});
  const uint32_t slot = size();
  pool_[node].slot[stripe_] = slot;
  pool_.Touch(node, stripe_);
  if (IsGuest(slot)) Seat(slot);
}

void StripeHeap::RemoveLeaf(uint32_t slot) {
  const uint32_t last = size();
  if (slot != last) Swap(slot, last);
  if (IsGuest(last)) Unseat(last);
  slots_.pop_back();
}

void StripeHeap::Swap(uint32_t a, uint32_t b) {
  if (a == b) return;
  std::swap(slots_[a].node, slots_[b].node);
  for (const uint32_t slot : {a, b}) {
    pool_[slots_[slot].node].slot[stripe_] = slot;
    pool_.Touch(slots_[slot].node, stripe_);
    if (slot > interiors_) continue;
    TouchChildren(slot);
    changed_interiors_.push_back(slot);
    QuotaChanged(slot);
  }
}

void StripeHeap::Grow() {
  const uint32_t slot = interiors_ + 1;
  for (uint32_t child = 2 * slot; child <= 2 * slot + 1 && child <= size(); ++child) Unseat(child);
  interiors_ = slot;
  TouchChildren(slot);
  pool_.Touch(slots_[slot].node, stripe_);
  changed_interiors_.push_back(slot);
  EnterTier(slot);
}

void StripeHeap::Shrink() {
  const uint32_t slot = interiors_;
  TouchChildren(slot);
  LeaveTier(slot);
  pool_.Touch(slots_[slot].node, stripe_);
  changed_interiors_.push_back(slot);
  Slot& old = slots_[slot];
  const auto guests = old.guests;
  const uint32_t guest_count = std::exchange(old.guest_count, uint8_t{0});
  interiors_ = slot - 1;
  for (uint32_t child = 2 * slot; child <= 2 * slot + 1 && child <= size(); ++child) Seat(child);
  for (uint32_t i = 0; i < guest_count; ++i) Seat(guests[i]);
}

void StripeHeap::SeatGuests() {
  while (!guests_of_proxy_.empty()) {
    const uint32_t host = BestHost();
    if (host == 0) return;
    const uint32_t guest = guests_of_proxy_.back();
    Unseat(guest);
    SeatAt(guest, host);
  }
}

void StripeHeap::QuotaChanged(uint32_t slot) {
  LeaveTier(slot);
  EnterTier(slot);
}

bool StripeHeap::RelieveHost(uint32_t slot) {
  const Slot& host = slots_[slot];
  if (host.guest_count == 0) return false;
  const uint32_t better = BestHost();
  if (better == 0 || slots_[better].tier >= TierOf(slot, host.guest_count - 1U)) return false;
  const uint32_t guest = host.guests[host.guest_count - 1U];
  Unseat(guest);
  SeatAt(guest, better);
  return true;
}

uint32_t StripeHeap::DepthOf(uint32_t slot) const { return static_cast<uint32_t>(std::bit_width(FeederOf(slot))) + 1; }

uint32_t StripeHeap::height() const {
  return static_cast<uint32_t>(std::bit_width(std::min(size(), 2 * interiors_ + 1)));
}

SpareSlots StripeHeap::SparesOf(uint32_t slot) const {
  const uint32_t feeder = FeederOf(slot);
  return feeder == 0 ? SpareSlots{} : SparesUnder(feeder, KindOf(slot), interiors_);
}

uint32_t StripeHeap::ChildCountOf(uint32_t slot) const {
  uint32_t count = 0;
  ForEachChild(slot, [&count](uint32_t) { ++count; });
  return count;
}

void StripeHeap::TouchChildren(uint32_t slot) {
  ForEachChild(slot, [this](uint32_t child) { pool_.Touch(slots_[child].node, stripe_); });
}

void StripeHeap::TouchSpareUsers() {
  for (const uint32_t slot : changed_interiors_) {
    users_.clear();
    UsersOfSpare(slot, interiors_, users_);
    for (const SpareUser& user : users_) {
      if (user.parent > interiors_) continue;
      ForEachChild(user.parent, [this, &user](uint32_t child) {
        if (KindOf(child) == user.kind) pool_.Touch(slots_[child].node, stripe_);
      });
    }
  }
  changed_interiors_.clear();
}

bool StripeHeap::Load(std::vector<NodeIndex> nodes, uint32_t interiors) {
  slots_.resize(nodes.size());
  for (uint32_t slot = 1; slot < nodes.size(); ++slot) {
    slots_[slot].node = nodes[slot];
    pool_[nodes[slot]].slot[stripe_] = slot;
    pool_.Touch(nodes[slot], stripe_);
  }
  interiors_ = interiors;
  for (uint32_t slot = 1; slot <= interiors_; ++slot) EnterTier(slot);
  for (uint32_t slot = 1; slot <= size(); ++slot) {
    const uint32_t feeder = pool_[slots_[slot].node].known.placement.feeder[stripe_];
    if (!IsGuest(slot)) {
      if (feeder != slot / 2) return false;
      continue;
    }
    if (feeder > interiors_ || (feeder != 0 && slots_[feeder].guest_count >= max_guests_)) return false;
    SeatAt(slot, feeder);
  }
  return true;
}

void StripeHeap::Seat(uint32_t guest) { SeatAt(guest, BestHost()); }

void StripeHeap::SeatAt(uint32_t guest, uint32_t host) {
  slots_[guest].host = host;
  pool_.Touch(slots_[guest].node, stripe_);
  if (host == 0) {
    slots_[guest].guest_of_proxy = static_cast<uint32_t>(guests_of_proxy_.size());
    guests_of_proxy_.push_back(guest);
    return;
  }
  LeaveTier(host);
  Slot& slot = slots_[host];
  slot.guests[slot.guest_count++] = guest;
  EnterTier(host);
}

void StripeHeap::Unseat(uint32_t guest) {
  const uint32_t host = std::exchange(slots_[guest].host, 0U);
  if (host == 0) {
    const uint32_t position = slots_[guest].guest_of_proxy;
    const uint32_t moved = guests_of_proxy_.back();
    guests_of_proxy_[position] = moved;
    slots_[moved].guest_of_proxy = position;
    guests_of_proxy_.pop_back();
    return;
  }
  LeaveTier(host);
  Slot& slot = slots_[host];
  auto* const end = slot.guests.data() + slot.guest_count;
  std::swap(*std::find(slot.guests.data(), end, guest), *(end - 1));
  --slot.guest_count;
  EnterTier(host);
}

uint32_t StripeHeap::BestHost() const {
  for (const std::vector<uint32_t>& tier : tiers_) {
    if (!tier.empty()) return tier.back();
  }
  return 0;
}

uint8_t StripeHeap::TierOf(uint32_t slot, uint32_t guest_count) const {
  if (guest_count >= max_guests_) return kNoTier;
  const bool has_uplink = QuotaOf(pool_[slots_[slot].node].traits, max_degree_) > 2U + guest_count;
  return static_cast<uint8_t>(guest_count + (has_uplink ? 0 : max_guests_));
}

void StripeHeap::EnterTier(uint32_t slot) {
  Slot& entry = slots_[slot];
  entry.tier = TierOf(slot, entry.guest_count);
  if (entry.tier == kNoTier) return;
  std::vector<uint32_t>& tier = tiers_[entry.tier];
  entry.tier_position = static_cast<uint32_t>(tier.size());
  tier.push_back(slot);
}

void StripeHeap::LeaveTier(uint32_t slot) {
  Slot& entry = slots_[slot];
  if (entry.tier == kNoTier) return;
  std::vector<uint32_t>& tier = tiers_[entry.tier];
  const uint32_t moved = tier.back();
  tier[entry.tier_position] = moved;
  slots_[moved].tier_position = entry.tier_position;
  tier.pop_back();
  entry.tier = kNoTier;
}

}  // namespace banyan::tree_manager
