#include "fetch/tree_source.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <unordered_set>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "fetch/door.h"

namespace banyan::fetch {
namespace {

using namespace std::chrono_literals;

// For how long a peer may say that it waits itself: so many of its mean times, within these bounds and half of what is
// left until the deadline.
constexpr int kPatienceTimes = 50;
constexpr Clock::duration kPatienceLeast = 5s;
constexpr Clock::duration kPatienceMost = 30s;

const Routes::Stripe& StripeOf(const Routes& routes, const ChunkRequest& request) {
  const auto has_parent = [&routes](size_t stripe) { return routes.stripes[stripe].parent.has_value(); };
  const auto has_children = [&routes](size_t stripe) { return routes.stripes[stripe].children > 0; };
  return routes.stripes[StripeToAsk(routes.stripes.size(), request.lane, request.home, has_parent, has_children)];
}

}  // namespace

// What the source and its callbacks share. Origins and legs are let go by the source's owner, never by a callback.
struct TreeSource::State {
  State(PeerClient& client_in, RoutesOf routes_in, std::shared_ptr<ChunkSource> origins_in)
      : client(client_in),
        routes(std::move(routes_in)),
        next_holder(std::hash<std::string>()(client_in.node())),
        origins(std::move(origins_in)) {}

  PeerClient& client;
  const RoutesOf routes;
  std::atomic<size_t> next_holder;  // they take turns

  Door door;  // of client, routes and origins
  std::mutex mutex;
  std::shared_ptr<ChunkSource> origins;           // changed only by the destructor, when nobody is inside
  std::unordered_set<std::shared_ptr<Leg>> legs;  // guarded by mutex
};

// Adjacent chunks on their way up the ladder: one try at a time, two while demand is hedged. The first try that gives a
// good chunk leads; the others are cancelled. When the leader fails, what it has not given is asked of the next rung.
class TreeSource::Leg : public std::enable_shared_from_this<Leg> {
 public:
  Leg(std::shared_ptr<State> state, ChunkRequest request, OnChunk on_chunk, bool rare)
      : state_(std::move(state)),
        request_(std::move(request)),
        on_chunk_(std::move(on_chunk)),
        rare_(rare),
        answered_(request_.chunks.size()),
        unanswered_(request_.chunks.size()),
        next_(request_.chunks.begin) {}

  // Asks the next rung. Nothing of the state may be locked.
  void Climb() {
    const auto inside = state_->door.Enter();
    if (!inside) return;  // the source's destructor answers
    if (const auto rung = NextRung()) {
      AskPeer(*rung);
    } else {
      AskOrigins();
    }
  }

  void FailRest(const Error& error) {
    std::vector<ChunkIndex> rest;
    std::vector<std::shared_ptr<PeerClient::Ask>> losers;
    {
      const std::lock_guard lock(mutex_);
      if (finished_) return;
      for (ChunkIndex chunk = request_.chunks.begin; chunk < request_.chunks.end; ++chunk) {
        if (!answered_[chunk - request_.chunks.begin]) rest.push_back(chunk);
      }
      leader_ = 0;
      losers = Finish();
    }
    for (const auto& ask : losers) state_->client.Cancel(*ask);
    for (ChunkIndex chunk : rest) on_chunk_(chunk, Fail(error));
  }

 private:
  struct Rung {
    PeerAddress peer;
    std::string_view name;
    std::string function;
    bool claims_all = false;
  };
  struct Try {
    std::string node;  // empty: the origins
    std::shared_ptr<PeerClient::Ask> ask;
    Clock::time_point begun;
    bool answers = false;  // it has begun to
  };
  using Asks = std::vector<std::shared_ptr<PeerClient::Ask>>;

  // By the routes of now; nullopt: the origins.
  std::optional<Rung> NextRung() {
    const auto routes = state_->routes();
    if (!routes || routes->stripes.empty()) return std::nullopt;
    const Routes::Stripe& stripe = StripeOf(*routes, request_);
    PeerHealth& health = state_->client.health();
    const auto now = state_->client.timer().Now();
    if (!stripe.parent && !health.OriginsDown(now)) return std::nullopt;
    const std::lock_guard lock(mutex_);
    const auto usable = [&](const PeerAddress& peer) {
      return peer.node != state_->client.node() && !tried_.contains(peer.node) && !health.Avoided(peer.node, now);
    };
    if (stripe.parent && usable(*stripe.parent)) return Rung{*stripe.parent, "parent", routes->function};
    if (rare_ && std::exchange(beyond_parent_, true)) return std::nullopt;
    if (rare_) {
      const size_t count = routes->holders.size();
      for (size_t i = 0; i < count; ++i) {
        const PeerAddress& holder = routes->holders[state_->next_holder++ % count];
        if (usable(holder) && health.Believed(holder.node, now)) return Rung{holder, "holder", routes->function, true};
      }
    }
    const size_t spares = std::min<size_t>(stripe.spares.size(), rare_ ? 1 : stripe.spares.size());
    for (size_t i = 0; i < spares; ++i) {
      if (usable(stripe.spares[i])) return Rung{stripe.spares[i], "spare", routes->function};
    }
    return std::nullopt;
  }

