#include "image-format/chunker.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "image-format/layer_converter.h"

namespace banyan::image_format {
namespace {

class Recorder final : public ChunkSink {
 public:
  Status TakeChunk(std::vector<std::byte>& blocks) override {
    chunks.emplace_back(reinterpret_cast<const char*>(blocks.data()), blocks.size());
    blocks.clear();
    return {};
  }
  Status TakeZeros(uint32_t blocks) override {
    chunks.emplace_back(uint64_t{blocks} * kBlockBytes, '\0');
    ++zero_chunks;
    return {};
  }

  std::vector<std::string> chunks;
  int zero_chunks = 0;
};

std::string Noise(size_t bytes, uint32_t seed) {
  std::mt19937 random(seed);
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

std::vector<std::string> Cut(const std::vector<std::string>& files, size_t step = SIZE_MAX) {
  Recorder recorder;
  Chunker chunker(Chunking(), recorder);
  for (const std::string& file : files) {
    EXPECT_TRUE(chunker.BeginFile(file.size()));
    for (size_t at = 0; at < file.size();) {
      const size_t count = std::min(step, file.size() - at);
      EXPECT_TRUE(chunker.Append(std::as_bytes(std::span(file.data() + at, count))));
      at += count;
    }
    EXPECT_TRUE(chunker.EndFile());
  }
  EXPECT_TRUE(chunker.Finish());
  return recorder.chunks;
}

std::string Join(const std::vector<std::string>& chunks) {
  std::string all;
  for (const std::string& chunk : chunks) all += chunk;
  return all;
}

TEST(Chunker, FilesStartAtBlocksAndAreZeroPadded) {
  const auto chunks = Cut({"abc", "", std::string(4096, 'x'), "end"});
  ASSERT_EQ(chunks.size(), 1U);
  const std::string expected =
      "abc" + std::string(4093, '\0') + std::string(4096, 'x') + "end" + std::string(4093, '\0');
  EXPECT_TRUE(chunks[0] == expected);
}

TEST(Chunker, SizesStayWithinTheRuleWhateverThePieces) {
  const std::string noise = Noise(24 << 20, 1);
  const auto chunks = Cut({noise});
  EXPECT_TRUE(Join(chunks) == noise);
  EXPECT_TRUE(Cut({noise}, 1000) == chunks);
  for (size_t i = 0; i + 1 < chunks.size(); ++i) {
    EXPECT_GE(chunks[i].size(), 16 * kBlockBytes);
    EXPECT_LE(chunks[i].size(), 256 * kBlockBytes);
  }
  const size_t average = noise.size() / chunks.size();
  EXPECT_GT(average, 200 * kKiB);
  EXPECT_LT(average, 400 * kKiB);
}

TEST(Chunker, CutsComeBackAfterAnInsertion) {
  std::vector<std::string> files;
  for (uint32_t i = 0; i < 400; ++i) files.push_back(Noise(20000 + 37 * i, i));
  const auto before = Cut(files);
  files.insert(files.begin() + 100, Noise(12345, 9999));
  const auto after = Cut(files);
  const std::set<std::string> known(before.begin(), before.end());
  size_t fresh = 0;
  for (const std::string& chunk : after) fresh += known.contains(chunk) ? 0 : chunk.size();
  EXPECT_LE(fresh, 3 * kMiB);
  EXPECT_GT(Join(after).size(), 10 * kMiB);
}

TEST(Chunker, LargeFilesStartTheirOwnChunks) {
  const std::string large = Noise(256 * kKiB, 5);
  const auto alone = Cut({large});
  const auto chunks = Cut({Noise(5000, 6), large});
  ASSERT_EQ(chunks.size(), alone.size() + 1);
  EXPECT_TRUE(std::equal(alone.begin(), alone.end(), chunks.begin() + 1));
}

TEST(Chunker, ZerosMakeMaximalChunksWithoutBytes) {
  Recorder recorder;
  Chunker chunker(Chunking(), recorder);
  ASSERT_TRUE(chunker.AppendZeros(10 * kMiB + 5));
  const std::string text = "after the hole";
  ASSERT_TRUE(chunker.Append(std::as_bytes(std::span(text.data(), text.size()))));
  ASSERT_TRUE(chunker.AppendZeros(3));
  ASSERT_TRUE(chunker.EndFile());
  ASSERT_TRUE(chunker.Finish());
  EXPECT_EQ(recorder.zero_chunks, 20);
  EXPECT_EQ(chunker.device_blocks(), 2561U);
  ASSERT_EQ(recorder.chunks.size(), 21U);
  EXPECT_EQ(recorder.chunks[20].substr(5, text.size()), text);
  // Zeros that come as bytes are the same chunks.
  EXPECT_TRUE(Cut({std::string(3 << 20, '\0')}) == std::vector<std::string>(6, std::string(512 << 10, '\0')));
}

TEST(Chunker, ChunkingGrowsWithTheLayer) {
  EXPECT_EQ(ChunkingFor(0), Chunking()) << "not known";
  EXPECT_EQ(ChunkingFor(1).max_blocks, 64U);
  EXPECT_EQ(ChunkingFor(128 * kMiB - 1).max_blocks, 64U);
  EXPECT_EQ(ChunkingFor(128 * kMiB), Chunking());
  EXPECT_EQ(ChunkingFor(2 * kGiB - 1), Chunking());
  EXPECT_EQ(ChunkingFor(2 * kGiB).max_blocks, 512U);
  EXPECT_EQ(ChunkingFor(100 * kGiB).max_blocks, 2048U);
}

}  // namespace
}  // namespace banyan::image_format
