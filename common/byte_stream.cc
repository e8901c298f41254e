#include "common/byte_stream.h"

#include <algorithm>
#include <cstring>

namespace banyan {

Result<size_t> ReadFully(ByteSource& source, std::span<std::byte> buffer) {
  size_t filled = 0;
  while (filled < buffer.size()) {
    BANYAN_ASSIGN(const size_t count, source.Read(buffer.subspan(filled)));
    if (count == 0) break;
    filled += count;
  }
  return filled;
}

Result<size_t> MemorySource::Read(std::span<std::byte> buffer) {
  const size_t count = std::min(buffer.size(), rest_.size());
  if (count > 0) std::memcpy(buffer.data(), rest_.data(), count);
  rest_ = rest_.subspan(count);
  return count;
}

}  // namespace banyan
