#include "peer-agent/functions.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/file_io.h"

namespace banyan::peer_agent {

namespace {

constexpr size_t kMaxFunctions = 1024;
constexpr uint64_t kMaxStateBytes = 64 << 20;
constexpr std::chrono::seconds kRefreshUse{60};
constexpr std::chrono::seconds kStartLasts{60};
// After a restart: how long an assignment is kept for an image that nobody has mounted again.
constexpr std::chrono::seconds kRestoreLasts{60};
constexpr size_t kTouchesAMessage = 4096;
constexpr std::chrono::steady_clock::duration kTouchesOften = std::chrono::milliseconds(100);
constexpr std::chrono::steady_clock::duration kTouchesSeldom = std::chrono::milliseconds(400);
// Of what the manager says; it says less.
constexpr size_t kMaxHolders = 16;
constexpr size_t kMaxSpares = 16;
constexpr int kMaxStripes = 2;
constexpr int kMaxProfileChunks = 1 << 18;

fetch::PeerAddress AddressOf(const proto::tree::Peer& peer) {
  return {peer.node(), peer.address(), static_cast<uint16_t>(peer.port())};
}

bool IsNewer(const proto::tree::Assignment& a, const proto::tree::Assignment& b) {
  return std::make_pair(a.epoch(), a.version()) > std::make_pair(b.epoch(), b.version());
}

bool HasSameParents(const proto::tree::Assignment& a, const proto::tree::Assignment& b) {
  return std::equal(a.stripes().begin(), a.stripes().end(), b.stripes().begin(), b.stripes().end(),
                    [](const auto& one, const auto& other) { return one.parent().node() == other.parent().node(); });
}

}  // namespace

Functions::Functions(std::string node, std::string state_file, BlobFunctions& blobs, Send send)
    : node_(std::move(node)), state_file_(std::move(state_file)), blobs_(blobs), send_(std::move(send)) {}

Functions::~Functions() { Detach(); }

// ---- Life ----

void Functions::Load() {
  const auto text = ReadFile(state_file_, kMaxStateBytes);
  if (!text) return;
  proto::tree::Hello state;
  if (!state.ParseFromString(*text)) {
    spdlog::warn("{}: damaged; the trees are joined anew", state_file_);
    return;
  }
  const std::lock_guard lock(mutex_);
  loaded_ = Clock::now();
  for (const proto::tree::Join& join : state.functions()) {
    Entry& entry = entries_[join.function()];
    entry.reference = join.reference();
    entry.assignment = join.known();
    entry.used = loaded_;
    BuildRoutes(join.function(), entry);
  }
}

void Functions::Attach(LayerTable& layers, fetch::Scheduler& scheduler) {
  const std::lock_guard lock(mutex_);
  layers_ = &layers;
  scheduler_ = &scheduler;
}

void Functions::Detach() {
  std::vector<std::shared_ptr<LiveLayer>> released;
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(detached_, true)) return;
    for (auto& [function, entry] : entries_) {
      for (auto& [blob, held] : entry.layers) released.push_back(std::move(held.live));
      entry.layers.clear();
      entry.routes = nullptr;
    }
    by_layer_.clear();
    changed_.notify_all();
  }
  Release(std::move(released));
}

void Functions::Release(std::vector<std::shared_ptr<LiveLayer>> layers) {
  for (auto& layer : layers) layers_->Release(std::move(layer));
}

std::vector<std::shared_ptr<LiveLayer>> Functions::Erase(Entries::iterator found) {
  std::vector<std::shared_ptr<LiveLayer>> released;
  for (auto& [blob, held] : found->second.layers) {
    released.push_back(std::move(held.live));
    auto& functions = by_layer_[blob];
    std::erase(functions, found->first);
    if (functions.empty()) by_layer_.erase(blob);
  }
  entries_.erase(found);
  SetDirty();
  return released;
}

// ---- Joining and leaving ----

proto::tree::Join Functions::JoinOf(const std::string& function, const Entry& entry) const {
  proto::tree::Join join;
  join.set_function(function);
  join.set_reference(entry.reference);
  join.set_present_permille(PermilleOf(entry));
  if (entry.assignment.epoch() != 0) *join.mutable_known() = entry.assignment;
  return join;
}

void Functions::SendJoin(const std::string& function, Entry& entry) {
  entry.join_sent = Clock::now();
  proto::tree::NodeMessage message;
  *message.mutable_join() = JoinOf(function, entry);
  send_(std::move(message));
}

