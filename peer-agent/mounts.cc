#include "peer-agent/mounts.h"

#include <sys/mount.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include "net/repository.h"
#include "peer-agent/peers.h"

namespace banyan::peer_agent {

namespace {

using std::chrono::duration_cast;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kPatienceOfBusyMount{1000};

bool AnyOf(const std::vector<bool>& flags, bool value) {
  return std::find(flags.begin(), flags.end(), value) != flags.end();
}

// MNT_EXPIRE tells whether a mount is in use, without unmounting it and without waiting for anything.
bool InUse(const std::string& directory) {
  return ::umount2(directory.c_str(), MNT_EXPIRE | UMOUNT_NOFOLLOW) != 0 && errno == EBUSY;
}

}  // namespace

// ---- Restart ----

void Mounts::Restore(std::set<Digest> maps) {
  auto contents = table_.Load();
  if (!contents) {
    spdlog::error("the table of mounts cannot be read, none is restored: {}", contents.error().message);
    contents = MountTable::Contents{};
  }
  for (const std::string& message : contents->damaged) spdlog::error("mount record {}", message);
  std::set<Digest> metadata;
  for (const MountRecord& record : contents->records) {
    maps.insert(record.map_digest);
    if (const auto map = parts_.documents.Map({}, record.map_digest)) metadata.insert(map->metadata_digest);
    if (Status status = RestoreOne(record); !status) {
      spdlog::error("{} ({}) is not restored: {}", record.directory, record.reference, status.error().message);
    }
  }
  parts_.documents.KeepOnly(maps, metadata);
}

Status Mounts::RestoreOne(const MountRecord& record) {
  BANYAN_ASSIGN(const net::ImageReference reference, net::ImageReference::Parse(record.reference));
  BANYAN_ASSIGN(const Origins origins,
                parts_.registries.Open(reference, {record.plain_http, record.credentials_file, record.ca_file}));
  ImageDocuments documents;
  documents.map_digest = record.map_digest;
  BANYAN_ASSIGN(documents.map, parts_.documents.Map({}, record.map_digest));
  BANYAN_ASSIGN(documents.metadata_path, parts_.documents.Metadata({}, documents.map));
  // Known to the trees before anything is read through it.
  if (parts_.peers != nullptr) parts_.peers->AddImage(record.manifest_digest, documents.map, origins);
  BANYAN_ASSIGN(Active active, Make(record, documents, origins, true));
  spdlog::info("{} ({}) is {}", record.directory, record.reference,
               active.image.adopted ? "taken over" : "mounted again");
  const std::lock_guard lock(mutex_);
  mounts_.emplace(record.directory, std::move(active));
  return {};
}

// ---- Mounting ----

Result<Mounts::DirectoryClaim> Mounts::Claim(const std::string& directory) {
  const std::lock_guard lock(mutex_);
  if (const auto found = mounts_.find(directory); found != mounts_.end()) {
    return Fail(Code::kAlreadyExists,
                fmt::format("{} has {} mounted: unmount it first", directory, found->second.record.reference));
  }
  if (!in_transition_.insert(directory).second) {
    return Fail(Code::kAborted, fmt::format("{} is being mounted or unmounted by another call", directory));
  }
  return DirectoryClaim(*this, directory);
}

void Mounts::Unclaim(const std::string& directory) {
  const std::lock_guard lock(mutex_);
  in_transition_.erase(directory);
  idle_since_ = steady_clock::now();
}

Result<MountRecord> Mounts::Add(MountRecord record, const ImageDocuments& documents, const Origins& origins) {
  BANYAN_ASSIGN(Active active, Make(std::move(record), documents, origins, false));
  MountRecord made = active.record;
  const std::lock_guard lock(mutex_);
  last_form_ = {made.form, fmt::format("{}", fmt::join(active.image.notes, "; "))};
  mounts_.emplace(made.directory, std::move(active));
  return made;
}

Status Mounts::AddDevices(Active& active, const ImageDocuments& documents, const Origins& origins, bool restoring,
                          lazyfs::MountSpec& spec) {
  MountRecord& record = active.record;
  const std::vector<bool> recorded = std::exchange(record.local_devices, {});
  for (size_t i = 0; i < documents.map.devices.size(); ++i) {
    const image_format::Device& device = documents.map.devices[i];
    BANYAN_ASSIGN(auto layer, parts_.layers.Acquire(device, origins, record.fill ? Whole::kScheduler : Whole::kNobody));
    active.layers.push_back(layer);
    // What a predecessor mounted from FUSE must be on FUSE again, whatever has arrived since.
    const bool prefer_local = !restoring || (i < recorded.size() && recorded[i]);
    BANYAN_ASSIGN(const LayerTable::Path path, parts_.layers.PathOf(layer, prefer_local));
    record.local_devices.push_back(path.local);
    spec.devices.push_back({.path = path.path, .size_bytes = device.device_bytes(), .layer = layer->lazy});
  }
  spec.replace = restoring && !parts_.devices.taken_over() && AnyOf(record.local_devices, false);
  // A pinned file must still count as complete after a crash.
  if (AnyOf(record.local_devices, true)) BANYAN_TRY(parts_.store.Flush());
  return {};
}

Result<Mounts::Active> Mounts::Make(MountRecord record, const ImageDocuments& documents, const Origins& origins,
                                    bool restoring) {
  Active active;
  active.record = std::move(record);
  lazyfs::MountSpec spec;
  spec.metadata_path = documents.metadata_path;
  spec.target = active.record.directory;
  spec.read_ahead_kib = active.record.read_ahead_kib;
  spec.selinux_context = parts_.selinux_context;
  spec.adopt = restoring;
  spec.keeper = parts_.keeper;
  const auto make = [&]() -> Status {
    BANYAN_ASSIGN(spec.form, lazyfs::ParseForm(active.record.form));
    BANYAN_TRY(AddDevices(active, documents, origins, restoring, spec));
    BANYAN_TRY(Record(active.record, restoring));
    BANYAN_ASSIGN(active.image, lazyfs::MountImage(spec));
    const std::string made(lazyfs::FormName(active.image.form));
    if (made == active.record.form) return {};
    active.record.form = made;
    return Record(active.record, restoring);
  };
  if (Status status = make(); !status) {
    // A mount that could not be restored keeps its record: the next start may have better luck.
    if (!restoring) Unmake(active);
    Release(active);
    return Fail(status.error());
  }
  for (const std::string& note : active.image.notes) spdlog::info("{}: {}", active.record.directory, note);
  return active;
}

Status Mounts::Record(const MountRecord& record, bool restoring) {
  Status recorded = store::WriteWithRoom(parts_.store, record.image_config.size(), [&] { return table_.Put(record); });
  // The record that it is restored from is still there; its readers are worth more than news in it.
  if (recorded || !restoring) return recorded;
  spdlog::warn("the record of {} stays as it was: {}", record.directory, recorded.error().message);
  return {};
}

void Mounts::Unmake(Active& active) {
  if (active.image.form != lazyfs::Form::kAuto) {
    if (Status gone = lazyfs::UmountImage(active.image); !gone) spdlog::error("{}", gone.error().message);
  }
  (void)table_.Remove(active.record.directory);
}

void Mounts::Release(Active& active) {
  for (auto& layer : active.layers) parts_.layers.Release(std::move(layer));
  active.layers.clear();
}

// ---- Unmounting ----

size_t Mounts::WaitingReads(const std::string& directory) {
  size_t waiting = 0;
  const auto view = Find(directory);
  if (!view) return 0;
  for (const auto& layer : view->layers) waiting += parts_.scheduler.StatsOf(*layer->lazy).waiting_reads;
  return waiting;
}

Status Mounts::Remove(const std::string& directory, bool force) {
  if (!force && InUse(directory) && WaitingReads(directory) == 0) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("{} is in use: end the processes that use it, or force", directory));
  }
  Active active;
  {
    const std::lock_guard lock(mutex_);
    const auto found = mounts_.find(directory);
    if (found == mounts_.end()) {
      // One that could not be restored may still have its record.
      if (!in_transition_.contains(directory)) (void)table_.Remove(directory);
      return Fail(Code::kNotFound, fmt::format("{}: no image of this data root is mounted there", directory));
    }
    active = std::move(found->second);
    mounts_.erase(found);
    in_transition_.insert(directory);
  }
  const DirectoryClaim claimed(*this, directory);
  lazyfs::UmountOptions options;
  options.busy_wait = kPatienceOfBusyMount;
  for (const auto& layer : active.layers) {
    if (parts_.layers.IsSole(*layer)) options.cancel.push_back(layer->lazy);
  }
  if (Status status = lazyfs::UmountImage(active.image, options); !status) {
    spdlog::error("unmount {}: {}", directory, status.error().message);
    const std::lock_guard lock(mutex_);
    mounts_.emplace(directory, std::move(active));
    return status;
  }
  const Status removed = table_.Remove(directory);
  Release(active);
  return removed;
}

// ---- Questions ----

std::vector<Mounts::View> Mounts::List() {
  std::vector<View> views;
  const std::lock_guard lock(mutex_);
  for (const auto& [directory, active] : mounts_) views.push_back({active.record, active.layers});
  return views;
}

std::optional<Mounts::View> Mounts::Find(const std::string& directory) {
  const std::lock_guard lock(mutex_);
  const auto found = mounts_.find(directory);
  if (found == mounts_.end()) return std::nullopt;
  return View{found->second.record, found->second.layers};
}

std::pair<std::string, std::string> Mounts::last_form() {
  const std::lock_guard lock(mutex_);
  return last_form_;
}

void Mounts::Forget() {
  std::map<std::string, Active> mounts;
  const std::lock_guard lock(mutex_);
  mounts.swap(mounts_);
}

milliseconds Mounts::idle_for() {
  const std::lock_guard lock(mutex_);
  if (!mounts_.empty() || !in_transition_.empty()) return milliseconds(0);
  return duration_cast<milliseconds>(steady_clock::now() - idle_since_);
}

}  // namespace banyan::peer_agent
