#include "peer-agent/images.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <thread>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <nlohmann/json.hpp>

#include "common/file_io.h"
#include "peer-agent/peers.h"
#include "peer-agent/swarms.h"

namespace banyan::peer_agent {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr uint64_t kMaxRecordBytes = 64 * kKiB;
constexpr milliseconds kProgressInterval{200};
constexpr milliseconds kLastProgressInterval{20};  // while so few chunks are missing, so that the end is told soon
constexpr size_t kLastChunks = 64;

bool MayPass(const Error& error) { return error.code == Code::kUnavailable || error.code == Code::kDeadlineExceeded; }

// The tag or digest that a repository is asked for.
std::string SelectorOf(const net::ImageReference& reference) {
  return reference.digest ? reference.digest->ToString() : reference.tag;
}

std::optional<Digest> DigestAt(const nlohmann::json& json, const char* key) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_string()) return std::nullopt;
  const auto digest = Digest::Parse(found->get<std::string>());
  return digest ? std::optional(*digest) : std::nullopt;
}

// A record with the digests of an image; nullopt when it is absent or damaged.
std::optional<nlohmann::json> ReadRecord(const std::string& path) {
  const auto text = ReadFile(path, kMaxRecordBytes);
  if (!text) return std::nullopt;
  nlohmann::json json = nlohmann::json::parse(*text, nullptr, false);
  return json.is_object() ? std::optional(std::move(json)) : std::nullopt;
}

std::optional<KnownImage> ImageOf(const nlohmann::json& json) {
  const auto manifest = DigestAt(json, "manifest");
  const auto artifact = DigestAt(json, "artifact");
  const auto map = DigestAt(json, "map");
  if (!manifest || !artifact || !map) return std::nullopt;
  const auto reference = json.find("reference");
  const bool named = reference != json.end() && reference->is_string();
  return KnownImage{named ? reference->get<std::string>() : "", *manifest, *artifact, *map};
}

bool IsNamed(const KnownImage& image, const std::string& name) {
  return image.reference == name || image.reference == "docker://" + name || image.manifest_digest.ToString() == name ||
         image.reference == name + "@" + image.manifest_digest.ToString() ||
         image.reference == "docker://" + name + "@" + image.manifest_digest.ToString();
}

}  // namespace

Result<std::unique_ptr<Images>> Images::Open(const std::string& data_root, Parts parts) {
  for (const char* name : {"/resolved", "/pins"}) BANYAN_TRY(MakeDirectories(data_root + name, 0700));
  std::unique_ptr<Images> images(new Images(data_root, parts));
  BANYAN_TRY(images->LoadPins());
  return images;
}

// ---- Resolving ----

std::string Images::MemoryPath(const std::string& reference) const {
  return fmt::format("{}/resolved/{}.json", data_root_, Digest::Of(reference).Hex());
}

void Images::Remember(const std::string& reference, const fetch::ResolvedImage& image) {
  const nlohmann::json memory = {{"reference", reference},
                                 {"manifest", image.descriptor.digest.ToString()},
                                 {"config", image.config_digest.ToString()},
                                 {"artifact", image.artifact_digest->ToString()},
                                 {"map", image.artifact->map_digest.ToString()}};
  if (Status status = WriteFileDurably(MemoryPath(reference), memory.dump(), 0600); !status) {
    spdlog::warn("{} will not start without its registry: {}", reference, status.error().message);
  }
}

std::optional<KnownImage> Images::Remembered(const std::string& path, Digest* config_digest) {
  const auto json = ReadRecord(path);
  if (!json) return std::nullopt;
  const auto config = DigestAt(*json, "config");
  if (config_digest != nullptr) {
    if (!config) return std::nullopt;
    *config_digest = *config;
  }
  return ImageOf(*json);
}

