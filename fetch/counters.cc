#include "fetch/counters.h"

namespace banyan::fetch {

SourceCounters& CounterTable::Row(std::string_view source) {
  const auto it = rows_.find(source);
  return it != rows_.end() ? it->second : rows_[std::string(source)];
}

void CounterTable::AddRequest(std::string_view source) {
  const std::lock_guard lock(mutex_);
  ++Row(source).requests;
}

void CounterTable::AddChunk(std::string_view source, Priority priority, uint64_t compressed_bytes,
                            std::chrono::microseconds waited) {
  const std::lock_guard lock(mutex_);
  SourceCounters& row = Row(source);
  ++row.chunks;
  row.compressed_bytes += compressed_bytes;
  row.compressed_bytes_by_class[static_cast<size_t>(priority)] += compressed_bytes;
  ++row.chunks_by_class[static_cast<size_t>(priority)];
  row.waited_by_class[static_cast<size_t>(priority)] += waited;
}

void CounterTable::AddFailure(std::string_view source, bool bad_bytes) {
  const std::lock_guard lock(mutex_);
  SourceCounters& row = Row(source);
  ++row.failed_chunks;
  if (bad_bytes) ++row.bad_chunks;
}

std::map<std::string, SourceCounters> CounterTable::snapshot() const {
  const std::lock_guard lock(mutex_);
  return {rows_.begin(), rows_.end()};
}

}  // namespace banyan::fetch
