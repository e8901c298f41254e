#include "common/bitmap.h"

#include <algorithm>

namespace banyan {

Bitmap::Bitmap(uint32_t size, std::string_view bytes) : Bitmap(size) {
  const uint32_t known = static_cast<uint32_t>(std::min<uint64_t>(size, uint64_t{bytes.size()} * 8));
  for (uint32_t i = 0; i < known; ++i) {
    if ((static_cast<uint8_t>(bytes[i / 8]) >> (i % 8) & 1) != 0) Set(i);
  }
}

bool Bitmap::Set(uint32_t index) {
  if (Test(index)) return false;
  bytes_[index / 8] = static_cast<char>(bytes_[index / 8] | 1 << (index % 8));
  ++count_;
  return true;
}

bool Bitmap::Clear(uint32_t index) {
  if (!Test(index)) return false;
  bytes_[index / 8] = static_cast<char>(bytes_[index / 8] & ~(1 << (index % 8)));
  --count_;
  return true;
}

}  // namespace banyan
