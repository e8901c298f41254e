#include "sim/image.h"

#include <algorithm>
#include <cmath>

#include "fetch/stripes.h"
#include "sim/random.h"

namespace banyan::sim {
namespace {

constexpr uint64_t kMetadataPiece = 256 * kKiB;
constexpr uint32_t kTouchedRun = 4;  // adjacent chunks that a start reads one after another

void Append(image_format::ChunkTable& table, uint64_t bytes) {
  const auto blocks = static_cast<uint32_t>(BlocksFor(bytes));
  // Digests name nothing here; the sizes are within the table's limits.
  static_cast<void>(table.Append(static_cast<uint32_t>(bytes), blocks, Digest(), Digest()));
}

// As image_format::Chunking cuts: a quarter of the average at least, then behind each block with a chance that makes
// the average, at twice of it at the latest.
uint64_t ChunkSize(const Scenario& scenario, Random& random) {
  if (scenario.even_chunks) return scenario.chunk_bytes;
  const uint64_t least = std::max<uint64_t>(scenario.chunk_bytes / 4, 1);
  const double beyond = random.Exponential() * static_cast<double>(scenario.chunk_bytes);
  return std::min(least + static_cast<uint64_t>(beyond), scenario.chunk_bytes * 2);
}

void ChooseStart(const Scenario& scenario, Random& random, Image& image) {
  const ChunkIndex data = image.table.size() - image.metadata_chunks;
  const uint32_t reads = std::min(scenario.reads, data);
  std::vector<ChunkIndex> runs;
  for (ChunkIndex first = image.metadata_chunks; first < image.table.size(); first += kTouchedRun)
    runs.push_back(first);
  for (size_t i = runs.size(); i > 1; --i) std::swap(runs[i - 1], runs[random.Below(i)]);
  image.in_start.assign(image.table.size(), false);
  for (ChunkIndex first : runs) {
    const ChunkIndex end = std::min(first + kTouchedRun, image.table.size());
    for (ChunkIndex chunk = first; chunk < end && image.start.size() < reads; ++chunk) {
      image.start.push_back(chunk);
      image.in_start[chunk] = true;
    }
  }
}

}  // namespace

Image MakeImage(const Scenario& scenario) {
  Random random(Mix(scenario.seed));
  Image image;
  for (uint64_t left = scenario.metadata_bytes; left > 0; left -= std::min(left, kMetadataPiece)) {
    Append(image.table, std::min(left, kMetadataPiece));
    ++image.metadata_chunks;
  }
  for (uint64_t left = scenario.image_bytes; left > 0;) {
    const uint64_t bytes = std::min(left, ChunkSize(scenario, random));
    Append(image.table, bytes);
    left -= bytes;
  }
  const auto lanes = static_cast<uint8_t>(scenario.trees == Trees::kForest ? scenario.stripes : 1);
  image.stripe_of = fetch::AssignStripes(image.table, Digest(), lanes);
  ChooseStart(scenario, random, image);
  return image;
}

ChunkIndex ReadOf(const Image& image, const Scenario& scenario, uint32_t node, uint32_t function, uint32_t read) {
  Random random(Mix(scenario.seed ^ Mix(uint64_t{node} << 32 | function)) + Mix(read));
  const ChunkIndex data = image.table.size() - image.metadata_chunks;
  if (random.Uniform() >= scenario.private_reads || image.start.size() == data) return image.start[read];
  for (;;) {
    const auto chunk = static_cast<ChunkIndex>(image.metadata_chunks + random.Below(data));
    if (!image.in_start[chunk]) return chunk;
  }
}

}  // namespace banyan::sim
