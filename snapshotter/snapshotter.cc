#include "snapshotter/snapshotter.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include <fmt/format.h>

#include "common/file_io.h"
#include "common/log.h"
#include "snapshotter/filter.h"
#include "snapshotter/idmap.h"
#include "snapshotter/labels.h"
#include "snapshotter/mount_shape.h"
#include "snapshotter/tree_walk.h"

namespace banyan::snapshotter {

namespace {

// containerd's own names are "<namespace>/<number>/<key>", and a namespace holds no colon.
constexpr char kClaimedPrefix[] = "banyan:";
std::string ClaimedName(uint64_t id, const std::string& reference) {
  return fmt::format("{}{}/{}", kClaimedPrefix, id, reference);
}

Status CheckNewName(const std::string& what, const std::string& name) {
  BANYAN_TRY(CheckName(what, name));
  if (!name.starts_with(kClaimedPrefix)) return {};
  return Fail(Code::kInvalidArgument, fmt::format("{} {}: such names are the snapshotter's own", what, name));
}

Time Now() { return std::chrono::time_point_cast<Time::duration>(std::chrono::system_clock::now()); }

std::string ReferenceOf(const Labels& labels) {
  const auto label = labels.find(std::string(kReferenceLabel));
  return label == labels.end() ? "" : label->second;
}

bool IsTop(const LazyChain& chain) { return chain.layers == chain.image_layers; }

// 0: not a snapshot's directory.
uint64_t ParseId(const std::string& name) {
  uint64_t id = 0;
  const auto [stop, error] = std::from_chars(name.data(), name.data() + name.size(), id);
  return error == std::errc() && stop == name.data() + name.size() ? id : 0;
}

std::vector<std::string> NamesIn(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    names.push_back(entry.path().filename().string());
  }
  return names;
}

// With that mode whatever the umask is. One that is there already is left alone: a chain may be mounted on it.
Status MakeDirectoryWithMode(const std::string& path, mode_t mode) {
  if (::mkdir(path.c_str(), mode) != 0) return errno == EEXIST ? Status{} : FailErrno("make " + path, errno);
  if (::chmod(path.c_str(), mode) != 0) return FailErrno("chmod " + path, errno);
  return {};
}

bool IsDirectory(const std::string& path) {
  struct stat status;
  return ::lstat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

tl::unexpected<Error> NoSuchSnapshot(const std::string& name) {
  return Fail(Code::kNotFound, fmt::format("snapshot {} does not exist", name));
}
tl::unexpected<Error> Taken(const std::string& name) {
  return Fail(Code::kAlreadyExists, fmt::format("snapshot {} exists", name));
}

// Gives the directory that is to be an overlay's root the owner and mode of what it covers.
Status AdoptRoot(const std::string& directory, const std::vector<std::string>& lowers,
                 const std::optional<IdMapping>& mapping) {
  if (lowers.empty()) {
    if (!mapping) return {};
    if (::lchown(directory.c_str(), mapping->root_uid, mapping->root_gid) != 0) {
      return FailErrno("chown " + directory, errno);
    }
    return {};
  }
  struct stat lower;
  if (::stat(lowers.front().c_str(), &lower) != 0) return FailErrno("stat " + lowers.front(), errno);
  if (::lchown(directory.c_str(), lower.st_uid, lower.st_gid) != 0) return FailErrno("chown " + directory, errno);
  if (::chmod(directory.c_str(), lower.st_mode & 07777) != 0) return FailErrno("chmod " + directory, errno);
  return {};
}

// The lower directories as the snapshot's mapping, if it has one, shows them.
Result<std::vector<std::string>> MapLowers(const std::string& directory, std::vector<std::string> lowers,
                                           const std::optional<IdMapping>& mapping) {
  if (!mapping || lowers.empty()) return lowers;
  BANYAN_ASSIGN(const UniqueFd user_namespace, MakeUserNamespace(*mapping));
  for (size_t i = 0; i < lowers.size(); ++i) {
    std::string target = fmt::format("{}/m{}", directory, i);
    if (::mkdir(target.c_str(), 0700) != 0 && errno != EEXIST) return FailErrno("make " + target, errno);
    BANYAN_TRY(MountMapped(user_namespace.get(), lowers[i], target));
    lowers[i] = std::move(target);
  }
  return lowers;
}

Result<UniqueFd> LockRoot(const std::string& root) {
  const std::string path = root + "/lock";
  BANYAN_ASSIGN(UniqueFd fd, OpenFile(path, O_RDWR | O_CREAT, 0600));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
  if (errno == EWOULDBLOCK) return Fail(Code::kFailedPrecondition, root + ": another process has these snapshots");
  return FailErrno("lock " + path, errno);
}

// As the kernel's mount table writes it, and fit for overlay's options.
Result<std::string> CanonicalRoot(const std::string& root) {
  BANYAN_TRY(MakeDirectories(root, 0700));
  const std::unique_ptr<char, decltype(&::free)> real(::realpath(root.c_str(), nullptr), &::free);
  if (!real) return FailErrno("look up " + root, errno);
  const std::string canonical = real.get();
  if (canonical.find_first_of(":,\\ \t\n\"") != std::string::npos) {
    return Fail(Code::kInvalidArgument, canonical + ": overlayfs cannot take such a path");
  }
  return canonical;
}

}  // namespace

Snapshotter::Pin::~Pin() {
  if (owner_ == nullptr) return;
  MutexLock lock(owner_->mutex_);
  if (const auto entry = owner_->entries_.find(name_); entry != owner_->entries_.end()) --entry->second.pins;
}

Snapshotter::Snapshotter(Options options, RecordTable table, UniqueFd lock)
    : options_(std::move(options)), table_(std::move(table)), lock_(std::move(lock)) {}

Snapshotter::~Snapshotter() = default;

Result<std::unique_ptr<Snapshotter>> Snapshotter::Open(Options options) {
  if (!options.root.starts_with('/')) return Fail(Code::kInvalidArgument, "the snapshots' root is not absolute");
  BANYAN_ASSIGN(options.root, CanonicalRoot(options.root + "/snapshots"));
  BANYAN_ASSIGN(UniqueFd lock, LockRoot(options.root));
  BANYAN_TRY(MakeDirectories(options.root + "/trash", 0700));
  BANYAN_ASSIGN(RecordTable table, RecordTable::Open(options.root + "/meta"));
  std::unique_ptr<Snapshotter> snapshotter(new Snapshotter(std::move(options), std::move(table), std::move(lock)));
  BANYAN_TRY(snapshotter->Load());
  return snapshotter;
}

Status Snapshotter::Load() {
  BANYAN_ASSIGN(RecordTable::Contents contents, table_.Load());
  for (const std::string& note : contents.notes) spdlog::error("snapshot record set aside: {}", note);
  std::set<uint64_t> known(contents.damaged.begin(), contents.damaged.end());
  {
    MutexLock lock(mutex_);
    for (Record& record : contents.records) {
      const uint64_t id = record.id;
      known.insert(id);
      const std::string name = record.info.name;
      if (entries_.try_emplace(name, Entry{std::move(record)}).second) continue;
      spdlog::error("snapshot record {} set aside: snapshot {} has another", id, name);
      BANYAN_TRY(table_.SetAside(id));
    }
    for (auto& [name, entry] : entries_) {
      const auto parent = entries_.find(entry.record.info.parent);
      if (parent != entries_.end()) ++parent->second.pins;
      if (entry.record.chain || IsDirectory(DirectoryOf(entry.record.id) + "/fs")) continue;
      spdlog::error("snapshot {}: its directory {} is missing", name, DirectoryOf(entry.record.id));
    }
    last_id_ = known.empty() ? 0 : *known.rbegin();
    for (const std::string& name : NamesIn(options_.root + "/trash")) last_id_ = std::max(last_id_, ParseId(name));
  }
  reaper_ = std::make_unique<Reaper>(*options_.images, options_.root + "/trash");
  RetireOrphans(known);
  return {};
}

void Snapshotter::RetireOrphans(const std::set<uint64_t>& known) {
  for (const std::string& name : NamesIn(options_.root)) {
    const uint64_t id = ParseId(name);
    if (id == 0 || known.contains(id)) continue;
    spdlog::info("{}: of no snapshot, deleted", DirectoryOf(id));
    reaper_->Retire(DirectoryOf(id));
    MutexLock lock(mutex_);
    last_id_ = std::max(last_id_, id);
  }
}

std::string Snapshotter::DirectoryOf(uint64_t id) const { return fmt::format("{}/{}", options_.root, id); }

uint64_t Snapshotter::NextId() {
  MutexLock lock(mutex_);
  return ++last_id_;
}

// ---- making snapshots

Result<std::vector<Mount>> Snapshotter::Prepare(const std::string& key, const std::string& parent, Labels labels) {
  return Create(Kind::kActive, key, parent, std::move(labels));
}

Result<std::vector<Mount>> Snapshotter::View(const std::string& key, const std::string& parent, Labels labels) {
  return Create(Kind::kView, key, parent, std::move(labels));
}

Result<std::vector<Mount>> Snapshotter::Create(Kind kind, const std::string& key, const std::string& parent,
                                               Labels labels) {
  BANYAN_TRY(CheckNewName("key", key));
  if (!parent.empty()) BANYAN_TRY(CheckName("parent", parent));
  BANYAN_TRY(CheckLabels(labels));
  labels = WithoutEmpty(std::move(labels));

  const auto name_lock = names_.Acquire(key);
  if (Find(key)) return Taken(key);
  BANYAN_ASSIGN(Pin pin, PinParent(parent));
  if (kind == Kind::kActive && Claim(parent, labels)) {
    return Fail(Code::kAlreadyExists, fmt::format("layer {} needs no unpacking", ReferenceOf(labels)));
  }
  const Time now = Now();
  return CreateOrdinary({.info = {key, parent, kind, std::move(labels), now, now}}, std::move(pin));
}

Result<std::vector<Mount>> Snapshotter::CreateOrdinary(Record record, Pin pin) {
  BANYAN_ASSIGN(const auto mapping, ParseIdMapping(record.info.labels));
  // First, since it is what may wait or fail.
  BANYAN_ASSIGN(const Ground ground, GroundOf(record));

  record.id = NextId();
  const std::string directory = DirectoryOf(record.id);
  const auto make = [&]() -> Result<std::vector<Mount>> {
    BANYAN_TRY(MakeDirectoriesOf(record));
    BANYAN_ASSIGN(auto lowers, MapLowers(directory, ground.lowers, mapping));
    BANYAN_TRY(AdoptRoot(directory + "/fs", lowers, mapping));
    BANYAN_TRY(Insert(record, pin));
    return ShapeMounts({record.info.kind, directory, std::move(lowers), KernelHasOverlayIndex()});
  };
  auto mounts = make();
  if (!mounts) {
    reaper_->Retire(directory);
    return mounts;
  }
  const bool container = record.info.kind == Kind::kActive && ReferenceOf(record.info.labels).empty();
  if (container && !ground.lazy_directory.empty() && options_.on_prepared) options_.on_prepared(ground.lazy_directory);
  return mounts;
}

bool Snapshotter::Claim(const std::string& parent, const Labels& labels) {
  const std::string reference = ReferenceOf(labels);
  if (reference.empty()) return false;
  const auto claim_lock = claims_.Acquire(fmt::format("{}\n{}", reference, parent));
  if (const auto existing = FindReference(reference, parent)) {
    if (existing->chain && IsTop(*existing->chain)) {
      options_.images->Warm(*existing->chain, DirectoryOf(existing->id) + "/fs");
    }
    return true;
  }
  const std::optional<LayerRequest> request = ParseLayerRequest(labels);
  if (!request) return false;
  const std::optional<LazyChain> chain = options_.images->Find(*request);
  if (!chain) return false;
  if (chain->chain_id != request->chain_id) {
    spdlog::error("layer {} of {}: found chain {} in its place", reference, request->image_reference,
                  chain->chain_id.ToString());
    return false;
  }
  const Status status = CommitClaimed(parent, labels, *chain);
  if (!status) spdlog::warn("layer {} is unpacked: {}", reference, status.error().message);
  return status.has_value();
}

Status Snapshotter::CommitClaimed(const std::string& parent, const Labels& labels, const LazyChain& chain) {
  BANYAN_ASSIGN(Pin pin, PinParent(parent));
  const uint64_t id = NextId();
  const Time now = Now();
  const Record record{.id = id,
                      .info = {ClaimedName(id, ReferenceOf(labels)), parent, Kind::kCommitted, labels, now, now},
                      .chain = chain};
  Status status = MakeDirectoriesOf(record);
  if (status) status = Insert(record, pin);
  if (!status) {
    reaper_->Retire(DirectoryOf(id));
    return status;
  }
  if (IsTop(chain)) options_.images->Warm(chain, DirectoryOf(id) + "/fs");
  return {};
}

Status Snapshotter::MakeDirectoriesOf(const Record& record) {
  const std::string directory = DirectoryOf(record.id);
  BANYAN_TRY(MakeDirectoryWithMode(directory, 0700));
  BANYAN_TRY(MakeDirectoryWithMode(directory + "/fs", 0755));
  if (record.info.kind == Kind::kActive) BANYAN_TRY(MakeDirectoryWithMode(directory + "/work", 0711));
  return {};
}

Status Snapshotter::Insert(const Record& record, Pin& parent) {
  if (Status status = table_.Put(record); !status) {
    (void)table_.Remove(record.id);  // It may have got there and not been synced.
    return status;
  }
  MutexLock lock(mutex_);
  entries_.try_emplace(record.info.name, Entry{record});
  parent.Keep();
  return {};
}

// ---- what a snapshot stands on

Result<Snapshotter::Pin> Snapshotter::PinParent(const std::string& parent) {
  if (parent.empty()) return Pin();
  MutexLock lock(mutex_);
  const auto entry = entries_.find(parent);
  if (entry == entries_.end()) return Fail(Code::kNotFound, fmt::format("parent snapshot {} does not exist", parent));
  if (entry->second.record.info.kind != Kind::kCommitted) {
    return Fail(Code::kInvalidArgument, fmt::format("parent snapshot {} is not committed", parent));
  }
  ++entry->second.pins;
  return Pin(*this, parent);
}

Result<Snapshotter::Ground> Snapshotter::GroundOf(const Record& record) {
  Ground ground;
  std::optional<Record> claimed;
  {
    MutexLock lock(mutex_);
    for (std::string name = record.info.parent; !name.empty() && !claimed;) {
      const auto entry = entries_.find(name);
      // No more than there are: records changed by hand might go round.
      if (entry == entries_.end() || ground.lowers.size() > entries_.size()) {
        return Fail(Code::kDataLoss, fmt::format("snapshot {}: its ancestor {} is lost", record.info.name, name));
      }
      const Record& ancestor = entry->second.record;
      if (ancestor.chain) {
        claimed = ancestor;
      } else {
        ground.lowers.push_back(DirectoryOf(ancestor.id) + "/fs");
        name = ancestor.info.parent;
      }
    }
  }
  for (const std::string& lower : ground.lowers) {
    if (!IsDirectory(lower)) return Fail(Code::kDataLoss, lower + ": the layer's directory is missing");
  }
  if (!claimed) return ground;

  BANYAN_TRY(MakeDirectoriesOf(*claimed));  // Nothing but a mount point, so it may as well be made again.
  ground.lazy_directory = DirectoryOf(claimed->id) + "/fs";
  auto mounted = options_.images->Mount(*claimed->chain, ground.lazy_directory);
  if (!mounted) {
    return Fail(Code::kUnavailable,
                fmt::format("mount {}: {}", claimed->chain->image_reference, mounted.error().message));
  }
  ground.lowers.insert(ground.lowers.end(), mounted->begin(), mounted->end());
  return ground;
}

Result<std::vector<Mount>> Snapshotter::Mounts(const std::string& key) {
  BANYAN_TRY(CheckName("key", key));
  const std::optional<Record> record = Find(key);
  if (!record) return NoSuchSnapshot(key);
  if (record->info.kind == Kind::kCommitted) {
    return Fail(Code::kFailedPrecondition, fmt::format("snapshot {} is committed", key));
  }
  BANYAN_ASSIGN(const Pin pin, PinParent(record->info.parent));
  BANYAN_ASSIGN(const auto mapping, ParseIdMapping(record->info.labels));
  BANYAN_ASSIGN(Ground ground, GroundOf(*record));
  const std::string directory = DirectoryOf(record->id);
  if (!IsDirectory(directory + "/fs"))
    return Fail(Code::kDataLoss, directory + "/fs: the snapshot's files are missing");
  BANYAN_ASSIGN(auto lowers, MapLowers(directory, std::move(ground.lowers), mapping));
  return ShapeMounts({record->info.kind, directory, std::move(lowers), KernelHasOverlayIndex()});
}

// ---- changing and removing

Status Snapshotter::Commit(const std::string& name, const std::string& key, Labels labels) {
  BANYAN_TRY(CheckNewName("name", name));
  BANYAN_TRY(CheckName("key", key));
  BANYAN_TRY(CheckLabels(labels));
  if (!Find(key)) return NoSuchSnapshot(key);
  if (name == key) return Taken(name);
  const auto first_lock = names_.Acquire(std::min(name, key));
  const auto second_lock = names_.Acquire(std::max(name, key));

  if (Find(name)) return Taken(name);
  std::optional<Record> record = Find(key);
  if (!record) return NoSuchSnapshot(key);
  if (record->info.kind != Kind::kActive) {
    return Fail(Code::kFailedPrecondition, fmt::format("snapshot {} is not active", key));
  }
  const Time now = Now();
  record->info = {name, record->info.parent, Kind::kCommitted, WithoutEmpty(std::move(labels)), now, now};
  BANYAN_TRY(table_.Put(*record));

  MutexLock lock(mutex_);
  entries_.erase(key);
  entries_.try_emplace(name, Entry{std::move(*record)});
  return {};
}

Status Snapshotter::Remove(const std::string& key) {
  BANYAN_TRY(CheckName("key", key));
  // So that nobody waits behind a snapshot that is only being made.
  if (!Find(key)) return NoSuchSnapshot(key);
  const auto name_lock = names_.Acquire(key);
  const auto take = [&]() -> Result<Entry> {
    MutexLock lock(mutex_);
    const auto entry = entries_.find(key);
    if (entry == entries_.end()) return NoSuchSnapshot(key);
    if (entry->second.pins > 0)
      return Fail(Code::kFailedPrecondition, fmt::format("cannot remove snapshot {}: it has children", key));
    Entry taken = std::move(entry->second);
    entries_.erase(entry);
    return taken;
  };
  BANYAN_ASSIGN(Entry entry, take());
  const uint64_t id = entry.record.id;
  const std::string parent = entry.record.info.parent;
  const Status removed = table_.Remove(id);
  {
    MutexLock lock(mutex_);
    if (!removed) {
      entries_.try_emplace(key, std::move(entry));
      return removed;
    }
    if (const auto below = entries_.find(parent); below != entries_.end()) --below->second.pins;
  }
  reaper_->Retire(DirectoryOf(id));
  return {};
}

Result<SnapshotInfo> Snapshotter::Update(const SnapshotInfo& info, const std::vector<std::string>& paths) {
  constexpr std::string_view kOneLabel = "labels.";
  BANYAN_TRY(CheckName("name", info.name));
  if (!Find(info.name)) return NoSuchSnapshot(info.name);
  const auto name_lock = names_.Acquire(info.name);
  std::optional<Record> record = Find(info.name);
  if (!record) return NoSuchSnapshot(info.name);

  Labels labels = paths.empty() ? info.labels : record->info.labels;
  for (const std::string& path : paths) {
    if (path == "labels") {
      labels = info.labels;
    } else if (path.size() > kOneLabel.size() && path.starts_with(kOneLabel)) {
      const std::string key = path.substr(kOneLabel.size());
      const auto label = info.labels.find(key);
      labels[key] = label == info.labels.end() ? "" : label->second;
    } else {
      return Fail(Code::kInvalidArgument, fmt::format("snapshot {}: field \"{}\" cannot be changed", info.name, path));
    }
  }
  BANYAN_TRY(CheckLabels(labels));
  record->info.labels = WithoutEmpty(std::move(labels));
  record->info.updated = Now();
  BANYAN_TRY(Replace(*record));
  return record->info;
}

Status Snapshotter::Replace(const Record& record) {
  BANYAN_TRY(table_.Put(record));
  MutexLock lock(mutex_);
  entries_.at(record.info.name).record = record;
  return {};
}

// ---- asking

std::optional<Record> Snapshotter::Find(const std::string& name) const {
  MutexLock lock(mutex_);
  const auto entry = entries_.find(name);
  return entry == entries_.end() ? std::nullopt : std::optional(entry->second.record);
}

std::optional<Record> Snapshotter::FindReference(const std::string& reference, const std::string& parent) const {
  std::vector<Record> found;
  {
    MutexLock lock(mutex_);
    for (const auto& [name, entry] : entries_) {
      const SnapshotInfo& info = entry.record.info;
      if (info.kind != Kind::kCommitted || info.parent != parent || ReferenceOf(info.labels) != reference) continue;
      found.push_back(entry.record);
    }
  }
  const auto usable = std::find_if(found.begin(), found.end(), [&](const Record& record) {
    return record.chain || IsDirectory(DirectoryOf(record.id) + "/fs");
  });
  return usable == found.end() ? std::nullopt : std::optional(*usable);
}

Result<SnapshotInfo> Snapshotter::Stat(const std::string& key) const {
  BANYAN_TRY(CheckName("key", key));
  const std::optional<Record> record = Find(key);
  if (!record) return NoSuchSnapshot(key);
  return record->info;
}

Result<std::vector<SnapshotInfo>> Snapshotter::List(const std::vector<std::string>& filters) const {
  BANYAN_ASSIGN(const Filter filter, Filter::Parse(filters));
  std::vector<SnapshotInfo> infos;
  {
    MutexLock lock(mutex_);
    infos.reserve(entries_.size());
    for (const auto& [name, entry] : entries_) infos.push_back(entry.record.info);
  }
  std::erase_if(infos, [&](const SnapshotInfo& info) { return !filter.Matches(info); });
  return infos;
}

Result<Usage> Snapshotter::UsageOf(const std::string& key) {
  BANYAN_TRY(CheckName("key", key));
  std::optional<Record> record = Find(key);
  if (!record) return NoSuchSnapshot(key);
  if (record->chain) return options_.images->UsageOf(*record->chain);
  if (record->usage) return *record->usage;
  if (record->info.kind == Kind::kView) return Usage();
  BANYAN_ASSIGN(const Usage usage, ScanUsage(DirectoryOf(record->id) + "/fs"));
  if (record->info.kind != Kind::kCommitted) return usage;

  const auto name_lock = names_.Acquire(key);
  const uint64_t id = record->id;
  record = Find(key);
  if (!record || record->id != id) return usage;
  record->usage = usage;
  if (Status status = Replace(*record); !status) spdlog::warn("snapshot {}: {}", key, status.error().message);
  return usage;
}

Status Snapshotter::Cleanup() {
  reaper_->Drain();
  return {};
}

size_t Snapshotter::count() const {
  MutexLock lock(mutex_);
  return entries_.size();
}

std::vector<ClaimedSnapshot> Snapshotter::Claimed() const {
  std::vector<ClaimedSnapshot> claimed;
  MutexLock lock(mutex_);
  for (const auto& [name, entry] : entries_) {
    if (!entry.record.chain) continue;
    claimed.push_back({name, DirectoryOf(entry.record.id) + "/fs", *entry.record.chain, entry.pins});
  }
  return claimed;
}

}  // namespace banyan::snapshotter
