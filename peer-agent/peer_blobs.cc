#include "peer-agent/peer_blobs.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/file_io.h"
#include "common/log.h"
#include "mirror/answers.h"
#include "net/http_message.h"
#include "net/manifest_json.h"
#include "net/range_header.h"
#include "net/url.h"
#include "peer-agent/peer_stream.h"

namespace banyan::peer_agent {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxSent = 256;
constexpr std::chrono::seconds kAvoidBusy{1};

std::string TargetOf(const mirror::BlobAsk& ask) {
  std::string target = fmt::format("/v2/{}/blobs/{}", ask.repository, ask.digest.ToString());
  if (!ask.upstream.empty()) target += "?ns=" + net::PercentEncode(ask.upstream);
  return target;
}

// The members of a Via header, without the spaces around them.
std::vector<std::string> SplitVia(std::string_view via) {
  std::vector<std::string> names;
  while (!via.empty()) {
    std::string_view name = via.substr(0, via.find(','));
    via.remove_prefix(std::min(via.size(), name.size() + 1));
    while (name.starts_with(' ')) name.remove_prefix(1);
    while (name.ends_with(' ')) name.remove_suffix(1);
    names.emplace_back(name);
  }
  return names;
}

}  // namespace

struct PeerBlobs::State {
  struct Sent {
    Digest blob;
    std::string function;
    std::string node;
  };

  explicit State(PeerBlobsOptions given) : options(std::move(given)) {}

  void NoteSent(const Digest& blob, const std::string& function, const std::string& node) {
    const std::lock_guard lock(mutex);
    sent.push_back({blob, function, node});
    if (sent.size() > kMaxSent) sent.pop_front();
  }
  // True: the fault is to be reported.
  bool NoteFault(const std::string& node, fetch::PeerFault fault) const {
    return options.health->NoteFault(node, fault, Clock::now()) && options.reports != nullptr;
  }

  const PeerBlobsOptions options;
  std::mutex mutex;
  std::deque<Sent> sent;  // guarded by mutex; who sent bytes of what lately
};

namespace {

// Stripe 0's parent, then its spares, then those of the other: a blob without chunks does not know stripes.
std::vector<fetch::PeerAddress> PeersOf(const fetch::Routes& routes, PeerBlobs::State& state) {
  std::vector<fetch::PeerAddress> peers;
  const auto add = [&](const fetch::PeerAddress& peer) {
    if (peer.node == state.options.node || state.options.health->Avoided(peer.node, Clock::now())) return;
    if (std::find(peers.begin(), peers.end(), peer) == peers.end()) peers.push_back(peer);
  };
  for (const fetch::Routes::Stripe& stripe : routes.stripes) {
    if (stripe.parent) add(*stripe.parent);
    for (const fetch::PeerAddress& spare : stripe.spares) add(spare);
  }
  return peers;
}

// nullopt: not a fault. A node that does not have it, waits in a circle or refuses is not at fault.
std::optional<fetch::PeerFault> FaultOf(Code code) {
  switch (code) {
    case Code::kUnavailable:
      return fetch::PeerFault::kUnreachable;
    case Code::kDeadlineExceeded:
      return fetch::PeerFault::kSlow;
    case Code::kDataLoss:
    case Code::kInvalidArgument:
      return fetch::PeerFault::kBadBytes;
    default:
      return std::nullopt;
  }
}

// One blob from one peer after the other.
class PeerBlobSource final : public ByteSource {
 public:
  PeerBlobSource(std::shared_ptr<PeerBlobs::State> state, std::string function, mirror::BlobAsk ask, uint64_t offset,
                 std::vector<fetch::PeerAddress> peers)
      : state_(std::move(state)),
        options_(&state_->options),
        function_(std::move(function)),
        ask_(std::move(ask)),
        position_(offset),
        peers_(peers.begin(), peers.end()) {}
  ~PeerBlobSource() override { SetWaits(""); }

