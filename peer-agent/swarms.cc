#include "peer-agent/swarms.h"

#include <fnmatch.h>

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/settings.h"
#include "image-format/torrent.h"

namespace banyan::peer_agent {
namespace {

constexpr std::chrono::milliseconds kTick{250};
// The tracker and the first peers get so long before what they lack is asked for elsewhere.
constexpr std::chrono::milliseconds kFirstSupply{1000};
constexpr size_t kSuppliedAtOnce = 4;  // pieces
// For so long no piece that is others' to bring has appeared: they do not bring them.
constexpr std::chrono::seconds kOrphaned{3};
constexpr ChunkIndex kRaisedAhead = 32;
// Whether a layer may be offered is known soon after its image is.
constexpr std::chrono::seconds kOfferKnown{3};
constexpr size_t kMostPeersTold = 4096;  // in one message
// Then the scheduler fills the layer as well.
constexpr std::chrono::seconds kStalled{30};

bool MatchesAny(const std::vector<std::string>& globs, const std::string& name) {
  return std::any_of(globs.begin(), globs.end(),
                     [&](const std::string& glob) { return ::fnmatch(glob.c_str(), name.c_str(), 0) == 0; });
}

Transport Parse(const std::string& word) {
  if (word == "swarm") return Transport::kSwarm;
  return word == "hybrid" ? Transport::kHybrid : Transport::kTree;
}

swarm::Encryption EncryptionOf(const std::string& word) {
  if (word == "require") return swarm::Encryption::kRequire;
  return word == "prefer" ? swarm::Encryption::kPrefer : swarm::Encryption::kOff;
}

// Of `swarm.address`; empty when that is all of the node's.
std::string AddressToTell(const std::string& address) {
  const auto listen = ParseHostPort(address);
  return listen && !listen->is_any() && IsIpAddress(listen->host) ? listen->host : std::string();
}

std::string NoteKey(const Digest& blob) { return "torrent/" + blob.Hex(); }

bool AreHere(const store::StoredLayer& layer, ChunkRange chunks) {
  for (ChunkIndex chunk = chunks.begin; chunk < chunks.end; ++chunk) {
    if (!layer.HasCompressed(chunk)) return false;
  }
  return true;
}

bool IsWhole(const store::StoredLayer& layer) { return AreHere(layer, {0, layer.device().chunks.size()}); }

}  // namespace

Transport TransportOf(const SwarmConfig& config, const std::string& repository) {
  if (MatchesAny(config.tree_images, repository)) return Transport::kTree;
  if (MatchesAny(config.hybrid_images, repository)) return Transport::kHybrid;
  if (MatchesAny(config.swarm_images, repository)) return Transport::kSwarm;
  return Parse(config.transport);
}

Swarms::Swarms(Options options, Parts parts)
    : options_(std::move(options)),
      parts_(std::move(parts)),
      own_address_(AddressToTell(options_.config.address)),
      random_(std::random_device{}()) {}

Result<std::unique_ptr<Swarms>> Swarms::Start(Options options, Parts parts) {
  const SwarmConfig& config = options.config;
  swarm::SessionOptions session;
  session.listen = config.address;
  session.announce_url = config.tracker + TrackerPath(options.token) + "/announce";
  if (!options.zone.empty()) session.announce_url += "?zone=" + options.zone;
  session.stage_directory = options.data_root + "/swarm";
  session.upload_bytes_per_second = config.uplink.bytes;
  session.download_bytes_per_second = config.downlink.bytes;
  session.max_connections = static_cast<uint32_t>(config.connections);
  session.max_connections_per_blob = static_cast<uint32_t>(config.connections_per_layer);
  session.upload_slots = static_cast<uint32_t>(config.upload_slots);
  session.encryption = EncryptionOf(config.encryption);
  std::unique_ptr<Swarms> swarms(new Swarms(std::move(options), std::move(parts)));
  BANYAN_ASSIGN(swarms->session_, swarm::Session::Start(std::move(session)));
  swarms->thread_ = std::thread([self = swarms.get()] { self->Run(); });
  return swarms;
}

Swarms::~Swarms() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Swarms::Learn(const image_format::Artifact& artifact) {
  for (const image_format::ArtifactTorrent& torrent : artifact.torrents) {
    const Status noted = parts_.store.PutNote(NoteKey(torrent.blob_digest), torrent.torrent_digest.Hex());
    if (!noted) spdlog::debug("swarm: torrent of {}: {}", torrent.blob_digest.ToString(), noted.error().message);
  }
}

bool Swarms::Carries(const Origins& origins) const {
  return !origins.empty() && TransportOf(options_.config, origins.back()->name()) != Transport::kTree;
}

bool Swarms::Use(const std::shared_ptr<store::StoredLayer>& stored, const std::shared_ptr<fetch::LazyLayer>& lazy,
                 const Origins& origins, Whole whole) {
  if (!Carries(origins)) return false;
  const Digest& blob = stored->device().blob_digest;
  const std::lock_guard lock(mutex_);
  Layer& layer = layers_[blob];
  layer.stored = stored;
  layer.lazy = lazy;
  layer.origins = origins;
  layer.whole = std::max(layer.whole, whole);
  layer.end = Clock::time_point::max();
  layer.used = Clock::now();
  if (layer.state == State::kGivenUp) return false;
  wake_.notify_all();
  return true;
}

void Swarms::Leave(const Digest& blob) {
  const std::lock_guard lock(mutex_);
  const auto found = layers_.find(blob);
  if (found == layers_.end()) return;
  found->second.lazy.reset();
  found->second.origins.clear();
  found->second.end = Clock::now() + options_.config.seed_time;
}

bool Swarms::Brings(const Digest& blob) const {
  const std::lock_guard lock(mutex_);
  const auto found = layers_.find(blob);
  return found != layers_.end() && found->second.whole != Whole::kNobody && found->second.state != State::kGivenUp;
}

std::function<bool(ChunkIndex)> Swarms::SuppliesOf(const Digest& blob) const {
  return [supplies = supplies_, blob](ChunkIndex chunk) {
    const std::lock_guard lock(supplies->mutex);
    const auto found = supplies->chunks.find(blob);
    if (found == supplies->chunks.end()) return false;
    return std::any_of(found->second.begin(), found->second.end(),
                       [chunk](ChunkRange chunks) { return chunks.begin <= chunk && chunk < chunks.end; });
  };
}

void Swarms::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    std::vector<Digest> blobs;
    for (const auto& [blob, layer] : layers_) blobs.push_back(blob);
    lock.unlock();
    for (const Digest& blob : blobs) Tick(blob);
    Announce();
    lock.lock();
    if (!stopping_) wake_.wait_for(lock, kTick);
  }
}

