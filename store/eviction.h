// Whom to evict: Greedy-Dual-Size-Frequency, as FaasCache keeps warm functions. Each thing kept has the priority
//
//   age at its last use + uses × cost of fetching it again ÷ its size
//
// and the age of the store is the priority of what was evicted last, so that what was used often but long ago falls
// behind. The cost is a request's price (expressed in bytes) plus the bytes. Priorities order things within a tier; the
// tiers come first: relay copies can be made again from their neighbours, raw blobs come from a registry, a mounted
// device has a reader who would wait. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace banyan::store {

enum class Tier : uint8_t {
  kRelayCopies = 0,    // compressed chunks; as many as needed
  kRawBlobs = 1,       // what the mirror passed on; one by one, the least recently used first
  kUnmounted = 2,      // devices that nothing mounts; whole
  kSmallBlobs = 3,     // maps, metadata, not young; one by one
  kMountedChunks = 4,  // chunks of mounted devices; as few as possible
};

struct Candidate {
  size_t id = 0;  // the caller's
  Tier tier = Tier::kRelayCopies;
  uint64_t bytes = 0;  // that can be taken now
  double priority = 0;
};

struct Victim {
  size_t id = 0;
  Tier tier = Tier::kRelayCopies;
  uint64_t bytes = 0;  // to take; all that can be taken of whole things
  double priority = 0;
};

double EvictionPriority(double age, uint64_t uses, uint64_t bytes);

// Victims, in order, that give at least `need` bytes, or none when all candidates together have less. Up to `want`
// bytes (≥ need) are taken ahead of need, so that the next writer need not evict again, but only from the first three
// tiers.
std::vector<Victim> PlanEviction(std::span<const Candidate> candidates, uint64_t need, uint64_t want);

}  // namespace banyan::store
