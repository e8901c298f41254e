#include "net/blob_reader.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "common/units.h"
#include "net/range_header.h"
#include "net/retry.h"

namespace banyan::net {

namespace {

constexpr size_t kBufferBytes = 4 * kMiB;
// Fewer bytes than these between two failures are no progress: a registry that stalls after each kilobyte would
// otherwise hold the reader for days.
constexpr uint64_t kProgressBytes = 256 * kKiB;

// What the session's thread and the reader share, for one GET.
struct Stream {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::vector<std::byte>> chunks;  // guarded by mutex, as is all that follows
  size_t front_offset = 0;
  size_t buffered = 0;
  bool paused = false;
  bool has_head = false;
  std::optional<RegistryOutcome> outcome;
  std::optional<uint64_t> total_bytes;  // of the blob
  uint64_t to_skip = 0;

  Take Add(std::span<const std::byte> data) {
    const std::lock_guard lock(mutex);
    if (buffered > 0 && buffered + data.size() > kBufferBytes) {
      paused = true;
      return Take::kPause;
    }
    const uint64_t skipped = std::min<uint64_t>(to_skip, data.size());
    to_skip -= skipped;
    data = data.subspan(skipped);
    if (data.empty()) return Take::kTaken;
    chunks.emplace_back(data.begin(), data.end());
    buffered += data.size();
    changed.notify_one();
    return Take::kTaken;
  }

  size_t Drain(std::span<std::byte> buffer) {
    size_t copied = 0;
    while (copied < buffer.size() && !chunks.empty()) {
      const std::vector<std::byte>& front = chunks.front();
      const size_t count = std::min(buffer.size() - copied, front.size() - front_offset);
      std::memcpy(buffer.data() + copied, front.data() + front_offset, count);
      copied += count;
      front_offset += count;
      if (front_offset == front.size()) {
        chunks.pop_front();
        front_offset = 0;
      }
    }
    buffered -= copied;
    return copied;
  }

  // `from`: the first byte that is wanted.
  Status TakeHead(int http_status, const HeaderList& headers, uint64_t from) {
    const std::lock_guard lock(mutex);
    has_head = true;
    changed.notify_one();
    if (http_status == 206) {
      const std::string* header = headers.Find("content-range");
      if (header == nullptr) return Fail(Code::kDataLoss, "206 without Content-Range");
      BANYAN_ASSIGN(const ContentRange got, ParseContentRange(*header));
      if (got.range.begin != from)
        return Fail(Code::kDataLoss, "the registry resumed at another byte than was asked for");
      total_bytes = got.complete_bytes;
      return {};
    }
    if (http_status != 200) return Fail(Code::kUnavailable, fmt::format("unexpected answer {}", http_status));
    const std::string* length = headers.Find("content-length");
    if (length != nullptr) total_bytes = ParseDecimal(*length);
    to_skip = from;
    return {};
  }
};

class BlobReader final : public ByteSource {
 public:
  BlobReader(std::shared_ptr<RegistrySession> session, std::string path, const Digest& digest, uint32_t attempts,
             uint64_t offset)
      : session_(std::move(session)),
        path_(std::move(path)),
        digest_(digest),
        attempts_(attempts),
        received_(offset),
        received_at_failure_(offset) {}
  ~BlobReader() override {
    if (request_ != 0) session_->Cancel(request_);
  }

  // Begins, and waits for an answer.
  Status Open() {
    Begin();
    while (true) {
      {
        std::unique_lock lock(stream_->mutex);
        stream_->changed.wait(lock, [&] { return stream_->has_head || stream_->outcome; });
        if (!stream_->outcome || stream_->outcome->status) return {};
        if (stream_->buffered > 0) return {};  // Read() goes on from there
      }
      BANYAN_TRY(BeginAgain());
    }
  }

  std::optional<uint64_t> blob_bytes() const {
    const std::lock_guard lock(stream_->mutex);
    return stream_->total_bytes;
  }