void Swarms::Announce() {
  if (!parts_.announce) return;
  std::map<std::string, bool> swarms;
  for (const swarm::BlobProgress& blob : session_->Progress()) {
    if (blob.trouble.empty()) swarms[std::string(blob.info_hash.raw())] = blob.complete;
  }
  auto announce = announcer_.Due(swarms, Clock::now());
  if (!announce) return;
  announce->set_address(own_address_);
  announce->set_port(session_->stats().listening ? session_->port() : 0);
  announce->set_peer_id(session_->peer_id());
  parts_.announce(std::move(*announce));
}

void Swarms::OnManager(const proto::tree::ManagerMessage& message) {
  if (message.has_welcome()) return announcer_.Reset();
  if (!message.has_swarm_peers()) return;
  announcer_.SetInterval(std::chrono::seconds(message.swarm_peers().interval_seconds()));
  std::map<std::string, Digest> blobs;
  for (const swarm::BlobProgress& blob : session_->Progress())
    blobs.emplace(std::string(blob.info_hash.raw()), blob.blob);
  size_t left = kMostPeersTold;
  for (const auto& swarm : message.swarm_peers().swarms()) {
    const auto blob = blobs.find(swarm.info_hash());
    if (blob == blobs.end()) continue;
    for (const auto& peer : swarm.peers()) {
      if (left-- == 0) return;
      if (peer.port() == 0 || peer.port() > UINT16_MAX) continue;
      session_->AddPeer(blob->second, peer.address(), static_cast<uint16_t>(peer.port()));
    }
  }
}

