#include "peer-agent/peer_server.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <list>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "common/file_io.h"
#include "common/log.h"
#include "fetch/uplink_gate.h"
#include "net/range_header.h"
#include "peer-agent/peer_ask.h"

namespace banyan::peer_agent {

namespace {

using Clock = fetch::Clock;
using Views = std::vector<std::optional<Result<fetch::CompressedView>>>;

constexpr uint32_t kMaxRechecks = 4;  // at once
constexpr uint64_t kNoChunk = UINT64_MAX;
constexpr std::chrono::seconds kWriteTimeout{10};
constexpr std::chrono::seconds kUnacknowledgedTimeout{5};
constexpr std::chrono::milliseconds kLookAgain{100};
constexpr std::chrono::milliseconds kStopGrace{300};  // children ask elsewhere

struct Counters {
  std::array<std::atomic<uint64_t>, 3> asks{};
  std::atomic<uint64_t> partial{0};
  std::atomic<uint64_t> missed{0};
  std::atomic<uint64_t> refused_busy{0};
  std::atomic<uint64_t> refused_token{0};
  std::atomic<uint64_t> not_found{0};
  std::atomic<uint64_t> failed{0};
  std::atomic<uint64_t> rechecks{0};
  std::atomic<uint64_t> dropped_chunks{0};
};

net::HttpResponse Refusal(int status, std::string_view message) {
  net::HttpResponse response{status, {{"Content-Type", "text/plain"}}, std::string(message) + "\n"};
  if (status == 503) response.headers.emplace_back("Retry-After", "1");
  if (status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

// The chunks that `range` of the data blob consists of; nullopt unless it begins and ends with one.
std::optional<ChunkRange> ChunksOf(const image_format::ChunkTable& table, ByteRange range) {
  const auto chunks = table.chunks();
  const auto before = [](const image_format::Chunk& chunk, uint64_t offset) {
    return chunk.compressed_offset < offset;
  };
  const auto begin = std::lower_bound(chunks.begin(), chunks.end(), range.begin, before);
  const auto end = std::lower_bound(begin, chunks.end(), range.end, before);
  if (begin == end || begin->compressed_offset != range.begin) return std::nullopt;
  if (std::prev(end)->blob_range().end != range.end) return std::nullopt;
  return ChunkRange{static_cast<ChunkIndex>(begin - chunks.begin()), static_cast<ChunkIndex>(end - chunks.begin())};
}

Status CheckView(const fetch::CompressedView& view, const image_format::Chunk& chunk) {
  if (view.fd < 0) return {};  // memory that was checked when it came
  std::vector<std::byte> bytes(view.length);
  BANYAN_TRY(PreadFull(view.fd, bytes, view.offset, "a chunk to recheck"));
  if (Digest::Of(bytes) == chunk.compressed_digest) return {};
  return Fail(Code::kDataLoss, "digest mismatch");
}

class ChunkAnswer;

}  // namespace

class PeerServer::Impl : public std::enable_shared_from_this<PeerServer::Impl> {
 public:
  Impl(PeerServerOptions options, PeerCatalog& catalog, fetch::Timer& timer, Executor& executor)
      : options_(std::move(options)),
        catalog_(catalog),
        timer_(timer),
        executor_(executor),
        gate_({options_.uplink, options_.interim_interval}, timer) {}

  Status Listen();
  void Stop();
  void Handle(net::HttpRequest request, const std::shared_ptr<net::HttpReply>& reply);
  void SetServing(bool serving) { serving_ = serving; }
  void LookAgain();
  PeerServerStats stats() const;
  uint16_t port() const { return server_->port(); }

  // The answers' side.
  const PeerServerOptions& options() const { return options_; }
  PeerCatalog& catalog() { return catalog_; }
  Counters& counters() { return counters_; }
  // Runs `check` on the executor; false: too many are under way.
  bool Recheck(std::function<void()> check);

 private:
  struct Waiting {
    Clock::time_point until;
    std::shared_ptr<ChunkAnswer> answer;
  };

  bool Enter();
  void Exit();
  bool Admit(const std::string& child);
  void Leave(const std::string& child);
  void WaitForLayer(std::shared_ptr<ChunkAnswer> answer);
  void LookLater();
  std::shared_ptr<fetch::GatedReply> Wrap(const PeerAsk& ask, const std::shared_ptr<net::HttpReply>& reply,
                                          const std::shared_ptr<ChunkAnswer>& answer);
  void ServeWhole(net::HttpRequest request, std::shared_ptr<fetch::GatedReply> reply);

  const PeerServerOptions options_;
  PeerCatalog& catalog_;
  fetch::Timer& timer_;
  Executor& executor_;
  Counters counters_;
  fetch::UplinkGate gate_;
  std::atomic<bool> serving_{true};

  std::mutex mutex_;
  std::condition_variable idle_;
  bool stopped_ = false;  // guarded by mutex_, as is all below
  uint32_t users_ = 0;    // of the catalog, on threads that are not the server's
  uint32_t rechecks_ = 0;
  uint32_t asks_ = 0;
  std::unordered_map<std::string, uint32_t> children_;  // their asks
  std::list<Waiting> waiting_;
  bool looks_later_ = false;

  std::unique_ptr<net::HttpServer> server_;  // last: its threads use what is above
};

namespace {

// One ask for chunks, from the request to the answer's last call. Internally synchronised. Kept alive by the reads
// under way, or by the server while it waits for its layer.
class ChunkAnswer : public std::enable_shared_from_this<ChunkAnswer> {
 public:
  ChunkAnswer(std::shared_ptr<PeerServer::Impl> server, PeerAsk ask)
      : server_(std::move(server)), ask_(std::move(ask)) {}

  const PeerAsk& ask() const { return ask_; }
  void SetReply(std::shared_ptr<fetch::GatedReply> reply) { reply_ = std::move(reply); }
  bool over() const {
    const std::lock_guard lock(mutex_);
    return over_;
  }
  std::shared_ptr<fetch::GatedReply> TakeReply() {
    const std::lock_guard lock(mutex_);
    return std::exchange(reply_, nullptr);
  }
  // False: the layer may come to be known, and this is to be called again then.
  bool Begin(const PeerCatalog::Found& found);
  void Refuse(int status, std::string_view message);
  // The chunk that it waits for, for Via; kNoChunk before there is a layer.
  const std::shared_ptr<std::atomic<uint64_t>>& first_chunk() const { return first_chunk_; }
  // The reply is over.
  void Over(bool gone);

 private:
  std::optional<ChunkRange> ChooseChunks();
  void Read();
  void OnView(uint32_t index, Result<fetch::CompressedView> view);
  void AnswerIfReady();
  void Check(Views views, std::shared_ptr<fetch::GatedReply> reply);
  void Send(Views views, const std::shared_ptr<fetch::GatedReply>& reply);
  void Refuse(const std::shared_ptr<fetch::GatedReply>& reply, const Error& error);

  const std::shared_ptr<PeerServer::Impl> server_;
  const PeerAsk ask_;
  std::shared_ptr<fetch::RelayLayer> layer_;  // set once, before the reads
  // Shared with those who look for it without keeping this alive.
  const std::shared_ptr<std::atomic<uint64_t>> first_chunk_ = std::make_shared<std::atomic<uint64_t>>(kNoChunk);

  mutable std::mutex mutex_;
  std::shared_ptr<fetch::GatedReply> reply_;  // guarded by mutex_, as is all below; null once it is answered
  ChunkRange chunks_;
  Views views_;
  std::vector<fetch::ReadId> reads_;
  bool asking_ = false;  // not all reads are begun
  bool checked_ = false;
  bool over_ = false;
};

bool ChunkAnswer::Begin(const PeerCatalog::Found& found) {
  using Kind = PeerCatalog::Found::Kind;
  if (found.kind == Kind::kPending) {
    if (!ask_.only_if_cached) return false;
    ++server_->counters().missed;
    Refuse(504, "not here");
    return true;
  }
  if (found.kind != Kind::kLayer || !found.layer) {
    ++server_->counters().not_found;
    Refuse(404, "no such blob of the function");
    return true;
  }
  layer_ = found.layer;
  const std::optional<ChunkRange> chunks = ChooseChunks();
  if (!chunks) return true;
  {
    const std::lock_guard lock(mutex_);
    chunks_ = *chunks;
  }
  *first_chunk_ = chunks->begin;
  Read();
  return true;
}

// nullopt: refused.
std::optional<ChunkRange> ChunkAnswer::ChooseChunks() {
  const image_format::Device& device = layer_->device();
  const Result<std::optional<ByteRange>> range = net::ParseRange(ask_.range, device.blob_bytes);
  std::optional<ChunkRange> chunks;
  if (range && *range) chunks = ChunksOf(device.chunks, **range);
  if (!chunks) {
    net::HttpResponse response = Refusal(416, "the range is not one of whole chunks");
    response.headers.emplace_back("Content-Range", fmt::format("bytes */{}", device.blob_bytes));
    if (const auto reply = TakeReply()) reply->Send(std::move(response));
    return std::nullopt;
  }
  uint64_t bytes = 0;
  ChunkIndex end = chunks->begin;
  for (; end < chunks->end; ++end) {
    bytes += device.chunks[end].compressed_bytes;
    if (end > chunks->begin && bytes > server_->options().max_answer_bytes) break;
    if (ask_.only_if_cached && layer_->StateOf(end) == fetch::ChunkState::kAbsent) break;
  }
  if (end == chunks->begin) {
    ++server_->counters().missed;
    Refuse(504, "not here");
    return std::nullopt;
  }
  return ChunkRange{chunks->begin, end};
}

void ChunkAnswer::Refuse(int status, std::string_view message) {
  if (const auto reply = TakeReply()) reply->Send(Refusal(status, message));
}

void ChunkAnswer::Read() {
  ChunkRange chunks;
  {
    const std::lock_guard lock(mutex_);
    chunks = chunks_;
    asking_ = true;
    views_.clear();
    views_.resize(chunks.size());
    reads_.assign(chunks.size(), 0);
  }
  for (uint32_t i = 0; i < chunks.size(); ++i) {
    const fetch::ReadId read = layer_->ReadCompressed(
        chunks.begin + i, ask_.priority,
        [self = shared_from_this(), i](Result<fetch::CompressedView> view) { self->OnView(i, std::move(view)); });
    const std::lock_guard lock(mutex_);
    reads_[i] = read;
  }
  bool over = false;
  {
    const std::lock_guard lock(mutex_);
    asking_ = false;
    over = over_;
  }
  if (over) return Over(true);
  AnswerIfReady();
}

void ChunkAnswer::OnView(uint32_t index, Result<fetch::CompressedView> view) {
  {
    const std::lock_guard lock(mutex_);
    if (!reply_) return;  // answered without it: it is in the store for the next ask
    if (index < views_.size()) views_[index] = std::move(view);
    if (asking_ || index != 0) return;
  }
  AnswerIfReady();
}

void ChunkAnswer::AnswerIfReady() {
  Views views;
  std::shared_ptr<fetch::GatedReply> reply;
  bool check = false;
  {
    const std::lock_guard lock(mutex_);
    if (!reply_ || asking_ || views_.empty() || !views_[0]) return;
    views.swap(views_);
    reply.swap(reply_);
    check = ask_.recheck && !std::exchange(checked_, true);
  }
  if (!*views[0]) return Refuse(reply, views[0]->error());
  if (!check) return Send(std::move(views), reply);
  const auto shared = std::make_shared<Views>(std::move(views));  // std::function wants what can be copied
  if (server_->Recheck([self = shared_from_this(), shared, reply] { self->Check(std::move(*shared), reply); })) return;
  reply->Send(Refusal(503, "too many rechecks"));
}

void ChunkAnswer::Check(Views views, std::shared_ptr<fetch::GatedReply> reply) {
  uint32_t bad = 0;
  for (uint32_t i = 0; i < views.size(); ++i) {
    if (!views[i] || !*views[i]) continue;
    const ChunkIndex chunk = chunks_.begin + i;
    const Status good = CheckView(**views[i], layer_->device().chunks[chunk]);
    views[i].reset();  // what is leased cannot be dropped
    if (good) continue;
    spdlog::warn("chunk {} of layer {}: bad on this node's disk, as {} said: {}", chunk, ask_.blob.ToString(),
                 ask_.child, good.error().message);
    server_->catalog().DropChunk(ask_.function, ask_.blob, chunk);
    ++bad;
  }
  server_->counters().dropped_chunks += bad;
  {
    const std::lock_guard lock(mutex_);
    if (over_) return;
    reply_ = std::move(reply);
  }
  Read();
}

void ChunkAnswer::Send(Views views, const std::shared_ptr<fetch::GatedReply>& reply) {
  const image_format::Device& device = layer_->device();
  ByteRange range = device.chunks[chunks_.begin].blob_range();
  uint32_t count = 1;
  for (; count < views.size() && views[count] && *views[count]; ++count) {
    range.end = device.chunks[chunks_.begin + count].blob_range().end;
  }
  if (count < views.size()) ++server_->counters().partial;
  reply->SendHead(206,
                  {{"Content-Type", "application/octet-stream"},
                   {"Content-Range", net::FormatContentRange(range, device.blob_bytes)}},
                  range.size());
  for (uint32_t i = 0; i < count; ++i) {
    fetch::CompressedView& view = **views[i];
    if (view.fd < 0) {
      const auto& bytes = *view.memory;
      reply->Write({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, nullptr);
      continue;
    }
    const ByteRange file{view.offset, view.offset + view.length};
    const int fd = view.fd;
    reply->WriteFile({fd, file, std::make_shared<fetch::CompressedView>(std::move(view))}, nullptr);
  }
  reply->End();
}

void ChunkAnswer::Refuse(const std::shared_ptr<fetch::GatedReply>& reply, const Error& error) {
  if (error.code == Code::kNotFound) {
    ++server_->counters().not_found;
    return reply->Send(Refusal(404, error.message));
  }
  ++server_->counters().failed;
  reply->Send(Refusal(503, error.message));
}

void ChunkAnswer::Over(bool gone) {
  std::vector<fetch::ReadId> reads;
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
    if (!gone || asking_) return;
    reads.swap(reads_);
    for (uint32_t i = 0; i < views_.size(); ++i) {
      if (views_[i]) reads[i] = 0;
    }
    views_.clear();
  }
  for (const fetch::ReadId read : reads) {
    if (read != 0) layer_->Forget(read);
  }
}

}  // namespace

// ---- the server

Status PeerServer::Impl::Listen() {
  net::HttpServerOptions http;
  http.address = options_.address;
  http.port = options_.port;
  http.threads = options_.threads;
  http.max_connections = options_.max_connections;
  http.max_header_bytes = 16 * 1024;
  http.max_body_bytes = 0;
  http.write_timeout = kWriteTimeout;
  http.stop_grace = kStopGrace;
  http.notsent_bytes = options_.notsent_bytes;
  http.backlog = options_.backlog;
  http.unacknowledged_timeout = kUnacknowledgedTimeout;
  // The server and its handler end before this does; Stop() sees to that.
  BANYAN_ASSIGN(server_, net::HttpServer::Start(
                             http, [this](net::HttpRequest request, const std::shared_ptr<net::HttpReply>& reply) {
                               Handle(std::move(request), reply);
                             }));
  return {};
}

void PeerServer::Impl::Stop() {
  std::list<Waiting> waiting;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    waiting.swap(waiting_);
  }
  for (const Waiting& each : waiting) each.answer->Refuse(503, "this node is being stopped");
  server_->Stop();
  gate_.Close();
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return users_ == 0; });
}