Result<fetch::ResolvedImage> Images::Resolve(const Origins& origins, const net::ImageReference& reference) {
  Result<fetch::ResolvedImage> resolved = Fail(Code::kNotFound, "no origin");
  for (const auto& origin : origins) {
    resolved = fetch::ResolveConvertedImage(*origin, SelectorOf(reference), {},
                                            [this](const auto& artifact) { return parts_.trust.Check(artifact); });
    if (resolved) {
      // An image that is named by its own tag is not asked about: Trust has not told of it.
      if (parts_.swarms != nullptr) parts_.swarms->Learn(*resolved->artifact);
      Remember(reference.ToString(), *resolved);
      return resolved;
    }
  }
  if (!MayPass(resolved.error())) return resolved;
  fetch::ResolvedImage known;
  const auto image = Remembered(MemoryPath(reference.ToString()), &known.config_digest);
  if (!image) return resolved;
  known.descriptor.digest = image->manifest_digest;
  known.artifact_digest = image->artifact_digest;
  known.artifact.emplace();
  known.artifact->map_digest = image->map_digest;
  spdlog::warn("{}; {} starts as it was resolved last time, as {}", resolved.error().message, reference.ToString(),
               known.descriptor.digest.ToString());
  return known;
}

// ---- Fetching whole ----

Status Images::Prefetch(const proto::agent::PrefetchRequest& request,
                        const std::function<bool(uint64_t, uint64_t)>& progress) {
  BANYAN_ASSIGN(const net::ImageReference reference, net::ImageReference::Parse(request.reference()));
  BANYAN_ASSIGN(
      const Origins origins,
      parts_.registries.Open(reference, {request.plain_http(), request.credentials_file(), request.ca_file()}));
  BANYAN_ASSIGN(const fetch::ResolvedImage image, Resolve(origins, reference));
  if (parts_.peers != nullptr) {
    parts_.peers->JoinImage(image.descriptor.digest, image.artifact->map_digest, reference,
                            {request.plain_http(), request.credentials_file(), request.ca_file()});
  }
  BANYAN_ASSIGN(const image_format::ImageMap map, parts_.documents.Map(origins, image.artifact->map_digest));
  if (parts_.peers != nullptr) parts_.peers->AddImage(image.descriptor.digest, map, origins);
  BANYAN_TRY(parts_.documents.Metadata(origins, map));
  if (parts_.peers != nullptr) parts_.peers->WaitUntilSettled(image.descriptor.digest);

  struct Layers {
    LayerTable& table;
    std::vector<std::shared_ptr<LiveLayer>> live;
    ~Layers() {
      for (auto& layer : live) table.Release(std::move(layer));
    }
  } layers{parts_.layers, {}};
  const bool by_swarm = parts_.swarms != nullptr && parts_.swarms->Carries(origins);
  for (const image_format::Device& device : map.devices) {
    BANYAN_ASSIGN(auto layer, parts_.layers.Acquire(device, origins, Whole::kCaller));
    layers.live.push_back(std::move(layer));
  }
  // Where chunks are kept in their compressed form, either form will do; progress is told in compressed bytes then.
  const bool compressed = parts_.peers != nullptr;
  uint64_t last_present = 0;
  auto last_change = steady_clock::now();
  while (true) {
    uint64_t present = 0;
    uint64_t wanted = 0;
    bool whole = true;
    std::vector<fetch::Scheduler::PrefetchItem> missing;
    for (const auto& layer : layers.live) {
      const store::StoredLayer& stored = *layer->stored;
      const bool comes = by_swarm && parts_.swarms->Brings(stored.device().blob_digest);
      if (compressed) {
        const auto state = fetch::Scheduler::ProgressOf(*layer->lazy);
        wanted += state.bytes;
        present += state.bytes - state.missing_bytes;
      } else {
        wanted += stored.device().device_bytes();
        present += stored.present_bytes();
      }
      for (ChunkIndex chunk = 0; chunk < stored.device().chunks.size(); ++chunk) {
        if (stored.Has(chunk) || (compressed && stored.HasCompressed(chunk))) continue;
        whole = false;
        if (!comes) missing.push_back({layer->lazy, chunk, compressed});
      }
    }
    if (!progress(present, wanted)) return Fail(Code::kCancelled, "fetching " + request.reference());
    if (whole) return {};
    if (present != last_present) last_change = steady_clock::now();
    last_present = present;
    if (steady_clock::now() - last_change > parts_.patience) {
      return Fail(Code::kUnavailable,
                  fmt::format("{}: {} of {} bytes are here and nothing more came for {} s (the agent's log says why)",
                              request.reference(), present, wanted, parts_.patience.count() / 1000));
    }
    parts_.scheduler.Prefetch(missing);  // those under way are skipped
    std::this_thread::sleep_for(missing.size() <= kLastChunks ? kLastProgressInterval : kProgressInterval);
  }
}