  Result<size_t> Read(std::span<std::byte> buffer) override {
    while (!ended_) {
      bool resume = false;
      size_t count = 0;
      {
        std::unique_lock lock(stream_->mutex);
        stream_->changed.wait(lock, [&] { return stream_->buffered > 0 || stream_->outcome; });
        count = stream_->Drain(buffer);
        resume = stream_->paused && stream_->buffered <= kBufferBytes / 2;
        if (resume) stream_->paused = false;
      }
      if (resume) session_->Resume(request_);
      if (count > 0) {
        received_ += count;
        if (received_ - received_at_failure_ >= kProgressBytes) failures_ = 0;
        return count;
      }
      if (stream_->outcome->status && IsWhole()) {
        ended_ = true;
        break;
      }
      BANYAN_TRY(BeginAgain());
    }
    return 0;
  }

 private:
  // After the stream's outcome has come: nobody else touches it any more.
  bool IsWhole() const { return !stream_->total_bytes || *stream_->total_bytes == received_; }

  Status BeginAgain() {
    RegistryOutcome& outcome = *stream_->outcome;
    if (outcome.status) {
      outcome.status = Fail(Code::kDataLoss, fmt::format("{}: blob {}: {} of {} bytes came", session_->name(),
                                                         digest_.ToString(), received_, *stream_->total_bytes));
      outcome.transient = true;
    }
    ++failures_;
    received_at_failure_ = received_;
    if (!outcome.transient || failures_ >= attempts_) return outcome.status;
    std::chrono::milliseconds pause = Backoff(failures_);
    if (outcome.retry_after) pause = std::max(pause, std::chrono::milliseconds(*outcome.retry_after));
    std::this_thread::sleep_for(pause);
    Begin();
    return {};
  }

  void Begin() {
    stream_ = std::make_shared<Stream>();
    RegistryRequest request;
    request.target = path_;
    request.what = fmt::format("blob {}", digest_.ToString());
    request.blob = digest_;
    if (received_ > 0) request.headers.push_back(fmt::format("Range: bytes={}-", received_));
    RegistryHandlers handlers;
    handlers.on_head = [stream = stream_, from = received_](int status, const HeaderList& headers) {
      return stream->TakeHead(status, headers, from);
    };
    handlers.on_data = [stream = stream_](std::span<const std::byte> data) { return stream->Add(data); };
    handlers.on_done = [stream = stream_](RegistryOutcome outcome) {
      const std::lock_guard lock(stream->mutex);
      stream->outcome = std::move(outcome);
      stream->changed.notify_one();
    };
    request_ = session_->Start(std::move(request), std::move(handlers));
  }

  const std::shared_ptr<RegistrySession> session_;  // shared with the repository, which may be destroyed before
  const std::string path_;
  const Digest digest_;
  const uint32_t attempts_;
  std::shared_ptr<Stream> stream_;  // shared with the handlers of the request under way
  uint64_t request_ = 0;
  uint64_t received_;  // with what lies before the offset
  uint64_t received_at_failure_;
  uint32_t failures_ = 0;
  bool ended_ = false;
};

}  // namespace

Result<OpenedBlob> OpenBlobReader(std::shared_ptr<RegistrySession> session, const std::string& path,
                                  const Digest& digest, uint32_t attempts, uint64_t offset) {
  auto reader = std::make_unique<BlobReader>(std::move(session), path, digest, attempts, offset);
  BANYAN_TRY(reader->Open());
  const std::optional<uint64_t> blob_bytes = reader->blob_bytes();
  if (blob_bytes && *blob_bytes <= offset && offset > 0) {
    return Fail(Code::kOutOfRange,
                fmt::format("blob {}: has {} bytes, {} are had", digest.ToString(), *blob_bytes, offset));
  }
  return OpenedBlob{std::move(reader), blob_bytes};
}

}  // namespace banyan::net