void Functions::SendLeave(const std::string& function) {
  proto::tree::NodeMessage message;
  message.mutable_leave()->set_function(function);
  send_(std::move(message));
}

void Functions::Join(const std::string& function, const std::string& reference) {
  const std::lock_guard lock(mutex_);
  if (!On()) return;
  const auto found = entries_.find(function);
  if (found != entries_.end()) {
    found->second.used = Clock::now();
    if (std::exchange(found->second.wanted, true)) return;
    return SendJoin(function, found->second);
  }
  if (entries_.size() >= kMaxFunctions) {
    spdlog::warn("{} joins no trees: this node is in those of {} functions", reference, entries_.size());
    return;
  }
  Entry& entry = entries_[function];
  entry.reference = reference;
  entry.used = Clock::now();
  SendJoin(function, entry);
}

bool Functions::WaitForRoutes(const std::string& function, std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  const auto here = [&] {
    const auto found = entries_.find(function);
    return !On() || found == entries_.end() || found->second.routes != nullptr;
  };
  changed_.wait_for(lock, timeout, here);
  const auto found = entries_.find(function);
  return found != entries_.end() && found->second.routes != nullptr;
}

void Functions::WaitUntilSettled(const std::string& function, std::chrono::milliseconds quiet,
                                 std::chrono::milliseconds most) {
  const auto end = Clock::now() + most;
  std::unique_lock lock(mutex_);
  while (true) {
    const auto found = entries_.find(function);
    if (!On() || found == entries_.end()) return;
    const auto settled = std::min(found->second.parents_changed + quiet, end);
    if (settled <= Clock::now()) return;
    changed_.wait_until(lock, settled);
  }
}

void Functions::AddImage(const std::string& function, const image_format::ImageMap& map, const Origins& origins) {
  blobs_.Add(map.metadata_blob_digest, function);
  std::vector<const image_format::Device*> missing;
  {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(function);
    if (found == entries_.end() || layers_ == nullptr || detached_) return;
    // First of all: what is acquired below asks for its routes.
    for (const image_format::Device& device : map.devices) {
      auto& functions = by_layer_[device.blob_digest];
      if (std::find(functions.begin(), functions.end(), function) == functions.end()) functions.push_back(function);
      if (!found->second.layers.contains(device.blob_digest)) missing.push_back(&device);
    }
  }
  std::vector<std::pair<Digest, Held>> acquired;
  for (const image_format::Device* device : missing) {
    auto live = layers_->Acquire(*device, origins, Whole::kNobody);
    if (!live) {
      spdlog::warn("layer {} is not shared with peers: {}", device->blob_digest.ToString(), live.error().message);
      continue;
    }
    auto relay = fetch::Scheduler::RelayOf((*live)->lazy);
    acquired.emplace_back(device->blob_digest, Held{std::move(*live), std::move(relay)});
  }
  std::vector<std::shared_ptr<LiveLayer>> unwanted;
  {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(function);
    const bool gone = found == entries_.end() || detached_;
    for (auto& [blob, held] : acquired) {
      if (gone || found->second.layers.contains(blob)) {
        unwanted.push_back(std::move(held.live));
        continue;
      }
      found->second.blob_bytes += held.live->stored->device().chunks.blob_bytes();
      found->second.layers.emplace(blob, std::move(held));
    }
    if (!gone) {
      found->second.has_map = true;
      found->second.next_touches = Clock::now();
      found->second.touches_interval = kTouchesOften;
      Due();
      if (Clock::now() - found->second.started < kStartLasts) PrefetchProfile(found->second);
    }
  }
  Release(std::move(unwanted));
  if (on_layers) on_layers();
}

void Functions::Started(const std::string& function) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(function);
  if (found == entries_.end()) return;
  found->second.started = Clock::now();
  found->second.used = found->second.started;
  found->second.next_touches = found->second.started;
  found->second.touches_interval = kTouchesOften;
  PrefetchProfile(found->second);
  Due();
}

void Functions::Leave(const std::string& function) {
  std::vector<std::shared_ptr<LiveLayer>> released;
  {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(function);
    if (found == entries_.end()) return;
    SendLeave(function);
    released = Erase(found);
  }
  Release(std::move(released));
}

void Functions::LeaveAll() {
  std::vector<std::string> functions;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [function, entry] : entries_) functions.push_back(function);
  }
  for (const std::string& function : functions) Leave(function);
}

// ---- Routes ----

