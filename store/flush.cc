// How presence reaches the index: data → fdatasync → index on the way in, index → hole on the way out.
//
// Both ways end under commit_mutex_, where a layer's durable bitmaps are changed and written as one step. Without that
// a flush which had read the bitmap before a removal could write it after, and bring back a chunk that is a hole by
// then.
#include <algorithm>
#include <utility>

#include "common/log.h"
#include "store/store_core.h"

namespace banyan::store {

Status StoreCore::CommitRemovals(std::span<Removal> removals) {
  const std::scoped_lock commit(commit_mutex_);
  std::vector<Layer*> changed;
  for (Removal& removal : removals) {
    removal.durable.clear();
    bool spoken_of = removal.owed || removal.file->lost_chunks();
    for (const ChunkIndex chunk : removal.chunks) {
      removal.durable.push_back(removal.file->presence().ClearDurable(chunk));
      spoken_of |= removal.durable.back();
    }
    if (spoken_of) changed.push_back(removal.layer.get());
  }
  if (changed.empty()) return {};
  Index::Batch batch;
  for (Layer* layer : changed) batch.PutPresence(layer->device().blob_digest, layer->DurableRecord());
  return index_->Write(std::move(batch), /*sync=*/true);
}

void StoreCore::AddDirty(std::shared_ptr<Layer> layer) {
  {
    const std::scoped_lock lock(dirty_mutex_);
    // A layer that outlives the store must not be kept by it for ever.
    if (closed()) return;
    dirty_.push_back(std::move(layer));
    if (std::exchange(anything_dirty_, true)) return;
  }
  dirty_wake_.notify_all();
}

void StoreCore::Wake() {
  {
    const std::scoped_lock lock(dirty_mutex_);
    if (std::exchange(anything_dirty_, true)) return;
  }
  dirty_wake_.notify_all();
}

Status StoreCore::Flush() {
  Status flushed = FlushOnce();
  if (!flushed && flushed.error().code == Code::kResourceExhausted && evictor_.FreeDisk(1, Asker{})) {
    flushed = FlushOnce();
  }
  evictor_.Settle();
  return flushed;
}

Status StoreCore::FlushOnce() {
  const std::scoped_lock flushing(flush_mutex_);
  std::vector<std::shared_ptr<Layer>> layers;
  std::vector<std::shared_ptr<Layer>> sources;
  {
    const std::scoped_lock lock(dirty_mutex_);
    layers.swap(dirty_);
    anything_dirty_ = false;
  }
  {
    const std::scoped_lock lock(layers_mutex_);
    sources.swap(sources_);
  }
  // What becomes dirty from here on is for the next flush.
  for (const auto& layer : layers) layer->ClearDirty();

  Synced synced;
  Status status = SyncFiles(layers, synced);
  if (!status) {
    // The kernel may have thrown the pages away, and will not say so again.
    for (const auto& [layer, file] : synced) {
      for (const ChunkIndex chunk : file->presence().AbandonSync()) layer->DropForm(file->form(), chunk);
    }
  }
  Status committed = CommitFlush(layers, synced);
  if (!committed) {
    for (const auto& layer : layers) layer->MarkDirty();
  }
  return status ? committed : status;
}

Status StoreCore::SyncFiles(std::span<const std::shared_ptr<Layer>> layers, Synced& synced) {
  Status status;
  const auto note = [&](Status done) {
    if (!done && status) status = std::move(done);
  };
  for (const auto& layer : layers) {
    for (const Form form : {Form::kBlocks, Form::kCompressed}) {
      ChunkFile& file = layer->file(form);
      if (!file.presence().BeginSync()) continue;
      synced.emplace_back(layer.get(), &file);
      note(file.Sync());
    }
  }
  if (synced.empty()) return status;
  for (ChunkDirectory* directory : {&devices_, &blobs_}) {
    if (!directory->has_new_names.exchange(false)) continue;
    Status done = disk_->SyncDirectory(directory->path);
    if (!done) directory->has_new_names.store(true);
    note(std::move(done));
  }
  return status;
}

Status StoreCore::CommitFlush(std::span<const std::shared_ptr<Layer>> layers, const Synced& synced) {
  const std::scoped_lock commit(commit_mutex_);
  for (const auto& [layer, file] : synced) file->presence().FinishSync();
  Index::Batch batch;
  for (const auto& layer : layers) batch.PutPresence(layer->device().blob_digest, layer->DurableRecord());
  whole_blobs_.AppendUses(batch);
  if (batch.empty()) return {};
  return index_->Write(std::move(batch), /*sync=*/true);
}

void StoreCore::FlushLoop(std::stop_token stop, std::chrono::milliseconds interval) {
  while (!stop.stop_requested()) {
    {
      std::unique_lock lock(dirty_mutex_);
      dirty_wake_.wait(lock, stop, [this] { return anything_dirty_; });
      dirty_wake_.wait_for(lock, stop, interval, [] { return false; });
    }
    if (stop.stop_requested()) return;
    if (Status flushed = Flush(); !flushed) spdlog::warn("flush of the store: {}", flushed.error().message);
  }
}

void StoreCore::Close() {
  {
    const std::scoped_lock lock(dirty_mutex_);
    closed_.store(true);
  }
  if (Status flushed = Flush(); !flushed) spdlog::warn("last flush of the store: {}", flushed.error().message);
  evictor_.Close();
}

}  // namespace banyan::store
