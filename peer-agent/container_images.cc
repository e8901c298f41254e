#include "peer-agent/container_images.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "lazyfs/image_mount.h"
#include "peer-agent/peers.h"

namespace banyan::peer_agent {

namespace {

using snapshotter::LazyChain;
using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::steady_clock;

constexpr size_t kWarmers = 4;
// A mount that follows the look-up this closely belongs to the same cold start.
constexpr std::chrono::minutes kSameStart{10};

uint64_t Micros(steady_clock::duration duration) {
  return static_cast<uint64_t>(duration_cast<microseconds>(duration).count());
}

}  // namespace

ContainerImages::ContainerImages(Parts parts, Options options)
    : parts_(parts),
      options_(std::move(options)),
      lookup_(parts.registries, parts.documents, parts.trust, parts.peers),
      lookup_timeout_(options_.lookup_timeout),
      prefixes_(parts.mounts, parts.documents, warmers_, options_.prefixes),
      warmers_(kWarmers) {}

ContainerImages::~ContainerImages() = default;

void ContainerImages::set_lookup_timeout(std::chrono::milliseconds timeout) {
  const std::lock_guard lock(mutex_);
  lookup_timeout_ = timeout;
}

std::optional<LazyChain> ContainerImages::Find(const snapshotter::LayerRequest& request) {
  std::chrono::milliseconds timeout{};
  {
    const std::lock_guard lock(mutex_);
    timeout = lookup_timeout_;
  }
  const auto image = lookup_.Find(request.image_reference, request.manifest_digest, timeout);
  if (!image) return std::nullopt;
  const auto found = std::find(image->chain_ids.begin(), image->chain_ids.end(), request.chain_id);
  if (found == image->chain_ids.end()) {
    spdlog::warn("{}: the artifact {} is not of the layer {} that containerd asks for", image->reference,
                 image->artifact_digest.ToString(), request.chain_id.ToString());
    return std::nullopt;
  }
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(latest_finds_, [now = std::chrono::steady_clock::now()](const auto& entry) {
      return now - entry.second->began_steady >= kSameStart;
    });
    latest_finds_[image->map_digest] = image;
  }
  return LazyChain{.image_reference = image->reference,
                   .manifest_digest = image->manifest_digest,
                   .artifact_digest = image->artifact_digest,
                   .map_digest = image->map_digest,
                   .chain_id = request.chain_id,
                   .layers = static_cast<uint32_t>(found - image->chain_ids.begin()) + 1,
                   .image_layers = static_cast<uint32_t>(image->chain_ids.size())};
}

void ContainerImages::Warm(const LazyChain& chain, const std::string& directory) {
  warmers_.Post([this, chain, directory] {
    if (const auto mounted = Mount(chain, directory); !mounted) {
      spdlog::warn("{} is not mounted ahead: {}", chain.image_reference, mounted.error().message);
    }
  });
}

Result<std::vector<std::string>> ContainerImages::Mount(const LazyChain& chain, const std::string& directory) {
  if (std::vector<std::string> lowers = Lowers(directory); !lowers.empty()) return lowers;
  std::unique_lock lock(mutex_);
  const auto inserted = flights_.try_emplace(directory);
  const auto flight = inserted.first;
  if (inserted.second) {
    lock.unlock();
    Status made = Make(chain, directory);
    lock.lock();
    if (flight->second.unwanted && made) {
      lock.unlock();
      (void)parts_.mounts.Remove(directory, true);  // says itself why not
      made = Fail(Code::kAborted, fmt::format("{} was removed while it was being mounted", directory));
      lock.lock();
    }
    flight->second.ended = made;
    ended_.notify_all();
  } else {
    ++flight->second.waiting;
    ended_.wait(lock, [&] { return flight->second.ended.has_value(); });
    --flight->second.waiting;
  }
  const Status made = *flight->second.ended;
  // The last to leave takes the flight along.
  if (flight->second.waiting == 0) flights_.erase(flight);
  lock.unlock();
  if (!made) return Fail(made.error());
  std::vector<std::string> lowers = Lowers(directory);
  if (lowers.empty()) return Fail(Code::kAborted, fmt::format("{} was unmounted at once", directory));
  return lowers;
}

// The mounts that stand for the image at `directory`; empty when there is none, or not all: a prefix that could not be
// restored must not be taken for an empty one.
std::vector<std::string> ContainerImages::Lowers(const std::string& directory) {
  const auto view = parts_.mounts.Find(directory);
  if (!view) return {};
  const std::string& lower = view->record.lower_directory;
  if (lower.empty()) return {directory};
  if (!parts_.mounts.Find(lower)) return {};
  return {directory, lower};
}

