#include "fetch/repository_source.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "fetch/priority_header.h"

namespace banyan::fetch {

// One range request. The repository's thread, the deadline and the source's destructor meet here: whoever sets
// `finished` answers the chunks that are left.
struct RepositorySource::Transfer {
  ChunkRequest request;
  OnChunk on_chunk;
  std::string repository;
  std::string_view name;
  uint64_t key = 0;
  std::atomic<uint64_t> range_id = 0;
  std::atomic<bool> expired = false;

  std::mutex mutex;
  ChunkIndex next = 0;    // guarded by mutex: the chunk whose bytes are coming
  ChunkBytes current;     // guarded by mutex
  bool finished = false;  // guarded by mutex
  Timer::Id alarm = 0;    // guarded by mutex

  void OnData(std::span<const std::byte> data) {
    std::vector<std::pair<ChunkIndex, ChunkBytes>> whole;
    {
      const std::lock_guard lock(mutex);
      if (finished) return;
      while (!data.empty() && next < request.chunks.end) {
        const size_t length = request.device->chunks[next].compressed_bytes;
        if (current.empty()) current.reserve(length);
        const auto part = data.first(std::min(data.size(), length - current.size()));
        current.insert(current.end(), part.begin(), part.end());
        data = data.subspan(part.size());
        if (current.size() == length) whole.emplace_back(next++, std::exchange(current, {}));
      }
    }
    for (auto& [chunk, bytes] : whole) {
      bytes.from = name;
      on_chunk(chunk, std::move(bytes));
    }
  }

  void Finish(Error error) {
    ChunkRange left;
    {
      const std::lock_guard lock(mutex);
      if (std::exchange(finished, true)) return;
      left = {next, request.chunks.end};
      current = {};
    }
    if (expired) error = {Code::kDeadlineExceeded, "the request's deadline passed"};
    for (ChunkIndex chunk = left.begin; chunk < left.end; ++chunk) {
      on_chunk(chunk, Fail(error.WithContext(fmt::format("chunk {} of layer {} from {}", chunk,
                                                         request.device->blob_digest.ToString(), repository))));
    }
  }
};

struct RepositorySource::State {
  std::mutex mutex;
  std::unordered_map<uint64_t, std::shared_ptr<Transfer>> transfers;  // guarded by mutex
  uint64_t last_key = 0;                                              // guarded by mutex
};

RepositorySource::RepositorySource(std::shared_ptr<net::Repository> repository, Timer* timer, std::string_view name)
    : repository_(std::move(repository)), timer_(timer), name_(name), state_(std::make_shared<State>()) {}

RepositorySource::~RepositorySource() {
  std::unordered_map<uint64_t, std::shared_ptr<Transfer>> transfers;
  {
    const std::lock_guard lock(state_->mutex);
    transfers.swap(state_->transfers);
  }
  for (const auto& [key, transfer] : transfers) {
    repository_->CancelRange(transfer->range_id);
    transfer->Finish({Code::kCancelled, "the source is closed"});
    const std::lock_guard lock(transfer->mutex);
    if (timer_ != nullptr) timer_->Cancel(transfer->alarm);
  }
}

void RepositorySource::Fetch(ChunkRequest request, OnChunk on_chunk) {
  const auto transfer = std::make_shared<Transfer>();
  const auto& chunks = request.device->chunks;
  const Digest blob = request.device->blob_digest;
  const ByteRange range{chunks[request.chunks.begin].blob_range().begin,
                        chunks[request.chunks.end - 1].blob_range().end};
  transfer->next = request.chunks.begin;
  transfer->request = std::move(request);
  transfer->on_chunk = std::move(on_chunk);
  transfer->repository = repository_->name();
  transfer->name = name_;
  {
    const std::lock_guard lock(state_->mutex);
    transfer->key = ++state_->last_key;
    state_->transfers.emplace(transfer->key, transfer);
  }
  const auto on_done = [transfer, weak = std::weak_ptr(state_), timer = timer_](const Status& status) {
    Error error{Code::kUnavailable, "the answer ended early"};
    transfer->Finish(status ? std::move(error) : status.error());
    const auto state = weak.lock();
    if (!state) return;
    // Under this lock, since the timer may end as soon as the source has; then the source has taken the transfer out.
    const std::lock_guard lock(state->mutex);
    if (state->transfers.erase(transfer->key) == 0 || timer == nullptr) return;
    const std::lock_guard alarm_lock(transfer->mutex);
    timer->Cancel(transfer->alarm);
  };
  transfer->range_id = repository_->FetchRange(
      blob, range, FormatPriority(transfer->request.priority),
      [transfer](std::span<const std::byte> data) { transfer->OnData(data); }, on_done);
  SetAlarm(transfer);
}

void RepositorySource::SetAlarm(const std::shared_ptr<Transfer>& transfer) {
  const auto deadline = transfer->request.deadline;
  if (timer_ == nullptr || deadline == Clock::time_point::max()) return;
  const std::lock_guard lock(transfer->mutex);
  if (transfer->finished) return;
  transfer->alarm =
      timer_->At(deadline, [weak = std::weak_ptr(transfer), weak_repository = std::weak_ptr(repository_)] {
        const auto late = weak.lock();
        const auto repository = weak_repository.lock();
        if (!late || !repository) return;
        late->expired = true;
        repository->CancelRange(late->range_id);
      });
}

}  // namespace banyan::fetch
