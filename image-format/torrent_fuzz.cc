// Any bytes are refused, or are the one torrent of that blob.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "image-format/torrent.h"

using namespace banyan;                // NOLINT
using namespace banyan::image_format;  // NOLINT

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  static const Digest digest = Digest::Of("Hello, world\n");
  for (const uint64_t bytes : {uint64_t{13}, uint64_t{kPieceBytes} + 1}) {
    const auto read = ReadTorrent(text, digest, bytes);
    if (read && !text.ends_with(std::string_view(read->metainfo).substr(1))) std::abort();
    if (read && ReadTorrent(WithAnnounce(*read, "http://a/"), digest, bytes)->metainfo != read->metainfo) std::abort();
  }
  return 0;
}
