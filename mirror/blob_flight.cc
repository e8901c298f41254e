#include "mirror/blob_flight.h"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "common/file_io.h"
#include "common/log.h"
#include "net/range_header.h"

namespace banyan::mirror {

namespace {

constexpr size_t kPieceBytes = 256 * kKiB;
constexpr uint64_t kSendBytes = 1 * kMiB;
constexpr uint64_t kWindowBytes = 8 * kMiB;
constexpr uint64_t kTrimBytes = 1 * kMiB;
// A short range so far ahead of the frontier is asked for on its own.
constexpr uint64_t kFarBytes = 8 * kMiB;
constexpr uint64_t kFarRangeBytes = 4 * kMiB;
constexpr std::chrono::seconds kSlowest{10};

// A range by FetchRange, waited for.
Status FetchAndWait(net::Repository& repository, const Digest& digest, ByteRange range, std::string& body) {
  std::mutex mutex;
  std::condition_variable ended;
  std::optional<Status> outcome;
  body.clear();
  repository.FetchRange(
      digest, range, {},
      [&](std::span<const std::byte> data) { body.append(reinterpret_cast<const char*>(data.data()), data.size()); },
      [&](const Status& status) {
        const std::scoped_lock lock(mutex);
        outcome = status;
        ended.notify_one();
      });
  std::unique_lock lock(mutex);
  ended.wait(lock, [&] { return outcome.has_value(); });
  return *outcome;
}

}  // namespace

HeaderFields BlobHeaders(const Digest& digest) {
  HeaderFields headers = ContentHeaders(digest, "application/octet-stream");
  headers.emplace_back("Accept-Ranges", "bytes");
  headers.emplace_back("Cache-Control", "max-age=31536000");
  return headers;
}

net::HttpResponse UnsatisfiableRange(uint64_t blob_bytes) {
  net::HttpResponse answer = ErrorAnswer(416, "RANGE_INVALID", "the blob ends before the range begins");
  answer.headers.emplace_back("Content-Range", fmt::format("bytes */{}", blob_bytes));
  return answer;
}

struct BlobFlight::Reader {
  std::string range_header;
  std::shared_ptr<net::HttpReply> reply;
  bool may_go_far = true;

