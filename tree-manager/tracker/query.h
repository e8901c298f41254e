// What a BitTorrent client asks a tracker: the query string of an announce or a scrape (BEP 3, 23, 48). All of it comes
// from outside; it is checked here, once.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace banyan::tree_manager {

inline constexpr size_t kInfoHashBytes = 20;
inline constexpr size_t kPeerIdBytes = 20;

enum class AnnounceEvent : uint8_t { kNone, kStarted, kCompleted, kStopped };

struct AnnounceQuery {
  std::string info_hash;  // kInfoHashBytes
  std::string peer_id;    // kPeerIdBytes
  uint16_t port = 0;      // not 0 when it comes by HTTP
  uint64_t left = 0;      // bytes the client still wants; 0: it is a seed
  AnnounceEvent event = AnnounceEvent::kNone;
  int64_t numwant = -1;  // below 0: as many as the tracker likes
  bool compact = true;   // BEP 23: unless the client says compact=0
  bool no_peer_id = false;
  // Ours: where an agent is; by HTTP at most 64 bytes of [A-Za-z0-9._-], else empty.
  std::string zone;
};

// `query` is what stands behind the '?'. kInvalidArgument: info_hash, peer_id or port is missing or malformed, or a
// number is none. Parameters that are not known are passed over; of one given twice the first counts.
Result<AnnounceQuery> ParseAnnounce(std::string_view query);

inline constexpr size_t kMaxScraped = 64;
// The info-hashes; kInvalidArgument: none, more than kMaxScraped, or a malformed one.
Result<std::vector<std::string>> ParseScrape(std::string_view query);

}  // namespace banyan::tree_manager
