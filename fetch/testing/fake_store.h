// One layer of a store, its device in a memfd, with a byte budget and evictions on request.
#pragma once

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "common/unique_fd.h"
#include "fetch/testing/test_layer.h"
#include "store/node_store.h"

namespace banyan::fetch::testing {

// Internally synchronised. Evicts the lowest chunk without a lease when the budget is spent.
class FakeStoredLayer final : public store::StoredLayer {
 public:
  explicit FakeStoredLayer(const TestLayer& layer, uint64_t budget_bytes = UINT64_MAX);

  const image_format::Device& device() const override { return *layer_.device; }
  int device_fd() const override { return fd_.get(); }
  const std::string& device_path() const override { return path_; }
  bool Has(ChunkIndex chunk) const override;
  bool complete() const override;
  uint64_t present_bytes() const override;
  std::optional<store::ChunkLease> Lease(ChunkRange range) override;
  Status PutBlocks(ChunkIndex chunk, std::span<const std::byte> blocks) override;
  Status PutCompressed(ChunkIndex chunk, std::span<const std::byte> compressed) override;
  Result<std::vector<std::byte>> GetCompressed(ChunkIndex chunk) override;
  bool HasCompressed(ChunkIndex chunk) const override;
  uint64_t compressed_bytes_present() const override;
  Result<store::CompressedChunk> LeaseCompressed(ChunkIndex chunk) override;
  Result<bool> CopyFromOther(ChunkIndex chunk) override;
  Result<bool> CopyCompressedFromOther(ChunkIndex chunk) override;
  void Drop(ChunkIndex chunk) override;
  void Touch() override {}
  std::shared_ptr<void> HoldMounted() override { return nullptr; }
  Result<std::shared_ptr<void>> PinWhole() override { return std::shared_ptr<void>(); }

  // Another layer has this chunk's blocks.
  void OfferCopy(ChunkIndex chunk);
  // Its compressed form.
  void OfferCompressedCopy(ChunkIndex chunk);
  // Whether PutCompressed() stores; otherwise it has no room.
  void SetRoomForCompressed(bool room);
  void SetCompressed(ChunkIndex chunk, std::vector<std::byte> bytes);
  std::vector<ChunkIndex> dropped() const;
  size_t puts() const;

 private:
  Status PutLocked(ChunkIndex chunk, std::span<const std::byte> blocks);
  bool EvictOneLocked();

  const TestLayer layer_;
  const uint64_t budget_bytes_;
  const std::string path_ = "memfd:device";
  UniqueFd fd_;
  UniqueFd compressed_fd_;

  struct Leases {
    std::mutex mutex;
    std::map<ChunkIndex, int> count;  // guarded by mutex
  };
  const std::shared_ptr<Leases> leases_ = std::make_shared<Leases>();  // shared with the leases

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::set<ChunkIndex> present_;
  uint64_t bytes_ = 0;
  std::map<ChunkIndex, std::vector<std::byte>> compressed_;
  std::set<ChunkIndex> offered_;
  std::set<ChunkIndex> offered_compressed_;
  std::vector<ChunkIndex> dropped_;
  size_t puts_ = 0;
  bool room_for_compressed_ = true;
};

}  // namespace banyan::fetch::testing
