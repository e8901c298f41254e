// Which peers a function's chunks are asked of, now: what the tree-manager's latest assignment says, as the fetch path
// sees it. DESIGN.md §5, §7.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "common/digest.h"
#include "common/units.h"

namespace banyan::fetch {

struct PeerAddress {
  std::string node;     // its name in the cluster
  std::string address;  // IPv4 or IPv6
  uint16_t port = 0;
  friend auto operator<=>(const PeerAddress&, const PeerAddress&) = default;
};

// The chunks that starts of a function touch. Immutable.
class ProfileSet {
 public:
  void Add(const Digest& blob, ChunkIndex chunk) { chunks_[blob].insert(chunk); }
  bool Contains(const Digest& blob, ChunkIndex chunk) const {
    const auto found = chunks_.find(blob);
    return found != chunks_.end() && found->second.contains(chunk);
  }

 private:
  // As large as what is in it: other nodes name the chunks.
  std::unordered_map<Digest, std::unordered_set<ChunkIndex>> chunks_;
};

// Immutable once published.
struct Routes {
  struct Stripe {
    std::optional<PeerAddress> parent;  // none: the proxy
    std::vector<PeerAddress> spares;    // the best first
    uint32_t children = 0;              // whom this node feeds
  };
  std::string function;
  std::vector<Stripe> stripes;                // 1 or 2
  std::shared_ptr<const ProfileSet> profile;  // null: the trees carry everything
  std::vector<PeerAddress> holders;           // members that said they hold all of it, with uplink to spare
};

// Which stripe's peers a request goes to whose chunks belong to stripe `home` and which took a turn of `lane` (another
// when a lane with nothing to do took them). The lane's own, but for two cases, where it is the home stripe's. Where
// the proxy feeds that lane and a peer the home stripe: the proxy sends a stripe once. And where this node feeds others
// in the home stripe: the lane's parent may be below it there, and each would wait for the other. (So no ring is
// possible in settled trees: a chain of waits goes up the lane's tree through leaves of the home stripe, then up the
// home stripe's through its interiors.) `has_parent(stripe)`: not the proxy. Shared with the simulator.
inline bool NoChildren(size_t) { return false; }
template <typename HasParent, typename HasChildren = bool (*)(size_t)>
size_t StripeToAsk(size_t stripes, uint8_t lane, uint8_t home, const HasParent& has_parent,
                   const HasChildren& has_children = NoChildren) {
  const size_t own = lane % stripes;
  const size_t other = home % stripes;
  return (!has_parent(own) && has_parent(other)) || has_children(other) ? other : own;
}

// The current routes of a function; null: no peers (not joined, switched off), so that the origins are asked. Any
// thread, cheap, called for every request.
using RoutesOf = std::function<std::shared_ptr<const Routes>()>;

enum class PeerFault : uint8_t { kUnreachable, kBadBytes, kSlow, kLied };

// Who is told of peers that fail. Internally synchronised; must not block.
class PeerReports {
 public:
  virtual ~PeerReports() = default;
  virtual void Report(const std::string& function, const std::string& node, PeerFault fault,
                      const std::string& detail) = 0;
};

}  // namespace banyan::fetch