Status ContainerImages::Make(const LazyChain& chain, const std::string& directory) {
  const auto asked = steady_clock::now();
  MountRecord record;
  record.reference = chain.image_reference;
  record.directory = directory;
  record.form = options_.form;
  record.manifest_digest = chain.manifest_digest;
  record.artifact_digest = chain.artifact_digest;
  record.fill = options_.fill;
  record.read_ahead_kib = options_.read_ahead_kib;
  BANYAN_ASSIGN(const net::ImageReference reference, net::ImageReference::Parse(chain.image_reference));
  BANYAN_ASSIGN(const Origins origins, parts_.registries.Open(reference, {}));
  if (parts_.mounts.Find(directory) && Lowers(directory).empty()) {
    spdlog::warn("{}: the mount that it stood on is gone; it is mounted anew", directory);
    BANYAN_TRY(parts_.mounts.Remove(directory, true));
  }
  auto claim = parts_.mounts.Claim(directory);
  if (!claim) return claim.error().code == Code::kAlreadyExists ? Status{} : Fail(claim.error());
  if (parts_.peers != nullptr) {
    parts_.peers->JoinImage(chain.manifest_digest, chain.map_digest, reference, {});
  }
  BANYAN_ASSIGN(const image_format::ImageMap map, parts_.documents.Map(origins, chain.map_digest));
  const std::optional<PrefixMounts::Use> prefix = prefixes_.Find(map, chain.layers);
  BANYAN_ASSIGN(const ImageDocuments documents,
                parts_.documents.Prefix(origins, chain.map_digest, chain.layers, prefix ? prefix->layers() : 0));
  const auto documents_here = steady_clock::now();
  record.map_digest = documents.map_digest;
  if (prefix) record.lower_directory = prefix->directory();
  if (parts_.peers != nullptr) {
    parts_.peers->AddImage(chain.manifest_digest, map, origins);
    parts_.peers->Started(chain.manifest_digest);
  }
  BANYAN_ASSIGN(record, parts_.mounts.Add(std::move(record), documents, origins));
  Log(chain, record, asked, documents_here);
  prefixes_.Consider(record, chain.map_digest, map, chain.layers, origins);
  return {};
}

void ContainerImages::Log(const LazyChain& chain, const MountRecord& record, steady_clock::time_point asked,
                          steady_clock::time_point documents) {
  const auto mounted = steady_clock::now();
  std::shared_ptr<const FoundImage> found;
  {
    const std::lock_guard lock(mutex_);
    if (const auto node = latest_finds_.extract(chain.map_digest)) found = node.mapped();
  }
  proto::agent::Start start;
  start.set_reference(chain.image_reference);
  start.set_manifest_digest(chain.manifest_digest.ToString());
  start.set_directory(record.directory);
  auto began = asked;
  auto began_wall = std::chrono::system_clock::now() - (mounted - asked);
  if (found && asked - found->began_steady < kSameStart) {
    began = found->began_steady;
    began_wall = found->began;
    start.set_resolved(static_cast<uint64_t>(found->resolved.count()));
    start.set_map(static_cast<uint64_t>(found->mapped.count()));
  }
  start.set_began_unix_micros(
      static_cast<uint64_t>(duration_cast<microseconds>(began_wall.time_since_epoch()).count()));
  start.set_metadata(Micros(documents - began));
  start.set_mounted(Micros(mounted - began));
  const auto view = parts_.mounts.Find(record.directory);
  if (view) parts_.starts.Mounted(std::move(start), began, view->layers);
}

Status ContainerImages::Unmount(const std::string& directory) {
  {
    const std::lock_guard lock(mutex_);
    if (const auto flight = flights_.find(directory); flight != flights_.end() && !flight->second.ended) {
      flight->second.unwanted = true;
      return {};
    }
  }
  parts_.starts.Unmounted(directory);
  const Status removed = parts_.mounts.Remove(directory, true);
  if (removed) prefixes_.Sweep();
  if (removed || removed.error().code != Code::kNotFound) return removed;
  // A mount whose record was lost, or never restored, is in the kernel all the same.
  return lazyfs::UmountTarget(directory);
}

// containerd asks every few seconds for every snapshot: a layer that is in use is found without reading the map again.
std::shared_ptr<store::StoredLayer> ContainerImages::TopLayer(const LazyChain& chain) {
  const auto key = std::make_pair(chain.map_digest, chain.layers);
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = top_layers_.find(key); found != top_layers_.end()) {
      if (auto layer = found->second.lock()) return layer;
    }
  }
  const auto map = parts_.documents.Map({}, chain.map_digest);
  if (!map || chain.layers == 0 || chain.layers > map->devices.size()) return nullptr;
  auto layer = parts_.store.OpenLayer(map->devices[chain.layers - 1]);
  if (!layer) return nullptr;
  const std::lock_guard lock(mutex_);
  std::erase_if(top_layers_, [](const auto& entry) { return entry.second.expired(); });
  top_layers_[key] = *layer;
  return *layer;
}

snapshotter::Usage ContainerImages::UsageOf(const LazyChain& chain) {
  const auto layer = TopLayer(chain);
  const uint64_t bytes = layer ? layer->present_bytes() : 0;
  return {.bytes = bytes, .inodes = bytes > 0 ? 1U : 0U};
}

}  // namespace banyan::peer_agent
