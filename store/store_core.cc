#include "store/store_core.h"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>

#include "common/file_io.h"
#include "common/log.h"

namespace banyan::store {

namespace {

// A digest with more places than this is a common block of zeros or the like, and cheap to fetch.
constexpr size_t kMaxPlacesTried = 16;
constexpr size_t kMaxSources = 8;

Result<UniqueFd> LockRoot(const std::string& root) {
  BANYAN_ASSIGN(UniqueFd fd, OpenFile(root + "/lock", O_RDWR | O_CREAT));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return Fail(Code::kFailedPrecondition, root + ": another process holds this store");
  }
  return fd;
}

// Removes what the index does not know.
void RemoveStrangers(Disk& disk, const std::string& directory, const std::unordered_set<std::string>& known) {
  std::vector<std::string> strangers;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    if (!known.contains(entry.path().filename().string())) strangers.push_back(entry.path().string());
  }
  for (const std::string& path : strangers) {
    if (Status removed = disk.Remove(path); !removed) spdlog::warn("{}", removed.error().message);
  }
}

Status CheckShape(const image_format::Device& device) {
  if (device.chunks.device_blocks() == device.blocks && device.chunks.blob_bytes() == device.blob_bytes) return {};
  return Fail(Code::kInvalidArgument,
              fmt::format("layer {}: its chunks do not add up to its lengths", device.blob_digest.ToString()));
}

}  // namespace

StoreCore::StoreCore(const NodeStore::Options& options)
    : disk_(options.disk ? options.disk : RealDisk()),
      devices_{.path = options.root + "/devices", .disk = *disk_},
      blobs_{.path = options.root + "/blobs/sha256", .disk = *disk_},
      budget_(options.budget_bytes),
      evictor_(*this, !options.defer_eviction),
      whole_blobs_(
          *this, options.clock ? options.clock : [] { return std::chrono::system_clock::now(); },
          options.root + "/raw") {}

Result<std::shared_ptr<StoreCore>> StoreCore::Open(NodeStore::Options options) {
  std::shared_ptr<StoreCore> core(new StoreCore(options));
  for (const Form form : {Form::kBlocks, Form::kCompressed}) BANYAN_TRY(MakeDirectories(core->directory(form).path));
  BANYAN_ASSIGN(core->lock_, LockRoot(options.root));
  bool begun_anew = false;
  BANYAN_ASSIGN(core->index_, Index::Open(options.root + "/index", begun_anew));
  BANYAN_TRY(core->TakeInventory());
  return core;
}

Status StoreCore::TakeInventory() {
  BANYAN_ASSIGN(const Index::Summary summary, index_->ReadSummary());
  std::unordered_set<std::string> devices;
  std::unordered_set<std::string> blobs;
  std::optional<double> youngest;
  for (const auto& [blob, record] : summary.layers) {
    auto use = std::make_shared<LayerUse>();
    use->uses = record.uses;
    use->age = record.age;
    use->block_bytes = record.block_bytes;
    use->compressed_bytes = record.compressed_bytes;
    layers_[blob].use = std::move(use);
    budget_.Force(Form::kBlocks, record.block_bytes);
    budget_.Force(Form::kCompressed, record.compressed_bytes);
    devices.insert(blob.Hex());
    blobs.insert(blob.Hex());
    youngest = std::min(youngest.value_or(record.age), record.age);
  }
  age_ = youngest.value_or(0);
  BANYAN_TRY(whole_blobs_.Load(summary.whole_blobs));
  for (const auto& [blob, record] : summary.whole_blobs) {
    if (!record.raw) blobs.insert(blob.Hex());
  }
  RemoveStrangers(*disk_, devices_.path, devices);
  RemoveStrangers(*disk_, blobs_.path, blobs);
  CollectEmpty();
  // What a process made that died before it could sync the directories counts from here on.
  BANYAN_TRY(disk_->SyncDirectory(devices_.path));
  return disk_->SyncDirectory(blobs_.path);
}

std::string StoreCore::PathOf(Form form, const Digest& blob) const {
  return (form == Form::kBlocks ? devices_ : blobs_).path + "/" + blob.Hex();
}

void StoreCore::RaiseAge(double priority) {
  double old = age_.load(std::memory_order_relaxed);
  while (old < priority && !age_.compare_exchange_weak(old, priority, std::memory_order_relaxed)) {
  }
}