void Swarms::Tick(const Digest& blob) {
  Layer layer;
  {
    const std::lock_guard lock(mutex_);
    const auto found = layers_.find(blob);
    if (found == layers_.end()) return;
    if (Clock::now() >= found->second.end) {
      layers_.erase(found);
      session_->Remove(blob);
      StopSupplying(blob);
      return;
    }
    layer = found->second;
  }
  switch (layer.state) {
    case State::kWaiting:
      if (layer.lazy == nullptr || (layer.whole == Whole::kNobody && !IsWhole(*layer.stored))) return;
      if (parts_.may_offer(blob)) return Join(blob, std::move(layer));
      if (Clock::now() - layer.used > kOfferKnown) GiveUp(blob, "its image is not shared with other nodes");
      return;
    case State::kGivenUp:
      return;
    case State::kIn:
      if (layer.lazy == nullptr || layer.whole == Whole::kNobody) return;
      RaiseTouched(blob, layer);
      Supply(blob, std::move(layer));
  }
}

Result<image_format::Torrent> Swarms::TorrentOf(const Layer& layer) {
  const image_format::Device& device = layer.stored->device();
  BANYAN_ASSIGN(const std::string hex, parts_.store.GetNote(NoteKey(device.blob_digest)));
  BANYAN_ASSIGN(const Digest digest, Digest::FromHex(hex));
  BANYAN_ASSIGN(const std::string metainfo,
                parts_.documents.Blob(layer.origins, digest, image_format::kMaxTorrentBytes));
  return image_format::ReadTorrent(metainfo, device.blob_digest, device.blob_bytes);
}

void Swarms::Join(const Digest& blob, Layer layer) {
  const auto torrent = TorrentOf(layer);
  if (!torrent) return GiveUp(blob, torrent.error().message);
  const Status added = session_->Add(layer.stored, *torrent);
  if (!added) return GiveUp(blob, added.error().message);
  const std::lock_guard lock(mutex_);
  const auto found = layers_.find(blob);
  if (found == layers_.end()) return;
  found->second.state = State::kIn;
  found->second.joined = found->second.last_progress = Clock::now();
}

// The ordinary way does it.
void Swarms::GiveUp(const Digest& blob, const std::string& why) {
  spdlog::info("layer {} does not travel by swarm: {}", blob.ToString(), why);
  std::shared_ptr<fetch::LazyLayer> lazy;
  {
    const std::lock_guard lock(mutex_);
    ++given_up_;
    const auto found = layers_.find(blob);
    if (found == layers_.end()) return;
    found->second.state = State::kGivenUp;
    if (found->second.whole == Whole::kScheduler) lazy = found->second.lazy;
  }
  StopSupplying(blob);
  if (lazy != nullptr) parts_.scheduler.Fill(*lazy);
}

void Swarms::StopSupplying(const Digest& blob) {
  const std::lock_guard lock(supplies_->mutex);
  supplies_->chunks.erase(blob);
}

void Swarms::RaiseTouched(const Digest& blob, const Layer& layer) {
  const auto touches = parts_.scheduler.FirstTouches(*layer.lazy);
  const ChunkIndex chunks = layer.stored->device().chunks.size();
  for (size_t i = layer.touches; i < touches.size(); ++i) {
    const ChunkIndex first = touches[i].chunk;
    session_->Raise(blob, {first, std::min(chunks, first + kRaisedAhead)});
  }
  const std::lock_guard lock(mutex_);
  if (const auto found = layers_.find(blob); found != layers_.end()) found->second.touches = touches.size();
}

// What is to be asked of the layer's source from now on, besides what is.
std::vector<ChunkRange> Swarms::Choose(Layer& layer, swarm::Lack lack, Clock::time_point now) {
  const auto asked = [&layer](ChunkRange chunks) {
    return std::find(layer.supplying.begin(), layer.supplying.end(), chunks) != layer.supplying.end();
  };
  if (layer.lacking != lack.others.size()) {
    layer.lacking = lack.others.size();
    layer.lacking_since = now;
  }
  std::vector<ChunkRange> wanted = std::move(lack.ours);
  std::erase_if(wanted, asked);
  if (wanted.empty() && now - layer.lacking_since > kOrphaned && layer.lacking > 0) {
    // All nodes of the swarm may do this at the same time: at the end one of all.
    const double share = static_cast<double>(layer.lacking) / std::max<double>(1, lack.swarm_nodes);
    if (std::uniform_real_distribution<>(0, 1)(random_) > share) return {};
    wanted = std::move(lack.others);
    std::erase_if(wanted, asked);
    std::shuffle(wanted.begin(), wanted.end(), random_);
  }
  wanted.resize(std::min(wanted.size(), kSuppliedAtOnce - std::min(kSuppliedAtOnce, layer.supplying.size())));
  return wanted;
}

