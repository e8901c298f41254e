// Chunks by the function's trees: the parent of the chunk's stripe, its spares, and then the origins.
//
// A request goes up a ladder whose rungs are read from the current routes at every step: the lane's parent, its spare
// parents, and the origins (proxy, registry), which are all there is for a lane without a parent. A rung that is cut,
// silent, slow, wrong, or that waits for this very node (a loop while trees change) is left at once for the next, for
// the chunks that it has not given. A rung that says it waits itself (102) is given time, so that only a dead node's
// children move, not its whole subtree.
//
// Common chunks go by tree, rare ones do not: with a profile, a demand read outside of it asks the parent for what it
// holds (or is about to), then one of the known holders (where none is known, one spare), and then the origins. Holders
// take turns. One that lacks what it claims to hold has lied: no harm, one round trip; it is not believed for a while,
// and reported. When the origins are congested it takes the tree
// after all: when their recent latency is over 200 ms and over four times the parent's.
//
// Demand is hedged: when a peer has given no sign of life (bytes, or a 102) after the 95th percentile of its recent
// times, at least 50 ms, the next rung is asked as well, and the first good answer counts; for at most 5 % of all asks.
// DESIGN.md §5.
//
// Invariant: no byte that a peer gave is handed on unchecked.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "fetch/chunk_source.h"
#include "fetch/peer_client.h"
#include "fetch/routes.h"

namespace banyan::fetch {

// Internally synchronised.
class TreeSource final : public ChunkSource {
 public:
  // `client` must outlive the source. `origins`: where a chunk comes from when no peer gives it.
  TreeSource(PeerClient& client, RoutesOf routes, std::shared_ptr<ChunkSource> origins);
  // Answers what is outstanding with kCancelled. Not on a thread of the client's, the timer's or the origins'.
  ~TreeSource() override;

  // ChunkRequest::lane is the stripe. Chunks come with ChunkBytes::from "parent", "spare" or "holder", or as the
  // origins say.
  void Fetch(ChunkRequest request, OnChunk on_chunk) override;
  std::string_view name() const override { return "tree"; }

 private:
  struct State;
  class Leg;

  const std::shared_ptr<State> state_;  // shared with callbacks
};

}  // namespace banyan::fetch
