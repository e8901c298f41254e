// The path of a request through the scheduler: what is here is delivered, the rest is asked of the source; what comes
// is checked, stored and handed to those who wait, in the form that each wants.
#include <utility>

#include "common/log.h"
#include "fetch/scheduler_core.h"

namespace banyan::fetch {

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
    if (!DeliverLocally(layer, request, chunk)) {
      run.end = chunk + 1;
      continue;
    }
    fetch_run();
    run = {chunk + 1, chunk + 1};
  }
  fetch_run();
}

bool SchedulerCore::DeliverLocally(const LayerPtr& layer, const PlannedRequest& request, ChunkIndex chunk) {
  store::StoredLayer& stored = *layer->stored;
  const Forms forms = FormsOf(*layer, chunk);
  Arrival arrival;
  std::string_view from;
  if (forms != kBlockForm && CopyCompressed(stored, chunk)) from = "reuse";
  if ((forms & kBlockForm) == 0 && stored.HasCompressed(chunk)) {
    arrival.compressed = CompressedIfWanted(*layer, chunk, nullptr);
    if (forms == kCompressedForm && !arrival.compressed) return false;  // evicted meanwhile
  } else if (forms == kCompressedForm) {
    return false;
  } else {
    auto local = FindLocally(stored, chunk);
    if (!local) return false;
    if (from.empty()) from = local->from;
    arrival.no_room = local->held.lease == nullptr;
    arrival.blocks = std::move(local->held);
    arrival.compressed = CompressedIfWanted(*layer, chunk, nullptr);
  }
  if (!from.empty()) {
    CountRequest(*layer, from);
    CountChunk(*layer, from, request.priority, stored.device().chunks[chunk].compressed_bytes);
  }
  bool wanted = false;
  {
    const MutexLock lock(mutex_);
    wanted = table_.Arrived(request.id, {layer->id, chunk}, timer_->Now());
  }
  if (wanted) Deliver(layer, chunk, arrival);
  return true;
}

Forms SchedulerCore::FormsOf(const Layer& layer, ChunkIndex chunk) const {
  const MutexLock lock(mutex_);
  return table_.FormsOf({layer.id, chunk});
}

std::optional<CompressedView> SchedulerCore::CompressedIfWanted(const Layer& layer, ChunkIndex chunk,
                                                                const std::shared_ptr<const ChunkBytes>& bytes) const {
  if ((FormsOf(layer, chunk) & kCompressedForm) == 0) return std::nullopt;
  if (auto stored = layer.stored->LeaseCompressed(chunk)) return MakeView(std::move(*stored));
  if (!bytes) return std::nullopt;
  return CompressedView{-1, 0, bytes->size(), bytes, {}};
}

void SchedulerCore::FetchFrom(ChunkSource& source, const LayerPtr& layer, const PlannedRequest& request,
                              ChunkRange chunks) {
  ChunkRequest wire;
  wire.device = std::shared_ptr<const image_format::Device>(layer->stored, &layer->stored->device());
  wire.chunks = chunks;
  wire.priority = request.priority;
  wire.lane = request.lane;
  wire.home = request.home;
  wire.on_way_failed = [weak = weak_from_this(), weak_layer = std::weak_ptr(layer)](std::string_view way, bool bad) {
    const auto core = weak.lock();
    const auto failed = weak_layer.lock();
    if (core && failed) core->CountFailure(*failed, way, bad);
  };
  {
    const MutexLock lock(mutex_);
    wire.deadline = table_.DeadlineOf(request, timer_->Now());
  }
  const Asked asked{source.name(), timer_->Now()};
  CountRequest(*layer, asked.source);
  source.Fetch(std::move(wire), [weak = weak_from_this(), weak_layer = std::weak_ptr(layer), asked, request, chunks](
                                    ChunkIndex chunk, Result<ChunkBytes> answer) {
    const auto core = weak.lock();
    const auto answered = weak_layer.lock();
    const bool wanted = chunk >= chunks.begin && chunk < chunks.end;
    if (core && answered && wanted) core->OnAnswer(answered, asked, request, chunk, std::move(answer));
  });
}

