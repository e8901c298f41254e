// The middle of the store: knows every layer (open or not), brings presence to the index in the right order, and holds
// what the other parts share. Layers own it jointly with the NodeStore, so that leases may outlive the store.
//
// Locks, in the order in which they may be taken: an eviction's, open_mutex_, flush_mutex_, commit_mutex_,
// layers_mutex_, dirty_mutex_. Readers take only layers_mutex_ (OpenLayer of an open layer) or none; disk I/O happens
// under none of the last two.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <unordered_map>
#include <vector>

#include "store/budget.h"
#include "store/disk.h"
#include "store/evictor.h"
#include "store/index.h"
#include "store/node_store.h"
#include "store/stored_layer.h"
#include "store/whole_blobs.h"

namespace banyan::store {

// Claimed chunks of one file that are to go.
struct Removal {
  std::shared_ptr<Layer> layer;
  ChunkFile* file = nullptr;
  std::vector<ChunkIndex> chunks;  // ascending
  std::vector<bool> durable;       // by CommitRemovals(): whether the index spoke of them
  bool owed = false;               // punched already: the index must be told, whatever it spoke of
};

// A layer as eviction and scrubbing see it.
struct KnownLayer {
  Digest blob;
  std::shared_ptr<LayerUse> use;
  std::shared_ptr<Layer> live;  // null when it is not open
};

// Internally synchronised.
class StoreCore : public std::enable_shared_from_this<StoreCore> {
 public:
  static Result<std::shared_ptr<StoreCore>> Open(NodeStore::Options options);

  Disk& disk() { return *disk_; }
  ChunkDirectory& directory(Form form) { return form == Form::kBlocks ? devices_ : blobs_; }
  Index& index() { return *index_; }
  Budget& budget() { return budget_; }
  Evictor& evictor() { return evictor_; }
  WholeBlobs& whole_blobs() { return whole_blobs_; }
  std::string PathOf(Form form, const Digest& blob) const;
  // The age of greedy dual: the highest priority evicted so far.
  double age() const { return age_.load(std::memory_order_relaxed); }
  void RaiseAge(double priority);
  bool closed() const { return closed_.load(std::memory_order_relaxed); }

  Result<std::shared_ptr<Layer>> OpenLayer(const image_format::Device& device);
  // The layer from the index alone. kNotFound when the store does not know it (or cannot read what it knew).
  Result<std::shared_ptr<Layer>> OpenKnown(const Digest& blob);
  std::vector<KnownLayer> Known() const;
  // Removes files and records of layers that are not open and have nothing.
  void CollectEmpty();
  // The chunk's bytes in that form from any place but (self, self_chunk), checked.
  std::optional<std::vector<std::byte>> FindBytes(Form form, const Layer& self, ChunkIndex self_chunk);

  // Takes the claimed chunks out of the index, durably on return. On an error nothing
  // may be punched.
  Status CommitRemovals(std::span<Removal> removals);
  void AddDirty(std::shared_ptr<Layer> layer);
  // Wakes the flusher.
  void Wake();
  Status Flush();
  // Flushes `interval` after something became dirty, until told to stop.
  void FlushLoop(std::stop_token stop, std::chrono::milliseconds interval);
  // The last flush; puts fail from then on.
  void Close();

 private:
  struct Entry {
    std::shared_ptr<LayerUse> use;
    std::weak_ptr<Layer> live;
  };
  // Files whose BeginSync() was true.
  using Synced = std::vector<std::pair<Layer*, ChunkFile*>>;

  explicit StoreCore(const NodeStore::Options& options);
  Status TakeInventory();
  std::shared_ptr<Layer> FindLive(const Digest& blob) const;
  Result<std::shared_ptr<Layer>> OpenKnownLocked(const Digest& blob);                // open_mutex_ held
  Result<std::shared_ptr<Layer>> MakeNewLocked(const image_format::Device& device);  // open_mutex_ held
  void ForgetLocked(const Digest& blob);                                             // open_mutex_ held
  void KeepSource(const std::shared_ptr<Layer>& source);
  Status FlushOnce();
  Status SyncFiles(std::span<const std::shared_ptr<Layer>> layers, Synced& synced);
  Status CommitFlush(std::span<const std::shared_ptr<Layer>> layers, const Synced& synced);

  const std::shared_ptr<Disk> disk_;
  ChunkDirectory devices_;
  ChunkDirectory blobs_;
  UniqueFd lock_;                 // set once by Open()
  std::unique_ptr<Index> index_;  // set once by Open()
  Budget budget_;
  Evictor evictor_;
  WholeBlobs whole_blobs_;
  std::atomic<double> age_{0};
  std::atomic<bool> closed_{false};

  std::mutex open_mutex_;    // layers are opened and forgotten one at a time
  std::mutex flush_mutex_;   // one flush at a time
  std::mutex commit_mutex_;  // what the index is told of presence is told in the order in which it became so

  mutable std::mutex layers_mutex_;
  std::unordered_map<Digest, Entry> layers_;     // guarded by layers_mutex_
  std::vector<std::shared_ptr<Layer>> sources_;  // guarded by layers_mutex_; kept open from one copy to the next

  std::mutex dirty_mutex_;
  std::condition_variable_any dirty_wake_;
  bool anything_dirty_ = false;                // guarded by dirty_mutex_
  std::vector<std::shared_ptr<Layer>> dirty_;  // guarded by dirty_mutex_
};

}  // namespace banyan::store
