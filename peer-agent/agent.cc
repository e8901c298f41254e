#include "peer-agent/agent.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <nlohmann/json.hpp>

#include "common/file_io.h"
#include "image-format/artifact.h"
#include "image-format/image_builder.h"
#include "image-format/oci.h"

namespace banyan::peer_agent {

namespace {

using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr uint64_t kMaxMapBytes = 512 * kMiB;
constexpr uint64_t kMaxMetadataBlobBytes = 2 * kGiB;
constexpr milliseconds kPatienceOfBusyMount{1000};

uint64_t MicrosSince(steady_clock::time_point start) {
  return static_cast<uint64_t>(duration_cast<microseconds>(steady_clock::now() - start).count());
}

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

bool MayPass(const Error& error) { return error.code == Code::kUnavailable || error.code == Code::kDeadlineExceeded; }

// Replaces a file whole: a mount may be reading the old one. Not synced: these files are checked against their digest
// at each use, and a cold start shall not wait for the disk.
Status ReplaceFile(const std::string& path, std::span<const std::byte> contents) {
  const std::string temporary = fmt::format("{}.tmp.{}", path, ::gettid());
  const auto write = [&]() -> Status {
    BANYAN_ASSIGN(const UniqueFd file, OpenFile(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0600));
    BANYAN_TRY(WriteFull(file.get(), contents, temporary));
    if (::rename(temporary.c_str(), path.c_str()) != 0) return FailErrno("rename to " + path, errno);
    return {};
  };
  const Status status = write();
  if (!status) ::unlink(temporary.c_str());
  return status;
}

// "<pid> <start time>": a pid alone may come again. Empty when there is no such process.
std::string OwnerOf(pid_t pid) {
  const auto stat = ReadFile(fmt::format("/proc/{}/stat", pid), 64 * kKiB);
  if (!stat) return {};
  // Field 22, counted behind the command's name, which may hold anything but ends at the last parenthesis.
  std::istringstream fields(stat->substr(std::min(stat->size(), stat->rfind(')') + 1)));
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;
  return fmt::format("{} {}", pid, field);
}

// What a parser calls an invalid argument is, to whoever mounts, an image that is no good.
template <typename T>
Result<T> AsBadContent(Result<T> result) {
  if (!result && result.error().code == Code::kInvalidArgument) result.error().code = Code::kDataLoss;
  return result;
}

// The tag or digest that a repository is asked for.
std::string SelectorOf(const net::ImageReference& reference) {
  return reference.digest ? reference.digest->ToString() : reference.tag;
}

}  // namespace

Result<std::unique_ptr<Agent>> Agent::Start(Options options) {
  std::unique_ptr<Agent> agent(new Agent(std::move(options)));
  BANYAN_TRY(agent->Open());
  agent->Restore();
  return agent;
}

Status Agent::Open() {
  const std::string& root = options_.data_root;
  // Not /devices: it may be a mount that nobody answers for yet, so that even to look at it would hang.
  for (const char* name : {"/metadata", "/resolved"}) BANYAN_TRY(MakeDirectories(root + name, 0700));
  executor_ = std::make_unique<ThreadPool>(std::max(2U, std::thread::hardware_concurrency()));
  BANYAN_ASSIGN(store_, store::NodeStore::Open(
                            {.root = root + "/store", .budget_bytes = options_.budget_bytes, .defer_eviction = true}));
  scheduler_ = std::make_unique<fetch::Scheduler>(
      fetch::Scheduler::Options{.executor = *executor_, .read_timeout = options_.read_timeout});
  if (!options_.keeper_socket.empty()) {
    BANYAN_ASSIGN(keeper_, lazyfs::KeeperClient::Connect(options_.keeper_socket));
  }
  lazyfs::DeviceServer::Options server;
  server.mount_dir = root + "/devices";
  server.keeper = keeper_.get();
  server.resend = options_.resend;
  BANYAN_ASSIGN(devices_, lazyfs::DeviceServer::Start(std::move(server)));
  layers_ = std::make_unique<LayerTable>(*store_, *scheduler_, *devices_);
  BANYAN_ASSIGN(MountTable table, MountTable::Open(root + "/mounts"));
  table_ = std::make_unique<MountTable>(std::move(table));
  return {};
}

Agent::~Agent() {
  // Reads stop being answered before what answers them goes. A mount is in the kernel, not here: with a keeper it only
  // waits.
  if (devices_ && keeper_ && !mounts_.empty()) {
    devices_->Detach();
  } else if (devices_) {
    if (Status status = devices_->Stop(); !status) spdlog::warn("stop the device server: {}", status.error().message);
  }
  mounts_.clear();
  layers_.reset();
}

// ---- Restart ----

void Agent::Restore() {
  auto contents = table_->Load();
  if (!contents) {
    spdlog::error("the table of mounts cannot be read, none is restored: {}", contents.error().message);
    contents = MountTable::Contents{};
  }
  for (const std::string& message : contents->damaged) spdlog::error("mount record {}", message);
  std::set<std::string> wanted;
  for (const MountRecord& record : contents->records) {
    if (Status status = RestoreOne(record); !status) {
      spdlog::error("{} ({}) is not restored: {}", record.directory, record.reference, status.error().message);
    }
  }
  devices_->RestoreDone();
  store_->StartEviction();

  for (const auto& [directory, mount] : mounts_) {
    wanted.insert(mount.metadata_digest.Hex());
    wanted.insert(mount.record.map_digest.Hex());
  }
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(options_.data_root + "/metadata", error)) {
    if (!wanted.contains(file.path().stem().string())) std::filesystem::remove(file.path(), error);
  }
}