  // The next peer that answers with bytes from here on. An error: there is none left.
  Status OpenNext();
  Result<size_t> Read(std::span<std::byte> buffer) override;
  const std::optional<uint64_t>& blob_bytes() const { return blob_bytes_; }

 private:
  Status OpenAt(const fetch::PeerAddress& peer);
  Status TakeHead(int status, const net::HeaderList& headers);
  Status CheckVia(const fetch::PeerAddress& peer, const net::HeaderList& headers);
  void SetWaits(const std::string& via);
  void Blame(const Error& error);

  const std::shared_ptr<PeerBlobs::State> state_;
  const PeerBlobsOptions* const options_;  // in state_
  const std::string function_;
  const mirror::BlobAsk ask_;
  uint64_t position_;
  std::deque<fetch::PeerAddress> peers_;  // not asked yet
  fetch::PeerAddress peer_;               // the one that is asked
  std::unique_ptr<PeerStream> stream_;
  std::optional<uint64_t> blob_bytes_;
};

void PeerBlobSource::SetWaits(const std::string& via) {
  if (options_->waits == nullptr) return;
  if (via.empty()) return options_->waits->Clear(ask_.digest, 0);
  options_->waits->Set(ask_.digest, {0, 1}, via);
}

void PeerBlobSource::Blame(const Error& error) {
  spdlog::info("blob {} from {}: {}", ask_.digest.ToString(), peer_.node, error.message);
  if (error.code == Code::kResourceExhausted) options_->health->NoteBusy(peer_.node, kAvoidBusy, Clock::now());
  const auto fault = FaultOf(error.code);
  if (!fault || !state_->NoteFault(peer_.node, *fault) || fault == fetch::PeerFault::kSlow) return;
  options_->reports->Report(function_, peer_.node, *fault, error.message);
}

Status PeerBlobSource::CheckVia(const fetch::PeerAddress& peer, const net::HeaderList& headers) {
  const std::string* via = headers.Find("via");
  const std::vector<std::string> chain = via != nullptr ? SplitVia(*via) : std::vector<std::string>();
  if (std::find(chain.begin(), chain.end(), options_->node) != chain.end()) {
    return Fail(Code::kAborted, fmt::format("{} waits for this node itself: {}", peer.node, *via));
  }
  SetWaits(via != nullptr && !via->empty() ? peer.node + ", " + *via : peer.node);
  return {};
}

Status PeerBlobSource::TakeHead(int status, const net::HeaderList& headers) {
  if (status == 404) return Fail(Code::kNotFound, "not there");
  if (status == 503) return Fail(Code::kResourceExhausted, "busy");
  if (status == 401 || status == 403) return Fail(Code::kPermissionDenied, fmt::format("answered {}", status));
  std::optional<uint64_t> blob_bytes;
  if (status == 206) {
    const std::string* text = headers.Find("content-range");
    const auto parsed = net::ParseContentRange(text != nullptr ? *text : "");
    if (!parsed) return Fail(Code::kDataLoss, "answered with no range");
    const net::ContentRange& range = *parsed;
    if (range.range.begin != position_) return Fail(Code::kDataLoss, "answered with another range");
    if (range.complete_bytes && range.range.end != *range.complete_bytes) {
      return Fail(Code::kDataLoss, "answered with less than was asked for");
    }
    blob_bytes = range.complete_bytes;
  } else if (status == 200) {
    if (position_ > 0) return Fail(Code::kUnimplemented, "answered with the whole blob");
    if (const std::string* length = headers.Find("content-length")) blob_bytes = net::ParseDecimal(*length);
  } else {
    return Fail(Code::kResourceExhausted, fmt::format("answered {}", status));
  }
  if (blob_bytes_ && blob_bytes && *blob_bytes != *blob_bytes_) {
    return Fail(Code::kDataLoss, fmt::format("says the blob has {} bytes, another said {}", *blob_bytes, *blob_bytes_));
  }
  if (blob_bytes) blob_bytes_ = blob_bytes;
  return {};
}

Status PeerBlobSource::OpenAt(const fetch::PeerAddress& peer) {
  PeerStream::Request request{
      .address = peer.address,
      .port = peer.port,
      .target = TargetOf(ask_),
      .headers = {{"Banyan-Node", options_->node}, {"Banyan-Function", function_}, {"Priority", "u=1"}},
      .connect_timeout = options_->connect_timeout,
      .stall_timeout = options_->stall_timeout,
      .longest_wait = options_->longest_wait,
  };
  if (!options_->token.empty()) request.headers.emplace_back("Authorization", "Bearer " + options_->token);
  if (position_ > 0) request.headers.emplace_back("Range", fmt::format("bytes={}-", position_));
  SetWaits(peer.node);
  BANYAN_ASSIGN(stream_,
                PeerStream::Open(
                    request, [&](int status, const net::HeaderList& headers) { return TakeHead(status, headers); },
                    [&](const net::HeaderList& headers) { return CheckVia(peer, headers); }));
  return {};
}

Status PeerBlobSource::OpenNext() {
  Error last{Code::kNotFound, "no peer to ask"};
  while (!peers_.empty()) {
    peer_ = peers_.front();
    peers_.pop_front();
    stream_.reset();
    const Status opened = OpenAt(peer_);
    if (opened) {
      state_->NoteSent(ask_.digest, function_, peer_.node);
      return {};
    }
    last = opened.error();
    Blame(last);
  }
  SetWaits("");
  if (last.code != Code::kNotFound) last.code = Code::kUnavailable;
  return Fail(last.WithContext(fmt::format("blob {} from peers", ask_.digest.ToString())));
}

Result<size_t> PeerBlobSource::Read(std::span<std::byte> buffer) {
  while (true) {
    if (!stream_) return Fail(Code::kUnavailable, "every peer has failed");
    const Result<size_t> count = stream_->Read(buffer);
    if (count) {
      position_ += *count;
      return count;
    }
    Blame(count.error());
    stream_.reset();
    // An earlier one may have sent all of it but the end of the answer.
    if (blob_bytes_ && position_ == *blob_bytes_) return size_t{0};
    BANYAN_TRY(OpenNext());
  }
}

// ---- a reply that is collected

struct Collected {
  std::mutex mutex;
  std::condition_variable changed;
  // Guarded by mutex.
  struct Part {
    std::string bytes;
    net::FileRange file;
    std::function<void(bool)> on_written;
  };
  std::deque<Part> parts;
  int status = 0;  // 0: no answer yet
  bool ended = false;
  bool cut = false;
  bool over = false;  // nobody waits any more
};

// Takes an answer in; the thread that waits for it reads the parts and calls back.
class CollectingReply final : public net::HttpReply {
 public:
  explicit CollectingReply(std::shared_ptr<Collected> collected) : collected_(std::move(collected)) {}
  ~CollectingReply() override { Cut(); }

