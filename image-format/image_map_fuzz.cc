// Any bytes are a map or an error; a map that was accepted comes back the same after encoding.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "image-format/image_map.h"

using namespace banyan;                // NOLINT
using namespace banyan::image_format;  // NOLINT

namespace {

Result<ImageMap> Decode(std::span<const std::byte> blob) {
  MemorySource source(blob);
  return DecodeImageMap(source);
}

}  // namespace

// The fuzzer cannot make zstd frames with right checksums, so input is taken both as the blob and as what it holds.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  (void)Decode(bytes);
  std::string raw;  // one zstd frame of raw blocks, without checksum
  raw.append("\x28\xB5\x2F\xFD\x00\x58", 6);
  for (size_t at = 0;;) {
    const size_t length = std::min<size_t>(size - at, 128 * 1024);
    const bool last = at + length == size;
    const auto header = static_cast<uint32_t>(length << 3 | (last ? 1 : 0));
    raw.append({static_cast<char>(header), static_cast<char>(header >> 8), static_cast<char>(header >> 16)});
    raw.append(reinterpret_cast<const char*>(data) + at, length);
    at += length;
    if (last) break;
  }
  const auto map = Decode(std::as_bytes(std::span(raw)));
  if (!map) return 0;
  std::string blob;
  AppendSink sink(blob);
  if (!EncodeImageMap(*map, sink)) std::abort();
  const auto again = Decode(std::as_bytes(std::span(blob)));
  if (!again || again->devices.size() != map->devices.size() || again->chain_id != map->chain_id) std::abort();
  return 0;
}