Status Agent::RestoreOne(const MountRecord& record) {
  BANYAN_ASSIGN(const lazyfs::Form form, lazyfs::ParseForm(record.form));
  BANYAN_ASSIGN(const net::ImageReference reference, net::ImageReference::Parse(record.reference));
  BANYAN_ASSIGN(const auto repository, RepositoryFor(reference, record));
  Documents documents;
  documents.map_digest = record.map_digest;
  BANYAN_ASSIGN(documents.map, GetMap(nullptr, record.map_digest));
  BANYAN_ASSIGN(documents.metadata_path, GetMetadata(nullptr, documents.map));
  BANYAN_ASSIGN(ActiveMount mount, MakeMount(documents, record, form, repository, true));
  spdlog::info("{} ({}) is {}", record.directory, record.reference,
               mount.image.adopted ? "taken over" : "mounted again");
  mounts_.emplace(record.directory, std::move(mount));
  return {};
}

// ---- Documents of an image ----

Result<std::shared_ptr<net::Repository>> Agent::RepositoryFor(const net::ImageReference& reference,
                                                              const MountRecord& record) {
  const std::string key = fmt::format("{}\n{}\n{}\n{}\n{}", reference.host, reference.repository, record.plain_http,
                                      record.credentials_file, record.ca_file);
  std::lock_guard lock(mutex_);
  std::shared_ptr<net::Repository>& repository = repositories_[key];
  if (!repository) {
    net::RepositoryOptions options;
    options.plain_http = record.plain_http;
    options.credentials_file = record.credentials_file;
    options.ca_file = record.ca_file;
    BANYAN_ASSIGN(repository, net::OpenRepository(reference, options));
  }
  return repository;
}

Result<std::string> Agent::CachedBlob(net::Repository* repository, const Digest& digest, uint64_t limit_bytes) {
  auto cached = store_->GetBlob(digest);
  if (cached || cached.error().code != Code::kNotFound || repository == nullptr) return cached;
  BANYAN_ASSIGN(std::string blob, repository->GetBlob(digest, limit_bytes));
  // A full disk costs the cache, not the mount.
  if (Status status = store_->PutBlob(digest, Bytes(blob)); !status) {
    spdlog::warn("blob {} is not cached: {}", digest.ToString(), status.error().message);
  }
  return blob;
}

