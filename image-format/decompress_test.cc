#include "image-format/decompress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zstd.h>

#include <algorithm>

#include "image-format/testing/convert_for_test.h"
#include "image-format/testing/gzip_for_test.h"

namespace banyan::image_format {
namespace {

using testing::AsBytes;
using testing::Gzip;
using ::testing::HasSubstr;

// Hands out a few bytes at a time, so that every boundary falls somewhere.
class Dripping final : public ByteSource {
 public:
  Dripping(std::string_view data, size_t step) : data_(data), step_(step) {}
  Result<size_t> Read(std::span<std::byte> buffer) override {
    const size_t count = std::min({buffer.size(), step_, data_.size()});
    std::copy_n(AsBytes(data_).begin(), count, buffer.begin());
    data_.remove_prefix(count);
    return count;
  }

 private:
  std::string_view data_;
  size_t step_;
};

Result<std::string> Decompress(std::string_view data, size_t step = 1 << 20) {
  Dripping source(data, step);
  BANYAN_ASSIGN(const auto decompressor, Decompressor::Open(source));
  std::string out;
  std::vector<std::byte> buffer(1000);
  while (true) {
    BANYAN_ASSIGN(const size_t count, decompressor->Read(buffer));
    if (count == 0) return out;
    out.append(reinterpret_cast<const char*>(buffer.data()), count);
  }
}

std::string Zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

std::string Sample(size_t size) {
  std::string text;
  for (uint32_t x = 1; text.size() < size; x = x * 1664525 + 1013904223) text += std::to_string(x >> 20) + " ";
  return text;
}

void ExpectDataLoss(const std::string& data, const std::string& text) {
  const auto out = Decompress(data);
  ASSERT_FALSE(out.has_value());
  EXPECT_EQ(out.error().code, Code::kDataLoss);
  EXPECT_THAT(out.error().message, HasSubstr(text));
}

TEST(Decompress, EveryFormatInAnyPieces) {
  const std::string text = Sample(300'000);
  const std::string empty;
  const std::string skippable("\x50\x2a\x4d\x18\x04\0\0\0abcd", 12);
  for (const size_t step : {size_t{1}, size_t{7}, size_t{4096}, size_t{1} << 20}) {
    EXPECT_EQ(Decompress(text, step), text);
    EXPECT_EQ(Decompress(empty, step), empty);
    EXPECT_EQ(Decompress(Gzip(text), step), text);
    EXPECT_EQ(Decompress(Gzip(text) + Gzip("") + Gzip("tail") + std::string(700, '\0'), step), text + "tail");
    EXPECT_EQ(Decompress(Zstd(text), step), text);
    EXPECT_EQ(Decompress(skippable + Zstd(text) + skippable + Zstd("") + Zstd("tail"), step), text + "tail");
  }
}

TEST(Decompress, GzipHeaderWithEveryField) {
  const std::string plain = Gzip("contents");
  const auto decompress = [](const std::string& data, size_t step) {
    const auto out = Decompress(data, step);
    return out ? *out : out.error().message;
  };
  for (const bool checksum : {false, true}) {
    const std::string member = testing::GzipWithAllFields("contents", checksum);
    for (const size_t step : {size_t{1}, size_t{64}}) {
      EXPECT_EQ(decompress(member, step), "contents") << checksum << " " << step;
      EXPECT_EQ(decompress(plain + member + plain, step), "contentscontentscontents") << checksum << " " << step;
    }
  }
}

TEST(Decompress, EveryTruncationIsDataLoss) {
  const std::string text = Sample(2'000);
  for (const std::string& whole : {Gzip(text), Zstd(text)}) {
    for (size_t length = 4; length < whole.size(); ++length) {
      const auto out = Decompress(whole.substr(0, length));
      ASSERT_FALSE(out.has_value()) << length;
      EXPECT_EQ(out.error().code, Code::kDataLoss);
      EXPECT_THAT(out.error().message, HasSubstr("truncated"));
    }
  }
}

TEST(Decompress, DamageIsDataLoss) {
  const std::string text = Sample(50'000);
  std::string wrong_crc = Gzip(text);
  wrong_crc[wrong_crc.size() - 8] ^= 1;
  ExpectDataLoss(wrong_crc, "checksum");
  std::string wrong_length = Gzip(text);
  wrong_length[wrong_length.size() - 1] ^= 1;
  ExpectDataLoss(wrong_length, "checksum");
  ExpectDataLoss(Gzip(text) + "garbage", "trailing garbage");
  ExpectDataLoss(Gzip(text) + std::string(10, '\0') + "garbage", "trailing garbage");
  ExpectDataLoss(Zstd(text) + "garbage!", "zstd");
  std::string flipped = Zstd(text);
  flipped[4] = '\xff';  // reserved bit of the frame header
  ExpectDataLoss(flipped, "zstd");
}

}  // namespace
}  // namespace banyan::image_format