std::shared_ptr<Layer> StoreCore::FindLive(const Digest& blob) const {
  const std::scoped_lock lock(layers_mutex_);
  const auto it = layers_.find(blob);
  return it == layers_.end() ? nullptr : it->second.live.lock();
}

Result<std::shared_ptr<Layer>> StoreCore::OpenLayer(const image_format::Device& device) {
  BANYAN_TRY(CheckShape(device));
  std::shared_ptr<Layer> layer = FindLive(device.blob_digest);
  if (!layer) {
    const auto open = [&] {
      const std::scoped_lock opening(open_mutex_);
      Result<std::shared_ptr<Layer>> opened = OpenKnownLocked(device.blob_digest);
      return opened || opened.error().code != Code::kNotFound ? opened : MakeNewLocked(device);
    };
    Result<std::shared_ptr<Layer>> opened = open();
    if (!opened && opened.error().code == Code::kResourceExhausted && evictor_.FreeDisk(1, Asker{})) opened = open();
    if (!opened) return opened;
    layer = std::move(*opened);
  }
  if (layer->device().chunks == device.chunks) return layer;
  return Fail(Code::kDataLoss, fmt::format("layer {}: its chunk table disagrees with the one in the store",
                                           device.blob_digest.ToString()));
}

Result<std::shared_ptr<Layer>> StoreCore::OpenKnown(const Digest& blob) {
  if (std::shared_ptr<Layer> live = FindLive(blob)) return live;
  const std::scoped_lock opening(open_mutex_);
  return OpenKnownLocked(blob);
}

Result<std::shared_ptr<Layer>> StoreCore::OpenKnownLocked(const Digest& blob) {
  std::shared_ptr<LayerUse> use;
  {
    const std::scoped_lock lock(layers_mutex_);
    const auto it = layers_.find(blob);
    if (it == layers_.end()) return Fail(Code::kNotFound, fmt::format("layer {}: not in the store", blob.ToString()));
    if (std::shared_ptr<Layer> live = it->second.live.lock()) return live;
    use = it->second.use;
  }
  Result<image_format::Device> device = index_->GetLayer(blob);
  const Result<PresenceRecord> record = index_->GetPresence(blob);
  if (!device || !record) {
    spdlog::warn("{}; forgotten, it will be fetched again", device ? record.error().message : device.error().message);
    ForgetLocked(blob);
    return Fail(Code::kNotFound, fmt::format("layer {}: its record cannot be read", blob.ToString()));
  }
  BANYAN_ASSIGN(std::shared_ptr<Layer> layer,
                Layer::Make(shared_from_this(), std::move(*device), std::move(use), *record));
  for (const auto& [form, counted] :
       {std::pair(Form::kBlocks, record->block_bytes), std::pair(Form::kCompressed, record->compressed_bytes)}) {
    budget_.Give(form, counted);
    budget_.Force(form, layer->file(form).present_bytes());
  }
  {
    const std::scoped_lock lock(layers_mutex_);
    layers_[blob].live = layer;
  }
  if (layer->file(Form::kBlocks).lost_chunks() || layer->file(Form::kCompressed).lost_chunks()) {
    // The index must not speak of those chunks while they are written anew.
    Removal correction{layer, &layer->file(Form::kBlocks), {}, {}};
    BANYAN_TRY(CommitRemovals(std::span(&correction, 1)));
  }
  return layer;
}

Result<std::shared_ptr<Layer>> StoreCore::MakeNewLocked(const image_format::Device& device) {
  if (whole_blobs_.HasSmall(device.blob_digest)) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("{} is a small blob, not a layer", device.blob_digest.ToString()));
  }
  image_format::Device own = device;
  own.first_block = 0;
  auto use = std::make_shared<LayerUse>();
  use->age = age();
  BANYAN_ASSIGN(std::shared_ptr<Layer> layer, Layer::Make(shared_from_this(), std::move(own), use, PresenceRecord{}));
  // Not synced: the first flush of one of its chunks is, and comes later in the log.
  Index::Batch batch;
  batch.PutLayer(layer->device());
  batch.PutPresence(device.blob_digest, layer->DurableRecord());
  BANYAN_TRY(index_->Write(std::move(batch), /*sync=*/false));
  const std::scoped_lock lock(layers_mutex_);
  layers_[device.blob_digest] = Entry{std::move(use), layer};
  return layer;
}