  void AskPeer(const Rung& rung) {
    PeerClient& client = state_->client;
    const auto now = client.timer().Now();
    PeerAsk ask;
    ask.peer = rung.peer;
    ask.rung = rung.name;
    ask.function = rung.function;
    ask.device = request_.device;
    ask.priority = request_.priority;
    ask.only_if_cached = rare_;
    ask.claimed = rung.claims_all;
    ask.deadline = request_.deadline;
    ask.patience = now + Patience(rung.peer.node, now);
    uint64_t id = 0;
    {
      const std::lock_guard lock(mutex_);
      if (finished_) return;
      ask.chunks = {next_, request_.chunks.end};
      id = ++last_try_;
      tries_[id] = {rung.peer.node, nullptr, now, false};
      tried_.insert(rung.peer.node);
    }
    client.health().CountAsk();
    const auto self = shared_from_this();
    auto started = client.Start(
        std::move(ask),
        // A peer that waits for its own lives: asking another as well would bring the chunk no sooner, but twice.
        {.on_waiting = [self, id] { self->OnHead(id); },
         .on_head = [self, id] { self->OnHead(id); },
         .on_chunk = [self, id](ChunkIndex chunk, ChunkBytes bytes) { self->OnPeerChunk(id, chunk, std::move(bytes)); },
         .on_done = [self, id, name = rung.name](
                        PeerResult result, Error error) { self->OnPeerDone(id, name, result, std::move(error)); }});
    bool lost = false;
    {
      const std::lock_guard lock(mutex_);
      const auto found = tries_.find(id);
      lost = found == tries_.end();
      if (!lost) found->second.ask = started;
    }
    if (lost) return client.Cancel(*started);
    if (request_.priority != Priority::kDemand) return;
    client.timer().At(now + client.health().HedgeAfter(rung.peer.node), [weak = weak_from_this(), id] {
      if (const auto leg = weak.lock()) leg->Hedge(id);
    });
  }

  Clock::duration Patience(const std::string& node, Clock::time_point now) const {
    const auto learned = state_->client.health().LatencyOf(node) * kPatienceTimes;
    const auto patience = std::clamp(learned, kPatienceLeast, kPatienceMost);
    if (request_.deadline == Clock::time_point::max()) return patience;
    return std::min(patience, (request_.deadline - now) / 2);
  }

  void AskOrigins() {
    uint64_t id = 0;
    ChunkRequest request = request_;
    {
      const std::lock_guard lock(mutex_);
      if (finished_) return;
      request.chunks = {next_, request_.chunks.end};
      id = ++last_try_;
      tries_[id] = {"", nullptr, state_->client.timer().Now(), false};
    }
    state_->origins->Fetch(std::move(request),
                           [self = shared_from_this(), id](ChunkIndex chunk, Result<ChunkBytes> answer) {
                             self->OnOriginsAnswer(id, chunk, std::move(answer));
                           });
  }

  // The peer has had its time to begin.
  void Hedge(uint64_t id) {
    const auto inside = state_->door.Enter();
    if (!inside) return;
    bool late = false;
    {
      const std::lock_guard lock(mutex_);
      const auto found = tries_.find(id);
      late = !finished_ && leader_ == 0 && tries_.size() == 1 && found != tries_.end() && !found->second.answers;
    }
    if (late && state_->client.health().TakeHedge()) Climb();
  }

  // ---- Answers ----

  void OnHead(uint64_t id) {
    const std::lock_guard lock(mutex_);
    const auto found = tries_.find(id);
    if (found != tries_.end()) found->second.answers = true;
  }

  // Whether the try is the one that counts, from now on.
  bool Lead(uint64_t id, Asks& losers) {
    if (finished_ || !tries_.contains(id) || (leader_ != 0 && leader_ != id)) return false;
    leader_ = id;
    for (auto it = tries_.begin(); it != tries_.end();) {
      if (it->first == id) {
        ++it;
        continue;
      }
      if (it->second.ask) losers.push_back(it->second.ask);
      tried_.erase(it->second.node);
      it = tries_.erase(it);
    }
    return true;
  }

  void OnPeerChunk(uint64_t id, ChunkIndex chunk, ChunkBytes bytes) {
    Asks losers;
    {
      const std::lock_guard lock(mutex_);
      if (!Lead(id, losers)) return;
      answered_[chunk - request_.chunks.begin] = true;
      next_ = chunk + 1;
      if (--unanswered_ == 0) (void)Finish();
    }
    for (const auto& ask : losers) state_->client.Cancel(*ask);
    on_chunk_(chunk, std::move(bytes));
  }

