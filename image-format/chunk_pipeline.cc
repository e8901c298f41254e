#include "image-format/chunk_pipeline.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <zstd.h>

namespace banyan::image_format {

namespace {

constexpr uint64_t kMaxBytesInFlight = 96 * kMiB;
constexpr size_t kMinWindow = 3;

// What one thread needs at a time to compress; kept from chunk to chunk, since making it costs as much as a small
// chunk.
struct Compressor {
  Compressor() : context(ZSTD_createCCtx()) {}
  ~Compressor() { ZSTD_freeCCtx(context); }
  Compressor(const Compressor&) = delete;
  Compressor& operator=(const Compressor&) = delete;

  ZSTD_CCtx* context;
  std::vector<std::byte> output;
};

size_t WindowFor(uint32_t max_blocks, size_t concurrency) {
  const size_t by_memory = kMaxBytesInFlight / (2 * uint64_t{max_blocks} * kBlockBytes);
  return std::max(kMinWindow, std::min(by_memory, 4 * concurrency + 4));
}

}  // namespace

struct ChunkPipeline::Job {
  enum class State { kQueued, kRunning, kDone };

  int level = 0;
  uint32_t block_count = 0;
  std::vector<std::byte> blocks;
  State state = State::kQueued;  // guarded by Shared::mutex

  // Set by whoever ran it, before kDone.
  std::vector<std::byte> compressed;
  Digest compressed_digest;
  Digest block_digest;
  std::string failure;
};

struct ChunkPipeline::Shared {
  std::mutex mutex;
  std::condition_variable done;
  std::vector<std::unique_ptr<Compressor>> idle;  // guarded by mutex
  bool abandoned = false;                         // guarded by mutex
};

ChunkPipeline::ChunkPipeline(int level, uint32_t max_blocks, Executor& executor, ByteSink& blob)
    : level_(level),
      window_(WindowFor(max_blocks, executor.concurrency())),
      executor_(executor),
      blob_(blob),
      shared_(std::make_shared<Shared>()),
      blob_hash_(executor) {}

ChunkPipeline::~ChunkPipeline() {
  const std::lock_guard lock(shared_->mutex);
  shared_->abandoned = true;
}

// Does the job unless another thread has begun it.
void ChunkPipeline::Run(Shared& shared, Job& job) {
  std::unique_ptr<Compressor> compressor;
  {
    const std::lock_guard lock(shared.mutex);
    if (job.state != Job::State::kQueued || shared.abandoned) return;
    job.state = Job::State::kRunning;
    if (!shared.idle.empty()) {
      compressor = std::move(shared.idle.back());
      shared.idle.pop_back();
    }
  }
  if (compressor == nullptr) compressor = std::make_unique<Compressor>();
  ZSTD_CCtx_setParameter(compressor->context, ZSTD_c_compressionLevel, job.level);
  if (const size_t bound = ZSTD_compressBound(job.blocks.size()); compressor->output.size() < bound) {
    compressor->output.resize(bound);
  }
  std::vector<std::byte>& output = compressor->output;
  const size_t size =
      ZSTD_compress2(compressor->context, output.data(), output.size(), job.blocks.data(), job.blocks.size());
  if (ZSTD_isError(size) != 0U) {
    job.failure = ZSTD_getErrorName(size);
  } else {
    job.compressed.assign(output.begin(), output.begin() + static_cast<ptrdiff_t>(size));
    job.compressed_digest = Digest::Of(job.compressed);
    job.block_digest = Digest::Of(job.blocks);
  }
  const std::lock_guard lock(shared.mutex);
  shared.idle.push_back(std::move(compressor));
  job.state = Job::State::kDone;
  shared.done.notify_all();
}

Status ChunkPipeline::TakeChunk(std::vector<std::byte>& blocks) {
  auto job = std::make_shared<Job>();
  job->level = level_;
  job->block_count = static_cast<uint32_t>(blocks.size() / kBlockBytes);
  job->blocks.swap(blocks);
  if (!spare_buffers_.empty()) {
    blocks.swap(spare_buffers_.back());
    spare_buffers_.pop_back();
  }
  executor_.Post([shared = shared_, job] { Run(*shared, *job); });
  return Enqueue(std::move(job));
}

Status ChunkPipeline::TakeZeros(uint32_t blocks) {
  const auto known = std::find_if(zero_jobs_.begin(), zero_jobs_.end(),
                                  [blocks](const auto& job) { return job->block_count == blocks; });
  if (known != zero_jobs_.end()) return Enqueue(*known);
  auto job = std::make_shared<Job>();
  job->level = level_;
  job->block_count = blocks;
  job->blocks.resize(uint64_t{blocks} * kBlockBytes);
  Run(*shared_, *job);
  job->blocks = {};
  zero_jobs_.push_back(job);
  return Enqueue(std::move(job));
}

Status ChunkPipeline::Enqueue(std::shared_ptr<Job> job) {
  in_flight_.push_back(std::move(job));
  while (in_flight_.size() >= window_) BANYAN_TRY(Retire());
  return {};
}

Status ChunkPipeline::Retire() {
  const std::shared_ptr<Job> job = std::move(in_flight_.front());
  in_flight_.pop_front();
  Run(*shared_, *job);
  {
    std::unique_lock lock(shared_->mutex);
    shared_->done.wait(lock, [&job] { return job->state == Job::State::kDone; });
  }
  if (!job->failure.empty()) return Fail(Code::kInternal, "zstd: " + job->failure);
  BANYAN_TRY(table_.Append(static_cast<uint32_t>(job->compressed.size()), job->block_count, job->compressed_digest,
                           job->block_digest));
  blob_hash_.Update(job->compressed);
  BANYAN_TRY(blob_.Write(job->compressed));
  if (!job->blocks.empty()) {
    job->blocks.clear();
    spare_buffers_.push_back(std::move(job->blocks));
  }
  return {};
}

Status ChunkPipeline::Finish() {
  while (!in_flight_.empty()) BANYAN_TRY(Retire());
  return {};
}

}  // namespace banyan::image_format