void StoreCore::ForgetLocked(const Digest& blob) {
  std::shared_ptr<LayerUse> use;
  {
    const std::scoped_lock lock(layers_mutex_);
    const auto it = layers_.find(blob);
    if (it == layers_.end()) return;
    use = it->second.use;
    layers_.erase(it);
  }
  budget_.Give(Form::kBlocks, use->block_bytes);
  budget_.Give(Form::kCompressed, use->compressed_bytes);
  Index::Batch batch;
  if (const Result<image_format::Device> device = index_->GetLayer(blob)) {
    batch.DeleteLayer(*device);
  } else {
    batch.DeleteUnreadableLayer(blob);
  }
  // Synced, so that the index speaks of no chunk whose file is gone.
  Status status = index_->Write(std::move(batch), /*sync=*/true);
  for (const Form form : {Form::kBlocks, Form::kCompressed}) {
    if (status) status = disk_->Remove(PathOf(form, blob));
  }
  if (!status) spdlog::warn("{}", status.error().message);
}

void StoreCore::CollectEmpty() {
  const std::scoped_lock opening(open_mutex_);
  std::vector<Digest> empty;
  {
    const std::scoped_lock lock(layers_mutex_);
    for (const auto& [blob, entry] : layers_) {
      if (entry.use->block_bytes == 0 && entry.use->compressed_bytes == 0 && entry.live.expired())
        empty.push_back(blob);
    }
  }
  for (const Digest& blob : empty) {
    const Result<PresenceRecord> record = index_->GetPresence(blob);
    // The counts may be about to change: a layer that closes writes them last.
    if (record && (record->block_bytes != 0 || record->compressed_bytes != 0)) continue;
    ForgetLocked(blob);
  }
}

std::vector<KnownLayer> StoreCore::Known() const {
  const std::scoped_lock lock(layers_mutex_);
  std::vector<KnownLayer> known;
  known.reserve(layers_.size());
  for (const auto& [blob, entry] : layers_) known.push_back({blob, entry.use, entry.live.lock()});
  return known;
}

std::optional<std::vector<std::byte>> StoreCore::FindBytes(Form form, const Layer& self, ChunkIndex self_chunk) {
  const image_format::Chunk& wanted = self.device().chunks[self_chunk];
  for (const ChunkPlace& place : index_->Places(wanted.block_digest, kMaxPlacesTried)) {
    if (place.blob == self.device().blob_digest && place.chunk == self_chunk) continue;
    const Result<std::shared_ptr<Layer>> source = OpenKnown(place.blob);
    if (!source) continue;
    const ChunkFile& file = (*source)->file(form);
    const Digest& digest = form == Form::kBlocks ? wanted.block_digest : wanted.compressed_digest;
    const uint64_t bytes = form == Form::kBlocks ? wanted.device_range().size() : wanted.blob_range().size();
    // The index may be of another table than the layer.
    if (!file.presence().Has(place.chunk) || file.DigestOf(place.chunk) != digest) continue;
    if (file.BytesOf(place.chunk) != bytes) continue;
    KeepSource(*source);
    Result<std::vector<std::byte>> found = (*source)->ReadChunk(form, place.chunk, /*from_disk=*/false);
    if (!found) continue;
    if (Digest::Of(*found) == digest) return std::move(*found);
    spdlog::warn("chunk {} of layer {}: bad on disk; dropped", place.chunk, place.blob.ToString());
    (*source)->DropForm(form, place.chunk);
  }
  return std::nullopt;
}

void StoreCore::KeepSource(const std::shared_ptr<Layer>& source) {
  std::shared_ptr<Layer> oldest;  // destroyed outside the lock
  const std::scoped_lock lock(layers_mutex_);
  if (closed() || std::find(sources_.begin(), sources_.end(), source) != sources_.end()) return;
  if (sources_.size() == kMaxSources) {
    oldest = std::move(sources_.front());
    sources_.erase(sources_.begin());
  }
  sources_.push_back(source);
  source->MarkDirty();  // the next flush lets go of the sources
}

}  // namespace banyan::store
