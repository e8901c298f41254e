#include "peer-agent/prefix_mounts.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/file_io.h"
#include "image-format/oci.h"

namespace banyan::peer_agent {

namespace {

// A prefix that is mounted is taken although a longer one is possible, if it is at least this much of it.
constexpr double kGoodEnough = 0.75;

uint64_t DeviceBytes(const image_format::ImageMap& map, uint32_t layers) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < layers; ++i) bytes += map.devices[i].device_bytes();
  return bytes;
}

// How many of the lowest layers are the same.
uint32_t Common(const image_format::ImageMap& map, const Mounts::View& view) {
  const size_t most = std::min(map.devices.size(), view.layers.size());
  uint32_t common = 0;
  while (common < most && map.devices[common].blob_digest == view.layers[common]->stored->device().blob_digest &&
         map.devices[common].diff_id == view.layers[common]->stored->device().diff_id) {
    ++common;
  }
  return common;
}

Digest ChainIdOf(const image_format::ImageMap& map, uint32_t layers) {
  std::vector<Digest> diff_ids;
  for (uint32_t i = 0; i < layers; ++i) diff_ids.push_back(map.devices[i].diff_id);
  return image_format::ChainId(diff_ids);
}

}  // namespace

PrefixMounts::Use::~Use() {
  if (owner_ != nullptr) owner_->Leave(directory_);
}

void PrefixMounts::Leave(const std::string& directory) {
  const std::lock_guard lock(mutex_);
  if (--uses_.at(directory) == 0) uses_.erase(directory);
}

uint32_t PrefixMounts::LongestShared(const image_format::ImageMap& map, uint32_t layers,
                                     const std::string& own_directory) {
  uint32_t longest = 0;
  for (const Mounts::View& view : mounts_.List()) {
    if (view.record.directory != own_directory) longest = std::max(longest, Common(map, view));
  }
  return std::min(longest, layers - 1);
}

std::optional<PrefixMounts::Use> PrefixMounts::Find(const image_format::ImageMap& map, uint32_t layers) {
  if (options_.least_bytes == 0 || layers < 2) return std::nullopt;
  const std::lock_guard lock(mutex_);  // against a sweep between the look and the use
  std::string best;
  uint32_t best_layers = 0;
  for (const Mounts::View& view : mounts_.List()) {
    const auto prefix_layers = static_cast<uint32_t>(view.layers.size());
    if (!IsPrefix(view.record) || changing_.contains(view.record.directory)) continue;
    if (prefix_layers >= layers || prefix_layers <= best_layers) continue;
    if (Common(map, view) != prefix_layers) continue;
    best = view.record.directory;
    best_layers = prefix_layers;
  }
  if (best_layers == 0) return std::nullopt;
  const auto possible = static_cast<double>(DeviceBytes(map, LongestShared(map, layers, "")));
  if (static_cast<double>(DeviceBytes(map, best_layers)) < kGoodEnough * possible) return std::nullopt;
  ++uses_[best];
  return Use(*this, best, best_layers);
}

void PrefixMounts::Consider(const MountRecord& record, const Digest& map_digest, const image_format::ImageMap& map,
                            uint32_t layers, const Origins& origins) {
  if (options_.least_bytes == 0 || layers < 2 || !record.lower_directory.empty()) return;
  const uint32_t shared = LongestShared(map, layers, record.directory);
  if (shared == 0 || DeviceBytes(map, shared) < options_.least_bytes) return;
  MountRecord prefix = record;
  prefix.directory = fmt::format("{}/{}", options_.root, ChainIdOf(map, shared).Short());
  if (mounts_.Find(prefix.directory)) return;
  {
    const std::lock_guard lock(mutex_);
    if (!changing_.insert(prefix.directory).second) return;
    ++uses_[prefix.directory];  // until an image stands on it, or it is swept with the next image that goes
  }
  executor_.Post([this, prefix, map_digest, shared, origins] {
    if (Status made = Make(prefix, map_digest, shared, origins); !made) {
      spdlog::warn("the {} layers that images share are not mounted by themselves: {}", shared, made.error().message);
    }
    {
      const std::lock_guard lock(mutex_);
      changing_.erase(prefix.directory);
    }
    Leave(prefix.directory);
  });
}

Status PrefixMounts::Make(MountRecord record, const Digest& map_digest, uint32_t layers, const Origins& origins) {
  BANYAN_ASSIGN(const ImageDocuments documents, documents_.Prefix(origins, map_digest, layers));
  record.map_digest = documents.map_digest;
  record.local_devices.clear();
  BANYAN_ASSIGN(const auto claim, mounts_.Claim(record.directory));
  BANYAN_TRY(MakeDirectories(record.directory));
  BANYAN_TRY(mounts_.Add(std::move(record), documents, origins));
  return {};
}

void PrefixMounts::Sweep() {
  std::set<std::string> named;
  std::vector<std::string> unused;
  {
    const std::lock_guard lock(mutex_);
    const std::vector<Mounts::View> views = mounts_.List();
    for (const Mounts::View& view : views) named.insert(view.record.lower_directory);
    // A prefix that nobody stands on yet stays as long as an image has its layers: the next may want it.
    for (const Mounts::View& view : views) {
      const std::string& directory = view.record.directory;
      if (!IsPrefix(view.record) || named.contains(directory) || uses_.contains(directory)) continue;
      if (changing_.contains(directory)) continue;
      const bool wanted = std::any_of(views.begin(), views.end(), [&](const Mounts::View& other) {
        if (IsPrefix(other.record) || other.layers.size() < view.layers.size()) return false;
        return std::equal(view.layers.begin(), view.layers.end(), other.layers.begin());
      });
      if (!wanted) unused.push_back(directory);
    }
    changing_.insert(unused.begin(), unused.end());
  }
  for (const std::string& directory : unused) {
    if (Status removed = mounts_.Remove(directory, true); !removed) {
      spdlog::warn("{}: {}", directory, removed.error().message);
    }
    const std::lock_guard lock(mutex_);
    changing_.erase(directory);
  }
}

}  // namespace banyan::peer_agent