// False: the catalog is not to be used any more.
bool PeerServer::Impl::Enter() {
  const std::lock_guard lock(mutex_);
  if (stopped_) return false;
  ++users_;
  return true;
}

void PeerServer::Impl::Exit() {
  const std::lock_guard lock(mutex_);
  if (--users_ == 0) idle_.notify_all();
}

bool PeerServer::Impl::Admit(const std::string& child) {
  const std::lock_guard lock(mutex_);
  if (asks_ >= options_.max_asks) return false;
  uint32_t& of_child = children_[child];
  if (of_child >= options_.max_asks_per_child) return false;
  ++asks_;
  ++of_child;
  return true;
}

void PeerServer::Impl::Leave(const std::string& child) {
  const std::lock_guard lock(mutex_);
  --asks_;
  const auto found = children_.find(child);
  if (--found->second == 0) children_.erase(found);
}

void PeerServer::Impl::Handle(net::HttpRequest request, const std::shared_ptr<net::HttpReply>& reply) {
  const auto refuse = [&](int status, std::string_view message) { reply->Send(Refusal(status, message)); };
  const auto unknown = [&](std::string_view message) {
    ++counters_.not_found;
    refuse(404, message);
  };
  if (!serving_) return unknown("this node serves no peers");
  const std::string* authorization = request.headers.Find("authorization");
  if (!options_.token.empty() && (authorization == nullptr || !HasToken(*authorization, options_.token))) {
    ++counters_.refused_token;
    return refuse(401, "not of this cluster");
  }
  auto parsed = ParsePeerAsk(request);
  if (!parsed) return refuse(parsed.error().status, parsed.error().message);
  const PeerAsk& ask = *parsed;
  const PeerCatalog::Found found =
      catalog_.IsJoined(ask.function) ? catalog_.Find(ask.function, ask.blob) : PeerCatalog::Found();
  if (found.kind == PeerCatalog::Found::Kind::kNone) return unknown("not of a function of this node");
  if (!Admit(ask.child)) {
    ++counters_.refused_busy;
    return refuse(503, "too many asks");
  }
  ++counters_.asks[static_cast<size_t>(ask.priority)];
  if (ask.head && found.layer) {
    // Only its length is used: an answer to HEAD has no body.
    const uint64_t bytes = found.layer->device().blob_bytes;
    return Wrap(ask, reply, nullptr)->Send({200, {}, net::FileRange{-1, {0, bytes}, nullptr}});
  }
  const bool whole = !ask.chunks || ask.head || found.kind == PeerCatalog::Found::Kind::kWhole;
  if (whole) return ServeWhole(std::move(request), Wrap(ask, reply, nullptr));
  const auto answer = std::make_shared<ChunkAnswer>(shared_from_this(), ask);
  const std::shared_ptr<fetch::GatedReply> gated = Wrap(ask, reply, answer);
  answer->SetReply(gated);
  if (!answer->Begin(found)) WaitForLayer(answer);
  gated->TellWaiting();
}

