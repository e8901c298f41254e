// Compresses and hashes chunks on an executor and writes them in order.
//
// The thread that brings the chunks never waits for work that nobody has begun: it does it itself. So any executor will
// do, even one whose only thread is the caller.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "common/byte_stream.h"
#include "common/digest.h"
#include "common/executor.h"
#include "common/result.h"
#include "image-format/chunk_table.h"
#include "image-format/chunker.h"
#include "image-format/hash_lane.h"

namespace banyan::image_format {

// Externally synchronised. May be destroyed at any time; what runs then ends by itself and touches nothing of the
// caller's.
class ChunkPipeline final : public ChunkSink {
 public:
  // `max_blocks` bounds every chunk. The executor and the sink must outlive the pipeline.
  ChunkPipeline(int level, uint32_t max_blocks, Executor& executor, ByteSink& blob);
  ~ChunkPipeline() override;

  Status TakeChunk(std::vector<std::byte>& blocks) override;
  Status TakeZeros(uint32_t blocks) override;
  // Writes what is still in flight.
  Status Finish();

  // After Finish().
  ChunkTable TakeTable() { return std::move(table_); }
  Digest BlobDigest() { return blob_hash_.Finish(); }

 private:
  struct Shared;
  struct Job;

  static void Run(Shared& shared, Job& job);
  Status Enqueue(std::shared_ptr<Job> job);
  // Writes the oldest chunk, once it is done.
  Status Retire();

  const int level_;
  const size_t window_;
  Executor& executor_;
  ByteSink& blob_;
  const std::shared_ptr<Shared> shared_;
  std::deque<std::shared_ptr<Job>> in_flight_;
  std::vector<std::vector<std::byte>> spare_buffers_;
  std::vector<std::shared_ptr<Job>> zero_jobs_;  // one for each length seen
  ChunkTable table_;
  HashLane blob_hash_;
};

}  // namespace banyan::image_format
