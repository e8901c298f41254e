// A fixed-size set of indices, stored as bytes (bit i is bit i % 8 of byte i / 8), the form in which presence is
// persisted.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace banyan {

// Externally synchronised.
class Bitmap {
 public:
  Bitmap() = default;
  explicit Bitmap(uint32_t size) : size_(size), bytes_((size + 7) / 8, '\0') {}
  // Takes a persisted form; bits beyond `size` are ignored and missing bytes are clear.
  Bitmap(uint32_t size, std::string_view bytes);

  uint32_t size() const { return size_; }
  bool Test(uint32_t index) const { return (static_cast<uint8_t>(bytes_[index / 8]) >> (index % 8) & 1) != 0; }
  // Both return whether the bit changed.
  bool Set(uint32_t index);
  bool Clear(uint32_t index);
  uint32_t count() const { return count_; }
  bool full() const { return count_ == size_; }
  const std::string& bytes() const { return bytes_; }

 private:
  uint32_t size_ = 0;
  uint32_t count_ = 0;
  std::string bytes_;
};

}  // namespace banyan