  void OnPeerDone(uint64_t id, std::string_view rung, PeerResult result, Error error) {
    {
      const std::lock_guard lock(mutex_);
      if (tries_.erase(id) == 0 || finished_ || result == PeerResult::kGood) return;
      if (leader_ == id) leader_ = 0;
      if (!tries_.empty()) return;  // the other one goes on
    }
    if (result == PeerResult::kCancelled) return FailRest(error);
    const bool failed = result != PeerResult::kMiss && result != PeerResult::kLoop;
    if (failed && request_.on_way_failed) request_.on_way_failed(rung, result == PeerResult::kBadBytes);
    if (IsLate()) return FailRest(error);
    Climb();
  }

  bool IsLate() const {
    const auto inside = state_->door.Enter();
    return inside && state_->client.timer().Now() >= request_.deadline;
  }

  void OnOriginsAnswer(uint64_t id, ChunkIndex chunk, Result<ChunkBytes> answer) {
    Asks losers;
    {
      const std::lock_guard lock(mutex_);
      const bool hedged = !answer && leader_ == 0 && tries_.size() > 1;
      if (hedged) {
        tries_.erase(id);
        return;
      }
      const bool first = leader_ == 0;
      if (!Lead(id, losers)) return;
      const size_t index = chunk - request_.chunks.begin;
      if (answered_[index]) return;
      answered_[index] = true;
      if (first) Learn(tries_[id].begun, answer.has_value());
      if (--unanswered_ == 0) (void)Finish();
    }
    for (const auto& ask : losers) state_->client.Cancel(*ask);
    on_chunk_(chunk, std::move(answer));
  }

  void Learn(Clock::time_point begun, bool good) {
    const auto inside = state_->door.Enter();
    if (!inside) return;
    const auto now = state_->client.timer().Now();
    if (good) {
      state_->client.health().NoteOrigins(now - begun, now);
    } else {
      state_->client.health().NoteOriginsFailed(now);
    }
  }

  // All chunks are answered, or will be by the caller. Returns the asks to cancel.
  Asks Finish() {
    Asks asks;
    finished_ = true;
    for (auto& [id, one] : tries_) {
      if (one.ask && id != leader_) asks.push_back(std::move(one.ask));
    }
    tries_.clear();
    // The last reference may be ours alone otherwise: whoever calls holds another.
    const std::lock_guard lock(state_->mutex);
    state_->legs.erase(shared_from_this());
    return asks;
  }

  const std::shared_ptr<State> state_;
  const ChunkRequest request_;
  const OnChunk on_chunk_;
  const bool rare_;

  std::mutex mutex_;  // before State::mutex
  // Guarded by mutex_.
  std::vector<bool> answered_;
  uint32_t unanswered_;
  ChunkIndex next_;  // the first that peers have not given
  std::map<uint64_t, Try> tries_;
  uint64_t last_try_ = 0;
  uint64_t leader_ = 0;  // of tries_; 0: none yet
  std::set<std::string> tried_;
  bool beyond_parent_ = false;  // a rare chunk was asked of a holder or spare
  bool finished_ = false;
};

TreeSource::TreeSource(PeerClient& client, RoutesOf routes, std::shared_ptr<ChunkSource> origins)
    : state_(std::make_shared<State>(client, std::move(routes), std::move(origins))) {}

TreeSource::~TreeSource() {
  std::unordered_set<std::shared_ptr<Leg>> legs;
  std::shared_ptr<ChunkSource> origins;  // answers what is outstanding when it goes, outside the lock
  state_->door.Close();
  {
    const std::lock_guard lock(state_->mutex);
    legs = state_->legs;
    origins.swap(state_->origins);
  }
  for (const auto& leg : legs) leg->FailRest({Code::kCancelled, "the source is closed"});
}

void TreeSource::Fetch(ChunkRequest request, OnChunk on_chunk) {
  const auto routes = state_->routes();
  bool some_rare = routes && routes->profile && request.priority == Priority::kDemand && !routes->stripes.empty();
  if (some_rare) {
    const auto& parent = StripeOf(*routes, request).parent;
    some_rare = parent && !state_->client.health().OriginsCongested(parent->node, state_->client.timer().Now());
  }
  const auto is_rare = [&](ChunkIndex chunk) {
    return some_rare && !routes->profile->Contains(request.device->blob_digest, chunk);
  };
  for (ChunkRange run{request.chunks.begin, request.chunks.begin}; run.end < request.chunks.end; run.begin = run.end) {
    const bool rare = is_rare(run.begin);
    while (run.end < request.chunks.end && is_rare(run.end) == rare) ++run.end;
    ChunkRequest part = request;
    part.chunks = run;
    const auto leg = std::make_shared<Leg>(state_, std::move(part), on_chunk, rare);
    {
      const std::lock_guard lock(state_->mutex);
      state_->legs.insert(leg);
    }
    leg->Climb();
  }
}

}  // namespace banyan::fetch
