// What passing chunks on costs a node, without the network: chunks in, checked, stored, leased out again. And what the
// flight table costs a chunk.
#include <filesystem>
#include <random>

#include <fmt/format.h>

#include "bench/process.h"
#include "fetch/flight_table.h"
#include "fetch/scheduler.h"

namespace banyan::fetch {
namespace {

using bench::CpuSeconds;
using bench::Must;

constexpr uint32_t kChunkBytes = 256 * kKiB;
constexpr ChunkIndex kChunks = 2048;

// Answers at once, out of memory, as a peer client would: checked or not.
class MemorySource final : public ChunkSource {
 public:
  MemorySource(std::vector<std::byte> blob, bool checked) : blob_(std::move(blob)), checked_(checked) {}
  void Fetch(ChunkRequest request, OnChunk on_chunk) override {
    for (ChunkIndex chunk = request.chunks.begin; chunk < request.chunks.end; ++chunk) {
      const ByteRange range = request.device->chunks[chunk].blob_range();
      ChunkBytes bytes(std::vector<std::byte>(blob_.begin() + static_cast<ptrdiff_t>(range.begin),
                                              blob_.begin() + static_cast<ptrdiff_t>(range.end)));
      bytes.checked = checked_;
      on_chunk(chunk, std::move(bytes));
    }
  }
  std::string_view name() const override { return "memory"; }

 private:
  const std::vector<std::byte> blob_;
  const bool checked_;
};

void Relay(bool checked) {
  std::string root = std::filesystem::temp_directory_path() / "relay_bench.XXXXXX";
  if (::mkdtemp(root.data()) == nullptr) std::abort();
  {
    std::vector<std::byte> blob(size_t{kChunks} * kChunkBytes);
    std::mt19937_64 random(1);
    for (size_t at = 0; at < blob.size(); at += 8) *reinterpret_cast<uint64_t*>(&blob[at]) = random();
    image_format::Device device;
    device.blob_digest = Digest::Of("bench");
    for (ChunkIndex chunk = 0; chunk < kChunks; ++chunk) {
      const auto bytes = std::span(blob).subspan(size_t{chunk} * kChunkBytes, kChunkBytes);
      if (!device.chunks.Append(kChunkBytes, 128, Digest::Of(bytes), Digest())) std::abort();
    }
    device.blob_bytes = blob.size();
    device.blocks = static_cast<uint32_t>(device.chunks.device_blocks());
    auto store = Must(store::NodeStore::Open({.root = root}));
    InlineExecutor executor;
    Scheduler scheduler({.executor = executor, .keep_compressed = true});
    const auto layer =
        scheduler.AddLayer(Must(store->OpenLayer(device)), std::make_shared<MemorySource>(std::move(blob), checked));
    const auto relay = Scheduler::RelayOf(layer);
    uint64_t bytes = 0;
    const double begun = CpuSeconds();
    for (ChunkIndex chunk = 0; chunk < kChunks; ++chunk) {
      relay->ReadCompressed(chunk, Priority::kPrefetch,
                            [&](const Result<CompressedView>& view) { bytes += view->fd >= 0 ? view->length : 0; });
    }
    const double seconds = CpuSeconds() - begun;
    const double gib = static_cast<double>(bytes) / static_cast<double>(kGiB);
    fmt::print("relay, {}: {:.2f} GiB per CPU second ({:.3f} CPU s/GiB)\n",
               checked ? "checked by the source" : "checked by the scheduler", gib / seconds, seconds / gib);
  }
  std::filesystem::remove_all(root);
}

void Flights() {
  image_format::ChunkTable table;
  constexpr ChunkIndex kMany = 1'000'000;
  table.Reserve(kMany);
  for (ChunkIndex chunk = 0; chunk < kMany; ++chunk) {
    if (!table.Append(kChunkBytes, 64, Digest(), Digest())) std::abort();
  }
  FlightTable flights({.limits = {kTreeLimits, kTreeLimits, kTreeLimits},
                       .attempt_timeout = std::chrono::seconds(10),
                       .stalled_after = std::chrono::seconds(2)});
  LanePlan lanes{.lanes = 2};
  for (ChunkIndex chunk = 0; chunk < kMany; ++chunk) lanes.of.push_back(chunk / 4 % 2);
  flights.AddLayer(1, table, std::move(lanes));
  const Clock::time_point now{std::chrono::hours(1)};
  const double begun = CpuSeconds();
  for (ChunkIndex from = 0; from < kMany; from += 1000) {
    for (ChunkIndex chunk = from; chunk < from + 1000; ++chunk) flights.Want({1, chunk}, Priority::kPrefetch, 0);
    while (const auto request = flights.Next(now)) {
      for (ChunkIndex chunk = request->chunks.begin; chunk < request->chunks.end; ++chunk) {
        flights.Arrived(request->id, {1, chunk}, now);
        flights.Finish({1, chunk});
      }
    }
  }
  fmt::print("flight table: {:.2f} us a chunk\n", (CpuSeconds() - begun) * 1e6 / kMany);
}

}  // namespace
}  // namespace banyan::fetch

int main() {
  banyan::fetch::Relay(true);
  banyan::fetch::Relay(false);
  banyan::fetch::Flights();
}
