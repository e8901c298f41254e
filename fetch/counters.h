// What was fetched, from where and for whom.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>

#include "fetch/chunk_source.h"

namespace banyan::fetch {

// One place that chunks come from. "store": compressed bytes that this node had already; "reuse": blocks copied from
// another layer; any other: a ChunkSource's name().
struct SourceCounters {
  uint64_t requests = 0;
  uint64_t chunks = 0;
  uint64_t compressed_bytes = 0;                        // of good chunks; for "reuse", what was not fetched
  std::array<uint64_t, 3> compressed_bytes_by_class{};  // by Priority
  std::array<uint64_t, 3> chunks_by_class{};
  std::array<std::chrono::microseconds, 3> waited_by_class{};  // from the request to each good chunk, summed up
  uint64_t failed_chunks = 0;                                  // answers with an error, bad chunks included
  uint64_t bad_chunks = 0;                                     // wrong bytes
};

// Internally synchronised.
class CounterTable {
 public:
  void AddRequest(std::string_view source);
  void AddChunk(std::string_view source, Priority priority, uint64_t compressed_bytes,
                std::chrono::microseconds waited = {});
  void AddFailure(std::string_view source, bool bad_bytes);
  std::map<std::string, SourceCounters> snapshot() const;

 private:
  SourceCounters& Row(std::string_view source);

  mutable std::mutex mutex_;
  std::map<std::string, SourceCounters, std::less<>> rows_;  // guarded by mutex_
};

}  // namespace banyan::fetch