std::shared_ptr<fetch::GatedReply> PeerServer::Impl::Wrap(const PeerAsk& ask,
                                                          const std::shared_ptr<net::HttpReply>& reply,
                                                          const std::shared_ptr<ChunkAnswer>& answer) {
  fetch::UplinkGate::Answer wanted{ask.child, ask.function, ask.priority, ask.head, nullptr, nullptr};
  const std::weak_ptr<ChunkAnswer> weak = answer;
  if (answer) {
    wanted.via = [chunk = answer->first_chunk(), blob = ask.blob, waits = options_.chunk_waits]() -> std::string {
      if (waits == nullptr || *chunk == kNoChunk) return {};
      return waits->Find(blob, static_cast<ChunkIndex>(*chunk));
    };
  } else if (options_.blob_waits != nullptr) {
    wanted.via = [blob = ask.blob, waits = options_.blob_waits] { return waits->Find(blob, 0); };
  }
  wanted.over = [weak_server = weak_from_this(), weak, child = ask.child](bool gone) {
    if (const auto self = weak.lock()) self->Over(gone);
    if (const auto server = weak_server.lock()) server->Leave(child);
  };
  return gate_.Wrap(reply, std::move(wanted));
}

void PeerServer::Impl::ServeWhole(net::HttpRequest request, std::shared_ptr<fetch::GatedReply> reply) {
  if (!options_.whole_blobs) {
    ++counters_.not_found;
    return reply->Send(Refusal(404, "no whole blobs here"));
  }
  net::HttpRequest rest;
  rest.method = std::move(request.method);
  rest.target = std::move(request.target);
  rest.keep_alive = request.keep_alive;
  for (const auto& [name, value] : request.headers.fields()) {
    if (name != "authorization") rest.headers.Add(name, value);
  }
  const std::shared_ptr<fetch::GatedReply> gated = reply;
  options_.whole_blobs(std::move(rest), std::move(reply));
  gated->TellWaiting();
}