  void Send(net::HttpResponse response) override {
    Collected::Part part;
    if (auto* text = std::get_if<std::string>(&response.body)) {
      part.bytes = std::move(*text);
    } else {
      part.file = std::move(std::get<net::FileRange>(response.body));
    }
    const std::lock_guard lock(collected_->mutex);
    if (collected_->status != 0) return;
    collected_->status = response.status;
    collected_->ended = true;
    collected_->parts.push_back(std::move(part));
    collected_->changed.notify_one();
  }
  void SendInterim(int, std::vector<std::pair<std::string, std::string>>) override {}
  void SendHead(int status, std::vector<std::pair<std::string, std::string>>, std::optional<uint64_t>) override {
    const std::lock_guard lock(collected_->mutex);
    if (collected_->status == 0) collected_->status = status;
  }
  void Write(std::string bytes, std::function<void(bool)> on_written) override {
    Add({std::move(bytes), {}, std::move(on_written)});
  }
  void WriteFile(net::FileRange file, std::function<void(bool)> on_written) override {
    Add({{}, std::move(file), std::move(on_written)});
  }
  void End() override {
    const std::lock_guard lock(collected_->mutex);
    collected_->ended = true;
    collected_->changed.notify_one();
  }
  void Abort() override { Cut(); }

 private:
  void Add(Collected::Part part) {
    {
      const std::lock_guard lock(collected_->mutex);
      if (!collected_->over) {
        collected_->parts.push_back(std::move(part));
        collected_->changed.notify_one();
        return;
      }
    }
    if (part.on_written) part.on_written(false);
  }
  void Cut() {
    const std::lock_guard lock(collected_->mutex);
    collected_->cut = true;
    collected_->changed.notify_one();
  }

