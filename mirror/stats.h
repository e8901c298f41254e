// What the mirror has done, for the daemons' metrics.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace banyan::mirror {

enum class RequestKind : uint8_t { kBase, kManifest, kBlob, kReferrers, kTags, kOther };
inline constexpr std::array<std::string_view, 6> kRequestKindNames = {"base",      "manifest", "blob",
                                                                      "referrers", "tags",     "other"};

enum class RequestResult : uint8_t {
  kHit,       // from the store
  kStale,     // from the store, since the upstream could not be asked
  kMiss,      // from the upstream, or while it comes from there
  kNotFound,  // 404
  kRefused,   // another 4xx
  kFailed,    // 5xx
};
inline constexpr std::array<std::string_view, 6> kRequestResultNames = {"hit",       "stale",   "miss",
                                                                        "not_found", "refused", "failed"};

// A snapshot.
struct Stats {
  std::array<std::array<uint64_t, kRequestResultNames.size()>, kRequestKindNames.size()> requests{};  // [kind][result]
  uint64_t hit_bytes = 0;       // of blobs that were whole when asked for (announced, not counted as they go)
  uint64_t miss_bytes = 0;      // of blobs that came while they were served
  uint64_t upstream_bytes = 0;  // of blobs received from upstreams
  uint64_t flights_started = 0;
  uint64_t flights_joined = 0;  // requests that found one under way
  uint64_t flights_failed = 0;  // wrong digest, or no source could bring the rest
  uint64_t fills_resumed = 0;   // that began with what an earlier process had
  uint64_t fills_uncached = 0;  // that the store had no room for
  uint64_t tags_revalidated = 0;
  uint64_t flights_active = 0;  // now
  uint64_t readers_active = 0;  // now; of flights
};

// Internally synchronised.
struct Counters {
  std::array<std::array<std::atomic<uint64_t>, kRequestResultNames.size()>, kRequestKindNames.size()> requests{};
  std::atomic<uint64_t> hit_bytes{0};
  std::atomic<uint64_t> miss_bytes{0};
  std::atomic<uint64_t> upstream_bytes{0};
  std::atomic<uint64_t> flights_started{0};
  std::atomic<uint64_t> flights_joined{0};
  std::atomic<uint64_t> flights_failed{0};
  std::atomic<uint64_t> fills_resumed{0};
  std::atomic<uint64_t> fills_uncached{0};
  std::atomic<uint64_t> tags_revalidated{0};
  std::atomic<uint64_t> flights_active{0};
  std::atomic<uint64_t> readers_active{0};

  void Count(RequestKind kind, RequestResult result) {
    ++requests[static_cast<size_t>(kind)][static_cast<size_t>(result)];
  }
  Stats Snapshot() const;
};

}  // namespace banyan::mirror
