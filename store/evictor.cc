#include "store/evictor.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "common/log.h"
#include "store/store_core.h"

namespace banyan::store {

namespace {

// Given back beside what is asked for, on a disk that is full.
constexpr uint64_t kSpareBytes = 4 * kMiB;

// What is taken ahead of need: an eviction costs a synced index write, whatever its size.
uint64_t Slack(uint64_t budget_bytes) { return std::min<uint64_t>(budget_bytes / 64, 64 * kMiB); }

// What an id of the plan stands for: two a layer, then the whole blobs.
struct Inventory {
  std::vector<KnownLayer> layers;
  std::vector<std::pair<Digest, WholeBlobRecord>> blobs;
  std::vector<Candidate> candidates;
};

void AddLayer(const KnownLayer& known, size_t id, const Asker& asker, std::vector<Candidate>& candidates) {
  const LayerUse& use = *known.use;
  const bool own = known.live != nullptr && known.live.get() == asker.layer;
  const uint64_t uses = use.uses.load(std::memory_order_relaxed);
  const double age = use.age.load(std::memory_order_relaxed);
  const auto add = [&](Form form, Tier tier, uint64_t closed_bytes) {
    const uint64_t bytes = known.live ? known.live->file(form).IdleBytes() : closed_bytes;
    const uint64_t whole = known.live ? known.live->file(form).present_bytes() : closed_bytes;
    candidates.push_back({id + (form == Form::kBlocks ? 1 : 0), tier, bytes, EvictionPriority(age, uses, whole)});
  };
  if (!own || asker.form != Form::kCompressed) {
    add(Form::kCompressed, Tier::kRelayCopies, use.compressed_bytes.load(std::memory_order_relaxed));
  }
  const bool mounted = use.mounts.load(std::memory_order_acquire) != 0;
  const bool relays = asker.raw || (asker.layer != nullptr && asker.form == Form::kCompressed);
  if (mounted && relays) return;
  if (!mounted && own) return;
  add(Form::kBlocks, mounted ? Tier::kMountedChunks : Tier::kUnmounted,
      use.block_bytes.load(std::memory_order_relaxed));
}

Inventory TakeInventory(StoreCore& core, const Asker& asker) {
  Inventory inventory{core.Known(), core.whole_blobs().Evictable(), {}};
  for (size_t i = 0; i < inventory.layers.size(); ++i)
    AddLayer(inventory.layers[i], 2 * i, asker, inventory.candidates);
  for (size_t i = 0; i < inventory.blobs.size(); ++i) {
    const WholeBlobRecord& record = inventory.blobs[i].second;
    inventory.candidates.push_back({2 * inventory.layers.size() + i, record.raw ? Tier::kRawBlobs : Tier::kSmallBlobs,
                                    record.bytes, static_cast<double>(record.last_use_seconds)});
  }
  return inventory;
}

// Claims what the plan takes of one layer; nothing if it has been mounted or closed for good since.
Removal ClaimVictim(StoreCore& core, const KnownLayer& known, const Victim& victim) {
  Removal removal;
  removal.layer = known.live;
  if (!removal.layer) {
    Result<std::shared_ptr<Layer>> opened = core.OpenKnown(known.blob);
    if (!opened) return removal;
    removal.layer = std::move(*opened);
  }
  const bool mounted = removal.layer->use().mounts.load(std::memory_order_acquire) != 0;
  if (victim.tier == Tier::kUnmounted && mounted) return removal;
  removal.file = &removal.layer->file(victim.tier == Tier::kRelayCopies ? Form::kCompressed : Form::kBlocks);
  removal.chunks = removal.file->ClaimIdle(victim.bytes, /*spare_recent=*/victim.tier == Tier::kMountedChunks);
  return removal;
}

uint64_t BytesOf(const Removal& removal) {
  return std::accumulate(removal.chunks.begin(), removal.chunks.end(), uint64_t{0},
                         [&](uint64_t sum, ChunkIndex chunk) { return sum + removal.file->BytesOf(chunk); });
}

void TakeBack(Removal& removal) {
  removal.file->Recount(BytesOf(removal));
  for (size_t i = 0; i < removal.chunks.size(); ++i) {
    removal.file->presence().Restore(removal.chunks[i], i < removal.durable.size() && removal.durable[i]);
  }
  removal.layer->MarkDirty();
}

}  // namespace

Status Evictor::Take(uint64_t bytes, const Asker& asker) {
  Budget& budget = core_.budget();
  if (budget.TryTake(asker.form, bytes)) return {};
  const auto exhausted = [&] {
    return Fail(Code::kResourceExhausted, fmt::format("no room for {} bytes in a budget of {}", bytes, budget.limit()));
  };
  if (bytes > budget.limit() || !started_.load(std::memory_order_relaxed)) return exhausted();
  const std::scoped_lock lock(mutex_);
  // Others may take what was freed, so try more than once, but not for ever.
  for (int attempt = 0; attempt < 4; ++attempt) {
    if (budget.TryTake(asker.form, bytes)) return {};
    if (const uint64_t lacking = budget.Lacking(bytes); lacking != 0 && Evict(lacking, asker) == 0) break;
  }
  if (budget.TryTake(asker.form, bytes)) return {};
  return exhausted();
}

bool Evictor::FreeDisk(uint64_t bytes, const Asker& asker) {
  if (!started_.load(std::memory_order_relaxed)) return false;
  const std::scoped_lock lock(mutex_);
  // With it, what must be written beside goes on as well: the index first of all.
  const uint64_t freed = Evict(bytes + kSpareBytes, asker);
  return freed >= bytes || Evict(bytes, asker) >= bytes;
}

uint64_t Evictor::Counted(uint64_t bytes) {
  evicted_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  return bytes;
}

uint64_t Evictor::Evict(uint64_t need, const Asker& asker) {
  uint64_t freed = 0;
  {
    const Inventory inventory = TakeInventory(core_, asker);
    const std::vector<Victim> plan = PlanEviction(inventory.candidates, need, need + Slack(core_.budget().limit()));
    std::vector<Removal> removals;
    for (const Victim& victim : plan) {
      if (victim.tier == Tier::kSmallBlobs || victim.tier == Tier::kRawBlobs) {
        freed += Counted(core_.whole_blobs().Evict(inventory.blobs[victim.id - 2 * inventory.layers.size()].first));
        continue;
      }
      core_.RaiseAge(victim.priority);
      Removal removal = ClaimVictim(core_, inventory.layers[victim.id / 2], victim);
      if (!removal.chunks.empty()) removals.push_back(std::move(removal));
    }
    freed += Remove(removals);
  }
  // The inventory's hold on the layers is gone: those that are not open and empty now can go.
  if (freed != 0) core_.CollectEmpty();
  return freed;
}

uint64_t Evictor::Remove(std::vector<Removal>& removals) {
  const Status committed = core_.CommitRemovals(removals);
  const bool full = !committed && committed.error().code == Code::kResourceExhausted;
  if (!committed && !full) {
    spdlog::warn("eviction: {}", committed.error().message);
    for (Removal& removal : removals) TakeBack(removal);
    return 0;
  }
  uint64_t freed = 0;
  for (Removal& removal : removals) {
    const uint64_t bytes = BytesOf(removal);
    if (full) {
      removal.file->PunchAndBar(removal.chunks);
      removal.layer->MarkDirty();
      removal.owed = true;
      owed_.push_back(removal);
    } else {
      removal.file->PunchAndRelease(removal.chunks);
    }
    core_.budget().Give(removal.file->form(), bytes);
    freed += Counted(bytes);
  }
  if (full) {
    core_.index().EndQuiet();
    SettleLocked();
  }
  return freed;
}

void Evictor::SettleLocked() {
  if (owed_.empty() || !core_.CommitRemovals(owed_)) return;
  for (const Removal& removal : owed_) removal.file->Release(removal.chunks);
  owed_.clear();
}

void Evictor::Settle() {
  const std::scoped_lock lock(mutex_);
  SettleLocked();
}

void Evictor::Close() {
  const std::scoped_lock lock(mutex_);
  owed_.clear();
}

}  // namespace banyan::store
