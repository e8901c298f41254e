// Converts a layer held in memory, for tests.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/byte_stream.h"
#include "common/executor.h"
#include "image-format/layer_converter.h"

namespace banyan::image_format::testing {

inline std::span<const std::byte> AsBytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

struct Converted {
  LayerIndex index;
  std::string blob;

  const Entry* Find(std::string_view path) const {
    for (uint32_t i = 0; i < index.entries.size(); ++i) {
      if (PathOf(index, i) == path) return &index.entries[i];
    }
    return nullptr;
  }
};

inline Result<Converted> ConvertForTest(std::string_view layer, const ConvertOptions& options, Executor& executor) {
  MemorySource source(AsBytes(layer));
  Converted result;
  AppendSink<std::string> sink(result.blob);
  BANYAN_ASSIGN(result.index, ConvertLayer(source, options, executor, sink));
  return result;
}

inline Result<Converted> ConvertForTest(std::string_view layer, const ConvertOptions& options = {}) {
  InlineExecutor executor;
  return ConvertForTest(layer, options, executor);
}

// The whole device, decoded chunk by chunk.
inline Result<std::string> DeviceOf(const Converted& layer) {
  std::string device;
  std::vector<std::byte> blocks;
  for (const Chunk& chunk : layer.index.chunks.chunks()) {
    const std::string_view frame = std::string_view(layer.blob).substr(chunk.compressed_offset, chunk.compressed_bytes);
    BANYAN_TRY(DecodeChunk(chunk, AsBytes(frame), blocks));
    device.append(reinterpret_cast<const char*>(blocks.data()), blocks.size());
  }
  return device;
}

}  // namespace banyan::image_format::testing