// ---- Pins ----

std::string Images::PinPath(const Digest& manifest) const {
  return fmt::format("{}/pins/{}.json", data_root_, manifest.Hex());
}

Status Images::HoldLayers(Pinned& pinned) {
  BANYAN_ASSIGN(const image_format::ImageMap map, parts_.documents.Map({}, pinned.image.map_digest));
  for (const image_format::Device& device : map.devices) {
    BANYAN_ASSIGN(const auto layer, parts_.store.OpenLayer(device));
    pinned.holds.push_back(layer);
    pinned.holds.push_back(layer->HoldMounted());
  }
  return {};
}

Status Images::LoadPins() {
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(data_root_ + "/pins", error)) {
    const auto json = ReadRecord(file.path().string());
    const auto image = json ? ImageOf(*json) : std::nullopt;
    if (!image) {
      spdlog::error("pin {}: damaged, and left out", file.path().string());
      continue;
    }
    Pinned pinned{*image, {}};
    if (Status held = HoldLayers(pinned); !held) {
      spdlog::warn("{} is pinned, but not held: {}", image->reference, held.error().message);
    }
    pins_.emplace(image->manifest_digest, std::move(pinned));
  }
  return error ? FailErrno("list " + data_root_ + "/pins", error.value()) : Status{};
}

std::set<Digest> Images::PinnedMaps() {
  std::set<Digest> maps;
  const std::lock_guard lock(mutex_);
  for (const auto& [manifest, pinned] : pins_) maps.insert(pinned.image.map_digest);
  return maps;
}

Status Images::Pin(const std::string& name, bool pinned, const std::vector<KnownImage>& others) {
  const std::vector<KnownImage> known = Known(others, true);
  const auto image =
      std::find_if(known.begin(), known.end(), [&](const KnownImage& one) { return IsNamed(one, name); });
  if (image == known.end()) {
    return Fail(Code::kNotFound, fmt::format("{}: this node knows no such image (see `banyan ls`)", name));
  }
  const std::string path = PinPath(image->manifest_digest);
  if (!pinned) {
    const std::lock_guard lock(mutex_);
    pins_.erase(image->manifest_digest);
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) return FailErrno("remove " + path, errno);
    return {};
  }
  Pinned pin{*image, {}};
  BANYAN_TRY(HoldLayers(pin));
  const nlohmann::json record = {{"reference", image->reference},
                                 {"manifest", image->manifest_digest.ToString()},
                                 {"artifact", image->artifact_digest.ToString()},
                                 {"map", image->map_digest.ToString()}};
  const std::string text = record.dump();
  BANYAN_TRY(store::WriteWithRoom(parts_.store, text.size(), [&] { return WriteFileDurably(path, text, 0600); }));
  const std::lock_guard lock(mutex_);
  pins_.insert_or_assign(image->manifest_digest, std::move(pin));
  return {};
}

// ---- Lists, and giving room back ----

std::vector<KnownImage> Images::Known(const std::vector<KnownImage>& claimed, bool remembered) {
  std::vector<KnownImage> known;
  std::set<Digest> seen;
  const auto add = [&](KnownImage image) {
    if (seen.insert(image.manifest_digest).second) known.push_back(std::move(image));
  };
  for (const KnownImage& image : claimed) add(image);
  for (const Mounts::View& view : parts_.mounts.List()) {
    const MountRecord& record = view.record;
    add({record.reference, record.manifest_digest, record.artifact_digest, record.map_digest});
  }
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [manifest, pinned] : pins_) add(pinned.image);
  }
  if (remembered) {
    std::error_code error;
    for (const auto& file : std::filesystem::directory_iterator(data_root_ + "/resolved", error)) {
      if (auto image = Remembered(file.path().string(), nullptr)) add(std::move(*image));
    }
  }
  std::sort(known.begin(), known.end(),
            [](const KnownImage& a, const KnownImage& b) { return a.reference < b.reference; });
  return known;
}

