// A layer that is open: its two chunk files, and what readers and writers hold of it.
//
// Leases, mounts and pins keep the layer alive, so the last of them to go can still punch the hole of a dropped chunk.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "store/chunk_file.h"
#include "store/index.h"
#include "store/node_store.h"

namespace banyan::store {

class StoreCore;

// What eviction wants to know of a layer, whether it is open or not. Atomics, each on its own.
struct LayerUse {
  std::atomic<uint64_t> uses{1};
  std::atomic<double> age{0};
  std::atomic<uint32_t> mounts{0};
  // While the layer is not open: what the index says is here. While it is open its files know better.
  std::atomic<uint64_t> block_bytes{0};
  std::atomic<uint64_t> compressed_bytes{0};
};

class Layer final : public StoredLayer, public std::enable_shared_from_this<Layer> {
 public:
  // The files' chunk table is `device`'s; see Make().
  static Result<std::shared_ptr<Layer>> Make(std::shared_ptr<StoreCore> core, image_format::Device device,
                                             std::shared_ptr<LayerUse> use, const PresenceRecord& record);
  ~Layer() override;

  const image_format::Device& device() const override { return device_; }
  int device_fd() const override { return blocks_->fd(); }
  const std::string& device_path() const override { return blocks_->path(); }
  bool Has(ChunkIndex chunk) const override { return chunk < size() && blocks_->presence().Has(chunk); }
  bool complete() const override { return blocks_->presence().complete(); }
  uint64_t present_bytes() const override { return blocks_->present_bytes(); }
  std::optional<ChunkLease> Lease(ChunkRange range) override;
  Status PutBlocks(ChunkIndex chunk, std::span<const std::byte> blocks) override;
  Status PutCompressed(ChunkIndex chunk, std::span<const std::byte> compressed) override;
  Result<std::vector<std::byte>> GetCompressed(ChunkIndex chunk) override;
  bool HasCompressed(ChunkIndex chunk) const override { return chunk < size() && compressed_->presence().Has(chunk); }
  uint64_t compressed_bytes_present() const override { return compressed_->present_bytes(); }
  Result<CompressedChunk> LeaseCompressed(ChunkIndex chunk) override;
  Result<bool> CopyFromOther(ChunkIndex chunk) override;
  Result<bool> CopyCompressedFromOther(ChunkIndex chunk) override;
  void Drop(ChunkIndex chunk) override;
  void Touch() override;
  std::shared_ptr<void> HoldMounted() override;
  Result<std::shared_ptr<void>> PinWhole() override;

  // For the store's own parts.
  ChunkFile& file(Form form) { return form == Form::kBlocks ? *blocks_ : *compressed_; }
  LayerUse& use() { return *use_; }
  // What may be written to the index now.
  PresenceRecord DurableRecord() const;
  // Forgets one form of a chunk.
  void DropForm(Form form, ChunkIndex chunk);
  // Reads a chunk of either form under a lease of its own; kNotFound when absent.
  Result<std::vector<std::byte>> ReadChunk(Form form, ChunkIndex chunk, bool from_disk);
  // Lets the flusher know, once until ClearDirty().
  void MarkDirty();
  void ClearDirty() { dirty_.store(false, std::memory_order_release); }

 private:
  struct Hold;

  Layer(std::shared_ptr<StoreCore> core, image_format::Device device, std::shared_ptr<LayerUse> use);
  uint32_t size() const { return device_.chunks.size(); }
  std::optional<std::shared_ptr<void>> LeaseForm(Form form, ChunkRange range);
  Status Put(Form form, ChunkIndex chunk, std::span<const std::byte> data);
  Status WriteWithRoom(ChunkFile& file, ChunkIndex chunk, std::span<const std::byte> data);
  void FinishDrop(ChunkFile& file, ChunkIndex chunk);
  std::string NameOf(ChunkIndex chunk) const;

  const std::shared_ptr<StoreCore> core_;
  const image_format::Device device_;
  const std::shared_ptr<LayerUse> use_;
  std::unique_ptr<ChunkFile> blocks_;      // set once by Make()
  std::unique_ptr<ChunkFile> compressed_;  // set once by Make()
  std::atomic<bool> dirty_{false};
};

}  // namespace banyan::store
