// The tracker for agents in session: the same table as over HTTP, so that either way leads to all peers, and nodes that
// cannot reach the manager's HTTP port find each other all the same.
#pragma once

#include <string>

#include "proto/tree.pb.h"
#include "tree-manager/tracker/tracker.h"

namespace banyan::tree_manager {

inline constexpr int kMaxSwarmsAnnounced = 1024;  // in one message; what is beyond it is passed over
inline constexpr size_t kMaxPeersAnswered = 4000;

// What the node at `node_address`, of `zone`, is told. Entries that are malformed, or that no limit has room for, are
// passed over.
proto::tree::SwarmPeers AnnounceBySession(Tracker& tracker, const proto::tree::SwarmAnnounce& announce,
                                          const std::string& zone, const std::string& node_address);

}  // namespace banyan::tree_manager