  // Guarded by the flight's mutex_.
  bool resolved = false;  // what is below is known, and the head is sent
  bool chunked = false;
  uint64_t position = 0;
  std::optional<uint64_t> end;  // nullopt: the blob's, which is not known
  bool busy = false;            // a piece is on its way
  bool done = false;
};

struct BlobFlight::Work {
  struct Head {
    int status = 200;
    HeaderFields headers;
    std::optional<uint64_t> body_bytes;
  };
  std::optional<net::HttpResponse> answer;  // all there is to it
  std::optional<Head> head;
  ByteRange file;     // to send of the store's file
  std::string bytes;  // to send from memory
  bool end = false;
  bool abort = false;
  std::optional<ByteRange> far;
};

BlobFlight::BlobFlight(FlightContext context, BlobTarget target)
    : context_(std::move(context)), target_(std::move(target)) {}

BlobFlight::~BlobFlight() = default;

std::optional<uint64_t> BlobFlight::blob_bytes() const {
  const std::scoped_lock lock(mutex_);
  return blob_bytes_;
}

bool BlobFlight::Join(const std::string& range, const std::shared_ptr<net::HttpReply>& reply) {
  auto reader = std::make_shared<Reader>();
  reader->range_header = range;
  reader->reply = reply;
  {
    const std::scoped_lock lock(mutex_);
    if (phase_ == Phase::kFailed || stop_) return false;
    if (windowed_ && window_begin_ > FileEnd()) {
      const auto parsed = net::ParseRange(range, blob_bytes_.value_or(0));
      const uint64_t from = blob_bytes_ && parsed && *parsed ? (*parsed)->begin : 0;
      if (from < window_begin_) return false;
    }
    readers_.insert(reader);
  }
  ++context_.counters.readers_active;
  Pump(reader);
  return true;
}

void BlobFlight::Stop() {
  const std::scoped_lock lock(mutex_);
  stop_ = true;
  window_moved_.notify_all();
}

// ---- fetching

void BlobFlight::Run() {
  BeginStoring();
  Status status = Fetch();
  if (status) status = CheckDigest();
  if (!status) {
    spdlog::info("blob {}: {}", target_.digest.ToString(), status.error().message);
    ++context_.counters.flights_failed;
    const bool bad = status.error().code == Code::kDataLoss;
    if (bad && used_other_ && context_.hooks.on_bad_blob) context_.hooks.on_bad_blob(Ask());
    // Before its readers are cut: they come again at once, and begin another.
    if (fill_) fill_->Close();
    context_.forget(*this);
  }
  Settle(status);
  if (status && !uncached_) {
    if (Status stored = fill_->Commit(); !stored) {
      spdlog::warn("blob {}: not stored: {}", target_.digest.ToString(), stored.error().message);
      fill_->Close();
    }
  }
  if (status) context_.forget(*this);
  if (orphan_) context_.give_orphan();
}

void BlobFlight::Refuse() {
  context_.forget(*this);
  Settle(Fail(Code::kResourceExhausted, "too much is waiting for this upstream already"));
}

void BlobFlight::BeginStoring() {
  auto fill = context_.store.BeginBlob(target_.digest, std::nullopt);
  if (!fill) {
    spdlog::info("blob {}: passed on without being stored: {}", target_.digest.ToString(), fill.error().message);
    ++context_.counters.fills_uncached;
    uncached_ = true;
    const std::scoped_lock lock(mutex_);
    windowed_ = true;
    return;
  }
  if ((*fill)->bytes() > 0) ++context_.counters.fills_resumed;
  const std::scoped_lock lock(mutex_);
  fill_ = std::move(*fill);
  received_ = fill_->bytes();
}

BlobAsk BlobFlight::Ask() const {
  return {target_.upstream ? target_.upstream->name() : "", target_.repository, target_.digest};
}

Status BlobFlight::Fetch() {
  if (context_.hooks.open_blob_first) {
    Result<net::OpenedBlob> opened = context_.hooks.open_blob_first(Ask(), received_);
    if (opened) {
      used_other_ = true;
      Status streamed = Stream(std::move(*opened));
      if (streamed || streamed.error().code == Code::kCancelled) return streamed;
      spdlog::info("blob {}: {}; the upstream brings the rest", target_.digest.ToString(), streamed.error().message);
    }
  }
  return FetchFromUpstream();
}

Status BlobFlight::FetchFromUpstream() {
  return target_.upstream->Try(target_.repository, target_.identity, [this](net::Repository& repository) -> Status {
    Result<net::OpenedBlob> opened = repository.OpenBlobAt(target_.digest, received_);
    if (opened) return Stream(std::move(*opened));
    // An earlier fill had it all but for the check.
    if (opened.error().code == Code::kOutOfRange && received_ > 0) return TakeHead(received_);
    return Fail(opened.error());
  });
}

Status BlobFlight::Stream(net::OpenedBlob opened) {
  BANYAN_TRY(TakeHead(opened.blob_bytes));
  std::vector<std::byte> buffer(kPieceBytes);
  while (true) {
    if (ShouldStop()) return Fail(Code::kCancelled, "given up, since nobody waits for it");
    BANYAN_ASSIGN(const size_t count, opened.source->Read(buffer));
    if (count == 0) break;
    context_.counters.upstream_bytes += count;
    BANYAN_TRY(TakePiece(std::span(buffer).first(count)));
  }
  if (blob_bytes_ && received_ != *blob_bytes_) {
    return Fail(Code::kUnavailable, fmt::format("{} of {} bytes came", received_, *blob_bytes_));
  }
  return {};
}

Status BlobFlight::TakeHead(std::optional<uint64_t> blob_bytes) {
  if (blob_bytes_ && blob_bytes && *blob_bytes_ != *blob_bytes) {
    return Fail(Code::kDataLoss, fmt::format("one says it has {} bytes, another {}", *blob_bytes_, *blob_bytes));
  }
  if (blob_bytes && !blob_bytes_ && !uncached_) {
    Status expected = fill_->Expect(*blob_bytes);
    if (!expected && expected.error().code == Code::kDataLoss) return expected;
    if (!expected) GoUncached(expected.error());
  }
  {
    const std::scoped_lock lock(mutex_);
    if (blob_bytes) blob_bytes_ = blob_bytes;
    phase_ = Phase::kFlowing;
  }
  PumpAll();
  return {};
}

Status BlobFlight::TakePiece(std::span<const std::byte> piece) {
  if (blob_bytes_ && piece.size() > *blob_bytes_ - received_) {
    return Fail(Code::kDataLoss, fmt::format("more than its {} bytes came", *blob_bytes_));
  }
  if (!uncached_) {
    Status stored = fill_->Append(piece);
    if (!stored) GoUncached(stored.error());
  }
  if (uncached_) {
    own_hash_.Update(piece);
    BANYAN_TRY(KeepInWindow(piece));
  }
  {
    const std::scoped_lock lock(mutex_);
    received_ += piece.size();
  }
  PumpAll();
  return {};
}

void BlobFlight::GoUncached(const Error& why) {
  spdlog::warn("blob {}: passed on without being stored: {}", target_.digest.ToString(), why.message);
  ++context_.counters.fills_uncached;
  uncached_ = true;
  // What the file has must be hashed again: the store's digest cannot go on without it.
  std::vector<std::byte> piece(kPieceBytes);
  for (uint64_t at = 0; at < received_;) {
    const auto part = std::span(piece).first(std::min<uint64_t>(piece.size(), received_ - at));
    if (!PreadFull(fill_->fd(), part, at, "partial blob")) break;  // the digest will be wrong
    own_hash_.Update(part);
    at += part.size();
  }
  const std::scoped_lock lock(mutex_);
  windowed_ = true;
  window_begin_ = received_;
}

Status BlobFlight::KeepInWindow(std::span<const std::byte> piece) {
  std::unique_lock lock(mutex_);
  while (true) {
    TrimWindow();
    if (window_.empty() || window_.size() + piece.size() <= kWindowBytes) break;
    stop_ = stop_ || readers_.empty();
    if (stop_) return Fail(Code::kCancelled, "given up, since nobody waits for it");
    const uint64_t before = window_begin_;
    if (window_moved_.wait_for(lock, kSlowest) != std::cv_status::timeout) continue;
    TrimWindow();
    if (window_begin_ == before) CutSlowest(lock);
  }
  window_.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  return {};
}

void BlobFlight::TrimWindow() {
  uint64_t slowest = window_begin_ + window_.size();
  for (const ReaderPtr& reader : readers_) slowest = std::min(slowest, reader->position);
  if (slowest < window_begin_ + kTrimBytes) return;
  window_.erase(0, slowest - window_begin_);
  window_begin_ = slowest;
}

void BlobFlight::CutSlowest(std::unique_lock<std::mutex>& lock) {
  const auto slowest = std::min_element(readers_.begin(), readers_.end(), [](const ReaderPtr& a, const ReaderPtr& b) {
    return a->position < b->position;
  });
  if (slowest == readers_.end()) return;
  const ReaderPtr reader = *slowest;
  reader->done = true;
  lock.unlock();
  reader->reply->Abort();
  Drop(reader);
  lock.lock();
}

bool BlobFlight::ShouldStop() {
  {
    const std::scoped_lock lock(mutex_);
    if (stop_) return true;
    if (!readers_.empty()) return false;
    if (windowed_) return stop_ = true;
  }
  if (!orphan_) orphan_ = context_.take_orphan();
  if (orphan_) return false;
  const std::scoped_lock lock(mutex_);
  stop_ = readers_.empty();  // from here on nobody joins
  return stop_;
}

Status BlobFlight::CheckDigest() {
  if (!uncached_) return fill_->Finish();
  const Digest actual = own_hash_.Finish();
  if (actual == target_.digest) return {};
  if (fill_) fill_->Discard();
  return Fail(Code::kDataLoss, fmt::format("the bytes that came hash to {}", actual.ToString()));
}

void BlobFlight::Settle(const Status& status) {
  {
    const std::scoped_lock lock(mutex_);
    phase_ = status ? Phase::kWhole : Phase::kFailed;
    if (status) {
      blob_bytes_ = received_;
    } else {
      failure_ = status.error();
    }
  }
  PumpAll();
}

// ---- serving

uint64_t BlobFlight::FileEnd() const { return fill_ ? fill_->bytes() : 0; }

uint64_t BlobFlight::AvailableEnd() const { return windowed_ ? window_begin_ + window_.size() : FileEnd(); }

void BlobFlight::Resolve(Reader& reader, Work& work) const {
  Work::Head head{200, BlobHeaders(target_.digest), blob_bytes_};
  if (blob_bytes_) {
    const Result<std::optional<ByteRange>> range = net::ParseRange(reader.range_header, *blob_bytes_);
    if (!range) {
      work.answer = UnsatisfiableRange(*blob_bytes_);
      return;
    }
    reader.end = *blob_bytes_;
    if (*range) {
      const bool is_far = (*range)->begin > AvailableEnd() + kFarBytes && (*range)->size() <= kFarRangeBytes;
      if (is_far && phase_ == Phase::kFlowing && reader.may_go_far) {
        work.far = **range;
        return;
      }
      reader.position = (*range)->begin;
      reader.end = (*range)->end;
      head.status = 206;
      head.headers.emplace_back("Content-Range", net::FormatContentRange(**range, *blob_bytes_));
      head.body_bytes = (*range)->size();
    }
  }
  reader.chunked = !head.body_bytes;
  reader.resolved = true;
  work.head = std::move(head);
}

void BlobFlight::ChoosePiece(Reader& reader, Work& work) const {
  uint64_t limit = AvailableEnd();
  if (phase_ != Phase::kWhole && blob_bytes_ && *blob_bytes_ > 0) limit = std::min(limit, *blob_bytes_ - 1);
  if (reader.end) limit = std::min(limit, *reader.end);
  if (reader.position < limit) {
    const uint64_t file_end = std::min(FileEnd(), limit);
    if (reader.position < file_end) {
      work.file = {reader.position, std::min(file_end, reader.position + kSendBytes)};
    } else if (reader.position >= window_begin_) {
      const uint64_t count = std::min<uint64_t>(limit - reader.position, kPieceBytes);
      work.bytes = window_.substr(reader.position - window_begin_, count);
    } else {
      work.abort = true;
    }
    return;
  }
  work.end = reader.end ? reader.position == *reader.end : phase_ == Phase::kWhole;
  work.abort = !work.end && phase_ == Phase::kFailed;
}

bool BlobFlight::NextWork(Reader& reader, Work& work) {
  if (reader.busy || reader.done) return false;
  if (!reader.resolved) {
    if (phase_ == Phase::kOpening) return false;
    if (phase_ == Phase::kFailed) {
      work.answer = ErrorAnswer(*failure_, "BLOB_UNKNOWN");
    } else {
      Resolve(reader, work);
    }
  }
  if (!work.answer && !work.far) ChoosePiece(reader, work);
  reader.done = work.answer || work.end || work.abort;
  reader.busy = !reader.done && (work.far || !work.file.empty() || !work.bytes.empty());
  return reader.done || reader.busy || work.head;
}

void BlobFlight::Pump(const ReaderPtr& reader) {
  Work work;
  {
    const std::scoped_lock lock(mutex_);
    if (!NextWork(*reader, work)) return;
    // In order with what another thread may have to do for this reader next; posts only.
    if (work.head) reader->reply->SendHead(work.head->status, std::move(work.head->headers), work.head->body_bytes);
  }
  Do(reader, std::move(work));
}

void BlobFlight::Do(const ReaderPtr& reader, Work work) {
  if (work.far) return FetchFarRange(reader, *work.far);
  if (work.answer) reader->reply->Send(std::move(*work.answer));
  if (work.end) reader->reply->End();
  if (work.abort) reader->reply->Abort();
  if (work.answer || work.end || work.abort) return Drop(reader);
  if (work.bytes.empty() && work.file.empty()) return;
  const auto self = shared_from_this();
  if (reader->chunked && !work.file.empty()) {
    work.bytes.resize(std::min<uint64_t>(work.file.size(), kPieceBytes));
    const auto buffer = std::as_writable_bytes(std::span(work.bytes.data(), work.bytes.size()));
    if (!PreadFull(fill_->fd(), buffer, work.file.begin, "blob")) {
      reader->reply->Abort();
      return Drop(reader);
    }
  }
  if (!work.bytes.empty()) {
    const uint64_t count = work.bytes.size();
    reader->reply->Write(std::move(work.bytes),
                         [self, reader, count](bool alive) { self->OnWritten(reader, count, alive); });
    return;
  }
  const uint64_t count = work.file.size();
  reader->reply->WriteFile({fill_->fd(), work.file, self},
                           [self, reader, count](bool alive) { self->OnWritten(reader, count, alive); });
}

void BlobFlight::OnWritten(const ReaderPtr& reader, uint64_t bytes, bool alive) {
  if (!alive) return Drop(reader);
  context_.counters.miss_bytes += bytes;
  {
    const std::scoped_lock lock(mutex_);
    reader->position += bytes;
    reader->busy = false;
    if (windowed_) window_moved_.notify_all();
  }
  Pump(reader);
}

void BlobFlight::PumpAll() {
  std::vector<ReaderPtr> idle;
  {
    const std::scoped_lock lock(mutex_);
    for (const ReaderPtr& reader : readers_) {
      if (!reader->busy) idle.push_back(reader);
    }
  }
  for (const ReaderPtr& reader : idle) Pump(reader);
}

void BlobFlight::Drop(const ReaderPtr& reader) {
  const std::scoped_lock lock(mutex_);
  reader->done = true;
  if (readers_.erase(reader) > 0) --context_.counters.readers_active;
  if (windowed_) window_moved_.notify_all();
}

void BlobFlight::FetchFarRange(const ReaderPtr& reader, ByteRange range) {
  const bool posted = target_.upstream->calls().Post([self = shared_from_this(), reader, range] {
    const BlobTarget& target = self->target_;
    std::string body;
    const Status fetched = target.upstream->Try(target.repository, target.identity, [&](net::Repository& repository) {
      return FetchAndWait(repository, target.digest, range, body);
    });
    if (fetched) {
      self->context_.counters.upstream_bytes += body.size();
      self->context_.counters.miss_bytes += body.size();
      HeaderFields headers = BlobHeaders(target.digest);
      headers.emplace_back("Content-Range", net::FormatContentRange(range, *self->blob_bytes()));
      reader->reply->Send({206, std::move(headers), std::move(body)});
      return self->Drop(reader);
    }
    reader->may_go_far = false;
    self->OnWritten(reader, 0, true);
  });
  if (posted) return;
  reader->may_go_far = false;
  OnWritten(reader, 0, true);
}

}  // namespace banyan::mirror
