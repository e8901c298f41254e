#include "fetch/peer_client.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <span>
#include <utility>

#include <fmt/format.h>

#include "common/log.h"
#include "fetch/priority_header.h"
#include "net/range_header.h"

namespace banyan::fetch {
namespace {

using namespace std::chrono_literals;

constexpr size_t kMostHops = 64;  // of a Via chain; more is taken for a loop
constexpr uint64_t kMostErrorBody = 64 * kKiB;
constexpr auto kBusyDefault = 1s;
constexpr auto kBusyMost = 10s;

// Whether `node` is in the chain, or the chain is longer than any tree is high.
bool IsLoop(std::string_view via, std::string_view node) {
  for (size_t hops = 0; !via.empty(); ++hops) {
    const size_t comma = std::min(via.find(','), via.size());
    std::string_view name = via.substr(0, comma);
    while (!name.empty() && name.front() == ' ') name.remove_prefix(1);
    while (!name.empty() && name.back() == ' ') name.remove_suffix(1);
    if (name == node || hops >= kMostHops) return true;
    via.remove_prefix(std::min(comma + 1, via.size()));
  }
  return false;
}

}  // namespace

// One ask, of one request or more. All on the HTTP client's thread but Cancel() and the first Send().
class PeerClient::Ask : public std::enable_shared_from_this<Ask> {
 public:
  Ask(PeerClient& client, PeerAsk ask, PeerHandlers handlers)
      : client_(client),
        options_(client.options_),
        ask_(std::move(ask)),
        handlers_(std::move(handlers)),
        begun_(options_.timer->Now()),
        next_(ask_.chunks.begin) {}

  void Send() {
    const auto& chunks = ask_.device->chunks;
    wanted_ = {chunks[next_].blob_range().begin, chunks[ask_.chunks.end - 1].blob_range().end};
    given_ = {};
    status_ = 0;
    received_ = 0;
    current_.clear();
    net::HttpClientRequest request = Request();
    request.headers.emplace_back("Priority", FormatPriority(ask_.priority));
    request.headers.emplace_back("Range", net::FormatRange(wanted_));
    if (ask_.only_if_cached) request.headers.emplace_back("Cache-Control", "only-if-cached");
    options_.waits->Set(ask_.device->blob_digest, {next_, ask_.chunks.end}, ask_.peer.node);
    http_id_ = options_.http->Start(std::move(request), Handlers());
    if (cancelled_) options_.http->Cancel(http_id_);
  }

  void Cancel() {
    cancelled_ = true;
    options_.http->Cancel(http_id_);
  }

 private:
  net::HttpClientRequest Request() const {
    net::HttpClientRequest request;
    request.address = ask_.peer.address;
    request.port = ask_.peer.port;
    request.target = fmt::format("/v2/banyan/blobs/{}", ask_.device->blob_digest.ToString());
    request.headers = {{"Authorization", "Bearer " + options_.token},
                       {"Banyan-Node", options_.node},
                       {"Banyan-Function", ask_.function}};
    request.connect_timeout = options_.connect_timeout;
    request.stall_timeout = options_.stall_timeout;
    return request;
  }

  net::HttpClientHandlers Handlers() {
    const auto self = shared_from_this();
    return {.on_interim = [self](int status, const net::HeaderList& headers) { self->OnInterim(status, headers); },
            .on_head = [self](int status, const net::HeaderList& headers) { return self->OnHead(status, headers); },
            .on_data = [self](std::span<const std::byte> data) { return self->OnData(data); },
            .on_done = [self](const Status& status) { self->OnDone(status); }};
  }

  // The first problem is what the ask ends with.
  tl::unexpected<Error> End(PeerResult result, std::string_view what) {
    if (result_ == PeerResult::kGood) {
      result_ = result;
      what_ = what;
    }
    return Fail(Code::kAborted, what_);
  }

  void EndNow(PeerResult result, std::string_view what) {
    (void)End(result, what);
    options_.http->Cancel(http_id_);
  }

  bool Late(bool waiting) {
    const auto now = options_.timer->Now();
    return now >= ask_.deadline || (waiting && now >= ask_.patience);
  }

  void OnInterim(int status, const net::HeaderList& headers) {
    if (status != 102 || cancelled_) return;
    if (result_ != PeerResult::kGood) return options_.http->Cancel(http_id_);  // the id was not known the first time
    const std::string* via = headers.Find("via");
    if (via != nullptr && IsLoop(*via, options_.node)) return EndNow(PeerResult::kLoop, "waits for this node");
    if (Late(true)) return EndNow(PeerResult::kTimeout, "waited too long for others");
    const std::string chain = via == nullptr || via->empty() ? ask_.peer.node : ask_.peer.node + ", " + *via;
    options_.waits->Set(ask_.device->blob_digest, {next_, ask_.chunks.end}, chain);
    if (handlers_.on_waiting) handlers_.on_waiting();
  }

