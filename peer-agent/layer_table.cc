#include "peer-agent/layer_table.h"

#include <cstring>
#include <utility>

#include <spdlog/spdlog.h>

#include "fetch/ladder_source.h"
#include "fetch/repository_source.h"
#include "fetch/verifying_source.h"
#include "peer-agent/peers.h"

namespace banyan::peer_agent {

namespace {

// Node ids must be the same in every process that ever serves the device: they come from the content. 62 bits of a
// SHA-256 do not collide by accident, and a collision is refused by the device server.
uint64_t NodeIdOf(const Digest& blob_digest) {
  uint64_t bits = 0;
  std::memcpy(&bits, blob_digest.bytes().data(), sizeof(bits));
  return (bits >> 2) | uint64_t{1} << 61;
}

// The origins as one source. A mirror must not be able to spoil a read: what it gives is checked before the next is
// left out; a single origin's bytes are checked by the scheduler anyway.
std::shared_ptr<fetch::ChunkSource> SourceOf(const Origins& origins, fetch::Timer& timer) {
  auto registry = std::make_shared<fetch::RepositorySource>(origins.back());
  if (origins.size() == 1) return registry;
  std::vector<std::shared_ptr<fetch::ChunkSource>> rungs;
  for (size_t i = 0; i + 1 < origins.size(); ++i) {
    rungs.push_back(std::make_shared<fetch::VerifyingSource>(
        std::make_shared<fetch::RepositorySource>(origins[i], &timer, "mirror")));
  }
  rungs.push_back(std::move(registry));
  return std::make_shared<fetch::LadderSource>(std::move(rungs), timer);
}

}  // namespace

Result<std::shared_ptr<LiveLayer>> LayerTable::Acquire(const image_format::Device& device, const Origins& origins,
                                                       Whole whole) {
  std::lock_guard lock(mutex_);
  Slot& slot = slots_[device.blob_digest];
  if (!slot.layer) {
    auto stored = store_.OpenLayer(device);
    if (!stored) {
      slots_.erase(device.blob_digest);
      return Fail(stored.error());
    }
    auto layer = std::make_shared<LiveLayer>();
    layer->stored = std::move(*stored);
    layer->stored->Touch();
    layer->hold = layer->stored->HoldMounted();
    auto source = SourceOf(origins, timer_);
    fetch::Scheduler::AddOptions options{.fill = false, .lanes = {}};
    if (peers_ != nullptr) {
      std::function<bool(ChunkIndex)> brought;
      if (swarms_ != nullptr) brought = swarms_->SuppliesOf(device.blob_digest);
      source = peers_->SourceOf(device, std::move(source), std::move(brought));
      options.lanes = peers_->LanesOf(device);
    }
    layer->lazy = scheduler_.AddLayer(layer->stored, std::move(source), std::move(options));
    slot.layer = std::move(layer);
  }
  const bool by_swarm = swarms_ != nullptr && swarms_->Use(slot.layer->stored, slot.layer->lazy, origins, whole);
  if (whole == Whole::kScheduler && !by_swarm) scheduler_.Fill(*slot.layer->lazy);
  ++slot.users;
  return slot.layer;
}

Result<LayerTable::Path> LayerTable::PathOf(const std::shared_ptr<LiveLayer>& layer, bool prefer_local) {
  std::lock_guard lock(mutex_);
  const Digest& blob = layer->stored->device().blob_digest;
  if (prefer_local && layer->stored->complete()) {
    if (!layer->pin) {
      BANYAN_ASSIGN(layer->pin, layer->stored->PinWhole());
    }
    return Path{layer->stored->device_path(), true};
  }
  Slot& slot = slots_.at(blob);
  if (!slot.exposed) {
    BANYAN_TRY(devices_.AddDevice(NodeIdOf(blob), blob.Hex(), layer->lazy));
    slot.exposed = true;
  }
  return Path{devices_.PathOf(blob.Hex()), false};
}

void LayerTable::Release(std::shared_ptr<LiveLayer> layer) {
  const Digest blob = layer->stored->device().blob_digest;
  std::lock_guard lock(mutex_);
  const auto found = slots_.find(blob);
  if (found == slots_.end() || --found->second.users > 0) return;
  if (found->second.exposed) {
    if (Status status = devices_.RemoveDevice(blob.Hex()); !status) {
      spdlog::warn("remove device of layer {}: {}", blob.ToString(), status.error().message);
    }
  }
  if (swarms_ != nullptr) swarms_->Leave(blob);
  slots_.erase(found);
}

bool LayerTable::IsSole(const LiveLayer& layer) {
  std::lock_guard lock(mutex_);
  const auto found = slots_.find(layer.stored->device().blob_digest);
  return found == slots_.end() || found->second.users <= 1;
}

bool LayerTable::InUse(const Digest& blob_digest) {
  std::lock_guard lock(mutex_);
  return slots_.contains(blob_digest);
}

}  // namespace banyan::peer_agent