Result<image_format::ImageMap> Agent::GetMap(net::Repository* repository, const Digest& digest) {
  // A file of its own for each mounted image: the store may evict small blobs, a restart must not need the network.
  const std::string path = fmt::format("{}/metadata/{}.map", options_.data_root, digest.Hex());
  auto blob = ReadFile(path, kMaxMapBytes);
  if (!blob || Digest::Of(*blob) != digest) {
    BANYAN_ASSIGN(blob, CachedBlob(repository, digest, kMaxMapBytes));
    BANYAN_TRY(ReplaceFile(path, Bytes(*blob)));
  }
  MemorySource source(Bytes(*blob));
  return image_format::DecodeImageMap(source);
}

Result<std::string> Agent::GetMetadata(net::Repository* repository, const image_format::ImageMap& map) {
  const std::string path = fmt::format("{}/metadata/{}.erofs", options_.data_root, map.metadata_digest.Hex());
  if (const auto present = ReadFile(path, map.metadata_bytes)) {
    if (Digest::Of(*present) == map.metadata_digest) {
      BANYAN_TRY(image_format::CheckMapAgainstMetadata(map, Bytes(*present)));
      return path;
    }
    spdlog::warn("{} is damaged and made again", path);
  }
  BANYAN_ASSIGN(const std::string blob, CachedBlob(repository, map.metadata_blob_digest, kMaxMetadataBlobBytes));
  BANYAN_ASSIGN(const std::vector<std::byte> metadata, image_format::DecodeMetadata(map, Bytes(blob)));
  BANYAN_TRY(image_format::CheckMapAgainstMetadata(map, metadata));
  BANYAN_TRY(ReplaceFile(path, metadata));
  return path;
}

// Resolves through the repository, and, when it cannot be reached, from what it answered last time.
Result<fetch::ResolvedImage> Agent::Resolve(net::Repository& repository, const net::ImageReference& reference) {
  const std::string path =
      fmt::format("{}/resolved/{}.json", options_.data_root, Digest::Of(reference.ToString()).Hex());
  auto resolved = fetch::ResolveConvertedImage(repository, SelectorOf(reference));
  if (resolved) {
    const nlohmann::json memory = {{"manifest", resolved->descriptor.digest.ToString()},
                                   {"config", resolved->config_digest.ToString()},
                                   {"artifact", resolved->artifact_digest->ToString()},
                                   {"map", resolved->artifact->map_digest.ToString()}};
    if (Status status = WriteFileDurably(path, memory.dump(), 0600); !status) {
      spdlog::warn("{} will not start without its registry: {}", reference.ToString(), status.error().message);
    }
    return resolved;
  }
  if (!MayPass(resolved.error())) return resolved;

  const auto text = ReadFile(path, 64 * kKiB);
  if (!text) return resolved;
  const nlohmann::json memory = nlohmann::json::parse(*text, nullptr, false);
  if (!memory.is_object()) return resolved;
  fetch::ResolvedImage known;
  known.artifact.emplace();
  known.artifact_digest.emplace();
  for (const auto& [key, digest] :
       std::initializer_list<std::pair<const char*, Digest*>>{{"manifest", &known.descriptor.digest},
                                                              {"config", &known.config_digest},
                                                              {"artifact", &*known.artifact_digest},
                                                              {"map", &known.artifact->map_digest}}) {
    const auto found = memory.find(key);
    if (found == memory.end() || !found->is_string()) return resolved;
    const auto parsed = Digest::Parse(found->get<std::string>());
    if (!parsed) return resolved;
    *digest = *parsed;
  }
  spdlog::warn("{}; {} starts as it was resolved last time, as {}", resolved.error().message, reference.ToString(),
               known.descriptor.digest.ToString());
  return known;
}

// ---- Mounting ----

Status Agent::Claim(const std::string& directory) {
  std::lock_guard lock(mutex_);
  if (mounts_.contains(directory)) {
    return Fail(Code::kAlreadyExists,
                fmt::format("{} has {} mounted: unmount it first", directory, mounts_.at(directory).record.reference));
  }
  if (!in_transition_.insert(directory).second) {
    return Fail(Code::kAborted, fmt::format("{} is being mounted or unmounted by another call", directory));
  }
  return {};
}