  Status OnHead(int status, const net::HeaderList& headers) {
    status_ = status;
    const auto now = options_.timer->Now();
    if (status == 503 || status == 429) {
      const std::string* retry = headers.Find("retry-after");
      const auto seconds = retry == nullptr ? std::nullopt : net::ParseDecimal(*retry);
      busy_ = seconds ? std::min<Clock::duration>(std::chrono::seconds(std::min<uint64_t>(*seconds, 60)), kBusyMost)
                      : Clock::duration(kBusyDefault);
    }
    if (status != 206) return {};
    const std::string* header = headers.Find("content-range");
    const auto range = net::ParseContentRange(header == nullptr ? "" : *header);
    if (!range) return End(PeerResult::kBadBytes, "no Content-Range");
    const auto& chunks = ask_.device->chunks;
    const bool same_blob = !range->complete_bytes || *range->complete_bytes == chunks.blob_bytes();
    if (!same_blob || range->range.begin != wanted_.begin || range->range.end > wanted_.end || !EndsAtChunk(*range)) {
      return End(PeerResult::kBadBytes, fmt::format("the range {} is not of the chunks that were asked for", *header));
    }
    given_ = range->range;
    body_begun_ = now;
    if (next_ == ask_.chunks.begin) client_.health_.NoteFirstByte(ask_.peer.node, now - begun_, now);
    if (!cancelled_ && handlers_.on_head) handlers_.on_head();
    return {};
  }

  bool EndsAtChunk(const net::ContentRange& range) const {
    const auto all = ask_.device->chunks.chunks();
    const auto end = std::lower_bound(all.begin(), all.end(), range.range.end, [](const auto& chunk, uint64_t offset) {
      return chunk.blob_range().end < offset;
    });
    return end != all.end() && end->blob_range().end == range.range.end;
  }

  Status OnData(std::span<const std::byte> data) {
    if (cancelled_) return Fail(Code::kAborted, "cancelled");
    received_ += data.size();
    if (status_ != 206) {
      if (received_ > kMostErrorBody) return End(PeerResult::kRefused, "a long refusal");
      return {};
    }
    if (received_ > given_.size()) return End(PeerResult::kBadBytes, "more bytes than announced");
    while (!data.empty()) {
      const size_t length = ask_.device->chunks[next_].compressed_bytes;
      if (current_.empty()) current_.reserve(length);
      const auto part = data.first(std::min(data.size(), length - current_.size()));
      current_.insert(current_.end(), part.begin(), part.end());
      data = data.subspan(part.size());
      if (current_.size() == length) BANYAN_TRY(OnChunk());
    }
    const auto moving = options_.timer->Now() - body_begun_;
    if (moving > options_.slow_after && received_ < given_.size()) {
      const double seconds = std::chrono::duration<double>(moving).count();
      if (static_cast<double>(received_) < seconds * static_cast<double>(options_.slow_bytes_per_second)) {
        return End(PeerResult::kSlow, fmt::format("{} bytes in {:.1f} s", received_, seconds));
      }
    }
    if (Late(false)) return End(PeerResult::kTimeout, "the deadline passed");
    return {};
  }

  Status OnChunk() {
    const image_format::Chunk& chunk = ask_.device->chunks[next_];
    ChunkBytes bytes = std::exchange(current_, {});
    if (Digest::Of(std::span<const std::byte>(bytes)) != chunk.compressed_digest) {
      rotten_ = chunk.blob_range();
      return End(PeerResult::kBadBytes, "digest mismatch");
    }
    bytes.from = ask_.rung;
    bytes.checked = true;
    options_.waits->Clear(ask_.device->blob_digest, next_);
    const ChunkIndex index = next_++;
    if (!cancelled_) handlers_.on_chunk(index, std::move(bytes));
    return {};
  }

  void OnDone(const Status& status) {
    if (!cancelled_ && result_ == PeerResult::kGood) Judge(status);
    const bool whole = next_ == ask_.chunks.end;
    if (!cancelled_ && result_ == PeerResult::kGood && !whole) return Send();
    for (ChunkIndex chunk = next_; chunk < ask_.chunks.end; ++chunk) {
      options_.waits->Clear(ask_.device->blob_digest, chunk);
    }
    if (cancelled_ && !whole && result_ == PeerResult::kGood) result_ = PeerResult::kCancelled;
    Remember();
    const auto handlers = std::exchange(handlers_, {});
    handlers.on_done(
        result_, {CodeOf(result_), fmt::format("chunk {} of layer {} from {} {}: {}", next_,
                                               ask_.device->blob_digest.ToString(), ask_.rung, ask_.peer.node, what_)});
  }

