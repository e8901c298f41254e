// Any bytes as a layer: an error, or an index that survives its own coding and chunks that decode.
#include <cstdlib>
#include <string>
#include <vector>

#include "common/byte_stream.h"
#include "common/executor.h"
#include "image-format/layer_converter.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace banyan;
  using namespace banyan::image_format;
  ConvertOptions options;
  options.level = 1;
  options.max_device_bytes = 4 * kMiB;
  options.max_entries = 10'000;
  options.max_ratio = 100;
  options.max_ratio_free_bytes = 4 * kMiB;
  MemorySource source(std::as_bytes(std::span(data, size)));
  InlineExecutor executor;
  std::string blob;
  AppendSink<std::string> blob_sink(blob);
  const auto index = ConvertLayer(source, options, executor, blob_sink);
  if (!index) return 0;

  std::string encoded;
  AppendSink<std::string> index_sink(encoded);
  if (!EncodeLayerIndex(*index, index_sink)) std::abort();
  MemorySource encoded_source(std::as_bytes(std::span(encoded.data(), encoded.size())));
  const auto decoded = DecodeLayerIndex(encoded_source);
  if (!decoded || decoded->entries != index->entries) std::abort();
  std::vector<std::byte> blocks;
  for (const Chunk& chunk : index->chunks.chunks()) {
    const auto frame = std::as_bytes(std::span(blob.data() + chunk.compressed_offset, chunk.compressed_bytes));
    if (!DecodeChunk(chunk, frame, blocks)) std::abort();
  }
  return 0;
}
