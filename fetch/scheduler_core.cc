#include "fetch/scheduler_core.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "common/log.h"

namespace banyan::fetch {
namespace {

// How much of a layer fill looks at and asks for in one go, and has under way at most.
constexpr ChunkIndex kRefillScan = 4096;
constexpr size_t kRefillChunks = 64;

uint64_t SaltOf(const Scheduler::Options& options) {
  if (options.jitter_seed != 0) return options.jitter_seed;
  return static_cast<uint64_t>(Clock::now().time_since_epoch().count());
}

FlightTable::Options TableOptions(const Scheduler::Options& options) {
  return {.limits = {options.demand_limits, options.prefetch_limits, options.fill_limits},
          .attempt_timeout = options.attempt_timeout,
          .stalled_after = options.stalled_after,
          .salt = SaltOf(options)};
}

std::string ReadName(const store::StoredLayer& layer, ByteRange range) {
  return fmt::format("bytes [{}, {}) of layer {}", range.begin, range.end, layer.device().blob_digest.ToString());
}

}  // namespace

SchedulerCore::SchedulerCore(const Scheduler::Options& options, std::shared_ptr<Timer> timer)
    : options_(options), timer_(std::move(timer)), tasks_(options.executor), table_(TableOptions(options)) {}

SchedulerCore::LayerPtr SchedulerCore::AddLayer(std::shared_ptr<store::StoredLayer> stored,
                                                std::shared_ptr<ChunkSource> source, bool fill, LanePlan lanes) {
  stored->Touch();
  LayerPtr layer;
  {
    const MutexLock lock(mutex_);
    layer = std::make_shared<Layer>(++last_layer_, std::move(stored), options_.read_ahead_bytes);
    if (stopped_) {
      layer->cancelled = true;
      return layer;
    }
    layer->source = std::move(source);
    layers_.emplace(layer->id, layer);
    table_.AddLayer(layer->id, layer->stored->device().chunks, std::move(lanes));
    if (fill) filling_.insert(layer->id);
  }
  Pump();
  return layer;
}

// ---- Reads ----

ChunkRange SchedulerCore::NoteDemand(Layer& layer, ChunkRange chunks) {
  const auto now = timer_->Now();
  const MutexLock lock(layer.demand_mutex);
  layer.touches.Touch(chunks, now);
  return layer.read_ahead.OnRead(layer.stored->device().chunks, chunks);
}

ReadId SchedulerCore::Read(const LayerPtr& layer, ByteRange range, OnRead done) {
  const auto& device = layer->stored->device();
  if (range.empty() || range.end > device.device_bytes()) {
    done(Fail(Code::kInvalidArgument, ReadName(*layer->stored, range) + ": not within the device"));
    return 0;
  }
  if (layer->cancelled) {
    done(Fail(Code::kCancelled, ReadName(*layer->stored, range) + ": the layer is no longer in use"));
    return 0;
  }
  reads_total_.fetch_add(1, std::memory_order_relaxed);
  const ChunkRange chunks = device.chunks.ChunksOf(range);
  const ChunkRange ahead = NoteDemand(*layer, chunks);
  ReadId id = 0;
  if (auto lease = layer->stored->Lease(chunks)) {
    reads_at_once_.fetch_add(1, std::memory_order_relaxed);
    done(ReadView{layer->stored->device_fd(), range.begin, range.size(), {}, std::move(*lease)});
  } else {
    WaitingRead read;
    read.range = range;
    read.chunks = chunks;
    read.done = std::move(done);
    read.begun = timer_->Now();
    id = Wait(layer, std::move(read));
  }
  if (!ahead.empty()) PrefetchRange(layer, ahead);
  return id;
}

ReadId SchedulerCore::Wait(const LayerPtr& layer, WaitingRead read) {
  read.layer = layer;
  read.held.resize(read.chunks.size());
  read.missing = read.chunks.size();
  if (read.chunks.size() > 1) {
    for (ChunkIndex chunk = read.chunks.begin; chunk < read.chunks.end; ++chunk) {
      HeldChunk& held = read.held[chunk - read.chunks.begin];
      held = LeaseChunk(*layer->stored, chunk);
      if (held) --read.missing;
    }
  }
  if (read.missing == 0) {  // the last ones came meanwhile
    read.done(MakeView(*layer->stored, read));
    return 0;
  }
  MutexLock lock(mutex_);
  if (layer->cancelled) {
    lock.Unlock();
    read.done(Fail(Code::kCancelled, ReadName(*layer->stored, read.range) + ": the layer is no longer in use"));
    return 0;
  }
  const ReadId id = ++last_read_;
  for (ChunkIndex chunk = read.chunks.begin; chunk < read.chunks.end; ++chunk) {
    if (!read.held[chunk - read.chunks.begin]) table_.Want({layer->id, chunk}, Priority::kDemand, id);
  }
  const bool hangs_first = options_.hung_after < options_.read_timeout;
  read.event = read_events_.Add(read.begun + std::min(options_.hung_after, options_.read_timeout), {id, hangs_first});
  layer->reads.insert(id);
  reads_.emplace(id, std::move(read));
  lock.Unlock();
  Pump();
  return id;
}

ReadId SchedulerCore::ReadCompressed(const LayerPtr& layer, ChunkIndex chunk, Priority priority, OnCompressed done) {
  if (chunk >= layer->stored->device().chunks.size()) {
    done(Fail(Code::kInvalidArgument, ChunkName(*layer->stored, chunk) + ": no such chunk"));
    return 0;
  }
  if (auto here = layer->stored->LeaseCompressed(chunk); here && !layer->cancelled) {
    done(MakeView(std::move(*here)));
    return 0;
  }
  WaitingRead read;
  read.layer = layer;
  read.range = layer->stored->device().chunks[chunk].device_range();
  read.chunks = {chunk, chunk + 1};
  read.held.resize(1);
  read.begun = timer_->Now();
  MutexLock lock(mutex_);
  if (layer->cancelled) {
    lock.Unlock();
    done(Fail(Code::kCancelled, ChunkName(*layer->stored, chunk) + ": the layer is no longer in use"));
    return 0;
  }
  const ReadId id = ++last_read_;
  read.relay = std::move(done);
  read.event = read_events_.Add(read.begun + options_.read_timeout, {id, false});
  table_.Want({layer->id, chunk}, priority, id, kCompressedForm);
  layer->reads.insert(id);
  ++layer->relays;
  ++relays_;
  reads_.emplace(id, std::move(read));
  lock.Unlock();
  Pump();
  return id;
}

void SchedulerCore::Forget(ReadId id) {
  std::optional<WaitingRead> forgotten;  // let go outside the lock
  const MutexLock lock(mutex_);
  const auto found = reads_.find(id);
  if (found == reads_.end() || !found->second.relay) return;
  LeaveMissing(found->second, id);
  forgotten = TakeRead(id);
}

ChunkState SchedulerCore::StateOf(const Layer& layer, ChunkIndex chunk) const {
  if (layer.stored->HasCompressed(chunk)) return ChunkState::kHere;
  const MutexLock lock(mutex_);
  return table_.Wanted({layer.id, chunk}) ? ChunkState::kComing : ChunkState::kAbsent;
}

void SchedulerCore::FailRead(WaitingRead& read, Error error) {
  if (read.relay) return read.relay(Fail(std::move(error)));
  read.done(Fail(std::move(error)));
}

SchedulerCore::WaitingRead SchedulerCore::TakeRead(ReadId id) {
  WaitingRead read = std::move(reads_.extract(id).mapped());
  read_events_.Remove(read.event);
  read.layer->reads.erase(id);
  if (read.relay) {
    --read.layer->relays;
    --relays_;
    return read;
  }
  const Clock::duration waited = timer_->Now() - read.begun;
  longest_read_ = std::max(longest_read_, waited);
  waited_ += waited;
  return read;
}

void SchedulerCore::LeaveMissing(const WaitingRead& read, ReadId id) {
  for (ChunkIndex chunk = read.chunks.begin; chunk < read.chunks.end; ++chunk) {
    if (!read.held[chunk - read.chunks.begin]) table_.Leave({read.layer->id, chunk}, id);
  }
}

Error SchedulerCore::TimeoutError(const WaitingRead& read) const {
  const auto waited = std::chrono::ceil<std::chrono::seconds>(timer_->Now() - read.begun);
  const std::string context =
      fmt::format("{}: gave up after {} s", ReadName(*read.layer->stored, read.range), waited.count());
  for (ChunkIndex chunk = read.chunks.begin; chunk < read.chunks.end; ++chunk) {
    if (read.held[chunk - read.chunks.begin]) continue;
    if (const Error* error = table_.LastError({read.layer->id, chunk})) return error->WithContext(context);
  }
  return {Code::kDeadlineExceeded, context + ": no answer from " + std::string(read.layer->source->name())};
}

std::vector<SchedulerCore::WaitingRead> SchedulerCore::DropReads(Layer& layer) {
  std::vector<WaitingRead> reads;
  while (!layer.reads.empty()) reads.push_back(TakeRead(*layer.reads.begin()));
  return reads;
}

void SchedulerCore::CancelAll(Layer& layer) {
  std::vector<WaitingRead> reads;
  {
    const MutexLock lock(mutex_);
    layer.cancelled = true;
    reads = DropReads(layer);
    table_.RemoveLayer(layer.id);
    filling_.erase(layer.id);
    undecoded_.erase(layer.id);
  }
  for (WaitingRead& read : reads) {
    FailRead(read, {Code::kCancelled, ReadName(*layer.stored, read.range) + ": cancelled"});
  }
  Pump();
}

void SchedulerCore::RemoveLayer(Layer& layer) {
  CancelAll(layer);
  std::shared_ptr<ChunkSource> source;
  const MutexLock lock(mutex_);
  source.swap(layer.source);
  layers_.erase(layer.id);
}

// ---- Prefetch and fill ----

void SchedulerCore::Expect(std::span<const WantedChunk> chunks) {
  for (const WantedChunk& wanted : chunks) {
    if (wanted.compressed_only || wanted.chunk >= wanted.layer->stored->device().chunks.size()) continue;
    const MutexLock lock(wanted.layer->demand_mutex);
    wanted.layer->read_ahead.Expect(wanted.chunk);
  }
}

void SchedulerCore::Prefetch(std::span<const WantedChunk> chunks) {
  std::vector<WantedChunk> missing;
  for (const WantedChunk& wanted : chunks) {
    const store::StoredLayer& stored = *wanted.layer->stored;
    if (wanted.chunk >= stored.device().chunks.size() || stored.Has(wanted.chunk)) continue;
    if (wanted.compressed_only && stored.HasCompressed(wanted.chunk)) continue;
    missing.push_back(wanted);
  }
  if (missing.empty()) return;
  {
    const MutexLock lock(mutex_);
    for (const WantedChunk& wanted : missing) {
      const bool either = wanted.compressed_only && options_.keep_compressed;
      table_.Want({wanted.layer->id, wanted.chunk}, Priority::kPrefetch, 0, either ? kAnyForm : kBlockForm);
    }
  }
  Pump();
}

void SchedulerCore::PrefetchRange(const LayerPtr& layer, ChunkRange chunks) {
  std::vector<WantedChunk> list;
  for (ChunkIndex chunk = chunks.begin; chunk < chunks.end; ++chunk) list.push_back({layer, chunk, false});
  Prefetch(list);
}

void SchedulerCore::Fill(Layer& layer) {
  {
    const MutexLock lock(mutex_);
    if (stopped_ || layer.cancelled || !layers_.contains(layer.id)) return;
    layer.next_fill = 0;
    filling_.insert(layer.id);
  }
  Pump();
}

void SchedulerCore::SetFillPaused(bool paused) {
  {
    const MutexLock lock(mutex_);
    fill_paused_ = paused;
    table_.set_fill_paused(paused);
  }
  Pump();
}

SchedulerCore::LayerPtr SchedulerCore::TakeRefill() {
  if (fill_paused_ || refilling_ || stopped_) return nullptr;
  for (LayerId id : filling_) {
    if (table_.fill_flights(id) >= kRefillChunks) continue;
    refilling_ = true;
    return layers_.at(id);
  }
  return nullptr;
}

void SchedulerCore::Refill(const LayerPtr& layer, ChunkIndex from) {
  const ChunkIndex chunks = layer->stored->device().chunks.size();
  std::vector<ChunkIndex> missing;
  ChunkIndex next = from;
  while (next < chunks && next - from < kRefillScan && missing.size() < kRefillChunks) {
    const bool here = layer->stored->Has(next) || (options_.keep_compressed && layer->stored->HasCompressed(next));
    if (!here) missing.push_back(next);
    ++next;
  }
  {
    const MutexLock lock(mutex_);
    refilling_ = false;
    if (filling_.contains(layer->id)) {
      const Forms forms = options_.keep_compressed ? kAnyForm : kBlockForm;
      for (ChunkIndex chunk : missing) table_.Want({layer->id, chunk}, Priority::kFill, 0, forms);
      layer->next_fill = next;
      if (next >= chunks) {
        filling_.erase(layer->id);
        if (options_.keep_compressed) undecoded_.insert(layer->id);
      }
    }
  }
  Pump();
}

SchedulerCore::LayerPtr SchedulerCore::TakeDecode() {
  if (undecoded_.empty() || fill_paused_ || decoding_ || stopped_ || !reads_.empty() || !FetchedAll()) return nullptr;
  decoding_ = true;
  return layers_.at(*undecoded_.begin());
}

void SchedulerCore::DecodeOne(const LayerPtr& layer, ChunkIndex from) {
  store::StoredLayer& stored = *layer->stored;
  const ChunkIndex chunks = stored.device().chunks.size();
  ChunkIndex next = from;
  while (next < chunks && next - from < kRefillScan && (stored.Has(next) || !stored.HasCompressed(next))) ++next;
  bool no_room = false;
  if (next < chunks && next - from < kRefillScan) {
    const auto local = FindLocally(stored, next);
    no_room = local && !local->held.lease;
    if (local && !local->from.empty()) {
      CountRequest(*layer, local->from);
      CountChunk(*layer, local->from, Priority::kFill, stored.device().chunks[next].compressed_bytes);
    }
    ++next;
  }
  {
    const MutexLock lock(mutex_);
    decoding_ = false;
    layer->next_decode = next;
    if (next >= chunks || no_room) undecoded_.erase(layer->id);
  }
  Pump();
}

bool SchedulerCore::FetchedAll() const {
  for (Priority priority : {Priority::kDemand, Priority::kPrefetch, Priority::kFill}) {
    if (table_.flights(priority) != 0) return false;
  }
  return filling_.empty() && !refilling_;
}

bool SchedulerCore::Idle() const {
  if (!reads_.empty() || table_.flights(Priority::kDemand) != 0 || table_.flights(Priority::kPrefetch) != 0)
    return false;
  if (fill_paused_) return table_.requests() == 0;
  return FetchedAll() && undecoded_.empty() && !decoding_;
}

void SchedulerCore::WhenIdle(std::function<void()> done) {
  {
    const MutexLock lock(mutex_);
    idle_callbacks_.push_back(std::move(done));
  }
  Pump();
}

// ---- What is to be done ----

void SchedulerCore::Pump() {
  const auto self = shared_from_this();
  MutexLock lock(mutex_);
  if (stopped_) return;
  if (pumping_) {
    pump_again_ = true;
    return;
  }
  pumping_ = true;
  do {
    pump_again_ = false;
    const auto now = timer_->Now();
    std::vector<PlannedRequest> requests;
    while (auto request = table_.Next(now)) requests.push_back(*request);
    const LayerPtr refill = TakeRefill();
    const ChunkIndex refill_from = refill ? refill->next_fill : 0;
    const LayerPtr decode = requests.empty() ? TakeDecode() : nullptr;
    const ChunkIndex decode_from = decode ? decode->next_decode : 0;
    std::vector<std::function<void()>> idle;
    if (Idle()) idle.swap(idle_callbacks_);
    const auto alarm = std::min(table_.next_event(), read_events_.next());
    const bool arm = alarm < alarm_;
    if (arm) alarm_ = alarm;
    lock.Unlock();

    for (const PlannedRequest& request : requests) {
      tasks_.Post(request.priority, [self, request] { self->Send(request); });
    }
    if (refill) tasks_.Post(Priority::kFill, [self, refill, refill_from] { self->Refill(refill, refill_from); });
    if (decode) tasks_.Post(Priority::kFill, [self, decode, decode_from] { self->DecodeOne(decode, decode_from); });
    if (arm) {
      timer_->At(alarm, [weak = weak_from_this(), alarm] {
        if (const auto core = weak.lock()) core->OnAlarm(alarm);
      });
    }
    for (const auto& callback : idle) callback();
    lock.Lock();
  } while (pump_again_);
  pumping_ = false;
}

// ---- Time ----

void SchedulerCore::OnAlarm(Clock::time_point when) {
  std::vector<ReadFailure> failures;
  std::vector<std::string> hung;
  {
    const MutexLock lock(mutex_);
    if (when != alarm_ || stopped_) return;  // an earlier one took its place
    alarm_ = Clock::time_point::max();
    const auto now = timer_->Now();
    table_.Tick(now);
    while (const auto event = read_events_.PopDue(now)) {
      WaitingRead& read = reads_.at(event->read);
      if (event->hung) {
        ++hung_reads_;
        hung.push_back(ReadName(*read.layer->stored, read.range));
        read.event = read_events_.Add(read.begun + options_.read_timeout, {event->read, false});
        continue;
      }
      if (!read.relay) ++reads_failed_;
      Error error = TimeoutError(read);
      LeaveMissing(read, event->read);
      failures.push_back({TakeRead(event->read), std::move(error)});
    }
  }
  LogHung(hung);
  LogFailed(failures);
  for (ReadFailure& failure : failures) FailRead(failure.read, std::move(failure.error));
  Pump();
}

void SchedulerCore::LogHung(const std::vector<std::string>& reads) {
  if (reads.empty()) return;
  const std::string others = reads.size() > 1 ? fmt::format(" and {} others", reads.size() - 1) : "";
  const auto seconds = std::chrono::ceil<std::chrono::seconds>(options_.hung_after);
  spdlog::warn("reads that have waited for {} s: {}{}", seconds.count(), reads.front(), others);
}

// Readers see no more than EIO.
void SchedulerCore::LogFailed(const std::vector<ReadFailure>& failures) {
  if (failures.empty()) return;
  const std::string others = failures.size() > 1 ? fmt::format(" (and {} others)", failures.size() - 1) : "";
  spdlog::error("read failed{}: {}", others, failures.front().error.message);
}

Scheduler::Stats SchedulerCore::stats() const {
  Scheduler::Stats stats;
  stats.sources = counters_.snapshot();
  stats.reads = reads_total_;
  stats.reads_at_once = reads_at_once_;
  stats.reads_from_memory = reads_from_memory_;
  const MutexLock lock(mutex_);
  stats.reads_failed = reads_failed_;
  stats.waiting_reads = reads_.size() - relays_;
  stats.waiting_relays = relays_;
  stats.hung_reads = hung_reads_;
  stats.waited = std::chrono::duration_cast<std::chrono::microseconds>(waited_);
  stats.longest_read = std::chrono::duration_cast<std::chrono::milliseconds>(longest_read_);
  for (Priority priority : {Priority::kDemand, Priority::kPrefetch, Priority::kFill}) {
    stats.chunks_in_flight += table_.flights(priority);
  }
  stats.retries = table_.retries();
  return stats;
}

size_t SchedulerCore::WaitingReads(const Layer& layer) const {
  const MutexLock lock(mutex_);
  return layer.reads.size() - layer.relays;
}

void SchedulerCore::Shutdown() {
  std::vector<LayerPtr> layers;
  {
    const MutexLock lock(mutex_);
    stopped_ = true;
    for (const auto& [id, layer] : layers_) layers.push_back(layer);
  }
  for (const LayerPtr& layer : layers) RemoveLayer(*layer);
  tasks_.Close();
}

}  // namespace banyan::fetch