  const std::shared_ptr<Collected> collected_;
};

Status AppendPart(const Collected::Part& part, uint64_t limit_bytes, std::string& body) {
  const uint64_t more = part.bytes.size() + (part.file.range.empty() ? 0 : part.file.range.size());
  if (more > limit_bytes - body.size()) {
    return Fail(Code::kResourceExhausted, fmt::format("more than {} bytes", limit_bytes));
  }
  body += part.bytes;
  if (part.file.range.empty()) return {};
  const size_t used = body.size();
  body.resize(used + part.file.range.size());
  return PreadFull(part.file.fd, std::as_writable_bytes(std::span(body.data() + used, part.file.range.size())),
                   part.file.range.begin, "blob");
}

// The body, when all is here.
Status Collect(Collected& collected, uint64_t limit_bytes, Clock::time_point until, std::string& body) {
  std::unique_lock lock(collected.mutex);
  while (true) {
    const bool woken = collected.changed.wait_until(
        lock, until, [&] { return !collected.parts.empty() || collected.ended || collected.cut; });
    if (!woken) return Fail(Code::kDeadlineExceeded, "the blob did not come in time");
    if (collected.parts.empty()) break;
    Collected::Part part = std::move(collected.parts.front());
    collected.parts.pop_front();
    lock.unlock();
    const Status appended = AppendPart(part, limit_bytes, body);
    if (part.on_written) part.on_written(appended.has_value());
    if (!appended) return appended;
    part = {};  // may be the last to hold the reply, which takes the lock
    lock.lock();
  }
  if (!collected.ended) return Fail(Code::kAborted, "the answer was cut");
  if (collected.status == 200) return {};
  if (collected.status == 404) return Fail(Code::kNotFound, body.substr(0, 200));
  return Fail(Code::kUnavailable, fmt::format("answered {}: {}", collected.status, body.substr(0, 200)));
}

}  // namespace

// ---- BlobFunctions

void BlobFunctions::AddLocked(const Digest& blob, const std::string& function, bool replace) {
  const auto found = by_digest_.find(blob);
  if (found != by_digest_.end()) {
    if (replace) found->second->second = function;
    uses_.splice(uses_.begin(), uses_, found->second);
    return;
  }
  uses_.emplace_front(blob, function);
  by_digest_[blob] = uses_.begin();
  if (uses_.size() <= capacity_) return;
  by_digest_.erase(uses_.back().first);
  uses_.pop_back();
}

void BlobFunctions::Add(const Digest& blob, const std::string& function) {
  const std::lock_guard lock(mutex_);
  AddLocked(blob, function, /*replace=*/true);
}

void BlobFunctions::OnManifest(const mirror::ResolvedManifest& resolved) {
  if (!resolved.manifest) return;
  const nlohmann::json manifest = net::ParseJson(resolved.manifest->body);
  if (!manifest.is_object()) return;
  const std::string function = resolved.manifest->digest.ToString();
  const std::lock_guard lock(mutex_);
  const auto add = [&](const nlohmann::json& descriptor) {
    if (!descriptor.is_object()) return;
    const auto text = descriptor.find("digest");
    if (text == descriptor.end() || !text->is_string()) return;
    if (const auto digest = Digest::Parse(text->get_ref<const std::string&>())) AddLocked(*digest, function, false);
  };
  const auto layers = manifest.find("layers");
  if (layers == manifest.end() || !layers->is_array()) return;
  size_t left = capacity_ / 4;  // of one manifest, so that it does not push out all others
  for (const nlohmann::json& layer : *layers) {
    if (left-- == 0) break;
    add(layer);
  }
  if (const auto config = manifest.find("config"); config != manifest.end()) add(*config);
}

