#include "image-format/layer_converter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zstd.h>

#include <fcntl.h>
#include <cstdlib>
#include <random>

#include "common/file_io.h"
#include "image-format/testing/convert_for_test.h"
#include "image-format/testing/gzip_for_test.h"
#include "image-format/testing/tar_builder.h"

namespace banyan::image_format {
namespace {

using testing::Converted;
using testing::ConvertForTest;
using testing::DeviceOf;
using testing::Gzip;
using ::testing::HasSubstr;
using testing::TarBuilder;

std::string Text(size_t bytes, uint32_t seed) {
  std::mt19937 random(seed);
  std::string text;
  while (text.size() < bytes) text += std::to_string(random() % 100000) + ' ';
  text.resize(bytes);
  return text;
}

// Files of many sizes around blocks and chunks.
std::vector<std::pair<std::string, std::string>> SampleFiles() {
  std::vector<std::pair<std::string, std::string>> files;
  uint32_t seed = 0;
  for (const size_t size : {0, 1, 4095, 4096, 4097, 70'000, 262'144, 300'000, 3'000'000, 5, 1'048'576}) {
    files.emplace_back("f" + std::to_string(seed), Text(size, seed));
    ++seed;
  }
  files.emplace_back("zeros", std::string(2'500'000, '\0'));
  return files;
}

std::string SampleTar() {
  TarBuilder tar;
  for (const auto& [name, contents] : SampleFiles()) tar.File(name, contents);
  return tar.Finish();
}

TEST(ConvertLayer, DigestsContentsAndBlobAgree) {
  const std::string tar = SampleTar();
  const std::string layer = Gzip(tar);
  const auto converted = ConvertForTest(layer);
  ASSERT_TRUE(converted) << converted.error().message;
  EXPECT_EQ(converted->index.source_digest, Digest::Of(layer));
  EXPECT_EQ(converted->index.diff_id, Digest::Of(tar));
  EXPECT_EQ(converted->index.blob_digest, Digest::Of(converted->blob));
  EXPECT_EQ(converted->index.blob_bytes, converted->blob.size());
  const auto device = DeviceOf(*converted);
  ASSERT_TRUE(device) << device.error().message;
  EXPECT_EQ(device->size(), converted->index.device_blocks * kBlockBytes);
  for (const auto& [name, contents] : SampleFiles()) {
    const Entry* entry = converted->Find(name);
    ASSERT_NE(entry, nullptr);
    EXPECT_EQ(entry->size, contents.size());
    EXPECT_TRUE(device->substr(entry->first_block * kBlockBytes, entry->size) == contents) << name;
  }
  // The blob is a plain zstd file of the device.
  std::string whole(device->size(), '\0');
  EXPECT_EQ(ZSTD_decompress(whole.data(), whole.size(), converted->blob.data(), converted->blob.size()), whole.size());
  EXPECT_TRUE(whole == *device);
}

TEST(ConvertLayer, SameBytesWhateverTheThreadsAndTheCompression) {
  const std::string tar = SampleTar();
  const auto expected = ConvertForTest(tar);
  ASSERT_TRUE(expected);
  for (const size_t threads : {1, 2, 4, 7}) {
    ThreadPool pool(threads);
    const auto other = ConvertForTest(Gzip(tar), {}, pool);
    ASSERT_TRUE(other);
    EXPECT_TRUE(other->blob == expected->blob);
    EXPECT_EQ(other->index.chunks, expected->index.chunks);
    EXPECT_EQ(other->index.entries, expected->index.entries);
    EXPECT_EQ(other->index.diff_id, expected->index.diff_id);
    EXPECT_EQ(other->index.blob_digest, expected->index.blob_digest);
  }
}

TEST(ConvertLayer, RunsOnTheOnlyThreadOfItsExecutor) {
  ThreadPool pool(1);
  const std::string tar = SampleTar();
  std::optional<Result<Converted>> result;
  {
    ThreadPool caller(1);
    caller.Post([&] { result = ConvertForTest(tar, {}, caller); });
  }
  ASSERT_TRUE(result.has_value());
  EXPECT_TRUE(result->has_value());
}

TEST(ConvertLayer, LargeChunks) {
  ConvertOptions options;
  options.source_bytes = 20 * kGiB;
  ThreadPool pool(2);
  const auto converted = ConvertForTest(TarBuilder().File("f", Text(40 << 20, 1)).Finish(), options, pool);
  ASSERT_TRUE(converted);
  EXPECT_EQ(converted->index.chunking.max_blocks, 2048U);
  EXPECT_TRUE(DeviceOf(*converted));
}

TEST(ConvertLayer, EmptyLayer) {
  const auto converted = ConvertForTest(TarBuilder().Finish());
  ASSERT_TRUE(converted);
  EXPECT_TRUE(converted->blob.empty());
  EXPECT_EQ(converted->index.entries.size(), 1U);
  EXPECT_EQ(converted->index.blob_digest, Digest::Of(""));
}

TEST(ConvertLayer, TrailingBytesCountForTheDiffId) {
  const std::string tar = TarBuilder().File("f", "x").Finish() + std::string(5000, '\0') + "unparsed";
  const auto converted = ConvertForTest(Gzip(tar));
  ASSERT_TRUE(converted);
  EXPECT_EQ(converted->index.diff_id, Digest::Of(tar));
}

void ExpectFailure(const std::string& layer, const ConvertOptions& options, Code code, const std::string& text) {
  ThreadPool pool(2);
  const auto converted = ConvertForTest(layer, options, pool);
  ASSERT_FALSE(converted) << text;
  EXPECT_EQ(converted.error().code, code) << converted.error().message;
  EXPECT_THAT(converted.error().message, HasSubstr(text));
}

TEST(ConvertLayer, WrongDigestsNameBoth) {
  const std::string tar = SampleTar();
  ConvertOptions options;
  options.expected_source_digest = Digest::Of("other");
  ExpectFailure(tar, options, Code::kDataLoss, Digest::Of("other").ToString());
  ExpectFailure(tar, options, Code::kDataLoss, Digest::Of(tar).ToString());
  options.expected_source_digest = Digest::Of(tar);
  options.expected_diff_id = Digest::Of("other");
  ExpectFailure(tar, options, Code::kDataLoss, "diff ID");
}

TEST(ConvertLayer, LimitsHold) {
  const std::string zeros(50 << 20, '\0');
  const std::string bomb = Gzip(TarBuilder().File("zeros", zeros).Finish());
  ConvertOptions options;
  options.max_ratio = 50;
  options.max_ratio_free_bytes = kMiB;
  ExpectFailure(bomb, options, Code::kResourceExhausted, "decompression bomb");
  options = {};
  options.max_device_bytes = kMiB;
  ExpectFailure(bomb, options, Code::kResourceExhausted, "over 1048576 bytes");
  // A size that lies is caught by the limit, or by the end of the archive, before anything is allocated for it.
  ExpectFailure(TarBuilder().Add({.name = "lie", .contents = "x", .size = uint64_t{1} << 60}).Finish(), {},
                Code::kResourceExhausted, "over");
  ExpectFailure(TarBuilder().Add({.name = "lie", .contents = "x", .size = uint64_t{1} << 30}).Finish(), {},
                Code::kDataLoss, "'lie'");
}

TEST(ConvertLayer, TruncatedGzip) {
  const std::string layer = Gzip(SampleTar());
  ExpectFailure(layer.substr(0, layer.size() / 2), {}, Code::kDataLoss, "truncated");
  ExpectFailure(layer.substr(0, layer.size() - 1), {}, Code::kDataLoss, "truncated");
}

TEST(ConvertLayer, ProgressAndCancellation) {
  const std::string layer = Gzip(SampleTar());
  uint64_t seen = 0;
  ConvertOptions options;
  options.progress = [&seen](uint64_t bytes) { seen = bytes; };
  ASSERT_TRUE(ConvertForTest(layer, options));
  EXPECT_EQ(seen, layer.size());
  std::stop_source stop;
  stop.request_stop();
  options.stop = stop.get_token();
  ExpectFailure(layer, options, Code::kCancelled, "cancelled");
}

class FailingSink final : public ByteSink {
 public:
  Status Write(std::span<const std::byte>) override {
    return Fail(Code::kResourceExhausted, "No space left on device");
  }
};

TEST(ConvertLayer, AFailingSinkEndsIt) {
  const std::string tar = SampleTar();
  MemorySource source(testing::AsBytes(tar));
  FailingSink sink;
  ThreadPool pool(4);
  const auto index = ConvertLayer(source, {}, pool, sink);
  ASSERT_FALSE(index);
  EXPECT_THAT(index.error().message, HasSubstr("No space"));
}

TEST(ConvertLayer, HolesBecomeZerosQuickly) {
  const std::string map = "1\n8589934592\n4\n";
  const auto converted = ConvertForTest(TarBuilder()
                                            .Add({.name = "x",
                                                  .contents = map + std::string(512 - map.size(), '\0') + "data",
                                                  .pax = {{"GNU.sparse.major", "1"},
                                                          {"GNU.sparse.minor", "0"},
                                                          {"GNU.sparse.name", "s"},
                                                          {"GNU.sparse.realsize", "8589934596"}}})
                                            .Finish());
  ASSERT_TRUE(converted) << converted.error().message;
  EXPECT_EQ(converted->Find("s")->size, 8589934596U);
  EXPECT_EQ(converted->index.chunks.size(), 16385U);
  EXPECT_LT(converted->blob.size(), kMiB);
}

// Real tars: GNU tar in each of its formats gives the same entries.
TEST(ConvertLayer, GnuTarInEveryFormat) {
  const auto directory = TempDir::Make("convert-test");
  ASSERT_TRUE(directory);
  const std::string root = directory->path();
  const std::string make = "cd " + root +
                           " && mkdir -p t/d && cd t && printf abc > f && ln f d/h && ln -s f s && mkfifo p && "
                           "printf x > $(printf 'n%.0s' $(seq 90)) && truncate -s 3M sparse && printf end >> sparse && "
                           "touch -d '1999-01-01 00:00:00.123456789 UTC' f && cd ..";
  ASSERT_EQ(std::system(make.c_str()), 0);
  for (const std::string format : {"ustar", "gnu", "oldgnu", "posix"}) {
    const std::string file = root + "/" + format + ".tar";
    const std::string sparse = format == "ustar" ? "" : " -S";
    ASSERT_EQ(std::system(("tar -C " + root + "/t --format=" + format + sparse + " -cf " + file + " .").c_str()), 0);
    auto fd = OpenFile(file, O_RDONLY);
    ASSERT_TRUE(fd);
    FdSource source(std::move(*fd), file);
    Converted converted;
    AppendSink<std::string> sink(converted.blob);
    InlineExecutor executor;
    auto index = ConvertLayer(source, {}, executor, sink);
    ASSERT_TRUE(index) << format << ": " << index.error().message;
    converted.index = std::move(*index);
    EXPECT_EQ(converted.index.entries.size(), 8U) << format;
    EXPECT_EQ(converted.Find("sparse")->size, (3U << 20) + 3);
    EXPECT_EQ(converted.Find("f")->mtime_seconds, 915148800);
    EXPECT_EQ(converted.Find("f")->mtime_nanoseconds, format == "posix" ? 123456789U : 0U);
    EXPECT_EQ(converted.Find("d/h")->kind, EntryKind::kLinkToEntry);
    EXPECT_NE(converted.Find(std::string(90, 'n')), nullptr);
    const auto device = DeviceOf(converted);
    ASSERT_TRUE(device);
    const Entry* sparse_entry = converted.Find("sparse");
    const std::string contents = device->substr(sparse_entry->first_block * kBlockBytes, sparse_entry->size);
    EXPECT_TRUE(contents == std::string(3 << 20, '\0') + "end") << format;
  }
}

}  // namespace
}  // namespace banyan::image_format
