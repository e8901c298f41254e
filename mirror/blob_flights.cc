#include "mirror/blob_flights.h"

#include <utility>
#include <vector>

namespace banyan::mirror {

BlobFlights::BlobFlights(store::NodeStore& store, Counters& counters, const Hooks& hooks, uint32_t max_orphans)
    : store_(store), counters_(counters), hooks_(hooks), orphans_left_(max_orphans) {}

std::shared_ptr<BlobFlight> BlobFlights::Find(const BlobTarget& target, const BlobFlight* not_this, bool& is_new,
                                              bool& stored) {
  const std::scoped_lock lock(mutex_);
  if (stopped_) return nullptr;
  std::shared_ptr<BlobFlight>& flight = flights_[target.digest];
  if (flight && flight.get() != not_this) return flight;
  // A flight is forgotten only after its blob is in the store.
  stored = store_.BlobBytes(target.digest).has_value();
  if (stored) {
    if (!flight) flights_.erase(target.digest);
    return nullptr;
  }
  is_new = true;
  const FlightContext context{
      .store = store_,
      .counters = counters_,
      .hooks = hooks_,
      .take_orphan =
          [this] {
            if (orphans_left_.fetch_sub(1) > 0) return true;
            orphans_left_.fetch_add(1);
            return false;
          },
      .give_orphan = [this] { orphans_left_.fetch_add(1); },
      .forget = [this, digest = target.digest](const BlobFlight& ended) { Forget(digest, ended); },
  };
  flight = std::make_shared<BlobFlight>(context, target);
  return flight;
}

bool BlobFlights::Serve(const BlobTarget& target, const std::string& range,
                        const std::shared_ptr<net::HttpReply>& reply) {
  std::shared_ptr<BlobFlight> refused;
  while (true) {
    bool is_new = false;
    bool stored = false;
    const std::shared_ptr<BlobFlight> flight = Find(target, refused.get(), is_new, stored);
    if (stored) return false;
    if (!flight) {
      reply->Send(ErrorAnswer(503, "UNAVAILABLE", "the mirror is being stopped"));
      return true;
    }
    if (!flight->Join(range, reply)) {
      refused = flight;
      continue;
    }
    if (!is_new) {
      ++counters_.flights_joined;
      return true;
    }
    ++counters_.flights_started;
    ++counters_.flights_active;
    const bool posted = target.upstream->fills().Post([flight, &active = counters_.flights_active] {
      flight->Run();
      --active;
    });
    if (!posted) {
      --counters_.flights_active;
      flight->Refuse();
    }
    return true;
  }
}

bool BlobFlights::IsComing(const Digest& digest) const {
  const std::scoped_lock lock(mutex_);
  return flights_.contains(digest);
}

std::optional<uint64_t> BlobFlights::BlobBytes(const Digest& digest) const {
  const std::scoped_lock lock(mutex_);
  const auto found = flights_.find(digest);
  return found != flights_.end() ? found->second->blob_bytes() : std::nullopt;
}

void BlobFlights::Forget(const Digest& digest, const BlobFlight& flight) {
  const std::scoped_lock lock(mutex_);
  const auto found = flights_.find(digest);
  if (found != flights_.end() && found->second.get() == &flight) flights_.erase(found);
}

void BlobFlights::Stop() {
  std::vector<std::shared_ptr<BlobFlight>> flights;
  {
    const std::scoped_lock lock(mutex_);
    stopped_ = true;
    for (const auto& [digest, flight] : flights_) flights.push_back(flight);
  }
  for (const auto& flight : flights) flight->Stop();
}

}  // namespace banyan::mirror