void Functions::BuildRoutes(const std::string& function, Entry& entry) {
  if (entry.assignment.stripes().empty()) {
    entry.routes = nullptr;
    return;
  }
  auto routes = std::make_shared<fetch::Routes>();
  routes->function = function;
  routes->profile = entry.profile;
  routes->holders = entry.holders;
  const int stripes = std::min(entry.assignment.stripes_size(), kMaxStripes);
  for (int i = 0; i < stripes; ++i) {
    const proto::tree::StripeParents& assigned = entry.assignment.stripes(i);
    fetch::Routes::Stripe& stripe = routes->stripes.emplace_back();
    if (assigned.has_parent()) stripe.parent = AddressOf(assigned.parent());
    stripe.children = assigned.children();
    for (const proto::tree::Peer& spare : assigned.spares()) {
      if (spare.node() != node_ && stripe.spares.size() < kMaxSpares) stripe.spares.push_back(AddressOf(spare));
    }
  }
  entry.routes = std::move(routes);
}

std::shared_ptr<const fetch::Routes> Functions::RoutesOf(const std::string& function) {
  const std::lock_guard lock(mutex_);
  if (!On()) return nullptr;
  const auto found = entries_.find(function);
  if (found == entries_.end()) return nullptr;
  found->second.used = Clock::now();
  if (!std::exchange(found->second.wanted, true)) SendJoin(function, found->second);
  return found->second.routes;
}

std::shared_ptr<const fetch::Routes> Functions::RoutesOfLayer(const Digest& blob) {
  std::vector<std::string> functions;
  {
    const std::lock_guard lock(mutex_);
    const auto found = by_layer_.find(blob);
    if (!On() || found == by_layer_.end()) return nullptr;
    functions = found->second;
  }
  for (const std::string& function : functions) {
    if (auto routes = RoutesOf(function)) return routes;
  }
  return nullptr;
}

std::string Functions::FunctionOfLayer(const Digest& blob) const {
  const std::lock_guard lock(mutex_);
  const auto found = by_layer_.find(blob);
  return found == by_layer_.end() || found->second.empty() ? std::string() : found->second.front();
}

std::string Functions::ReferenceOf(const std::string& function) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(function);
  return found == entries_.end() ? std::string() : found->second.reference;
}

void Functions::Apply(const proto::tree::Assignments& assignments) {
  std::vector<std::shared_ptr<LiveLayer>> released;
  {
    const std::lock_guard lock(mutex_);
    for (const proto::tree::Assignment& assignment : assignments.assignments()) {
      const auto found = entries_.find(assignment.function());
      if (found == entries_.end() || detached_) continue;
      Entry& entry = found->second;
      if (!IsNewer(assignment, entry.assignment)) continue;
      ++assignments_;
      SetDirty();
      if (!HasSameParents(assignment, entry.assignment)) entry.parents_changed = Clock::now();
      entry.assignment = assignment;
      BuildRoutes(found->first, entry);
      if (!assignment.stripes().empty()) continue;
      entry.wanted = false;
      // Layers that are mounted stay known, so that their next read joins again.
      const bool in_use = std::any_of(entry.layers.begin(), entry.layers.end(),
                                      [&](const auto& held) { return !layers_->IsSole(*held.second.live); });
      if (in_use) continue;
      for (auto& layer : Erase(found)) released.push_back(std::move(layer));
    }
    changed_.notify_all();
  }
  Release(std::move(released));
}

void Functions::Apply(const proto::tree::Holders& holders) {
  std::vector<fetch::PeerAddress> peers;
  for (const proto::tree::Peer& peer : holders.peers()) {
    if (peers.size() < kMaxHolders && peer.node() != node_) peers.push_back(AddressOf(peer));
  }
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(holders.function());
  if (found == entries_.end() || detached_) return;
  found->second.holders = std::move(peers);
  if (found->second.routes) BuildRoutes(found->first, found->second);
}

void Functions::Apply(const proto::tree::Profile& profile) {
  auto set = std::make_shared<fetch::ProfileSet>();
  std::vector<std::pair<Digest, ChunkIndex>> order;
  std::vector<std::optional<Digest>> blobs;
  for (const std::string& text : profile.chunks().blobs()) {
    const auto digest = Digest::Parse(text);
    blobs.push_back(digest ? std::optional<Digest>(*digest) : std::nullopt);
  }
  const int count = std::min({profile.chunks().blob_size(), profile.chunks().chunk_size(), kMaxProfileChunks});
  for (int i = 0; i < count; ++i) {
    const uint32_t blob = profile.chunks().blob(i);
    const ChunkIndex chunk = profile.chunks().chunk(i);
    if (blob >= blobs.size() || !blobs[blob] || chunk >= image_format::kMaxChunks) continue;
    set->Add(*blobs[blob], chunk);
    order.emplace_back(*blobs[blob], chunk);
  }
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(profile.function());
  if (found == entries_.end() || profile.version() <= found->second.profile_version) return;
  Entry& entry = found->second;
  entry.profile_version = profile.version();
  // In a burst the profile lags behind its readers: what it does not have yet is not rare, and goes by tree.
  entry.profile = profile.provisional() ? nullptr : std::move(set);
  entry.profile_order = std::move(order);
  BuildRoutes(found->first, entry);
  if (Clock::now() - entry.started < kStartLasts) PrefetchProfile(entry);
}

