// The cluster's BitTorrent tracker: tells those who have a blob's torrent of each other (BEP 3 announce, BEP 23 compact
// lists, BEP 48 scrape), so that agents and ordinary clients can be in one swarm.
//
// Who may ask: an open tracker inside a private network would introduce anybody's traffic to anybody, and a tracker
// that takes only info-hashes it knows would have to be told of every image. So the path carries a passkey that follows
// from the cluster's token (common/settings.h, TrackerPath): agents know it, and the proxy puts it into the .torrent
// files that it gives to those who may read the image.
//
// Peers of the asker's zone come first, then others, each in random order; seeds are not told of seeds. An asker's zone
// is what its announce says (agents put it there), else that of another peer with its address. Memory is bounded by
// the limits below, and who is not heard of is forgotten; the state is rebuilt by the announces after a restart.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/metrics.h"
#include "common/mutex.h"
#include "net/http_server.h"
#include "tree-manager/tracker/query.h"

namespace banyan::tree_manager {

// Internally synchronised. Never blocks.
class Tracker {
 public:
  using Clock = std::chrono::steady_clock;
  struct Options {
    std::string path;  // "" or "/<passkey>": what stands before /announce and /scrape
    std::chrono::seconds least_interval{30};
    std::chrono::seconds longest_interval{1800};
    uint32_t announces_per_second = 200;  // intervals are stretched so that about so many come
    size_t max_swarms = 10'000;
    size_t max_peers = 200'000;          // of all swarms together
    size_t max_peers_per_address = 256;  // in one swarm
    size_t most_given = 200;
    size_t usually_given = 50;
    uint64_t seed = 0;                            // of the random order; 0: from the system
    std::function<Clock::time_point()> now = {};  // null: Clock::now
  };
  explicit Tracker(Options options);

  // Whether a request is the tracker's to answer, by its path.
  bool Knows(const net::HttpRequest& request) const;
  // 404 for a wrong passkey. What is wrong with a query is said as BEP 3 has it: 200 with "failure reason".
  net::HttpResponse Answer(const net::HttpRequest& request);

  struct PeerAt {
    std::string address;
    uint16_t port = 0;
  };
  // An announce that comes another way than HTTP, of who is at `address`; with port 0 it is told of others, and they
  // are not told of it. kInvalidArgument: `address` is none. kResourceExhausted: a limit is reached.
  Result<std::vector<PeerAt>> Announce(const AnnounceQuery& query, std::string_view address);
  // After how long an announce is to come again.
  std::chrono::seconds interval() const;

  void AddMetrics(MetricsPage& page) const;

 private:
  struct Peer {
    std::string id;
    std::string zone;
    bool seed = false;
    Clock::time_point expires;
  };
  // Address in network order (4 or 16 bytes), then the port: what compact lists hold.
  using Endpoint = std::string;
  struct Swarm {
    std::unordered_map<Endpoint, Peer> peers;
    uint64_t completed = 0;
  };

  net::HttpResponse AnswerAnnounce(const AnnounceQuery& query, std::string_view client);
  // Null: who asked has left.
  Result<Swarm*> Take(const AnnounceQuery& query, const Endpoint& endpoint) BANYAN_REQUIRES(mutex_);
  net::HttpResponse Scrape(const std::vector<std::string>& hashes);
  Status Enter(Swarm& swarm, const AnnounceQuery& query, const Endpoint& endpoint) BANYAN_REQUIRES(mutex_);
  std::vector<Endpoint> Choose(const Swarm& swarm, const AnnounceQuery& query, const Endpoint& asker)
      BANYAN_REQUIRES(mutex_);
  std::string ZoneOf(const Swarm& swarm, const AnnounceQuery& query, const Endpoint& asker) const
      BANYAN_REQUIRES(mutex_);
  void Expire(Clock::time_point now) BANYAN_REQUIRES(mutex_);
  std::chrono::seconds Interval() const BANYAN_REQUIRES(mutex_);
  Clock::time_point Now() const { return options_.now ? options_.now() : Clock::now(); }

  const Options options_;

  mutable Mutex mutex_;
  std::map<std::string, Swarm> swarms_ BANYAN_GUARDED_BY(mutex_);  // by info-hash; none is empty between calls
  size_t peers_ BANYAN_GUARDED_BY(mutex_) = 0;
  Clock::time_point next_expiry_ BANYAN_GUARDED_BY(mutex_);
  std::mt19937_64 random_ BANYAN_GUARDED_BY(mutex_);
  uint64_t announces_ BANYAN_GUARDED_BY(mutex_) = 0;
  uint64_t scrapes_ BANYAN_GUARDED_BY(mutex_) = 0;
  uint64_t refused_ BANYAN_GUARDED_BY(mutex_) = 0;
};

}  // namespace banyan::tree_manager
