#include "fetch/read_ahead.h"

#include <algorithm>
#include <functional>

namespace banyan::fetch {
namespace {

constexpr size_t kMaxStreams = 8;
constexpr uint32_t kRunChunks = 3;
// The kernel sends a sequential reader's requests on several threads, so those of an established stream may overtake
// each other.
constexpr ChunkIndex kOvertakenChunks = 4;

}  // namespace

ReadAhead::Stream& ReadAhead::StreamOf(ChunkRange chunks) {
  for (Stream& stream : streams_) {
    const ChunkIndex slack = stream.read_chunks >= kRunChunks ? kOvertakenChunks : 0;
    if (chunks.begin >= stream.begin && chunks.begin <= stream.next + slack) return stream;
  }
  const Stream fresh{.begin = chunks.begin, .next = chunks.begin};
  if (streams_.size() < kMaxStreams) return streams_.emplace_back(fresh);
  return *std::ranges::min_element(streams_, {}, &Stream::used) = fresh;
}

void ReadAhead::Expect(ChunkIndex chunk) {
  if (chunk >= expected_.size()) expected_.resize(size_t{chunk} + 1, false);
  expected_[chunk] = true;
}

bool ReadAhead::IsExpected(ChunkRange chunks) const {
  if (chunks.end > expected_.size()) return false;
  return std::all_of(expected_.begin() + chunks.begin, expected_.begin() + chunks.end, std::identity());
}

ChunkRange ReadAhead::OnRead(const image_format::ChunkTable& table, ChunkRange chunks) {
  if (max_bytes_ == 0 || IsExpected(chunks)) return {};
  Stream& stream = StreamOf(chunks);
  stream.used = ++uses_;
  if (chunks.end <= stream.next) return {};
  for (ChunkIndex chunk = std::max(chunks.begin, stream.next); chunk < chunks.end; ++chunk) {
    stream.read_bytes += table[chunk].device_bytes();
    ++stream.read_chunks;
  }
  stream.next = chunks.end;
  if (stream.read_chunks < kRunChunks) return {};

  const uint64_t most = std::min(max_bytes_, stream.read_bytes / 2);
  uint64_t bytes = 0;
  ChunkIndex end = stream.next;
  while (end < table.size() && bytes + table[end].device_bytes() <= most) bytes += table[end++].device_bytes();
  const ChunkRange ahead{std::max(stream.ahead, stream.next), end};
  if (ahead.empty()) return {};
  // A request costs a registry about the same whatever its length: wait until half of the lead is used up, then ask for
  // what restores it.
  const uint64_t lead_bytes = (table[ahead.begin].first_block - table[stream.next].first_block) * kBlockBytes;
  if (lead_bytes > most / 2) return {};
  stream.ahead = end;
  return ahead;
}

}  // namespace banyan::fetch
