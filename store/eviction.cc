#include "store/eviction.h"

#include <algorithm>
#include <tuple>

#include "common/units.h"

namespace banyan::store {

namespace {

// A request costs as much as about this many bytes: 50 ms at 20 MB/s.
constexpr double kRequestBytes = 1.0 * kMiB;

bool TakenWhole(Tier tier) { return tier == Tier::kRawBlobs || tier == Tier::kUnmounted || tier == Tier::kSmallBlobs; }

}  // namespace

double EvictionPriority(double age, uint64_t uses, uint64_t bytes) {
  if (bytes == 0) return age;
  return age + static_cast<double>(uses) * (kRequestBytes / static_cast<double>(bytes) + 1);
}

std::vector<Victim> PlanEviction(std::span<const Candidate> candidates, uint64_t need, uint64_t want) {
  std::vector<Candidate> order(candidates.begin(), candidates.end());
  std::erase_if(order, [](const Candidate& candidate) { return candidate.bytes == 0; });
  std::sort(order.begin(), order.end(), [](const Candidate& a, const Candidate& b) {
    return std::tie(a.tier, a.priority, a.id) < std::tie(b.tier, b.priority, b.id);
  });
  std::vector<Victim> victims;
  uint64_t planned = 0;
  for (const Candidate& candidate : order) {
    const uint64_t goal = candidate.tier <= Tier::kUnmounted ? want : need;
    if (planned >= goal) continue;
    const uint64_t bytes = TakenWhole(candidate.tier) ? candidate.bytes : std::min(candidate.bytes, goal - planned);
    victims.push_back({candidate.id, candidate.tier, bytes, candidate.priority});
    planned += bytes;
  }
  if (planned < need) victims.clear();
  return victims;
}

}  // namespace banyan::store