// ---- waiting for a layer to be known

void PeerServer::Impl::WaitForLayer(std::shared_ptr<ChunkAnswer> answer) {
  const std::lock_guard lock(mutex_);
  if (stopped_) return;
  waiting_.push_back({timer_.Now() + options_.layer_wait, std::move(answer)});
  LookLater();
}

// mutex_ held.
void PeerServer::Impl::LookLater() {
  if (waiting_.empty() || std::exchange(looks_later_, true)) return;
  timer_.At(timer_.Now() + kLookAgain, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self) return;
    {
      const std::lock_guard lock(self->mutex_);
      self->looks_later_ = false;
    }
    self->LookAgain();
  });
}

void PeerServer::Impl::LookAgain() {
  if (!Enter()) return;
  std::list<Waiting> looking;
  {
    const std::lock_guard lock(mutex_);
    looking.swap(waiting_);
  }
  const Clock::time_point now = timer_.Now();
  for (auto each = looking.begin(); each != looking.end();) {
    ChunkAnswer& answer = *each->answer;
    bool settled = answer.over();
    if (!settled && now >= each->until) {
      ++counters_.failed;
      answer.Refuse(503, "the image map has not come");
      settled = true;
    }
    if (!settled) settled = answer.Begin(catalog_.Find(answer.ask().function, answer.ask().blob));
    each = settled ? looking.erase(each) : std::next(each);
  }
  {
    const std::lock_guard lock(mutex_);
    if (!stopped_) {
      waiting_.splice(waiting_.end(), looking);
      LookLater();
    }
  }
  looking.clear();
  Exit();
}