void Functions::PrefetchProfile(Entry& entry) {
  if (scheduler_ == nullptr || detached_ || entry.profile_order.empty()) return;
  std::vector<fetch::Scheduler::PrefetchItem> items;
  for (const auto& [blob, chunk] : entry.profile_order) {
    const auto layer = entry.layers.find(blob);
    if (layer != entry.layers.end()) items.push_back({layer->second.live->lazy, chunk});
  }
  scheduler_->Prefetch(items);
}

void Functions::SetFleetSwitch(bool on) {
  const std::lock_guard lock(mutex_);
  fleet_on_ = on;
  changed_.notify_all();
}

void Functions::SetNodeSwitch(bool on) {
  const std::lock_guard lock(mutex_);
  if (std::exchange(node_on_, on) == on) return;
  changed_.notify_all();
  if (on) return;
  // Nobody is to be sent here meanwhile; the next use after it joins again.
  for (auto& [function, entry] : entries_) {
    if (!std::exchange(entry.wanted, false)) continue;
    entry.routes = nullptr;
    SendLeave(function);
  }
}

bool Functions::peer_to_peer() const {
  const std::lock_guard lock(mutex_);
  return On();
}

bool Functions::dirty() const {
  const std::lock_guard lock(mutex_);
  return dirty_;
}

// ---- The session's ----

uint32_t Functions::PermilleOf(const Entry& entry) {
  if (!entry.has_map) return 0;
  if (entry.blob_bytes == 0) return 1000;
  uint64_t present = 0;
  for (const auto& [blob, held] : entry.layers) {
    const store::StoredLayer& stored = *held.live->stored;
    present += stored.compressed_bytes_present();
  }
  return static_cast<uint32_t>(std::min<uint64_t>(1000, present * 1000 / entry.blob_bytes));
}

std::vector<proto::tree::Join> Functions::Joins() {
  const std::lock_guard lock(mutex_);
  std::vector<proto::tree::Join> joins;
  const auto now = Clock::now();
  for (auto& [function, entry] : entries_) {
    if (!entry.wanted) continue;
    entry.join_sent = now;
    entry.permille_sent = UINT32_MAX;
    entry.ready_sent = false;
    joins.push_back(JoinOf(function, entry));
  }
  return joins;
}

std::vector<proto::tree::Holding> Functions::TakeHoldings() {
  const std::lock_guard lock(mutex_);
  std::vector<proto::tree::Holding> holdings;
  const auto now = Clock::now();
  for (auto& [function, entry] : entries_) {
    if (!entry.wanted) continue;
    const uint32_t permille = PermilleOf(entry);
    const bool ready = now - entry.started > kStartLasts;
    if (permille == entry.permille_sent && ready == entry.ready_sent) continue;
    entry.permille_sent = permille;
    entry.ready_sent = ready;
    proto::tree::Holding& holding = holdings.emplace_back();
    holding.set_function(function);
    holding.set_present_permille(permille);
    holding.set_ready(ready);
    holding.set_blob_bytes(entry.blob_bytes);
  }
  return holdings;
}

// Whether there were any.
bool Functions::SendTouches(const std::string& function, Entry& entry) {
  struct Touch {
    fetch::Clock::time_point when;
    const Digest* blob;
    ChunkIndex chunk;
  };
  std::vector<Touch> touches;
  for (auto& [blob, held] : entry.layers) {
    const auto all = scheduler_->FirstTouches(*held.live->lazy);
    for (size_t i = held.touches_sent; i < all.size(); ++i) touches.push_back({all[i].when, &blob, all[i].chunk});
    held.touches_sent = all.size();
  }
  if (touches.empty()) return false;
  std::stable_sort(touches.begin(), touches.end(), [](const Touch& a, const Touch& b) { return a.when < b.when; });
  if (touches.size() > kTouchesAMessage) touches.resize(kTouchesAMessage);
  proto::tree::NodeMessage message;
  message.mutable_touches()->set_function(function);
  proto::tree::ChunkList& list = *message.mutable_touches()->mutable_chunks();
  std::map<const Digest*, uint32_t> index;
  for (const Touch& touch : touches) {
    const auto [at, is_new] = index.try_emplace(touch.blob, static_cast<uint32_t>(index.size()));
    if (is_new) list.add_blobs(touch.blob->ToString());
    list.add_blob(at->second);
    list.add_chunk(touch.chunk);
  }
  send_(std::move(message));
  return true;
}

