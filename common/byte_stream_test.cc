#include "common/byte_stream.h"

#include <string>

#include <gtest/gtest.h>

namespace banyan {
namespace {

// Gives one byte a call.
class Trickle final : public ByteSource {
 public:
  explicit Trickle(std::string text) : text_(std::move(text)) {}
  Result<size_t> Read(std::span<std::byte> buffer) override {
    if (next_ == text_.size()) return size_t{0};
    buffer[0] = static_cast<std::byte>(text_[next_++]);
    return size_t{1};
  }

 private:
  std::string text_;
  size_t next_ = 0;
};

TEST(ByteStreamTest, ReadFullyJoinsShortReadsAndStopsAtTheEnd) {
  Trickle source("banyan");
  std::string buffer(10, '.');
  EXPECT_EQ(ReadFully(source, std::as_writable_bytes(std::span(buffer))).value(), 6U);
  EXPECT_EQ(buffer, "banyan....");
}

TEST(ByteStreamTest, MemorySourceEndsAndStaysAtItsEnd) {
  const std::string text = "abc";
  MemorySource source(std::as_bytes(std::span(text)));
  std::string buffer(8, '.');
  EXPECT_EQ(source.Read(std::as_writable_bytes(std::span(buffer))).value(), 3U);
  EXPECT_EQ(source.Read(std::as_writable_bytes(std::span(buffer))).value(), 0U);
}

}  // namespace
}  // namespace banyan