// ---- rechecks

bool PeerServer::Impl::Recheck(std::function<void()> check) {
  {
    const std::lock_guard lock(mutex_);
    if (stopped_ || rechecks_ >= kMaxRechecks) return false;
    ++rechecks_;
    ++users_;
  }
  ++counters_.rechecks;
  executor_.Post([self = shared_from_this(), check = std::move(check)] {
    check();
    {
      const std::lock_guard lock(self->mutex_);
      --self->rechecks_;
    }
    self->Exit();
  });
  return true;
}

PeerServerStats PeerServer::Impl::stats() const {
  PeerServerStats stats;
  for (size_t i = 0; i < stats.asks.size(); ++i) stats.asks[i] = counters_.asks[i];
  const fetch::GateStats gate = gate_.stats();
  stats.sent_bytes = gate.sent_bytes;
  stats.waited = gate.waited;
  stats.interims = gate.interims;
  stats.partial = counters_.partial;
  stats.missed = counters_.missed;
  stats.refused_busy = counters_.refused_busy;
  stats.refused_token = counters_.refused_token;
  stats.not_found = counters_.not_found;
  stats.failed = counters_.failed;
  stats.cut = gate.cut;
  stats.rechecks = counters_.rechecks;
  stats.dropped_chunks = counters_.dropped_chunks;
  stats.open_asks = gate.open;
  stats.connections = server_->connections();
  stats.bytes_per_second = gate.bytes_per_second;
  stats.full = gate.full;
  return stats;
}

