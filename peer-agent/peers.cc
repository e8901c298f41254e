#include "peer-agent/peers.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/settings.h"
#include "fetch/forked_source.h"
#include "fetch/ladder_source.h"
#include "fetch/stripes.h"
#include "fetch/tree_source.h"
#include "fetch/verifying_source.h"
#include "net/auth.h"
#include "net/repository.h"

namespace banyan::peer_agent {

namespace {

using std::chrono::milliseconds;

constexpr uint32_t kProtocol = 1;
// What a start waits for the trees at most: an answer of the manager takes its batch of 20 ms and two ways.
constexpr milliseconds kAssignmentPatience{400};
// In a burst, what is asked of the proxy before the trees stand is sent twice by it.
constexpr milliseconds kQuiet{100};
constexpr milliseconds kSettlePatience{400};
// A start asks several times whether its image may be shared, and each answer costs its registry a request.
constexpr std::chrono::minutes kPrivateLasts{5};
constexpr size_t kMaxPrivate = 4096;
constexpr milliseconds kBlobPatience{30'000};
constexpr milliseconds kSaveAgain{500};
constexpr size_t kStartsLookedAt = 16;

proto::tree::PeerReport::Kind KindOf(fetch::PeerFault fault) {
  switch (fault) {
    case fetch::PeerFault::kUnreachable:
      return proto::tree::PeerReport::UNREACHABLE;
    case fetch::PeerFault::kBadBytes:
      return proto::tree::PeerReport::BAD_BYTES;
    case fetch::PeerFault::kSlow:
      return proto::tree::PeerReport::SLOW;
    case fetch::PeerFault::kLied:
      return proto::tree::PeerReport::LIED;
  }
  return proto::tree::PeerReport::UNKNOWN;
}

std::string NodeName(const PeerConfig& config) {
  if (!config.node.empty()) return config.node;
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? std::string(name.data()) : std::string("node");
}

}  // namespace

Result<std::unique_ptr<Peers>> Peers::Open(Options options, fetch::Timer& timer) {
  std::string token;
  if (!options.config.token_file.empty()) {
    auto read = ReadToken(options.config.token_file);
    if (!read) return Fail(read.error().WithContext("peer.token_file"));
    token = std::move(*read);
  } else {
    spdlog::warn("no peer.token_file: whoever reaches {} can read the images that this node shares",
                 options.config.address);
  }
  return std::unique_ptr<Peers>(new Peers(std::move(options), std::move(token), timer));
}

Peers::Peers(Options options, std::string token, fetch::Timer& timer)
    : options_(std::move(options)),
      token_(std::move(token)),
      node_(NodeName(options_.config)),
      timer_(timer),
      downlink_(std::make_shared<fetch::RateLimit>(options_.config.downlink.bytes)) {
  enabled_ = options_.config.enabled;
  TreeClient::Options tree;
  tree.manager = options_.config.manager;
  tree.token = token_;
  tree.hello = [this] { return MakeHello(); };
  tree.heartbeat = [this] { return MakeHeartbeat(); };
  tree.on_message = [this](const proto::tree::ManagerMessage& message) { OnMessage(message); };
  tree.on_tick = [this] { return Tick(); };
  tree_ = std::make_unique<TreeClient>(std::move(tree));
  functions_ =
      std::make_shared<Functions>(node_, options_.data_root + "/trees.pb", blob_functions_,
                                  [this](proto::tree::NodeMessage message) { tree_->Send(std::move(message)); });
  functions_->on_due = [this] { tree_->Wake(); };
  functions_->SetNodeSwitch(enabled_);
  functions_->Load();
  http_ = std::make_unique<net::HttpClient>(net::HttpClientOptions{.max_idle_per_peer = 16});
  fetch::PeerClient::Options client;
  client.http = http_.get();
  client.timer = &timer_;
  client.waits = &chunk_waits_;
  client.reports = this;
  client.node = node_;
  client.token = token_;
  client_ = std::make_unique<fetch::PeerClient>(std::move(client));
  PeerBlobsOptions blobs;
  blobs.node = node_;
  blobs.token = token_;
  blobs.routes = [this](const std::string& function) { return functions_->RoutesOf(function); };
  blobs.health = &client_->health();
  blobs.waits = &blob_waits_;
  blobs.reports = this;
  blobs_ = std::make_unique<PeerBlobs>(std::move(blobs));
}

Peers::~Peers() { Stop(); }

// ---- Life ----

Status Peers::Start(Parts parts) {
  parts_.emplace(parts);
  functions_->Attach(parts.layers, parts.scheduler);
  BANYAN_TRY(StartServer());
  return {};
}

Status Peers::StartServer() {
  BANYAN_ASSIGN(const HostPort listen, ParseHostPort(options_.config.address));
  PeerServerOptions server;
  server.address = listen.host;
  server.port = listen.port;
  server.token = token_;
  server.uplink.bytes_per_second = options_.config.uplink.bytes;
  server.uplink.fill_bytes_per_second =
      options_.config.uplink_fill.bytes != 0 ? options_.config.uplink_fill.bytes : options_.config.uplink.bytes / 4;
  server.whole_blobs = [this](net::HttpRequest request, const std::shared_ptr<net::HttpReply>& reply) {
    ServeWhole(std::move(request), reply);
  };
  server.chunk_waits = &chunk_waits_;
  server.blob_waits = &blob_waits_;
  BANYAN_ASSIGN(server_, PeerServer::Start(std::move(server), *functions_, timer_, parts_->executor));
  server_->SetServing(enabled_);
  address_ = HostPort{listen.host, server_->port()}.ToString();
  functions_->on_layers = [this] { server_->LayersChanged(); };
  tree_->Start();
  spdlog::info("peers of '{}' are served on {}", node_, address_);
  return {};
}

void Peers::Stop() {
  tree_->Stop();
  server_.reset();
  functions_->Detach();
}

void Peers::SetEnabled(bool enabled) {
  if (enabled_.exchange(enabled) == enabled) return;
  spdlog::info("peers are switched {}", enabled ? "on" : "off");
  functions_->SetNodeSwitch(enabled);
  if (server_) server_->SetServing(enabled);
}

// ---- Images ----

// Everything this node got without credentials, anybody can get. Where it has credentials, the repository is asked
// whether it would have done without.
bool Peers::MayShare(const std::string& function, const net::ImageReference& reference,
                     const Registries::Access& access) {
  if (reference.transport != net::ImageReference::Transport::kDocker) return false;
  if (options_.config.allow_private || !parts_) return true;
  if (!parts_->registries.HasCredentials(reference, access)) return true;
  const auto now = std::chrono::steady_clock::now();
  {
    const std::lock_guard lock(private_mutex_);
    std::erase_if(private_, [&](const auto& entry) { return entry.second <= now; });
    if (private_.contains(function)) return false;
  }
  const Status readable = parts_->registries.CheckAnonymous(reference, access);
  if (readable) return true;
  spdlog::info("{} is not shared with peers: it cannot be read without credentials ({})", reference.ToString(),
               readable.error().message);
  const std::lock_guard lock(private_mutex_);
  if (private_.size() < kMaxPrivate) private_[function] = now + kPrivateLasts;
  return false;
}

void Peers::JoinImage(const Digest& manifest, const Digest& map_digest, const net::ImageReference& reference,
                      const Registries::Access& access) {
  const std::string function = manifest.ToString();
  if (!functions_->IsJoined(function) && !MayShare(function, reference, access)) return;
  if (options_.by_tree && !options_.by_tree(reference)) {
    const std::lock_guard lock(offered_mutex_);
    offered_images_.insert(manifest);
    return;
  }
  blob_functions_.Add(map_digest, function);
  functions_->Join(function, reference.ToString());
  if (tree_->connected()) functions_->WaitForRoutes(function, kAssignmentPatience);
}

void Peers::WaitUntilSettled(const Digest& manifest) {
  if (tree_->connected()) functions_->WaitUntilSettled(manifest.ToString(), kQuiet, kSettlePatience);
}

void Peers::AddImage(const Digest& manifest, const image_format::ImageMap& map, const Origins& origins) {
  functions_->AddImage(manifest.ToString(), map, origins);
  const std::lock_guard lock(offered_mutex_);
  if (!offered_images_.contains(manifest)) return;
  for (const image_format::Device& device : map.devices) offered_layers_.insert(device.blob_digest);
}

bool Peers::MayOffer(const Digest& blob) {
  {
    const std::lock_guard lock(offered_mutex_);
    if (offered_layers_.contains(blob)) return true;
  }
  return !functions_->FunctionOfLayer(blob).empty();
}

void Peers::Started(const Digest& manifest) {
  functions_->Started(manifest.ToString());
  start_reports_.Begun(std::chrono::steady_clock::now());
}
void Peers::Leave(const Digest& manifest) { functions_->Leave(manifest.ToString()); }
void Peers::LeaveAll() { functions_->LeaveAll(); }

// ---- Fetching ----

std::shared_ptr<fetch::ChunkSource> Peers::SourceOf(const image_format::Device& device,
                                                    std::shared_ptr<fetch::ChunkSource> origins,
                                                    std::function<bool(ChunkIndex)> brought) {
  std::shared_ptr<fetch::ChunkSource> source = std::make_shared<fetch::TreeSource>(
      *client_, [this, blob = device.blob_digest] { return functions_->RoutesOfLayer(blob); }, origins);
  if (brought) {
    auto straight = std::make_shared<fetch::LadderSource>(
        std::vector<std::shared_ptr<fetch::ChunkSource>>{std::make_shared<fetch::VerifyingSource>(std::move(origins)),
                                                         source},
        timer_);
    source = std::make_shared<fetch::ForkedSource>(std::move(source), std::move(straight), std::move(brought));
  }
  source = std::make_shared<MeteredSource>(std::move(source), feeds_,
                                           [this](const Digest& blob) { return functions_->FunctionOfLayer(blob); });
  if (downlink_->unlimited()) return source;
  return std::make_shared<fetch::LimitedSource>(std::move(source), downlink_, timer_);
}

// Two lanes, whatever the manager says now: with one stripe both go the same way. The layers of a function have the
// same parents and share their windows; a function whose parents are slow holds up no other.
fetch::LanePlan Peers::LanesOf(const image_format::Device& device) {
  constexpr uint8_t kLanes = 2;
  return {.lanes = kLanes,
          .of = fetch::AssignStripes(device.chunks, device.blob_digest, kLanes),
          .group = std::hash<std::string>()(functions_->FunctionOfLayer(device.blob_digest))};
}

Result<mirror::BlobAsk> Peers::AskOf(const std::string& function, const Digest& digest) {
  const std::string text = functions_->ReferenceOf(function);
  if (text.empty()) return Fail(Code::kNotFound, "not in the trees of " + function);
  BANYAN_ASSIGN(const net::ImageReference reference, net::ImageReference::Parse(text));
  return mirror::BlobAsk{.upstream = reference.host, .repository = reference.repository, .digest = digest};
}

Result<std::string> Peers::GetBlob(const Digest& digest, uint64_t limit_bytes) {
  const auto function = blob_functions_.Find(digest);
  if (!function || !parts_ || !functions_->IsJoined(*function)) {
    return Fail(Code::kNotFound, fmt::format("blob {} is of no function of this node", digest.ToString()));
  }
  BANYAN_ASSIGN(const mirror::BlobAsk ask, AskOf(*function, digest));
  const net::HttpHandler handler = [this](net::HttpRequest request, std::shared_ptr<net::HttpReply> reply) {
    parts_->mirror.Handle(std::move(request), std::move(reply));
  };
  return GetBlobFrom(handler, ask, limit_bytes, kBlobPatience);
}

// ---- The mirror ----

// A raw blob that containerd asks the mirror for: its image's trees are joined now.
void Peers::JoinRaw(const mirror::BlobAsk& ask) {
  const auto function = blob_functions_.Find(ask.digest);
  if (!function || functions_->IsJoined(*function)) return;
  net::ImageReference reference;
  reference.host = ask.upstream;
  reference.repository = ask.repository;
  if (const auto digest = Digest::Parse(*function)) reference.digest = *digest;
  if (!MayShare(*function, reference, {})) return;
  functions_->Join(*function, reference.ToString());
  if (tree_->connected()) functions_->WaitForRoutes(*function, kAssignmentPatience);
}

mirror::Hooks Peers::MirrorHooks() {
  mirror::Hooks hooks;
  hooks.on_manifest = [this](const mirror::ResolvedManifest& resolved) { blob_functions_.OnManifest(resolved); };
  hooks.open_blob_first = [this](const mirror::BlobAsk& ask, uint64_t offset) -> Result<net::OpenedBlob> {
    JoinRaw(ask);
    const auto function = blob_functions_.Find(ask.digest);
    if (!function) return Fail(Code::kNotFound, "of no function");
    return blobs_->Open(*function, ask, offset);
  };
  hooks.on_bad_blob = [this](const mirror::BlobAsk& ask) { blobs_->OnBadBlob(ask.digest); };
  return hooks;
}

// The peer's word on where the blob comes from does not count: this node knows its function's repository.
void Peers::ServeWhole(net::HttpRequest request, const std::shared_ptr<net::HttpReply>& reply) {
  const std::string* function = request.headers.Find("banyan-function");
  const std::string_view path = request.path();
  const size_t slash = path.rfind('/');
  const auto digest = Digest::Parse(path.substr(slash == std::string_view::npos ? path.size() : slash + 1));
  const auto ask = function != nullptr && digest ? AskOf(*function, *digest)
                                                 : Result<mirror::BlobAsk>(Fail(Code::kNotFound, "no such blob"));
  if (!ask) return reply->Send({.status = 404, .headers = {}, .body = std::string()});
  request.target = fmt::format("/v2/{}/blobs/{}?ns={}", ask->repository, ask->digest.ToString(), ask->upstream);
  parts_->mirror.Handle(std::move(request), reply);
}

// ---- The session with the manager ----

proto::tree::Hello Peers::MakeHello() {
  proto::tree::Hello hello;
  hello.set_node(node_);
  hello.set_zone(options_.config.zone);
  const std::string& advertise = options_.config.advertise;
  if (const auto listen = ParseHostPort(advertise.empty() ? address_ : advertise)) {
    if (!listen->is_any()) hello.set_address(listen->host);
    hello.set_port(listen->port);
  }
  hello.set_version(options_.version);
  hello.set_weight(static_cast<uint32_t>(options_.config.weight));
  hello.set_leaf_only(options_.config.leaf_only);
  hello.set_uplink_bytes_per_second(options_.config.uplink.bytes);
  hello.set_protocol(kProtocol);
  for (proto::tree::Join& join : functions_->Joins()) *hello.add_functions() = std::move(join);
  return hello;
}

proto::tree::Heartbeat Peers::MakeHeartbeat() {
  proto::tree::Heartbeat beat;
  const PeerServerStats served = server_->stats();
  beat.set_uplink_bytes_per_second(served.bytes_per_second);
  beat.set_uplink_full(served.full);
  uint64_t received = 0;
  for (const auto& [source, counters] : parts_->scheduler.stats().sources) {
    if (source != "store" && source != "reuse") received += counters.compressed_bytes;
  }
  const auto now = std::chrono::steady_clock::now();
  const double seconds = std::chrono::duration<double>(now - std::exchange(beat_, now)).count();
  const uint64_t fresh = received - std::exchange(received_, received);
  beat.set_downlink_bytes_per_second(static_cast<uint64_t>(static_cast<double>(fresh) / std::max(seconds, 0.1)));
  for (proto::tree::Holding& holding : functions_->TakeHoldings()) *beat.add_holdings() = std::move(holding);
  for (proto::tree::Feed& feed : feeds_->Take(now)) *beat.add_feeds() = std::move(feed);
  if (parts_->store_usage) {
    const store::StoreUsage usage = parts_->store_usage();
    beat.set_store_bytes(usage.blob_bytes + usage.device_bytes);
    beat.set_store_budget_bytes(usage.budget_bytes);
  }
  ReportStarts(now);
  return beat;
}

// Of functions that are shared: the names of others are nobody's business.
void Peers::ReportStarts(std::chrono::steady_clock::time_point now) {
  if (!parts_->latest_starts || !start_reports_.Following(now)) return;
  for (proto::tree::StartReport& report : start_reports_.Take(parts_->latest_starts(kStartsLookedAt))) {
    if (!functions_->IsJoined(report.function())) continue;
    proto::tree::NodeMessage message;
    *message.mutable_start() = std::move(report);
    tree_->Send(std::move(message));
  }
}

// A slow disk must not hold up the beats. What changes while it is written calls again.
std::chrono::steady_clock::time_point Peers::Tick() {
  const auto next = functions_->Tick();
  if (!functions_->dirty()) return next;
  if (saving_->exchange(true)) return std::min(next, std::chrono::steady_clock::now() + kSaveAgain);
  parts_->executor.Post([functions = functions_, saving = saving_] {
    functions->Save();
    *saving = false;
  });
  return next;
}

void Peers::OnMessage(const proto::tree::ManagerMessage& message) {
  if (message.has_welcome()) functions_->SetFleetSwitch(message.welcome().settings().peer_to_peer());
  if (message.has_settings()) functions_->SetFleetSwitch(message.settings().peer_to_peer());
  if (message.has_assignments()) functions_->Apply(message.assignments());
  if (message.has_profile()) functions_->Apply(message.profile());
  if (message.has_holders()) functions_->Apply(message.holders());
  if (parts_ && parts_->on_manager) parts_->on_manager(message);
  if (message.has_preheat() && parts_ && parts_->preheat) {
    parts_->preheat(message.preheat(), [this](proto::tree::PreheatReport report) {
      proto::tree::NodeMessage answer;
      *answer.mutable_preheat() = std::move(report);
      tree_->Send(std::move(answer));
    });
  }
}

void Peers::Report(const std::string& function, const std::string& node, fetch::PeerFault fault,
                   const std::string& detail) {
  faults_.Count(node, fault);
  spdlog::warn("peer {}: {}: {}", node, PeerFaults::NameOf(fault), detail);
  proto::tree::NodeMessage message;
  message.mutable_report()->set_function(function);
  message.mutable_report()->set_peer(node);
  message.mutable_report()->set_kind(KindOf(fault));
  message.mutable_report()->set_detail(detail);
  tree_->Send(std::move(message));
}

void Peers::Announce(proto::tree::SwarmAnnounce announce) {
  proto::tree::NodeMessage message;
  *message.mutable_swarms() = std::move(announce);
  tree_->Send(std::move(message));
}

void Peers::AddMetrics(MetricsPage& page) const {
  const Functions::Counts counts = functions_->counts();
  page.Gauge("banyan_peer_functions", "Functions whose trees this node is in.", static_cast<double>(counts.joined));
  page.Gauge("banyan_peer_functions_fed", "Of them, those where a peer feeds this node.",
             static_cast<double>(counts.with_parent));
  page.Counter("banyan_peer_assignments_total", "Assignments obeyed.", static_cast<double>(counts.assignments));
  page.Gauge("banyan_peer_profile_chunks", "Chunks in start-up profiles.", static_cast<double>(counts.profile_chunks));
  page.Gauge("banyan_peer_session", "1: in session with the tree-manager.", tree_->connected() ? 1 : 0);
  page.Gauge("banyan_peer_to_peer", "1: peers are used.", functions_->peer_to_peer() ? 1 : 0);
  faults_.AddMetrics(page);
  server_->AddMetrics(page);
}

}  // namespace banyan::peer_agent
