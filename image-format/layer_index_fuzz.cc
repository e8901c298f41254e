// Any bytes as a layer index, as they are and again wrapped in a frame with the magic, so that mutations reach the
// messages. What decodes must encode to something that decodes to the same.
#include <cstdlib>
#include <string>

#include "common/byte_stream.h"
#include "image-format/layer_index.h"
#include "image-format/zstd_sink.h"

namespace {

using namespace banyan;
using namespace banyan::image_format;

void Try(std::span<const std::byte> blob) {
  MemorySource source(blob);
  const auto index = DecodeLayerIndex(source);
  if (!index) return;
  for (uint32_t i = 0; i < index->entries.size(); ++i) PathOf(*index, i);
  std::string again;
  AppendSink<std::string> sink(again);
  if (!EncodeLayerIndex(*index, sink)) std::abort();
  MemorySource again_source(std::as_bytes(std::span(again.data(), again.size())));
  const auto decoded = DecodeLayerIndex(again_source);
  if (!decoded || decoded->entries != index->entries || !(decoded->chunks == index->chunks)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  Try(bytes);
  std::string framed;
  AppendSink<std::string> out(framed);
  ZstdSink sink(out, 1);
  constexpr char kMagic[] = "BYNLIDX1";
  if (!sink.Write(std::as_bytes(std::span(kMagic, 8))) || !sink.Write(bytes) || !sink.Finish()) std::abort();
  Try(std::as_bytes(std::span(framed.data(), framed.size())));
  return 0;
}
