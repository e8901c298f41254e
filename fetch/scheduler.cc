#include "fetch/scheduler.h"

#include <future>
#include <utility>

#include "fetch/scheduler_core.h"

namespace banyan::fetch {
namespace {

// What the file system, and the server of peers, hold of a layer.
class LayerHandle final : public LazyLayer, public RelayLayer {
 public:
  LayerHandle(std::shared_ptr<SchedulerCore> core, SchedulerCore::LayerPtr layer)
      : core_(std::move(core)), layer_(std::move(layer)) {}
  ~LayerHandle() override { core_->RemoveLayer(*layer_); }
  LayerHandle(const LayerHandle&) = delete;
  LayerHandle& operator=(const LayerHandle&) = delete;

  uint64_t size_bytes() const override { return layer_->stored->device().device_bytes(); }
  ReadId Read(ByteRange range, OnRead done) override { return core_->Read(layer_, range, std::move(done)); }
  void CancelAll() override { core_->CancelAll(*layer_); }

  const image_format::Device& device() const override { return layer_->stored->device(); }
  ChunkState StateOf(ChunkIndex chunk) const override { return core_->StateOf(*layer_, chunk); }
  ReadId ReadCompressed(ChunkIndex chunk, Priority priority, OnCompressed done) override {
    return core_->ReadCompressed(layer_, chunk, priority, std::move(done));
  }
  void Forget(ReadId read) override { core_->Forget(read); }

  const SchedulerCore::LayerPtr& layer() const { return layer_; }

 private:
  const std::shared_ptr<SchedulerCore> core_;
  const SchedulerCore::LayerPtr layer_;
};

}  // namespace

Scheduler::Scheduler(Options options) : fill_(options.fill) {
  // Layers may outlive the scheduler, and they ask the time: the core keeps a timer of its own alive.
  std::shared_ptr<Timer> timer(options.timer, [](Timer*) {});
  if (!timer) timer = std::make_shared<ThreadTimer>();
  core_ = std::make_shared<SchedulerCore>(options, std::move(timer));
}

Scheduler::~Scheduler() { core_->Shutdown(); }

std::shared_ptr<LazyLayer> Scheduler::AddLayer(std::shared_ptr<store::StoredLayer> stored,
                                               std::shared_ptr<ChunkSource> source, AddOptions options) {
  auto layer =
      core_->AddLayer(std::move(stored), std::move(source), options.fill.value_or(fill_), std::move(options.lanes));
  return std::make_shared<LayerHandle>(core_, std::move(layer));
}

std::shared_ptr<RelayLayer> Scheduler::RelayOf(const std::shared_ptr<LazyLayer>& layer) {
  return std::dynamic_pointer_cast<LayerHandle>(layer);
}

Scheduler::Progress Scheduler::ProgressOf(const LazyLayer& layer) {
  const auto* handle = dynamic_cast<const LayerHandle*>(&layer);
  if (handle == nullptr) return {};
  const store::StoredLayer& stored = *handle->layer()->stored;
  const auto& chunks = stored.device().chunks;
  Progress progress{.bytes = chunks.blob_bytes()};
  for (ChunkIndex chunk = 0; chunk < chunks.size(); ++chunk) {
    if (stored.Has(chunk)) continue;
    (stored.HasCompressed(chunk) ? progress.undecoded_bytes : progress.missing_bytes) += chunks[chunk].compressed_bytes;
  }
  return progress;
}

void Scheduler::Prefetch(std::span<const PrefetchItem> items) {
  std::vector<SchedulerCore::WantedChunk> chunks;
  chunks.reserve(items.size());
  for (const PrefetchItem& item : items) {
    if (const auto* handle = dynamic_cast<const LayerHandle*>(item.layer.get())) {
      chunks.push_back({handle->layer(), item.chunk, item.compressed_only});
    }
  }
  core_->Expect(chunks);
  core_->Prefetch(chunks);
}

void Scheduler::Fill(const LazyLayer& layer) {
  if (const auto* handle = dynamic_cast<const LayerHandle*>(&layer)) core_->Fill(*handle->layer());
}

void Scheduler::PauseFill() { core_->SetFillPaused(true); }
void Scheduler::ResumeFill() { core_->SetFillPaused(false); }
void Scheduler::WhenIdle(std::function<void()> done) { core_->WhenIdle(std::move(done)); }

bool Scheduler::WaitIdle(std::chrono::milliseconds timeout) {
  const auto idle = std::make_shared<std::promise<void>>();
  auto future = idle->get_future();
  core_->WhenIdle([idle] { idle->set_value(); });
  return future.wait_for(timeout) == std::future_status::ready;
}

std::vector<FirstTouch> Scheduler::FirstTouches(const LazyLayer& layer) const {
  const auto* handle = dynamic_cast<const LayerHandle*>(&layer);
  if (handle == nullptr) return {};
  const MutexLock lock(handle->layer()->demand_mutex);
  return handle->layer()->touches.order();
}

Scheduler::Stats Scheduler::stats() const { return core_->stats(); }

Scheduler::LayerStats Scheduler::StatsOf(const LazyLayer& layer) const {
  const auto* handle = dynamic_cast<const LayerHandle*>(&layer);
  if (handle == nullptr) return {};
  return {.sources = handle->layer()->counters.snapshot(), .waiting_reads = core_->WaitingReads(*handle->layer())};
}

}  // namespace banyan::fetch
