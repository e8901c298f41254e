#include "peer-agent/agent.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <thread>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/file_io.h"
#include "common/log.h"
#include "common/settings.h"
#include "image-format/artifact.h"
#include "image-format/oci.h"
#include "lazyfs/systemd_keeper.h"
#include "net/url.h"
#include "peer-agent/read_metrics.h"
#include "store/metrics.h"

namespace banyan::peer_agent {

namespace {

using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::steady_clock;

constexpr std::chrono::seconds kTreeStalledAfter{8};
// Of a layer, and of each stripe: what is asked of a parent cannot be asked elsewhere soon.
constexpr fetch::ClassLimits kTreeDemandLimits{8 * kMiB, 1 * kMiB, 32};
constexpr uint32_t kDefaultStarts = 20;
// A predecessor that was killed may still be on its way out, with its locks.
constexpr std::chrono::seconds kPatienceWithPredecessor{3};
constexpr std::chrono::milliseconds kLockRetry{20};
constexpr std::string_view kSystemdKeeper = "systemd";

uint64_t MicrosSince(steady_clock::time_point start) {
  return static_cast<uint64_t>(duration_cast<microseconds>(steady_clock::now() - start).count());
}

uint64_t UnixMicros(std::chrono::system_clock::time_point time) {
  return static_cast<uint64_t>(duration_cast<microseconds>(time.time_since_epoch()).count());
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

// `open` until it gives anything but kFailedPrecondition, which is what a held lock gives.
template <typename Open>
auto OpenAfterPredecessor(Open open) {
  const auto deadline = steady_clock::now() + kPatienceWithPredecessor;
  auto opened = open();
  while (!opened && opened.error().code == Code::kFailedPrecondition && steady_clock::now() < deadline) {
    std::this_thread::sleep_for(kLockRetry);
    opened = open();
  }
  return opened;
}

std::string Normal(const std::string& path) { return std::filesystem::path(path).lexically_normal().string(); }

std::string SelinuxContext(const std::string& configured) {
  if (configured != "auto") return configured;
  return ::access("/sys/fs/selinux/enforce", F_OK) == 0 ? "system_u:object_r:container_ro_file_t:s0" : "";
}

}  // namespace

Agent::Agent(Options options)
    : options_(std::move(options)),
      control_socket_(options_.config.control_socket.empty() ? options_.config.data_root + "/agent.sock"
                                                             : options_.config.control_socket) {}

Result<std::unique_ptr<Agent>> Agent::Start(Options options) {
  std::unique_ptr<Agent> agent(new Agent(std::move(options)));
  BANYAN_TRY(agent->OpenNode());
  // Before mounts are restored: their reads find the parents that they had.
  BANYAN_TRY(agent->ServePeers());
  agent->mounts_->Restore(agent->images_->PinnedMaps());
  agent->devices_->RestoreDone();
  agent->store_->StartEviction();
  BANYAN_TRY(agent->ServeContainerd());
  BANYAN_TRY(agent->ServeHttp());
  return agent;
}

Status Agent::OpenNode() {
  const Config& config = options_.config;
  const std::string& root = config.data_root;
  BANYAN_TRY(trust_.Configure(config.trusted_keys, config.min_converter_version));
  BANYAN_TRY(MakeDirectories(root, 0755));
  executor_ = std::make_unique<ThreadPool>(std::max(2U, std::thread::hardware_concurrency()));
  timer_ = std::make_unique<fetch::ThreadTimer>();
  BANYAN_ASSIGN(store_, OpenAfterPredecessor([&] {
                  return store::NodeStore::Open(
                      {.root = root + "/store", .budget_bytes = config.store_budget.bytes, .defer_eviction = true});
                }));
  mirror::Hooks hooks;
  if (!config.peer.address.empty()) {
    Peers::Options peers{.config = config.peer, .data_root = root, .version = BANYAN_VERSION};
    peers.by_tree = [&swarm = config.swarm](const net::ImageReference& reference) {
      return TransportOf(swarm, reference.host + "/" + reference.repository) != Transport::kSwarm;
    };
    BANYAN_ASSIGN(peers_, Peers::Open(std::move(peers), *timer_));
    hooks = peers_->MirrorHooks();
  }
  if (peers_ || !config.mirror_address.empty() || !config.metrics_address.empty()) {
    // Whoever reaches the mirror can name any registry: on loopback that is this node alone.
    bool only_this_node = true;
    if (const auto listen = ParseHostPort(config.mirror_address))
      only_this_node = net::IsLoopbackHost(listen->ToString());
    BANYAN_ASSIGN(mirror_, OpenMirror(config.registries, only_this_node, *store_, std::move(hooks)));
  }
  fetch::Scheduler::Options scheduler{
      .executor = *executor_, .timer = timer_.get(), .read_timeout = config.read_timeout};
  if (peers_) {
    scheduler.keep_compressed = true;
    scheduler.demand_limits = kTreeDemandLimits;
    scheduler.prefetch_limits = fetch::kTreeLimits;
    scheduler.fill_limits = fetch::kTreeLimits;
    // Nothing is wrong with a chunk that has to come down a few levels of a slow tree first.
    scheduler.stalled_after = kTreeStalledAfter;
  }
  scheduler_ = std::make_unique<fetch::Scheduler>(scheduler);
  if (config.keeper_socket == kSystemdKeeper) {
    BANYAN_ASSIGN(keeper_, lazyfs::SystemdKeeper::Open());
  } else if (!config.keeper_socket.empty()) {
    BANYAN_ASSIGN(keeper_, lazyfs::KeeperClient::Connect(config.keeper_socket));
  }
  lazyfs::DeviceServer::Options server;
  server.mount_dir = root + "/devices";
  server.keeper = keeper_.get();
  server.resend = options_.resend;
  BANYAN_ASSIGN(devices_, lazyfs::DeviceServer::Start(std::move(server)));
  registries_ = std::make_unique<Registries>(config.registries);
  BANYAN_ASSIGN(documents_, Documents::Open(root, *store_, GetFirst()));
  BANYAN_TRY(JoinSwarms());
  layers_ = std::make_unique<LayerTable>(*store_, *scheduler_, *timer_, *devices_, peers_.get(), swarms_.get());
  BANYAN_ASSIGN(MountTable table, MountTable::Open(root + "/mounts"));
  mounts_ = std::make_unique<Mounts>(Mounts::Parts{.store = *store_,
                                                   .scheduler = *scheduler_,
                                                   .devices = *devices_,
                                                   .layers = *layers_,
                                                   .documents = *documents_,
                                                   .registries = *registries_,
                                                   .keeper = keeper_.get(),
                                                   .peers = peers_.get(),
                                                   .selinux_context = SelinuxContext(config.selinux_context)},
                                     std::move(table));
  starts_ = std::make_unique<StartLog>(*scheduler_);
  BANYAN_ASSIGN(images_, Images::Open(root, {.store = *store_,
                                             .scheduler = *scheduler_,
                                             .layers = *layers_,
                                             .documents = *documents_,
                                             .registries = *registries_,
                                             .mounts = *mounts_,
                                             .trust = trust_,
                                             .peers = peers_.get(),
                                             .swarms = swarms_.get(),
                                             .patience = config.read_timeout}));
  return {};
}

Documents::GetFirst Agent::GetFirst() {
  if (!peers_) return nullptr;
  return [this](const Digest& digest, uint64_t limit_bytes) { return peers_->GetBlob(digest, limit_bytes); };
}

// A swarm that cannot begin is no reason not to start: everything comes by the trees then.
Status Agent::JoinSwarms() {
  const Config& config = options_.config;
  if (!config.swarm.on()) return {};
  std::string token;
  if (!config.peer.token_file.empty()) {
    BANYAN_ASSIGN(token, ReadToken(config.peer.token_file));
  }
  auto swarms = Swarms::Start(
      {.config = config.swarm, .data_root = config.data_root, .token = std::move(token), .zone = config.peer.zone},
      {.store = *store_,
       .scheduler = *scheduler_,
       .documents = *documents_,
       .may_offer = [this](const Digest& blob) { return peers_->MayOffer(blob); },
       .announce = [this](proto::tree::SwarmAnnounce announce) { peers_->Announce(std::move(announce)); }});
  if (!swarms) {
    spdlog::error("no swarm: {}", swarms.error().message);
    return {};
  }
  swarms_ = std::move(*swarms);
  trust_.on_trusted = [this](const image_format::Artifact& artifact) { swarms_->Learn(artifact); };
  return {};
}

Status Agent::ServePeers() {
  if (!peers_) return {};
  preheats_ = std::make_unique<Preheats>(
      [this](const proto::tree::PreheatCommand& command, const Preheats::OnProgress& progress) {
        proto::agent::PrefetchRequest request;
        request.set_reference(command.reference());
        request.set_plain_http(command.plain_http());
        return images_->Prefetch(request, progress);
      });
  return peers_->Start(
      {.layers = *layers_,
       .scheduler = *scheduler_,
       .registries = *registries_,
       .executor = *executor_,
       .mirror = *mirror_,
       .store_usage = [this] { return store_->usage(); },
       .latest_starts = [this](size_t limit) { return starts_->Latest(limit); },
       .preheat = [this](const auto& command, auto send) { preheats_->Take(command, std::move(send)); },
       .on_manager =
           [this](const proto::tree::ManagerMessage& message) {
             if (swarms_) swarms_->OnManager(message);
           }});
}

Status Agent::ServeContainerd() {
  const Config& config = options_.config;
  if (config.snapshotter_socket.empty()) return {};
  const std::string snapshot_root = config.snapshotter_root.empty() ? config.data_root : config.snapshotter_root;
  container_images_ = std::make_unique<ContainerImages>(
      ContainerImages::Parts{.mounts = *mounts_,
                             .documents = *documents_,
                             .registries = *registries_,
                             .starts = *starts_,
                             .trust = trust_,
                             .peers = peers_.get(),
                             .store = *store_},
      ContainerImages::Options{
          .lookup_timeout = config.lookup_timeout,
          .form = config.form,
          .fill = config.fill,
          .read_ahead_kib = static_cast<uint32_t>(config.read_ahead.bytes / kKiB),
          .prefixes = {.root = snapshot_root + "/prefixes", .least_bytes = config.shared_prefix.bytes}});
  container_images_->SweepPrefixes();
  BANYAN_ASSIGN(snapshotter_, OpenAfterPredecessor([&] {
                  return snapshotter::Snapshotter::Open(
                      {.root = snapshot_root,
                       .images = container_images_.get(),
                       .on_prepared = [this](const std::string& directory) { starts_->Prepared(directory); }});
                }));
  BANYAN_TRY(MakeDirectories(std::filesystem::path(config.snapshotter_socket).parent_path().string(), 0711));
  BANYAN_ASSIGN(snapshots_rpc_, snapshotter::SnapshotService::Listen(*snapshotter_, config.snapshotter_socket));
  spdlog::info("snapshotter for containerd on {}, {} snapshots", config.snapshotter_socket, snapshotter_->count());
  return {};
}

Status Agent::ServeHttp() {
  const Config& config = options_.config;
  const auto listen = [this](const std::string& address, bool metrics_only) {
    return NodeHttp::Listen({.address = address,
                             .metrics_only = metrics_only,
                             .add_metrics = [this](MetricsPage& page) { AddMetrics(page); }},
                            *mirror_);
  };
  if (!config.mirror_address.empty()) {
    BANYAN_ASSIGN(http_, listen(config.mirror_address, false));
    spdlog::info("registry mirror and metrics on http://{}", http_->address());
  }
  if (!config.metrics_address.empty()) {
    BANYAN_ASSIGN(metrics_http_, listen(config.metrics_address, true));
    spdlog::info("metrics alone on http://{}", metrics_http_->address());
  }
  return {};
}

Agent::~Agent() {
  // What waits for a registry ends, so that calls under way do; reads only wait, and are tried again by the successor.
  if (registries_) registries_->Shutdown();
  http_.reset();
  metrics_http_.reset();
  snapshots_rpc_.reset();
  snapshotter_.reset();  // its thread unmounts through the images
  container_images_.reset();
  if (preheats_) preheats_->Stop();
  images_.reset();
  if (peers_) peers_->Stop();
  // Reads stop being answered before what answers them goes. A mount is in the kernel, not here: with a keeper it only
  // waits.
  if (devices_ && keeper_ && mounts_ && !mounts_->List().empty()) {
    devices_->Detach();
  } else if (devices_) {
    if (Status status = devices_->Stop(); !status) spdlog::warn("stop the device server: {}", status.error().message);
  }
  if (mounts_) mounts_->Forget();
}

// ---- Mounting by hand ----

Result<proto::agent::MountReply> Agent::Mount(const proto::agent::MountRequest& request) {
  const auto start = steady_clock::now();
  const auto wall_start = std::chrono::system_clock::now();
  const std::string directory = Normal(request.directory());
  if (directory.empty() || directory[0] != '/') {
    return Fail(Code::kInvalidArgument, fmt::format("mount directory '{}' is not absolute", request.directory()));
  }
  BANYAN_ASSIGN(const net::ImageReference reference, net::ImageReference::Parse(request.reference()));
  BANYAN_ASSIGN(const auto claim, mounts_->Claim(directory));

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
  BANYAN_TRY(lazyfs::ParseForm(record.form));
  BANYAN_ASSIGN(const Origins origins,
                registries_->Open(reference, {record.plain_http, record.credentials_file, record.ca_file}));

  proto::agent::MountReply reply;
  BANYAN_ASSIGN(const fetch::ResolvedImage image, images_->Resolve(origins, reference));
  record.manifest_digest = image.descriptor.digest;
  record.artifact_digest = *image.artifact_digest;
  record.map_digest = image.artifact->map_digest;
  if (request.want_config()) {
    BANYAN_ASSIGN(record.image_config,
                  documents_->Blob(origins, image.config_digest, image_format::kMaxImageConfigBytes));
  }
  reply.mutable_times()->set_resolved(MicrosSince(start));

  if (peers_) {
    peers_->JoinImage(record.manifest_digest, record.map_digest, reference,
                      {record.plain_http, record.credentials_file, record.ca_file});
  }
  ImageDocuments documents;
  documents.map_digest = record.map_digest;
  BANYAN_ASSIGN(documents.map, documents_->Map(origins, record.map_digest));
  const bool remembered = image.artifact->layers.empty();  // and checked then
  if (!remembered) BANYAN_TRY(image_format::CheckArtifactAgainstMap(*image.artifact, documents.map));
  reply.mutable_times()->set_map(MicrosSince(start));
  if (peers_) {
    peers_->AddImage(record.manifest_digest, documents.map, origins);
    peers_->Started(record.manifest_digest);
  }
  BANYAN_ASSIGN(documents.metadata_path, documents_->Metadata(origins, documents.map));
  reply.mutable_times()->set_metadata(MicrosSince(start));

  BANYAN_TRY(MakeDirectories(directory));
  BANYAN_ASSIGN(record, mounts_->Add(std::move(record), documents, origins));
  reply.mutable_times()->set_mounted(MicrosSince(start));
  reply.set_directory(directory);
  reply.set_form(record.form);
  reply.set_manifest_digest(record.manifest_digest.ToString());
  reply.set_artifact_digest(record.artifact_digest.ToString());
  reply.set_image_config(record.image_config);

  proto::agent::Start log;
  log.set_reference(record.reference);
  log.set_manifest_digest(reply.manifest_digest());
  log.set_directory(directory);
  log.set_began_unix_micros(UnixMicros(wall_start));
  log.set_resolved(reply.times().resolved());
  log.set_map(reply.times().map());
  log.set_metadata(reply.times().metadata());
  log.set_mounted(reply.times().mounted());
  if (const auto view = mounts_->Find(directory)) starts_->Mounted(std::move(log), start, view->layers);
  return reply;
}

Status Agent::Umount(const std::string& given, bool force) {
  const std::string directory = Normal(given);
  starts_->Unmounted(directory);
  return mounts_->Remove(directory, force);
}

void Agent::ReapOrphans() {
  for (const Mounts::View& view : mounts_->List()) {
    const std::string& owner = view.record.owner;
    if (owner.empty() || OwnerOf(static_cast<pid_t>(std::atol(owner.c_str()))) == owner) continue;
    spdlog::info("{}: the process that it was mounted for has gone", view.record.directory);
    (void)Umount(view.record.directory, true);  // Says itself why not.
  }
}

// ---- Questions ----

proto::agent::ListReply Agent::List() {
  proto::agent::ListReply reply;
  for (const Mounts::View& view : mounts_->List()) {
    proto::agent::MountInfo& info = *reply.add_mounts();
    info.set_reference(view.record.reference);
    info.set_directory(view.record.directory);
    info.set_form(view.record.form);
    uint64_t device_bytes = 0;
    uint64_t present_bytes = 0;
    for (const auto& layer : view.layers) {
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

  const auto view = mounts_->Find(Normal(directory));
  if (!view) return Fail(Code::kNotFound, fmt::format("{}: no image of this data root is mounted there", directory));
  struct Touch {
    fetch::Clock::time_point when;
    uint32_t device;
    ChunkIndex chunk;
  };
  std::vector<Touch> touches;
  uint64_t touched_bytes = 0;
  for (size_t i = 0; i < view->layers.size(); ++i) {
    const LiveLayer& layer = *view->layers[i];
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
  reply.set_blobs_checked(report.blobs_checked);
  for (const std::string& blob : report.bad_blobs) reply.add_bad_blobs(blob);
  return reply;
}

proto::agent::InfoReply Agent::Info() {
  proto::agent::InfoReply info;
  info.set_version(BANYAN_VERSION);
  info.set_pid(::getpid());
  info.set_started_unix_micros(UnixMicros(started_));
  info.set_data_root(options_.config.data_root);
  info.set_config_file(options_.config_file);
  info.set_snapshotter_socket(options_.config.snapshotter_socket);
  if (http_) info.set_mirror_address(http_->address());
  if (peers_) info.set_peer_address(peers_->address());
  info.set_keeper(keeper_ && keeper_->connected());
  const auto [form, reason] = mounts_->last_form();
  info.set_form(form);
  info.set_form_reason(reason);
  const store::StoreUsage usage = store_->usage();
  info.set_store_bytes(usage.blob_bytes + usage.device_bytes);
  info.set_budget_bytes(usage.budget_bytes);
  info.set_mounts(static_cast<uint32_t>(mount_count()));
  if (snapshotter_) info.set_snapshots(static_cast<uint32_t>(snapshotter_->count()));
  return info;
}

std::vector<KnownImage> Agent::ClaimedImages() const {
  std::vector<KnownImage> images;
  if (!snapshotter_) return images;
  for (const snapshotter::ClaimedSnapshot& claimed : snapshotter_->Claimed()) {
    const snapshotter::LazyChain& chain = claimed.chain;
    images.push_back({chain.image_reference, chain.manifest_digest, chain.artifact_digest, chain.map_digest});
  }
  return images;
}

proto::agent::ImagesReply Agent::ListImages() { return images_->List(ClaimedImages()); }

proto::agent::StartsReply Agent::Starts(uint32_t limit) {
  proto::agent::StartsReply reply;
  for (proto::agent::Start& start : starts_->Latest(limit == 0 ? kDefaultStarts : limit)) {
    *reply.add_starts() = std::move(start);
  }
  return reply;
}

Status Agent::Prefetch(const proto::agent::PrefetchRequest& request,
                       const std::function<bool(uint64_t, uint64_t)>& progress) {
  return images_->Prefetch(request, progress);
}

Status Agent::Pin(const std::string& name, bool pinned) { return images_->Pin(name, pinned, ClaimedImages()); }

Result<proto::agent::DropReply> Agent::Drop(const std::string& name) { return images_->Drop(name, ClaimedImages()); }

void Agent::Reload(const Config& config) {
  SetLogLevel(config.log_level);
  registries_->Configure(config.registries);
  if (peers_) peers_->SetEnabled(config.peer.enabled);
  if (Status status = trust_.Configure(config.trusted_keys, config.min_converter_version); !status) {
    spdlog::error("the trusted keys stay as they are: {}", status.error().message);
  }
  if (container_images_) container_images_->set_lookup_timeout(config.lookup_timeout);
}

void Agent::AddMetrics(MetricsPage& page) {
  page.Process(BANYAN_VERSION);
  const lazyfs::FuseSessionCounters session = devices_->counters();
  const fetch::Scheduler::Stats stats = scheduler_->stats();
  AddReadMetrics(session.reads, session.bytes, stats, page);
  AddFetchMetrics(stats, page);
  AddKeeperMetrics(keeper_.get(), page);
  store::AddMetrics(store_->usage(), page);
  page.Counter("banyan_artifacts_refused_total", "Artifacts that no trusted key signed, or of a revoked converter.",
               static_cast<double>(trust_.refused()));
  page.Gauge("banyan_mounts", "Images mounted.", static_cast<double>(mount_count()));
  if (peers_) peers_->AddMetrics(page);
  if (swarms_) swarms_->AddMetrics(page);
  if (snapshotter_) {
    page.Gauge("banyan_snapshots", "Snapshots kept for containerd.", static_cast<double>(snapshotter_->count()));
  }
}

}  // namespace banyan::peer_agent
