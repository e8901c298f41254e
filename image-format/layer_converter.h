// One OCI layer in (tar; gzip, zstd or plain), one Banyan data blob and one layer index out, in a single streaming
// pass.
//
// The calling thread decompresses, parses the tar and cuts chunks; chunks are compressed and hashed on the executor and
// written in order. The output depends only on the layer's tar, the options and the version, never on threads or
// timing. docs/format.md §"Layer".
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <string_view>

#include "common/byte_stream.h"
#include "common/executor.h"
#include "common/result.h"
#include "common/units.h"
#include "image-format/layer_index.h"

namespace banyan::image_format {

// Recorded in every index; it changes whenever the same layer would give other bytes.
inline constexpr std::string_view kConverterVersion = "banyan 0.1.1";

struct ConvertOptions {
  int level = 3;              // zstd's, 1 to 19
  uint64_t source_bytes = 0;  // the layer blob's length as its manifest gives it; chooses the chunking. 0: not known
  std::optional<Chunking> chunking;  // instead of ChunkingFor(source_bytes)

  // Limits; crossing one is kResourceExhausted.
  uint64_t max_device_bytes = 256 * kGiB;
  uint64_t max_entries = 4'000'000;
  // Output (tar and device bytes) that one compressed byte may cause, enforced once `max_ratio_free_bytes` came out.
  uint64_t max_ratio = 1000;
  uint64_t max_ratio_free_bytes = 32 * kGiB;

  // What the layer must turn out to be; kDataLoss, naming both digests, if it does not.
  std::optional<Digest> expected_source_digest;
  std::optional<Digest> expected_diff_id;

  // Called on the calling thread, now and then, with the compressed bytes read so far.
  std::function<void(uint64_t)> progress;
  // When asked to stop, ConvertLayer returns kCancelled soon. A Read() that blocks in `layer` is not interrupted.
  std::stop_token stop;
};

// By the compressed length of the layer: below 128 MiB 64 KiB / 128 KiB / 256 KiB, up to 2 GiB (or not known) 64 KiB /
// 256 KiB / 512 KiB, from 2 GiB four times that, from 16 GiB sixteen times that. Each hop of a tree keeps a chunk back,
// which is much of the time that a small layer takes; model-sized layers are read in long runs, and their chunk tables
// must stay small. docs/decisions/0008-smaller-chunks-in-smaller-layers.md
Chunking ChunkingFor(uint64_t source_bytes);

// Blocks until the whole layer is read and `data_blob` has everything. After an error the sink's contents are of no
// use. `executor` may have any number of threads, and the caller may be one of them: the caller does itself what no
// thread has begun. Memory: about 100 MiB for chunks in flight, plus the layer's names and attributes. Errors:
// kInvalidArgument for a malformed or unacceptable tar, kDataLoss for truncated or corrupt compression and digests that
// differ, kResourceExhausted for limits, kCancelled, and whatever the source and the sink return.
Result<LayerIndex> ConvertLayer(ByteSource& layer, const ConvertOptions& options, Executor& executor,
                                ByteSink& data_blob);

}  // namespace banyan::image_format