// Touches of a start are looked for often while they come.
Functions::Clock::time_point Functions::TickEntry(const std::string& function, Entry& entry, Clock::time_point now) {
  auto next = Clock::time_point::max();
  if (On() && scheduler_ != nullptr && now - entry.started < kStartLasts) {
    if (now >= entry.next_touches) {
      const bool some = SendTouches(function, entry);
      entry.touches_interval = some ? kTouchesOften : std::min(entry.touches_interval * 2, kTouchesSeldom);
      entry.next_touches = now + entry.touches_interval;
    }
    next = entry.next_touches;
  }
  if (On() && entry.wanted) {
    if (now - entry.join_sent > kRefreshUse && entry.used > entry.join_sent) SendJoin(function, entry);
    // Without a use it is looked at again after as long a time.
    const auto periods = (now - entry.join_sent) / kRefreshUse;
    next = std::min(next, entry.join_sent + (periods + 1) * kRefreshUse + kTouchesOften);
  }
  return next;
}

Functions::Clock::time_point Functions::Tick() {
  std::vector<std::shared_ptr<LiveLayer>> released;
  auto due = Clock::time_point::max();
  {
    const std::lock_guard lock(mutex_);
    if (detached_) return due;
    const auto now = Clock::now();
    const bool restored = now - loaded_ > kRestoreLasts;
    for (auto next = entries_.begin(); next != entries_.end();) {
      const auto found = next++;
      auto& [function, entry] = *found;
      const bool unused = !entry.has_map && entry.used == loaded_;
      if (restored && unused) {
        SendLeave(function);
        for (auto& layer : Erase(found)) released.push_back(std::move(layer));
        continue;
      }
      if (unused) due = std::min(due, loaded_ + kRestoreLasts + kTouchesOften);
      due = std::min(due, TickEntry(function, entry, now));
    }
  }
  Release(std::move(released));
  return due;
}

void Functions::Save() {
  proto::tree::Hello state;
  {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(dirty_, false)) return;
    for (const auto& [function, entry] : entries_) *state.add_functions() = JoinOf(function, entry);
  }
  if (Status status = WriteFileDurably(state_file_, state.SerializeAsString(), 0600); !status) {
    spdlog::warn("assignments will not survive a restart: {}", status.error().message);
  }
}

// ---- What peers may see ----

bool Functions::IsJoined(const std::string& function) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(function);
  return On() && found != entries_.end() && found->second.wanted;
}

PeerCatalog::Found Functions::Find(const std::string& function, const Digest& blob) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(function);
    if (!On() || found == entries_.end() || !found->second.wanted) return {};
    const auto layer = found->second.layers.find(blob);
    if (layer != found->second.layers.end()) return {Found::Kind::kLayer, layer->second.relay};
    found->second.used = Clock::now();
    if (blobs_.Find(blob) == function) return {Found::Kind::kWhole, nullptr};
    if (!found->second.has_map) return {Found::Kind::kPending, nullptr};
  }
  return {};
}

void Functions::DropChunk(const std::string& function, const Digest& blob, ChunkIndex chunk) {
  std::shared_ptr<LiveLayer> live;
  {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(function);
    if (found == entries_.end()) return;
    const auto layer = found->second.layers.find(blob);
    if (layer == found->second.layers.end()) return;
    live = layer->second.live;
  }
  live->stored->Drop(chunk);
}

Functions::Counts Functions::counts() const {
  const std::lock_guard lock(mutex_);
  Counts counts;
  counts.assignments = assignments_;
  for (const auto& [function, entry] : entries_) {
    if (!entry.wanted) continue;
    ++counts.joined;
    counts.profile_chunks += entry.profile_order.size();
    if (!entry.routes) continue;
    const auto& stripes = entry.routes->stripes;
    if (std::any_of(stripes.begin(), stripes.end(), [](const auto& stripe) { return stripe.parent.has_value(); })) {
      ++counts.with_parent;
    }
  }
  return counts;
}

}  // namespace banyan::peer_agent
