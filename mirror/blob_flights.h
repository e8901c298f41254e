// The blobs that are on their way: at most one flight a blob, whatever upstream and repository it is asked from.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

#include "common/digest.h"
#include "mirror/blob_flight.h"
#include "net/http_server.h"

namespace banyan::mirror {

// Internally synchronised. Stop() before destruction, and wait until the upstreams' threads have ended.
class BlobFlights {
 public:
  BlobFlights(store::NodeStore& store, Counters& counters, const Hooks& hooks, uint32_t max_orphans);

  // Answers a GET of a blob, joining the flight of it or beginning one. False: the blob is in the store by now, and the
  // reply was not touched.
  bool Serve(const BlobTarget& target, const std::string& range, const std::shared_ptr<net::HttpReply>& reply);
  // Whether it is on its way.
  bool IsComing(const Digest& digest) const;
  // The size of a blob that is on its way, if it is known.
  std::optional<uint64_t> BlobBytes(const Digest& digest) const;
  // Ends all flights soon, and begins no more.
  void Stop();

 private:
  std::shared_ptr<BlobFlight> Find(const BlobTarget& target, const BlobFlight* not_this, bool& is_new, bool& stored);
  void Forget(const Digest& digest, const BlobFlight& flight);

  store::NodeStore& store_;
  Counters& counters_;
  const Hooks& hooks_;
  std::atomic<int64_t> orphans_left_;
  mutable std::mutex mutex_;
  bool stopped_ = false;                                             // guarded by mutex_
  std::unordered_map<Digest, std::shared_ptr<BlobFlight>> flights_;  // guarded by mutex_
};

}  // namespace banyan::mirror