std::optional<std::string> BlobFunctions::Find(const Digest& blob) {
  const std::lock_guard lock(mutex_);
  const auto found = by_digest_.find(blob);
  if (found == by_digest_.end()) return std::nullopt;
  uses_.splice(uses_.begin(), uses_, found->second);
  return found->second->second;
}

// ---- PeerBlobs

PeerBlobs::PeerBlobs(PeerBlobsOptions options) : state_(std::make_shared<State>(std::move(options))) {}

PeerBlobs::~PeerBlobs() = default;

Result<net::OpenedBlob> PeerBlobs::Open(const std::string& function, const mirror::BlobAsk& ask, uint64_t offset) {
  const auto routes = state_->options.routes(function);
  if (!routes) return Fail(Code::kNotFound, fmt::format("{} has no peers", function));
  auto source = std::make_unique<PeerBlobSource>(state_, function, ask, offset, PeersOf(*routes, *state_));
  BANYAN_TRY(source->OpenNext());
  net::OpenedBlob opened;
  opened.blob_bytes = source->blob_bytes();
  opened.source = std::move(source);
  return opened;
}

void PeerBlobs::OnBadBlob(const Digest& blob) {
  std::vector<State::Sent> senders;
  {
    const std::lock_guard lock(state_->mutex);
    std::copy_if(state_->sent.begin(), state_->sent.end(), std::back_inserter(senders),
                 [&](const State::Sent& each) { return each.blob == blob; });
    std::erase_if(state_->sent, [&](const State::Sent& each) { return each.blob == blob; });
  }
  for (const State::Sent& each : senders) {
    if (!state_->NoteFault(each.node, fetch::PeerFault::kBadBytes)) continue;
    spdlog::warn("blob {}: wrong bytes, some of them or all from {}", blob.ToString(), each.node);
    state_->options.reports->Report(each.function, each.node, fetch::PeerFault::kBadBytes,
                                    fmt::format("blob {}: digest mismatch", blob.ToString()));
  }
}

namespace {

// kAborted: the answer was cut; kDataLoss: it was another blob's.
Result<std::string> TryGetBlob(const net::HttpHandler& handler, const mirror::BlobAsk& ask, uint64_t limit_bytes,
                               Clock::time_point until) {
  const auto collected = std::make_shared<Collected>();
  net::HttpRequest request;
  request.method = "GET";
  request.target = TargetOf(ask);
  handler(std::move(request), std::make_shared<CollectingReply>(collected));
  std::string body;
  const Status status = Collect(*collected, limit_bytes, until, body);
  std::deque<Collected::Part> left;
  {
    const std::lock_guard lock(collected->mutex);
    collected->over = true;
    left.swap(collected->parts);
  }
  for (const Collected::Part& part : left) {
    if (part.on_written) part.on_written(false);
  }
  if (!status) return Fail(status.error());
  if (Digest::Of(body) != ask.digest) return Fail(Code::kDataLoss, "digest mismatch");
  return body;
}

}  // namespace

Result<std::string> GetBlobFrom(const net::HttpHandler& handler, const mirror::BlobAsk& ask, uint64_t limit_bytes,
                                std::chrono::milliseconds timeout) {
  const auto until = Clock::now() + timeout;
  Result<std::string> got = TryGetBlob(handler, ask, limit_bytes, until);
  const auto is_bad = [&] {
    return !got && (got.error().code == Code::kDataLoss || got.error().code == Code::kAborted);
  };
  if (is_bad()) got = TryGetBlob(handler, ask, limit_bytes, until);
  if (got) return got;
  Error error = got.error();
  if (error.code == Code::kAborted) error.code = Code::kUnavailable;
  return Fail(error.WithContext(fmt::format("blob {}", ask.digest.ToString())));
}

}  // namespace banyan::peer_agent
