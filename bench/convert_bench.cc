// Conversion against the work that cannot be avoided: decompressing the layer, zstd over its chunks, and the five
// digests (layer, tar, blocks, frames, blob), each measured alone, on one core, in the same rounds.
//
// The bar is the sum of those times spread over the cores that the conversion may use; the figure is bar ÷ conversion,
// so 1 means that nothing was spent on anything else and that every core was busy throughout.
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <zstd.h>
#include <CLI/CLI.hpp>

#include "bench/statistics.h"
#include "common/digest.h"
#include "common/executor.h"
#include "common/file_io.h"
#include "image-format/decompress.h"
#include "image-format/layer_converter.h"

namespace banyan::bench {
namespace {

using image_format::Chunk;
using image_format::LayerIndex;

template <typename T>
T OrDie(Result<T> result) {
  if (result) return std::move(*result);
  fmt::print(stderr, "convert_bench: {}\n", result.error().message);
  std::exit(1);
}

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

class CountingSink final : public ByteSink {
 public:
  Status Write(std::span<const std::byte> data) override {
    bytes_ += data.size();
    return {};
  }
  uint64_t bytes() const { return bytes_; }

 private:
  uint64_t bytes_ = 0;
};

struct Alone {
  double gunzip = 0;
  double zstd = 0;
  double hashes = 0;
  double total() const { return gunzip + zstd + hashes; }
};

std::string Decompress(const std::string& layer) {
  MemorySource source(Bytes(layer));
  const auto decompressor = OrDie(image_format::Decompressor::Open(source));
  std::string tar;
  std::vector<std::byte> buffer(kMiB);
  while (const size_t count = OrDie(decompressor->Read(buffer))) {
    tar.append(reinterpret_cast<const char*>(buffer.data()), count);
  }
  return tar;
}

double TimeDecompress(const std::string& layer) {
  MemorySource source(Bytes(layer));
  const auto decompressor = OrDie(image_format::Decompressor::Open(source));
  std::vector<std::byte> buffer(kMiB);
  const Stopwatch watch;
  while (OrDie(decompressor->Read(buffer)) > 0) {
  }
  return watch.seconds();
}

// `device` is the layer's data device; frames are made anew, as long as the converter's.
Alone MeasureAlone(const std::string& layer, const std::string& tar, const std::string& device, const LayerIndex& index,
                   int level) {
  Alone alone;
  alone.gunzip = TimeDecompress(layer);

  std::vector<std::string> frames(index.chunks.size());
  ZSTD_CCtx* const context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level);
  const Stopwatch zstd;
  for (ChunkIndex i = 0; i < index.chunks.size(); ++i) {
    const ByteRange range = index.chunks[i].device_range();
    frames[i].resize(ZSTD_compressBound(range.size()));
    frames[i].resize(
        ZSTD_compress2(context, frames[i].data(), frames[i].size(), device.data() + range.begin, range.size()));
  }
  alone.zstd = zstd.seconds();
  ZSTD_freeCCtx(context);