void Agent::Unclaim(const std::string& directory) {
  std::lock_guard lock(mutex_);
  in_transition_.erase(directory);
  idle_since_ = steady_clock::now();
}

Result<Agent::ActiveMount> Agent::MakeMount(const Documents& documents, MountRecord record, lazyfs::Form form,
                                            const std::shared_ptr<net::Repository>& repository, bool restoring) {
  ActiveMount mount;
  mount.metadata_digest = documents.map.metadata_digest;
  lazyfs::MountSpec spec;
  spec.metadata_path = documents.metadata_path;
  spec.target = record.directory;
  spec.form = form;
  spec.read_ahead_kib = record.read_ahead_kib;
  spec.adopt = restoring;
  spec.keeper = keeper_.get();
  const std::vector<bool> recorded = std::exchange(record.local_devices, {});
  const auto add_devices = [&]() -> Status {
    for (size_t i = 0; i < documents.map.devices.size(); ++i) {
      const image_format::Device& device = documents.map.devices[i];
      BANYAN_ASSIGN(auto layer, layers_->Acquire(device, repository, record.fill));
      mount.layers.push_back(layer);
      // What a predecessor mounted from FUSE must be on FUSE again, whatever has arrived since.
      const bool prefer_local = !restoring || (i < recorded.size() && recorded[i]);
      BANYAN_ASSIGN(const LayerTable::Path path, layers_->PathOf(layer, prefer_local));
      record.local_devices.push_back(path.local);
      spec.devices.push_back({.path = path.path, .size_bytes = device.device_bytes(), .layer = layer->lazy});
    }
    return {};
  };
  const auto make = [&]() -> Status {
    BANYAN_TRY(add_devices());
    const auto& local = record.local_devices;
    spec.replace = restoring && !devices_->taken_over() && std::find(local.begin(), local.end(), false) != local.end();
    // A pinned file must still count as complete after a crash.
    if (std::find(record.local_devices.begin(), record.local_devices.end(), true) != record.local_devices.end()) {
      BANYAN_TRY(store_->Flush());
    }
    BANYAN_TRY(table_->Put(record));
    BANYAN_ASSIGN(mount.image, lazyfs::MountImage(spec));
    const std::string made = std::string(lazyfs::FormName(mount.image.form));
    if (made != record.form) {
      record.form = made;
      BANYAN_TRY(table_->Put(record));
    }
    return {};
  };
  Status status = make();
  mount.record = std::move(record);
  if (!status) {
    // A mount that could not be restored keeps its record: the next start may have better luck.
    if (!restoring) (void)table_->Remove(mount.record.directory);
    DropMount(mount);
    return Fail(status.error());
  }
  for (const std::string& note : mount.image.notes) spdlog::info("{}: {}", mount.record.directory, note);
  return mount;
}

void Agent::DropMount(ActiveMount& mount) {
  for (auto& layer : mount.layers) layers_->Release(std::move(layer));
  mount.layers.clear();
}

