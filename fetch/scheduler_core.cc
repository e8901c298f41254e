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
                                                std::shared_ptr<ChunkSource> source, bool fill) {
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
    table_.AddLayer(layer->id, layer->stored->device().chunks);
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

SchedulerCore::WaitingRead SchedulerCore::TakeRead(ReadId id) {
  WaitingRead read = std::move(reads_.extract(id).mapped());
  read_events_.Remove(read.event);
  read.layer->reads.erase(id);
  longest_read_ = std::max(longest_read_, timer_->Now() - read.begun);
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
  }
  for (WaitingRead& read : reads) {
    read.done(Fail(Code::kCancelled, ReadName(*layer.stored, read.range) + ": cancelled"));
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

void SchedulerCore::Prefetch(std::span<const std::pair<LayerPtr, ChunkIndex>> chunks) {
  std::vector<std::pair<LayerPtr, ChunkIndex>> missing;
  for (const auto& [layer, chunk] : chunks) {
    if (chunk < layer->stored->device().chunks.size() && !layer->stored->Has(chunk)) missing.emplace_back(layer, chunk);
  }
  if (missing.empty()) return;
  {
    const MutexLock lock(mutex_);
    for (const auto& [layer, chunk] : missing) table_.Want({layer->id, chunk}, Priority::kPrefetch, 0);
  }
  Pump();
}

void SchedulerCore::PrefetchRange(const LayerPtr& layer, ChunkRange chunks) {
  std::vector<std::pair<LayerPtr, ChunkIndex>> list;
  for (ChunkIndex chunk = chunks.begin; chunk < chunks.end; ++chunk) list.emplace_back(layer, chunk);
  Prefetch(list);
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
    if (!layer->stored->Has(next)) missing.push_back(next);
    ++next;
  }
  {
    const MutexLock lock(mutex_);
    refilling_ = false;
    if (filling_.contains(layer->id)) {
      for (ChunkIndex chunk : missing) table_.Want({layer->id, chunk}, Priority::kFill, 0);
      layer->next_fill = next;
      if (next >= chunks) filling_.erase(layer->id);
    }
  }
  Pump();
}

bool SchedulerCore::Idle() const {
  if (!reads_.empty() || table_.flights(Priority::kDemand) != 0 || table_.flights(Priority::kPrefetch) != 0)
    return false;
  if (fill_paused_) return table_.requests() == 0;
  return table_.flights(Priority::kFill) == 0 && filling_.empty() && !refilling_;
}

void SchedulerCore::WhenIdle(std::function<void()> done) {
  {
    const MutexLock lock(mutex_);
    idle_callbacks_.push_back(std::move(done));
  }
  Pump();
}

// ---- The path of a request ----

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

void SchedulerCore::Send(const PlannedRequest& request) {
  LayerPtr layer;
  std::shared_ptr<ChunkSource> source;
  {
    const MutexLock lock(mutex_);
    const auto found = layers_.find(request.layer);
    if (found == layers_.end()) return;
    layer = found->second;
    source = layer->source;
  }
  ChunkRange run{request.chunks.begin, request.chunks.begin};  // missing chunks not asked for yet
  const auto fetch_run = [&] {
    if (!run.empty() && !layer->cancelled) FetchFrom(*source, layer, request, run);
  };
  for (ChunkIndex chunk = request.chunks.begin; chunk < request.chunks.end; ++chunk) {
    const auto local = FindLocally(*layer->stored, chunk);
    if (!local) {
      run.end = chunk + 1;
      continue;
    }
    fetch_run();
    run = {chunk + 1, chunk + 1};
    if (!local->from.empty()) {
      CountRequest(*layer, local->from);
      CountChunk(*layer, local->from, request.priority, layer->stored->device().chunks[chunk].compressed_bytes);
    }
    bool wanted = false;
    {
      const MutexLock lock(mutex_);
      wanted = table_.Arrived(request.id, {layer->id, chunk}, timer_->Now());
    }
    if (wanted) Deliver(layer, chunk, local->held);
  }
  fetch_run();
}

void SchedulerCore::FetchFrom(ChunkSource& source, const LayerPtr& layer, const PlannedRequest& request,
                              ChunkRange chunks) {
  ChunkRequest wire;
  wire.device = std::shared_ptr<const image_format::Device>(layer->stored, &layer->stored->device());
  wire.chunks = chunks;
  wire.priority = request.priority;
  {
    const MutexLock lock(mutex_);
    wire.deadline = table_.DeadlineOf(request, timer_->Now());
  }
  const std::string_view name = source.name();
  CountRequest(*layer, name);
  source.Fetch(std::move(wire), [weak = weak_from_this(), weak_layer = std::weak_ptr(layer), name, request, chunks](
                                    ChunkIndex chunk, Result<ChunkBytes> answer) {
    const auto core = weak.lock();
    const auto answered = weak_layer.lock();
    const bool asked = chunk >= chunks.begin && chunk < chunks.end;
    if (core && answered && asked) core->OnAnswer(answered, name, request, chunk, std::move(answer));
  });
}

void SchedulerCore::OnAnswer(const LayerPtr& layer, std::string_view source, const PlannedRequest& request,
                             ChunkIndex chunk, Result<ChunkBytes> answer) {
  const ChunkKey key{layer->id, chunk};
  const auto now = timer_->Now();
  if (!answer) {
    const bool bad = answer.error().code == Code::kDataLoss;
    CountFailure(*layer, source, bad);
    spdlog::log(bad ? spdlog::level::warn : spdlog::level::debug, "{}", answer.error().message);
    {
      const MutexLock lock(mutex_);
      table_.Failed(request.id, key, std::move(answer).error(), now);
    }
    Pump();
    return;
  }
  Priority urgency = request.priority;
  {
    const MutexLock lock(mutex_);
    if (!table_.Arrived(request.id, key, now)) return;
    urgency = table_.PriorityOf(key);
  }
  auto bytes = std::make_shared<const ChunkBytes>(std::move(*answer));
  tasks_.Post(urgency, [self = shared_from_this(), layer, source, priority = request.priority, chunk, bytes] {
    self->Accept(layer, source, priority, chunk, *bytes);
  });
}

void SchedulerCore::Accept(const LayerPtr& layer, std::string_view source, Priority priority, ChunkIndex chunk,
                           const ChunkBytes& bytes) {
  auto held = TakeIn(*layer->stored, chunk, bytes, options_.keep_compressed);
  if (held) {
    CountChunk(*layer, source, priority, bytes.size());
    Deliver(layer, chunk, *held);
    return;
  }
  CountFailure(*layer, source, true);
  Error error = held.error().WithContext("from " + std::string(source));
  spdlog::warn("{}; it will be fetched again", error.message);
  {
    const MutexLock lock(mutex_);
    table_.Rejected({layer->id, chunk}, std::move(error), timer_->Now());
  }
  Pump();
}

void SchedulerCore::Deliver(const LayerPtr& layer, ChunkIndex chunk, const HeldChunk& held) {
  std::vector<WaitingRead> complete;
  {
    const MutexLock lock(mutex_);
    const ChunkKey key{layer->id, chunk};
    const bool no_room = held.lease == nullptr;
    if (no_room && table_.PriorityOf(key) == Priority::kFill && filling_.erase(layer->id) != 0) {
      spdlog::info("layer {}: no room to fill it further", layer->stored->device().blob_digest.ToString());
    }
    for (ReadId id : table_.Finish(key)) {
      WaitingRead& read = reads_.at(id);
      read.held[chunk - read.chunks.begin] = held;
      if (--read.missing == 0) complete.push_back(TakeRead(id));
    }
  }
  Pump();  // the network first
  for (WaitingRead& read : complete) {
    auto view = MakeView(*layer->stored, read);
    if (view && view->fd < 0) reads_from_memory_.fetch_add(1, std::memory_order_relaxed);
    read.done(std::move(view));
  }
}

// ---- Counting: for the node and for the layer ----

void SchedulerCore::CountRequest(Layer& layer, std::string_view source) {
  counters_.AddRequest(source);
  layer.counters.AddRequest(source);
}

void SchedulerCore::CountChunk(Layer& layer, std::string_view source, Priority priority, uint64_t compressed_bytes) {
  counters_.AddChunk(source, priority, compressed_bytes);
  layer.counters.AddChunk(source, priority, compressed_bytes);
}

void SchedulerCore::CountFailure(Layer& layer, std::string_view source, bool bad_bytes) {
  counters_.AddFailure(source, bad_bytes);
  layer.counters.AddFailure(source, bad_bytes);
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
      ++reads_failed_;
      Error error = TimeoutError(read);
      LeaveMissing(read, event->read);
      failures.push_back({TakeRead(event->read), std::move(error)});
    }
  }
  LogHung(hung);
  LogFailed(failures);
  for (ReadFailure& failure : failures) failure.read.done(Fail(std::move(failure.error)));
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
  stats.waiting_reads = reads_.size();
  stats.hung_reads = hung_reads_;
  stats.longest_read = std::chrono::duration_cast<std::chrono::milliseconds>(longest_read_);
  for (Priority priority : {Priority::kDemand, Priority::kPrefetch, Priority::kFill}) {
    stats.chunks_in_flight += table_.flights(priority);
  }
  stats.retries = table_.retries();
  return stats;
}

size_t SchedulerCore::WaitingReads(const Layer& layer) const {
  const MutexLock lock(mutex_);
  return layer.reads.size();
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