void SchedulerCore::OnAnswer(const LayerPtr& layer, Asked asked, const PlannedRequest& request, ChunkIndex chunk,
                             Result<ChunkBytes> answer) {
  const ChunkKey key{layer->id, chunk};
  const auto now = timer_->Now();
  if (!answer) {
    const bool bad = answer.error().code == Code::kDataLoss;
    CountFailure(*layer, asked.source, bad);
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
  if (!answer->from.empty()) asked.source = answer->from;
  asked.waited = now - asked.at;
  auto bytes = std::make_shared<const ChunkBytes>(std::move(*answer));
  tasks_.Post(urgency, [self = shared_from_this(), layer, asked, priority = request.priority, chunk, bytes] {
    self->Accept(layer, asked, priority, chunk, bytes);
  });
}

void SchedulerCore::Accept(const LayerPtr& layer, const Asked& asked, Priority priority, ChunkIndex chunk,
                           const std::shared_ptr<const ChunkBytes>& bytes) {
  // A peer that waits gets the chunk before it is decoded.
  const Forms forms = FormsOf(*layer, chunk);
  const bool compressed_first =
      (forms & kCompressedForm) != 0 || (options_.keep_compressed && (forms & kBlockForm) == 0);
  const Status accepted = compressed_first ? AcceptCompressed(layer, chunk, bytes)
                                           : AcceptBlocks(layer, chunk, bytes, options_.keep_compressed);
  if (accepted) {
    CountChunk(*layer, asked.source, priority, bytes->size(), asked.waited);
    return;
  }
  CountFailure(*layer, asked.source, true);
  Error error = accepted.error().WithContext("from " + std::string(asked.source));
  spdlog::warn("{}; it will be fetched again", error.message);
  {
    const MutexLock lock(mutex_);
    table_.Rejected({layer->id, chunk}, std::move(error), timer_->Now());
  }
  Pump();
}

Status SchedulerCore::AcceptBlocks(const LayerPtr& layer, ChunkIndex chunk,
                                   const std::shared_ptr<const ChunkBytes>& bytes, bool keep_compressed) {
  Arrival arrival;
  BANYAN_ASSIGN(arrival.blocks, TakeIn(*layer->stored, chunk, *bytes, keep_compressed));
  arrival.no_room = arrival.blocks.lease == nullptr;
  arrival.compressed = CompressedIfWanted(*layer, chunk, bytes);
  Deliver(layer, chunk, arrival);
  return {};
}

Status SchedulerCore::AcceptCompressed(const LayerPtr& layer, ChunkIndex chunk,
                                       const std::shared_ptr<const ChunkBytes>& bytes) {
  Arrival arrival;
  BANYAN_ASSIGN(const bool stored, TakeInCompressed(*layer->stored, chunk, *bytes, options_.keep_compressed));
  arrival.no_room = !stored;
  arrival.compressed = CompressedIfWanted(*layer, chunk, bytes);
  arrival.last = (FormsOf(*layer, chunk) & kBlockForm) == 0;
  Deliver(layer, chunk, arrival);
  if (arrival.last) return {};
  Status decoded = AcceptBlocks(layer, chunk, bytes, false);
  if (!decoded) layer->stored->Drop(chunk);
  return decoded;
}

void SchedulerCore::Deliver(const LayerPtr& layer, ChunkIndex chunk, const Arrival& arrival) {
  const Forms here = (arrival.blocks ? kBlockForm : kAnyForm) | (arrival.compressed ? kCompressedForm : kAnyForm);
  std::vector<WaitingRead> complete;
  {
    const MutexLock lock(mutex_);
    const ChunkKey key{layer->id, chunk};
    if (arrival.no_room && table_.PriorityOf(key) == Priority::kFill && filling_.erase(layer->id) != 0) {
      spdlog::info("layer {}: no room to fill it further", layer->stored->device().blob_digest.ToString());
    }
    for (ReadId id : arrival.last ? table_.Finish(key, here) : table_.TakeReaders(key, here)) {
      WaitingRead& read = reads_.at(id);
      if (!read.relay) {
        read.held[chunk - read.chunks.begin] = arrival.blocks;
        if (--read.missing != 0) continue;
      }
      complete.push_back(TakeRead(id));
    }
  }
  Pump();  // the network first
  for (WaitingRead& read : complete) {
    if (read.relay) {
      read.relay(*arrival.compressed);
      continue;
    }
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

void SchedulerCore::CountChunk(Layer& layer, std::string_view source, Priority priority, uint64_t compressed_bytes,
                               Clock::duration waited) {
  const auto micros = std::chrono::duration_cast<std::chrono::microseconds>(waited);
  counters_.AddChunk(source, priority, compressed_bytes, micros);
  layer.counters.AddChunk(source, priority, compressed_bytes, micros);
}

void SchedulerCore::CountFailure(Layer& layer, std::string_view source, bool bad_bytes) {
  counters_.AddFailure(source, bad_bytes);
  layer.counters.AddFailure(source, bad_bytes);
}

}  // namespace banyan::fetch