  const Stopwatch hashes;
  (void)Digest::Of(layer);
  (void)Digest::Of(tar);
  Sha256 blob;
  for (ChunkIndex i = 0; i < index.chunks.size(); ++i) {
    const ByteRange range = index.chunks[i].device_range();
    (void)Digest::Of(std::string_view(device).substr(range.begin, range.size()));
    (void)Digest::Of(frames[i]);
    blob.Update(frames[i]);
  }
  (void)blob.Finish();
  alone.hashes = hashes.seconds();
  return alone;
}

double ProcessSeconds() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

struct Conversion {
  double wall = 0;
  double processor = 0;  // of all threads
};

Conversion MeasureConversion(const std::string& layer, int level, Executor& executor) {
  MemorySource source(Bytes(layer));
  CountingSink sink;
  image_format::ConvertOptions options;
  options.level = level;
  options.source_bytes = layer.size();
  const Stopwatch watch;
  const double before = ProcessSeconds();
  (void)OrDie(image_format::ConvertLayer(source, options, executor, sink));
  return {watch.seconds(), ProcessSeconds() - before};
}

// The device's bytes, by decoding what the converter wrote.
std::string Device(const LayerIndex& index, const std::string& blob) {
  std::string device;
  std::vector<std::byte> blocks;
  for (const Chunk& chunk : index.chunks.chunks()) {
    const auto frame = Bytes(blob).subspan(chunk.compressed_offset, chunk.compressed_bytes);
    if (Status status = image_format::DecodeChunk(chunk, frame, blocks); !status) {
      fmt::print(stderr, "convert_bench: {}\n", status.error().message);
      std::exit(1);
    }
    device.append(reinterpret_cast<const char*>(blocks.data()), blocks.size());
  }
  return device;
}

int Main(int argc, char** argv) {
  std::string path;
  int rounds = 5;
  int level = 3;
  size_t threads = std::thread::hardware_concurrency();
  CLI::App app("Conversion of one layer against gunzip, zstd and the required hashes measured alone.", "convert_bench");
  app.add_option("LAYER", path, "A layer blob: tar, gzip or zstd")->required();
  app.add_option("--rounds", rounds)->capture_default_str();
  app.add_option("--level", level)->capture_default_str();
  app.add_option("--threads", threads,
                 "Threads of the executor, as `banyan convert --jobs`; not more than there are cores")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  const std::string layer = OrDie(ReadFile(path));
  const std::string tar = Decompress(layer);
  ThreadPool executor(threads);

  std::string blob;
  AppendSink<std::string> sink(blob);
  MemorySource source(Bytes(layer));
  image_format::ConvertOptions options;
  options.level = level;
  options.source_bytes = layer.size();
  const LayerIndex index = OrDie(image_format::ConvertLayer(source, options, executor, sink));
  const std::string device = Device(index, blob);

  std::vector<double> ratios;
  std::vector<double> processor_ratios;
  std::vector<double> conversions;
  std::vector<double> gunzips;
  std::vector<double> zstds;
  std::vector<double> hashes;
  for (int round = 0; round < rounds; ++round) {
    const double before = ProcessSeconds();
    const Alone alone = MeasureAlone(layer, tar, device, index, level);
    const double alone_processor = ProcessSeconds() - before;
    const Conversion conversion = MeasureConversion(layer, level, executor);
    ratios.push_back(alone.total() / static_cast<double>(threads) / conversion.wall);
    processor_ratios.push_back(alone_processor / conversion.processor);
    conversions.push_back(conversion.wall);
    gunzips.push_back(alone.gunzip);
    zstds.push_back(alone.zstd);
    hashes.push_back(alone.hashes);
  }
  const double megabytes = static_cast<double>(tar.size()) / 1e6;
  fmt::print("layer {:.1f} MB, tar {:.1f} MB, blob {:.1f} MB, {} chunks, {} entries\n",
             static_cast<double>(layer.size()) / 1e6, megabytes, static_cast<double>(blob.size()) / 1e6,
             index.chunks.size(), index.entries.size());
  fmt::print("alone, one core: decompress {:.2f} s, zstd-{} {:.2f} s, hashes {:.2f} s\n", Median(gunzips), level,
             Median(zstds), Median(hashes));
  fmt::print("conversion: {:.2f} s on {} cores, {:.0f} MB/s of tar and core\n", Median(conversions), threads,
             megabytes / Median(conversions) / static_cast<double>(threads));
  fmt::print("ratio to what the parts reach alone: {:.2f} (median of {} rounds; bar 0.85)\n", Median(ratios), rounds);
  fmt::print("the same in processor time, which other work on the machine disturbs less: {:.2f}\n",
             Median(processor_ratios));
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  fmt::print("peak memory of this process, inputs included: {} MiB\n", usage.ru_maxrss / 1024);
  return 0;
}

}  // namespace
}  // namespace banyan::bench

int main(int argc, char** argv) { return banyan::bench::Main(argc, argv); }
