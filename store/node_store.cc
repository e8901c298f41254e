#include "store/node_store.h"

#include <thread>
#include <utility>

#include "store/scrub.h"
#include "store/store_core.h"

namespace banyan::store {

namespace {

class LocalNodeStore final : public NodeStore {
 public:
  LocalNodeStore(std::shared_ptr<StoreCore> core, std::chrono::milliseconds flush_interval)
      : core_(std::move(core)),
        flusher_([core = core_, flush_interval](std::stop_token stop) { core->FlushLoop(stop, flush_interval); }) {}

  ~LocalNodeStore() override {
    flusher_.request_stop();
    flusher_.join();
    core_->Close();
  }

  Result<std::shared_ptr<StoredLayer>> OpenLayer(const image_format::Device& device) override {
    return core_->OpenLayer(device);
  }
  Status PutBlob(const Digest& digest, std::span<const std::byte> data) override {
    return core_->whole_blobs().Put(digest, data);
  }
  Result<std::string> GetBlob(const Digest& digest) override { return core_->whole_blobs().Get(digest); }
  Result<std::unique_ptr<BlobFill>> BeginBlob(const Digest& digest, std::optional<uint64_t> blob_bytes) override {
    return core_->whole_blobs().Begin(digest, blob_bytes);
  }
  Result<StoredBlob> OpenBlob(const Digest& digest) override { return core_->whole_blobs().Open(digest); }
  std::optional<uint64_t> BlobBytes(const Digest& digest) const override {
    return core_->whole_blobs().BytesOf(digest);
  }
  Status EraseBlob(const Digest& digest) override { return core_->whole_blobs().Erase(digest); }
  Status PutNote(std::string_view key, std::string_view value) override {
    Index::Batch batch;
    batch.PutNote(key, value);
    return core_->index().Write(std::move(batch), /*sync=*/false);
  }
  Result<std::string> GetNote(std::string_view key) override { return core_->index().GetNote(key); }
  Result<ScrubReport> Scrub(std::stop_token stop, uint64_t bytes_per_second) override {
    return ScrubStore(*core_, std::move(stop), bytes_per_second);
  }
  uint64_t DropUnused(const std::set<Digest>& keep) override {
    const auto used = [this] { return core_->budget().Used(Form::kCompressed) + core_->budget().Used(Form::kBlocks); };
    const uint64_t before = used();
    for (const KnownLayer& known : core_->Known()) {
      if (known.use->mounts > 0 || keep.contains(known.blob)) continue;
      const Result<std::shared_ptr<Layer>> layer = core_->OpenKnown(known.blob);
      if (!layer) continue;
      for (ChunkIndex chunk = 0; chunk < (*layer)->device().chunks.size(); ++chunk) (*layer)->Drop(chunk);
    }
    for (const auto& [digest, record] : core_->whole_blobs().Evictable()) {
      if (record.raw && !keep.contains(digest)) core_->whole_blobs().Evict(digest);
    }
    const uint64_t after = used();
    return before > after ? before - after : 0;
  }
  void StartEviction() override { core_->evictor().Start(); }
  bool FreeDisk(uint64_t bytes) override { return core_->evictor().FreeDisk(bytes, Asker{}); }
  StoreUsage usage() const override {
    const Budget& budget = core_->budget();
    return {budget.Used(Form::kCompressed), budget.Used(Form::kBlocks), budget.limit(),
            core_->evictor().evicted_bytes()};
  }
  Status Flush() override { return core_->Flush(); }

 private:
  const std::shared_ptr<StoreCore> core_;
  std::jthread flusher_;
};

// Beside the bytes of a file: what the file system wants for the file itself.
constexpr uint64_t kFileOverheadBytes = 64 * kKiB;

}  // namespace

Status WriteWithRoom(NodeStore& store, uint64_t bytes, const std::function<Status()>& write) {
  Status status = write();
  // Others may take what was freed.
  for (int attempt = 0; attempt < 3; ++attempt) {
    if (status || status.error().code != Code::kResourceExhausted) break;
    if (!store.FreeDisk(bytes + kFileOverheadBytes)) break;
    status = write();
  }
  return status;
}

Result<std::unique_ptr<NodeStore>> NodeStore::Open(Options options) {
  const std::chrono::milliseconds flush_interval = options.flush_interval;
  BANYAN_ASSIGN(std::shared_ptr<StoreCore> core, StoreCore::Open(std::move(options)));
  return std::make_unique<LocalNodeStore>(std::move(core), flush_interval);
}

}  // namespace banyan::store