Result<proto::agent::MountReply> Agent::Mount(const proto::agent::MountRequest& request) {
  const auto start = steady_clock::now();
  const std::string directory = std::filesystem::path(request.directory()).lexically_normal().string();
  if (directory.empty() || directory[0] != '/') {
    return Fail(Code::kInvalidArgument, fmt::format("mount directory '{}' is not absolute", request.directory()));
  }
  BANYAN_ASSIGN(const net::ImageReference reference, net::ImageReference::Parse(request.reference()));
  BANYAN_ASSIGN(const lazyfs::Form form, lazyfs::ParseForm(request.form().empty() ? "auto" : request.form()));
  BANYAN_TRY(Claim(directory));
  struct Claimed {
    Agent& agent;
    const std::string& directory;
    ~Claimed() { agent.Unclaim(directory); }
  } const claimed{*this, directory};

  MountRecord record;
  record.reference = request.reference();
  record.directory = directory;
  record.form = request.form().empty() ? "auto" : request.form();
  record.plain_http = request.plain_http();
  record.credentials_file = request.credentials_file();
  record.ca_file = request.ca_file();
  record.fill = request.fill();
  if (request.owner_pid() > 0) record.owner = OwnerOf(request.owner_pid());
  if (request.has_read_ahead_kib()) record.read_ahead_kib = request.read_ahead_kib();
  BANYAN_ASSIGN(const auto repository, RepositoryFor(reference, record));

  proto::agent::MountReply reply;
  BANYAN_ASSIGN(const fetch::ResolvedImage image, Resolve(*repository, reference));
  record.manifest_digest = image.descriptor.digest;
  record.artifact_digest = *image.artifact_digest;
  record.map_digest = image.artifact->map_digest;
  if (request.want_config()) {
    BANYAN_ASSIGN(record.image_config,
                  CachedBlob(repository.get(), image.config_digest, image_format::kMaxImageConfigBytes));
  }
  reply.mutable_times()->set_resolved(MicrosSince(start));

  Documents documents;
  documents.map_digest = record.map_digest;
  BANYAN_ASSIGN(documents.map, AsBadContent(GetMap(repository.get(), record.map_digest)));
  const bool remembered = image.artifact->layers.empty();  // and checked then
  if (!remembered) BANYAN_TRY(image_format::CheckArtifactAgainstMap(*image.artifact, documents.map));
  reply.mutable_times()->set_map(MicrosSince(start));
  BANYAN_ASSIGN(documents.metadata_path, AsBadContent(GetMetadata(repository.get(), documents.map)));
  reply.mutable_times()->set_metadata(MicrosSince(start));

  BANYAN_TRY(MakeDirectories(directory));
  BANYAN_ASSIGN(ActiveMount mount, MakeMount(documents, std::move(record), form, repository, false));
  reply.mutable_times()->set_mounted(MicrosSince(start));
  reply.set_directory(directory);
  reply.set_form(mount.record.form);
  reply.set_manifest_digest(mount.record.manifest_digest.ToString());
  reply.set_artifact_digest(mount.record.artifact_digest.ToString());
  reply.set_image_config(mount.record.image_config);
  std::lock_guard lock(mutex_);
  mounts_.emplace(directory, std::move(mount));
  return reply;
}

Status Agent::Umount(const std::string& given, bool force) {
  const std::string directory = std::filesystem::path(given).lexically_normal().string();
  // MNT_EXPIRE tells whether a mount is in use, without unmounting it and without waiting for anything.
  if (!force && ::umount2(directory.c_str(), MNT_EXPIRE | UMOUNT_NOFOLLOW) != 0 && errno == EBUSY &&
      scheduler_->stats().waiting_reads == 0) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("{} is in use: end the processes that use it, or force", directory));
  }
  ActiveMount mount;
  {
    std::lock_guard lock(mutex_);
    const auto found = mounts_.find(directory);
    if (found == mounts_.end()) {
      return Fail(Code::kNotFound, fmt::format("{}: no image of this data root is mounted there", directory));
    }
    mount = std::move(found->second);
    mounts_.erase(found);
    in_transition_.insert(directory);
  }
  lazyfs::UmountOptions options;
  options.busy_wait = kPatienceOfBusyMount;
  for (const auto& layer : mount.layers) {
    if (layers_->IsSole(*layer)) options.cancel.push_back(layer->lazy);
  }
  if (Status status = lazyfs::UmountImage(mount.image, options); !status) {
    spdlog::error("unmount {}: {}", directory, status.error().message);
    {
      std::lock_guard lock(mutex_);
      mounts_.emplace(directory, std::move(mount));
    }
    Unclaim(directory);
    return status;
  }
  const Status removed = table_->Remove(directory);
  DropMount(mount);
  Unclaim(directory);
  return removed;
}

// ---- Questions ----