  // The request has ended; nothing has been found wrong with it so far.
  void Judge(const Status& status) {
    if (!status) {
      const bool over = status.error().code == Code::kCancelled;
      (void)End(over ? PeerResult::kCancelled : PeerResult::kUnreachable, status.error().message);
    } else if (status_ == 206) {
      if (received_ != given_.size()) (void)End(PeerResult::kBadBytes, "fewer bytes than announced");
    } else if (status_ == 504) {
      (void)End(PeerResult::kMiss, "does not hold it");
    } else {
      (void)End(PeerResult::kRefused, fmt::format("status {}", status_));
    }
  }

  void Remember() {
    PeerHealth& health = client_.health_;
    const auto now = options_.timer->Now();
    const std::string& node = ask_.peer.node;
    const auto fault = [&](PeerFault which) {
      if (!health.NoteFault(node, which, now)) return;
      spdlog::info("peer {} is at fault: chunk {} of layer {}: {}", node, next_, ask_.device->blob_digest.ToString(),
                   what_);
      options_.reports->Report(ask_.function, node, which, what_);
    };
    switch (result_) {
      case PeerResult::kGood:
        return health.NoteGood(node, now);
      case PeerResult::kUnreachable:
        return fault(PeerFault::kUnreachable);
      case PeerResult::kBadBytes:
        AskToRecheck();
        return fault(PeerFault::kBadBytes);
      case PeerResult::kSlow:
        return fault(PeerFault::kSlow);
      case PeerResult::kRefused:
        if (status_ == 404 && ask_.claimed) return fault(PeerFault::kLied);
        if (status_ == 404) return health.NoteUnknownThere(node, now);
        health.NoteBusy(node, busy_.value_or(kBusyMost), now);
        if (status_ == 401 || status_ == 403) spdlog::warn("peer {} refuses this node's token", node);
        return;
      case PeerResult::kTimeout:
        if (status_ == 0 && health.NoteWaitedInVain(node, now)) {
          spdlog::info("peer {} is left alone for a while: {}", node, what_);
        }
        return;
      case PeerResult::kMiss:
        if (ask_.claimed) fault(PeerFault::kLied);
        return;
      case PeerResult::kLoop:
      case PeerResult::kCancelled:
        return;
    }
  }

  // Perhaps the peer's disk lies, not the peer: it is told which chunk to look at. Nobody waits for the answer.
  void AskToRecheck() {
    if (rotten_.empty()) return;
    net::HttpClientRequest request = Request();
    request.headers.emplace_back("Priority", FormatPriority(Priority::kFill));
    request.headers.emplace_back("Range", net::FormatRange(rotten_));
    request.headers.emplace_back("Banyan-Recheck", "1");
    options_.http->Start(std::move(request), {.on_head = [](int, const net::HeaderList&) -> Status {
                           return Fail(Code::kCancelled, "of no interest");
                         }});
  }

  static Code CodeOf(PeerResult result) {
    if (result == PeerResult::kBadBytes) return Code::kDataLoss;
    if (result == PeerResult::kTimeout) return Code::kDeadlineExceeded;
    return result == PeerResult::kCancelled ? Code::kCancelled : Code::kUnavailable;
  }

  PeerClient& client_;
  const Options& options_;
  const PeerAsk ask_;
  PeerHandlers handlers_;
  const Clock::time_point begun_;
  std::atomic<uint64_t> http_id_ = 0;
  std::atomic<bool> cancelled_ = false;

  ChunkIndex next_;     // whose bytes are coming
  ChunkBytes current_;  // so far
  ByteRange wanted_;    // of the request under way
  ByteRange given_;     // of it, what the answer has
  int status_ = 0;      // of the answer
  uint64_t received_ = 0;
  Clock::time_point body_begun_{};
  ByteRange rotten_;  // the chunk with the wrong digest
  std::optional<Clock::duration> busy_;
  PeerResult result_ = PeerResult::kGood;
  std::string what_;
};

PeerClient::PeerClient(Options options) : options_(std::move(options)) {}
PeerClient::~PeerClient() = default;

std::shared_ptr<PeerClient::Ask> PeerClient::Start(PeerAsk ask, PeerHandlers handlers) {
  auto started = std::make_shared<Ask>(*this, std::move(ask), std::move(handlers));
  started->Send();
  return started;
}

void PeerClient::Cancel(Ask& ask) { ask.Cancel(); }

}  // namespace banyan::fetch