PeerServer::PeerServer(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

PeerServer::~PeerServer() { impl_->Stop(); }

Result<std::unique_ptr<PeerServer>> PeerServer::Start(PeerServerOptions options, PeerCatalog& catalog,
                                                      fetch::Timer& timer, Executor& executor) {
  auto impl = std::make_shared<Impl>(std::move(options), catalog, timer, executor);
  BANYAN_TRY(impl->Listen());
  return std::unique_ptr<PeerServer>(new PeerServer(std::move(impl)));
}

uint16_t PeerServer::port() const { return impl_->port(); }
void PeerServer::SetServing(bool serving) { impl_->SetServing(serving); }
void PeerServer::LayersChanged() { impl_->LookAgain(); }
PeerServerStats PeerServer::stats() const { return impl_->stats(); }

void PeerServer::AddMetrics(MetricsPage& page) const {
  const PeerServerStats stats = impl_->stats();
  constexpr std::array<const char*, 3> kClasses = {"demand", "prefetch", "fill"};
  for (size_t i = 0; i < kClasses.size(); ++i) {
    page.Counter("banyan_peer_served_bytes_total", "Bytes sent to peers.", {{"class", kClasses[i]}},
                 static_cast<double>(stats.sent_bytes[i]));
    page.Counter("banyan_peer_asks_total", "Asks of peers that were taken.", {{"class", kClasses[i]}},
                 static_cast<double>(stats.asks[i]));
  }
  const auto refused = [&](const char* why, uint64_t count) {
    page.Counter("banyan_peer_refusals_total", "Asks of peers that were not answered with bytes.", {{"why", why}},
                 static_cast<double>(count));
  };
  refused("busy", stats.refused_busy);
  refused("token", stats.refused_token);
  refused("not_found", stats.not_found);
  refused("not_cached", stats.missed);
  refused("failed", stats.failed);
  const auto counter = [&](const char* name, const char* help, uint64_t value) {
    page.Counter(name, help, static_cast<double>(value));
  };
  counter("banyan_peer_asks_waited_total", "Asks of peers that were told to wait.", stats.waited);
  counter("banyan_peer_asks_partial_total", "Answers with fewer chunks than were asked for.", stats.partial);
  counter("banyan_peer_asks_cut_total", "Asks whose peer went before the answer's end.", stats.cut);
  counter("banyan_peer_rechecks_total", "Times that a peer had this node look at its own disk.", stats.rechecks);
  counter("banyan_peer_rechecks_bad_total", "Chunks that were bad then.", stats.dropped_chunks);
  page.Gauge("banyan_peer_asks_open", "Asks of peers under way.", static_cast<double>(stats.open_asks));
  page.Gauge("banyan_peer_connections", "Connections of peers.", static_cast<double>(stats.connections));
  page.Gauge("banyan_peer_uplink_bytes_per_second", "Sent to peers over the last second.",
             static_cast<double>(stats.bytes_per_second));
  page.Gauge("banyan_peer_uplink_full", "1 while peers have more to ask than this node can send.",
             stats.full ? 1.0 : 0.0);
}

}  // namespace banyan::peer_agent