void Swarms::Supply(const Digest& blob, Layer layer) {
  const auto now = Clock::now();
  const auto progress = fetch::Scheduler::ProgressOf(*layer.lazy);
  if (progress.missing_bytes == 0) return StopSupplying(blob);
  const uint64_t here = progress.bytes - progress.missing_bytes;
  if (here != layer.last_bytes) {
    layer.last_bytes = here;
    layer.last_progress = now;
  } else if (now - layer.last_progress > kStalled) {
    session_->Remove(blob);
    return GiveUp(blob, fmt::format("nothing has come for {} s", kStalled.count()));
  }
  std::erase_if(layer.supplying, [&](ChunkRange chunks) { return AreHere(*layer.stored, chunks); });
  uint64_t bytes = 0;
  if (now - layer.joined >= kFirstSupply) {
    for (const ChunkRange& chunks : Choose(layer, session_->Lacking(blob), now)) {
      layer.supplying.push_back(chunks);
      for (ChunkIndex chunk = chunks.begin; chunk < chunks.end; ++chunk) {
        if (!layer.stored->HasCompressed(chunk)) bytes += layer.stored->device().chunks[chunk].compressed_bytes;
      }
    }
  }
  std::vector<fetch::Scheduler::PrefetchItem> items;
  for (const ChunkRange& chunks : layer.supplying) {
    for (ChunkIndex chunk = chunks.begin; chunk < chunks.end; ++chunk) items.push_back({layer.lazy, chunk, true});
  }
  {
    const std::lock_guard lock(mutex_);
    supplied_bytes_ += bytes;
    const auto found = layers_.find(blob);
    if (found == layers_.end()) return;
    found->second.last_bytes = layer.last_bytes;
    found->second.last_progress = layer.last_progress;
    found->second.supplying = layer.supplying;
    found->second.lacking = layer.lacking;
    found->second.lacking_since = layer.lacking_since;
  }
  {
    const std::lock_guard lock(supplies_->mutex);
    supplies_->chunks[blob] = std::move(layer.supplying);
  }
  parts_.scheduler.Prefetch(items);  // those that are here or under way are skipped; those that failed are tried again
}

void Swarms::AddMetrics(MetricsPage& page) const {
  const swarm::SessionStats stats = session_->stats();
  const auto counter = [&page](const char* name, const char* help, uint64_t value) {
    page.Counter(name, help, static_cast<double>(value));
  };
  counter("banyan_swarm_downloaded_bytes_total", "Payload from peers of swarms.", stats.downloaded_bytes);
  counter("banyan_swarm_uploaded_bytes_total", "Payload to peers of swarms.", stats.uploaded_bytes);
  counter("banyan_swarm_failed_bytes_total", "Bytes of pieces that did not pass their check.", stats.failed_bytes);
  counter("banyan_swarm_redundant_bytes_total", "Bytes from swarms that were here already.", stats.redundant_bytes);
  counter("banyan_swarm_committed_bytes_total", "Bytes of chunks that swarms brought into the store.",
          stats.committed_bytes);
  counter("banyan_swarm_failures_total", "Failures of the swarm that were contained.", stats.failures);
  page.Gauge("banyan_swarm_connections", "Connections to peers of swarms.", static_cast<double>(stats.connections));
  page.Gauge("banyan_swarm_listening", "Whether peers of swarms can call this node.", stats.listening ? 1 : 0);
  const std::lock_guard lock(mutex_);
  counter("banyan_swarm_supplied_bytes_total", "Bytes asked of proxy or tree because no peer of a swarm had them.",
          supplied_bytes_);
  counter("banyan_swarm_given_up_total", "Layers that were to travel by swarm and did not.", given_up_);
  page.Gauge("banyan_swarm_layers", "Layers that are offered or fetched by swarm.",
             static_cast<double>(layers_.size()));
}

}  // namespace banyan::peer_agent