proto::agent::ListReply Agent::List() {
  proto::agent::ListReply reply;
  std::lock_guard lock(mutex_);
  for (const auto& [directory, mount] : mounts_) {
    proto::agent::MountInfo& info = *reply.add_mounts();
    info.set_reference(mount.record.reference);
    info.set_directory(directory);
    info.set_form(mount.record.form);
    uint64_t device_bytes = 0;
    uint64_t present_bytes = 0;
    for (const auto& layer : mount.layers) {
      device_bytes += layer->stored->device().device_bytes();
      present_bytes += layer->stored->present_bytes();
    }
    info.set_device_bytes(device_bytes);
    info.set_present_bytes(present_bytes);
  }
  return reply;
}

Result<proto::agent::StatsReply> Agent::Stats(const std::string& directory) {
  proto::agent::StatsReply reply;
  const fetch::Scheduler::Stats stats = scheduler_->stats();
  const lazyfs::FuseSessionCounters session = devices_->counters();
  reply.set_reads(session.reads);
  reply.set_read_bytes(session.bytes);
  reply.set_waiting_reads(stats.waiting_reads);
  reply.set_hung_reads(stats.hung_reads);
  reply.set_longest_read_micros(static_cast<uint64_t>(microseconds(stats.longest_read).count()));
  for (const auto& [name, counters] : stats.sources) {
    proto::agent::SourceStats& source = *reply.add_sources();
    source.set_source(name);
    source.set_requests(counters.requests);
    source.set_chunks(counters.chunks);
    source.set_compressed_bytes(counters.compressed_bytes);
  }
  if (directory.empty()) return reply;

  std::lock_guard lock(mutex_);
  const auto found = mounts_.find(std::filesystem::path(directory).lexically_normal().string());
  if (found == mounts_.end()) {
    return Fail(Code::kNotFound, fmt::format("{}: no image of this data root is mounted there", directory));
  }
  struct Touch {
    fetch::Clock::time_point when;
    uint32_t device;
    ChunkIndex chunk;
  };
  std::vector<Touch> touches;
  uint64_t touched_bytes = 0;
  for (size_t i = 0; i < found->second.layers.size(); ++i) {
    const LiveLayer& layer = *found->second.layers[i];
    for (const auto& touch : scheduler_->FirstTouches(*layer.lazy)) {
      touches.push_back({touch.when, static_cast<uint32_t>(i), touch.chunk});
      touched_bytes += layer.stored->device().chunks[touch.chunk].compressed_bytes;
    }
  }
  std::stable_sort(touches.begin(), touches.end(), [](const Touch& a, const Touch& b) { return a.when < b.when; });
  for (const Touch& touch : touches) {
    proto::agent::FirstTouch& first = *reply.add_first_touches();
    first.set_device(touch.device);
    first.set_chunk(touch.chunk);
  }
  reply.set_touched_compressed_bytes(touched_bytes);
  return reply;
}

Result<proto::agent::ScrubReply> Agent::Scrub() {
  BANYAN_ASSIGN(const store::ScrubReport report, store_->Scrub(std::stop_token(), 0));
  proto::agent::ScrubReply reply;
  reply.set_chunks_checked(report.chunks_checked);
  for (const std::string& chunk : report.bad_chunks) reply.add_bad_chunks(chunk);
  return reply;
}

void Agent::ReapOrphans() {
  std::vector<std::string> orphans;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [directory, mount] : mounts_) {
      const std::string& owner = mount.record.owner;
      if (!owner.empty() && OwnerOf(static_cast<pid_t>(std::atol(owner.c_str()))) != owner)
        orphans.push_back(directory);
    }
  }
  for (const std::string& directory : orphans) {
    spdlog::info("{}: the process that it was mounted for has gone", directory);
    (void)Umount(directory, true);  // Says itself why not.
  }
}

size_t Agent::mount_count() {
  std::lock_guard lock(mutex_);
  return mounts_.size();
}

milliseconds Agent::idle_for() {
  std::lock_guard lock(mutex_);
  if (!mounts_.empty() || !in_transition_.empty()) return milliseconds(0);
  return duration_cast<milliseconds>(steady_clock::now() - idle_since_);
}

}  // namespace banyan::peer_agent
