#include "swarm/session.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <map>
#include <thread>
#include <utility>

#include <fmt/format.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wpedantic"
#include <boost/asio/post.hpp>
#include <libtorrent/alert_types.hpp>
#include <libtorrent/ip_filter.hpp>
#include <libtorrent/peer_info.hpp>
#include <libtorrent/session.hpp>
#include <libtorrent/session_params.hpp>
#include <libtorrent/settings_pack.hpp>
#include <libtorrent/torrent_info.hpp>
#include <libtorrent/torrent_status.hpp>
#pragma GCC diagnostic pop

#include "common/file_io.h"
#include "common/log.h"
#include "common/mutex.h"
#include "swarm/blob_disk.h"
#include "swarm/blob_stage.h"
#include "swarm/bringers.h"

namespace banyan::swarm {
namespace {

namespace lt = libtorrent;
using image_format::Torrent;
using SteadyClock = std::chrono::steady_clock;

constexpr uint32_t kOfferedATick = 64;
constexpr uint32_t kMostDoublings = 5;
constexpr std::chrono::seconds kGoodbye{3};

lt::settings_pack SettingsOf(const SessionOptions& options, const std::string& peer_id) {
  lt::settings_pack settings;
  settings.set_str(lt::settings_pack::user_agent, "banyan/0.1");
  settings.set_str(lt::settings_pack::peer_fingerprint, peer_id);  // all of it: libtorrent adds nothing
  settings.set_str(lt::settings_pack::listen_interfaces, options.listen);
  for (const auto off :
       {lt::settings_pack::enable_dht, lt::settings_pack::enable_lsd, lt::settings_pack::enable_upnp,
        lt::settings_pack::enable_natpmp, lt::settings_pack::enable_incoming_utp,
        lt::settings_pack::enable_outgoing_utp,
        // It would refuse a tracker on loopback whose path does not begin with /announce; ours has a passkey there.
        lt::settings_pack::ssrf_mitigation}) {
    settings.set_bool(off, false);
  }
  settings.set_bool(lt::settings_pack::allow_multiple_connections_per_ip, true);  // nodes behind one address, labs
  settings.set_int(lt::settings_pack::connections_limit, static_cast<int>(options.max_connections));
  settings.set_int(lt::settings_pack::unchoke_slots_limit, static_cast<int>(options.upload_slots));
  settings.set_int(lt::settings_pack::upload_rate_limit, static_cast<int>(options.upload_bytes_per_second));
  settings.set_int(lt::settings_pack::download_rate_limit, static_cast<int>(options.download_bytes_per_second));
  settings.set_int(lt::settings_pack::stop_tracker_timeout, 1);
  settings.set_int(lt::settings_pack::min_reconnect_time, 5);
  settings.set_int(lt::settings_pack::alert_mask,
                   lt::alert_category::error | lt::alert_category::storage | lt::alert_category::status);
  const int policy = options.encryption == Encryption::kOff       ? lt::settings_pack::pe_disabled
                     : options.encryption == Encryption::kRequire ? lt::settings_pack::pe_forced
                                                                  : lt::settings_pack::pe_enabled;
  settings.set_int(lt::settings_pack::in_enc_policy, policy);
  settings.set_int(lt::settings_pack::out_enc_policy, policy);
  return settings;
}

// By default libtorrent puts private addresses into a class without limits; here all are private.
lt::ip_filter OneClass() {
  constexpr uint32_t kGlobal = 1U << static_cast<uint32_t>(lt::session::global_peer_class_id);
  lt::ip_filter filter;
  filter.add_rule(lt::make_address_v4("0.0.0.0"), lt::make_address_v4("255.255.255.255"), kGlobal);
  filter.add_rule(lt::make_address_v6("::"), lt::make_address_v6("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), kGlobal);
  return filter;
}

}  // namespace

struct Session::Impl {
  // One layer's swarm.
  struct Blob {
    std::shared_ptr<store::StoredLayer> layer;
    Torrent torrent;
    std::shared_ptr<BlobStage> stage;  // null while it is out
    lt::torrent_handle handle;
    std::vector<bool> offered;  // pieces that came by other ways and that libtorrent was told of
    std::string trouble;
    uint32_t failures = 0;
    SteadyClock::time_point retry = SteadyClock::time_point::max();
    BlobProgress progress;
    SessionStats seen;  // of this handle
    uint32_t swarm_nodes = 0;
  };

  explicit Impl(SessionOptions session_options)
      : options(std::move(session_options)), table(std::make_shared<StageTable>()) {}

  void RunNetwork();
  void RunTicks();
  void Tick();
  void ReadAlerts();
  Status Enter(Blob& blob) BANYAN_REQUIRES(mutex);
  void TickBlob(Blob& blob, SteadyClock::time_point now) BANYAN_REQUIRES(mutex);
  void Offer(Blob& blob, const lt::torrent_status& status) BANYAN_REQUIRES(mutex);
  void TakeOut(Blob& blob, const std::string& why) BANYAN_REQUIRES(mutex);
  void Leave(Blob& blob) BANYAN_REQUIRES(mutex);
  void Count(Blob& blob, const lt::torrent_status& status) BANYAN_REQUIRES(mutex);
  std::vector<std::string> AgentsOf(const Blob& blob) const BANYAN_REQUIRES(mutex);
  // Runs what may throw.
  template <typename Call>
  Status Guard(std::string_view what, Call call);

  const SessionOptions options;
  const std::string peer_id = MakeAgentId();
  const std::shared_ptr<StageTable> table;
  lt::io_context network;
  std::atomic<uint64_t> failures{0};
  std::atomic<bool> listening{false};
  std::unique_ptr<lt::session> session;  // set by Start(), reset by the destructor
  std::thread network_thread;
  std::thread tick_thread;

  mutable Mutex mutex;
  std::condition_variable wake;
  bool stopping BANYAN_GUARDED_BY(mutex) = false;
  bool network_ended BANYAN_GUARDED_BY(mutex) = false;
  std::map<Digest, Blob> blobs BANYAN_GUARDED_BY(mutex);
  SessionStats totals BANYAN_GUARDED_BY(mutex);
};

template <typename Call>
Status Session::Impl::Guard(std::string_view what, Call call) {
  try {
    call();
    return {};
  } catch (const std::exception& error) {
    ++failures;
    spdlog::warn("swarm: {}: {}", what, error.what());
    return Fail(Code::kInternal, fmt::format("swarm: {}: {}", what, error.what()));
  }
}

void Session::Impl::RunNetwork() {
  while (true) {
    if (Guard("libtorrent's network thread", [this] { network.run(); })) break;
  }
  const MutexLock lock(mutex);
  network_ended = true;
  wake.notify_all();
}

void Session::Impl::RunTicks() {
  MutexLock lock(mutex);
  while (!stopping) {
    const auto next = SteadyClock::now() + kTick;
    while (!stopping && SteadyClock::now() < next) lock.WaitUntil(wake, next);
    if (stopping) return;
    lock.Unlock();
    (void)Guard("tick", [this] { Tick(); });
    lock.Lock();
  }
}

void Session::Impl::Tick() {
  ReadAlerts();
  const MutexLock lock(mutex);
  const auto now = SteadyClock::now();
  for (auto& [digest, blob] : blobs) {
    const Status ticked = Guard("a torrent's tick", [&, this]() BANYAN_REQUIRES(mutex) { TickBlob(blob, now); });
    if (!ticked) TakeOut(blob, ticked.error().message);
  }
}

void Session::Impl::ReadAlerts() {
  std::vector<lt::alert*> alerts;
  session->pop_alerts(&alerts);
  for (const lt::alert* alert : alerts) {
    if (lt::alert_cast<lt::listen_succeeded_alert>(alert) != nullptr) listening = true;
    if (lt::alert_cast<lt::listen_failed_alert>(alert) != nullptr) {
      ++failures;
      spdlog::warn("swarm: {}; it goes on without being called", alert->message());
    } else if (lt::alert_cast<lt::session_error_alert>(alert) != nullptr) {
      ++failures;
      spdlog::warn("swarm: {}", alert->message());
    } else if (alert->category() & lt::alert_category::error) {
      spdlog::debug("swarm: {}", alert->message());
    }
  }
}

Status Session::Impl::Enter(Blob& blob) {
  BANYAN_ASSIGN(blob.stage, BlobStage::Open(blob.layer, blob.torrent, options.stage_directory));
  table->Put(blob.stage);
  lt::error_code error;
  lt::add_torrent_params params;
  const std::string& metainfo = blob.torrent.metainfo;
  params.ti = std::make_shared<lt::torrent_info>(
      lt::span<const char>(metainfo.data(), static_cast<ptrdiff_t>(metainfo.size())), error, lt::from_span);
  const bool same = !error && params.ti->total_size() == static_cast<int64_t>(blob.layer->device().blob_bytes) &&
                    params.ti->info_hashes().has_v1() &&
                    params.ti->info_hashes().v1.to_string() == blob.torrent.info_hash.raw();
  if (!same) {
    return Fail(Code::kInvalidArgument,
                fmt::format("torrent of blob {}: {}", blob.layer->device().blob_digest.ToString(),
                            error ? error.message() : "libtorrent reads something else in it"));
  }
  if (!options.announce_url.empty()) params.trackers.push_back(options.announce_url);
  params.save_path = "/";  // of no meaning: the stage is found by info-hash
  params.flags = lt::torrent_flags::disable_dht | lt::torrent_flags::disable_lsd | lt::torrent_flags::disable_pex |
                 lt::torrent_flags::update_subscribe;
  params.max_connections = static_cast<int>(options.max_connections_per_blob);
  params.have_pieces.resize(static_cast<int>(blob.stage->pieces()), false);
  blob.offered.assign(blob.stage->pieces(), false);
  for (uint32_t piece = 0; piece < blob.stage->pieces(); ++piece) {
    if (!blob.stage->InStore(piece)) continue;
    params.have_pieces.set_bit(lt::piece_index_t(static_cast<int>(piece)));
    blob.offered[piece] = true;
  }
  blob.handle = session->add_torrent(std::move(params), error);
  if (error) return Fail(Code::kInternal, "libtorrent takes no torrent: " + error.message());
  blob.trouble.clear();
  return {};
}

void Session::Impl::TickBlob(Blob& blob, SteadyClock::time_point now) {
  if (blob.stage == nullptr) {
    if (now < blob.retry) return;
    const Status entered = Enter(blob);
    if (!entered) TakeOut(blob, entered.error().message);
    return;
  }
  const lt::torrent_status status = blob.handle.status(lt::torrent_handle::query_pieces);
  Count(blob, status);
  if (status.errc) return TakeOut(blob, status.errc.message());
  // libtorrent would offer it on, and hang up on whoever asks.
  if (blob.stage->lost()) return TakeOut(blob, "a chunk that was offered has been evicted");
  Offer(blob, status);
}

void Session::Impl::Offer(Blob& blob, const lt::torrent_status& status) {
  uint32_t offered = 0;
  BlobProgress& progress = blob.progress;
  progress.have_bytes = 0;
  for (uint32_t piece = 0; piece < blob.stage->pieces(); ++piece) {
    const lt::piece_index_t index(static_cast<int>(piece));
    const ByteRange range = blob.stage->RangeOf(piece);
    if (index < status.pieces.end_index() && status.pieces.get_bit(index)) {
      progress.have_bytes += range.size();
      continue;
    }
    if (blob.offered[piece] || offered == kOfferedATick || !blob.stage->InStore(piece)) continue;
    // The bytes are passed over by the stage, which has the piece.
    blob.handle.add_piece(index, std::vector<char>(range.size()), {});
    blob.offered[piece] = true;
    ++offered;
  }
  progress.complete = progress.have_bytes == progress.blob_bytes;
  if (progress.complete) blob.failures = 0;
}

void Session::Impl::Count(Blob& blob, const lt::torrent_status& status) {
  const auto more = [](uint64_t& total, uint64_t& seen, int64_t now) {
    const auto value = static_cast<uint64_t>(std::max<int64_t>(now, 0));
    if (value > seen) total += value - seen;
    seen = std::max(seen, value);
  };
  more(totals.downloaded_bytes, blob.seen.downloaded_bytes, status.total_payload_download);
  more(totals.uploaded_bytes, blob.seen.uploaded_bytes, status.total_payload_upload);
  more(totals.failed_bytes, blob.seen.failed_bytes, status.total_failed_bytes);
  more(totals.redundant_bytes, blob.seen.redundant_bytes, status.total_redundant_bytes);
  more(totals.committed_bytes, blob.seen.committed_bytes, static_cast<int64_t>(blob.stage->committed_bytes()));
  blob.progress.peers = static_cast<uint32_t>(std::max(status.num_peers, 0));
  // -1: the tracker has not said.
  blob.swarm_nodes = static_cast<uint32_t>(std::max(status.num_complete, 0) + std::max(status.num_incomplete, 0));
  blob.progress.download_bytes_per_second = static_cast<uint64_t>(std::max(status.download_payload_rate, 0));
  blob.progress.upload_bytes_per_second = static_cast<uint64_t>(std::max(status.upload_payload_rate, 0));
}

void Session::Impl::Leave(Blob& blob) {
  if (blob.handle.is_valid()) (void)Guard("removing a torrent", [&] { session->remove_torrent(blob.handle); });
  blob.handle = {};
  table->Erase(blob.torrent.info_hash);
  blob.stage.reset();
  blob.seen = {};
}

void Session::Impl::TakeOut(Blob& blob, const std::string& why) {
  Leave(blob);
  ++failures;
  const auto wait = options.retry_after * (1U << std::min(blob.failures++, kMostDoublings));
  blob.retry = SteadyClock::now() + wait;
  blob.trouble = why;
  blob.progress.peers = 0;
  spdlog::warn("swarm: blob {}: {}; again in {} ms", blob.progress.blob.ToString(), why, wait.count());
}

Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<Session>> Session::Start(SessionOptions options) {
  BANYAN_TRY(MakeDirectories(options.stage_directory, 0700));
  auto impl = std::make_unique<Impl>(std::move(options));
  Impl& self = *impl;
  std::unique_ptr<Session> session(new Session(std::move(impl)));
  BANYAN_TRY(self.Guard("starting libtorrent", [&self] {
    lt::session_params params(SettingsOf(self.options, self.peer_id), std::vector<std::shared_ptr<lt::plugin>>());
    params.disk_io_constructor = [table = self.table](lt::io_context& network, const lt::settings_interface&,
                                                      lt::counters&) -> std::unique_ptr<lt::disk_interface> {
      return std::make_unique<BlobDisk>(network, table);
    };
    self.session = std::make_unique<lt::session>(std::move(params), self.network);
  }));
  self.network_thread = std::thread([&self] { self.RunNetwork(); });
  BANYAN_TRY(self.Guard("limits of peers", [&self] { self.session->set_peer_class_filter(OneClass()); }));
  self.tick_thread = std::thread([&self] { self.RunTicks(); });
  return session;
}

Session::~Session() {
  {
    const MutexLock lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->wake.notify_all();
  if (impl_->tick_thread.joinable()) impl_->tick_thread.join();
  {
    const MutexLock lock(impl_->mutex);
    impl_->blobs.clear();
  }
  if (impl_->session == nullptr) return;
  lt::session_proxy ending;  // what the network thread still works on
  (void)impl_->Guard("ending libtorrent", [&, this] {
    ending = impl_->session->abort();
    impl_->session.reset();
  });
  if (!impl_->network_thread.joinable()) return;
  // It ends when libtorrent has nothing more to do.
  {
    MutexLock lock(impl_->mutex);
    const auto limit = SteadyClock::now() + kGoodbye;
    while (!impl_->network_ended && SteadyClock::now() < limit) lock.WaitUntil(impl_->wake, limit);
    if (!impl_->network_ended) {
      // What it works on cannot be taken away from under it.
      spdlog::error("swarm: libtorrent does not end, and is left behind");
      impl_->network_thread.detach();
      new lt::session_proxy(std::move(ending));
      lock.Unlock();
      (void)impl_.release();
      return;
    }
  }
  impl_->network_thread.join();
}

Status Session::Add(std::shared_ptr<store::StoredLayer> layer, const Torrent& torrent) {
  const Digest digest = layer->device().blob_digest;
  BANYAN_ASSIGN(Torrent checked, image_format::ReadTorrent(torrent.metainfo, digest, layer->device().blob_bytes));
  const MutexLock lock(impl_->mutex);
  if (impl_->blobs.contains(digest)) return {};
  Impl::Blob blob;
  blob.progress.blob = digest;
  blob.progress.info_hash = checked.info_hash;
  blob.progress.blob_bytes = layer->device().blob_bytes;
  blob.layer = std::move(layer);
  blob.torrent = std::move(checked);
  Status entered;
  const Status guarded =
      impl_->Guard("adding a torrent", [&, this]() BANYAN_REQUIRES(impl_->mutex) { entered = impl_->Enter(blob); });
  if (!guarded || !entered) {
    impl_->Leave(blob);
    return guarded ? entered : guarded;
  }
  impl_->blobs.emplace(digest, std::move(blob));
  return {};
}

void Session::Remove(const Digest& blob) {
  const MutexLock lock(impl_->mutex);
  const auto found = impl_->blobs.find(blob);
  if (found == impl_->blobs.end()) return;
  impl_->Leave(found->second);
  impl_->blobs.erase(found);
}

bool Session::Has(const Digest& blob) const {
  const MutexLock lock(impl_->mutex);
  return impl_->blobs.contains(blob);
}

void Session::Raise(const Digest& blob, ChunkRange chunks) {
  const MutexLock lock(impl_->mutex);
  const auto found = impl_->blobs.find(blob);
  if (found == impl_->blobs.end() || found->second.stage == nullptr || chunks.empty()) return;
  const Impl::Blob& entry = found->second;
  const auto table = entry.layer->device().chunks.chunks();
  if (chunks.end > table.size()) return;
  const uint64_t begin = table[chunks.begin].compressed_offset;
  const uint64_t end = table[chunks.end - 1].blob_range().end;
  (void)impl_->Guard("raising pieces", [&] {
    for (uint64_t piece = begin / image_format::kPieceBytes; piece * image_format::kPieceBytes < end; ++piece) {
      if (entry.stage->InStore(static_cast<uint32_t>(piece))) continue;
      entry.handle.piece_priority(lt::piece_index_t(static_cast<int>(piece)), lt::top_priority);
    }
  });
}

Lack Session::Lacking(const Digest& blob) const {
  Lack lack;
  const MutexLock lock(impl_->mutex);
  const auto found = impl_->blobs.find(blob);
  if (found == impl_->blobs.end() || found->second.stage == nullptr) return lack;
  const Impl::Blob& entry = found->second;
  lack.swarm_nodes = entry.swarm_nodes;
  (void)impl_->Guard("counting pieces", [&] {
    std::vector<int> availability;  // empty for a seed
    entry.handle.piece_availability(availability);
    const Bringers bringers(impl_->peer_id, impl_->AgentsOf(entry), entry.swarm_nodes, entry.stage->pieces());
    for (uint32_t piece = 0; piece < availability.size(); ++piece) {
      if (availability[piece] != 0 || entry.stage->Has(piece)) continue;
      (bringers.IsOurs(piece) ? lack.ours : lack.others).push_back(entry.stage->ChunksOf(piece));
    }
  });
  return lack;
}

std::vector<std::string> Session::Impl::AgentsOf(const Blob& blob) const {
  std::vector<lt::peer_info> peers;
  blob.handle.get_peer_info(peers);
  std::vector<std::string> agents;
  for (const lt::peer_info& peer : peers) {
    if (peer.flags & (lt::peer_info::connecting | lt::peer_info::handshake)) continue;
    std::string id = peer.pid.to_string();
    if (IsAgentId(id)) agents.push_back(std::move(id));
  }
  return agents;
}

void Session::AddPeer(const Digest& blob, const std::string& address, uint16_t port) {
  const MutexLock lock(impl_->mutex);
  const auto found = impl_->blobs.find(blob);
  if (found == impl_->blobs.end() || found->second.stage == nullptr) return;
  (void)impl_->Guard("adding a peer",
                     [&] { found->second.handle.connect_peer(lt::tcp::endpoint(lt::make_address(address), port)); });
}

std::vector<BlobProgress> Session::Progress() const {
  const MutexLock lock(impl_->mutex);
  std::vector<BlobProgress> all;
  for (const auto& [digest, blob] : impl_->blobs) {
    all.push_back(blob.progress);
    all.back().trouble = blob.trouble;
  }
  return all;
}

SessionStats Session::stats() const {
  const MutexLock lock(impl_->mutex);
  SessionStats stats = impl_->totals;
  stats.failures = impl_->failures;
  stats.listening = impl_->listening;
  for (const auto& [digest, blob] : impl_->blobs) stats.connections += blob.progress.peers;
  return stats;
}

uint16_t Session::port() const {
  uint16_t port = 0;
  (void)impl_->Guard("asking for the port", [&] { port = impl_->session->listen_port(); });
  return port;
}

void Session::OnNetwork(std::function<void()> job) { boost::asio::post(impl_->network, std::move(job)); }

const std::string& Session::peer_id() const { return impl_->peer_id; }

}  // namespace banyan::swarm