proto::agent::ImagesReply Images::List(const std::vector<KnownImage>& claimed) {
  proto::agent::ImagesReply reply;
  std::map<Digest, uint32_t> mounts;
  for (const Mounts::View& view : parts_.mounts.List()) ++mounts[view.record.manifest_digest];
  for (const KnownImage& image : Known(claimed, true)) {
    proto::agent::ImageInfo& info = *reply.add_images();
    info.set_reference(image.reference);
    info.set_manifest_digest(image.manifest_digest.ToString());
    info.set_artifact_digest(image.artifact_digest.ToString());
    if (const auto found = mounts.find(image.manifest_digest); found != mounts.end()) info.set_mounts(found->second);
    {
      const std::lock_guard lock(mutex_);
      info.set_pinned(pins_.contains(image.manifest_digest));
    }
    const auto map = parts_.documents.Map({}, image.map_digest);
    if (!map) continue;
    info.set_layers(static_cast<uint32_t>(map->devices.size()));
    for (const image_format::Device& device : map->devices) {
      info.set_device_bytes(info.device_bytes() + device.device_bytes());
      if (const auto layer = parts_.store.OpenLayer(device)) {
        info.set_present_bytes(info.present_bytes() + (*layer)->present_bytes());
      }
    }
  }
  return reply;
}

uint64_t Images::DropLayers(const image_format::ImageMap& map, const std::set<Digest>& keep) {
  uint64_t freed = 0;
  for (const image_format::Device& device : map.devices) {
    if (keep.contains(device.blob_digest) || parts_.layers.InUse(device.blob_digest)) continue;
    const auto layer = parts_.store.OpenLayer(device);
    if (!layer) continue;
    freed += (*layer)->present_bytes();
    for (ChunkIndex chunk = 0; chunk < device.chunks.size(); ++chunk) (*layer)->Drop(chunk);
  }
  return freed;
}

Result<proto::agent::DropReply> Images::Drop(const std::string& name, const std::vector<KnownImage>& claimed) {
  proto::agent::DropReply reply;
  std::map<Digest, std::string> users;  // manifest → why its layers stay
  for (const Mounts::View& view : parts_.mounts.List()) {
    users.emplace(view.record.manifest_digest, "is mounted at " + view.record.directory);
  }
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [manifest, pinned] : pins_) users.emplace(manifest, "is pinned");
  }
  if (name.empty()) {
    for (const KnownImage& image : claimed) users.emplace(image.manifest_digest, "is an image of containerd's");
  }
  std::vector<KnownImage> known = Known(claimed, true);
  std::set<Digest> keep;  // layers that images in use share
  for (const KnownImage& image : known) {
    if (!users.contains(image.manifest_digest)) continue;
    const auto map = parts_.documents.Map({}, image.map_digest);
    if (!map) continue;
    for (const image_format::Device& device : map->devices) keep.insert(device.blob_digest);
  }
  if (!name.empty()) std::erase_if(known, [&](const KnownImage& image) { return !IsNamed(image, name); });
  if (!name.empty() && known.empty()) {
    return Fail(Code::kNotFound, fmt::format("{}: this node knows no such image (see `banyan ls`)", name));
  }
  for (const KnownImage& image : known) {
    if (parts_.peers != nullptr && !users.contains(image.manifest_digest)) parts_.peers->Leave(image.manifest_digest);
  }
  uint64_t freed = name.empty() ? parts_.store.DropUnused(keep) : 0;
  for (const KnownImage& image : known) {
    if (const auto user = users.find(image.manifest_digest); user != users.end()) {
      reply.add_kept(fmt::format("{}: {}", image.reference, user->second));
      continue;
    }
    const auto map = parts_.documents.Map({}, image.map_digest);
    if (!map) continue;
    freed += DropLayers(*map, keep);
    ::unlink(MemoryPath(image.reference).c_str());
  }
  BANYAN_TRY(parts_.store.Flush());
  reply.set_freed_bytes(freed);
  return reply;
}

}  // namespace banyan::peer_agent
