#include "fetch/peer_health.h"

#include <algorithm>
#include <limits>

namespace banyan::fetch {
namespace {

using namespace std::chrono_literals;

constexpr double kNewest = 1.0 / 8;  // weight of the newest time in a mean
constexpr uint32_t kLearned = 8;     // so many samples make a percentile
constexpr Clock::duration kHedgeUnknown = 250ms;
constexpr Clock::duration kHedgeLeast = 50ms;
constexpr uint64_t kAsksPerHedge = 20;
constexpr uint32_t kWaitsInVain = 2;
constexpr Clock::duration kAvoidStuck = 10s;
constexpr Clock::duration kUnknownThere = 5s;
constexpr Clock::duration kOriginsKnown = 5s;
constexpr double kCongestedUs = 200'000;
constexpr double kCongestedTimes = 4;
constexpr size_t kManyPeers = 1024;

struct Penalty {
  Clock::duration first;
  Clock::duration most;
};

Penalty PenaltyOf(PeerFault fault) {
  switch (fault) {
    case PeerFault::kUnreachable:
      return {3s, 30s};
    case PeerFault::kSlow:
      return {10s, 10s};
    case PeerFault::kBadBytes:
    case PeerFault::kLied:
      break;
  }
  return {60s, 10min};
}

double Microseconds(Clock::duration duration) { return std::chrono::duration<double, std::micro>(duration).count(); }

void Blend(double& mean, double newest) { mean = mean == 0 ? newest : mean + (newest - mean) * kNewest; }

}  // namespace

PeerHealth::Peer& PeerHealth::Use(const std::string& node, Clock::time_point now) {
  if (peers_.size() >= kManyPeers && !peers_.contains(node)) {
    std::erase_if(peers_, [now](const auto& entry) { return entry.second.used + 1h < now; });
  }
  Peer& peer = peers_[node];
  peer.used = now;
  return peer;
}

bool PeerHealth::Avoided(const std::string& node, Clock::time_point now) const {
  const std::lock_guard lock(mutex_);
  const auto found = peers_.find(node);
  return found != peers_.end() && now < found->second.avoided_until;
}

bool PeerHealth::Believed(const std::string& node, Clock::time_point now) const {
  const std::lock_guard lock(mutex_);
  const auto found = peers_.find(node);
  return found == peers_.end() || now >= found->second.disbelieved_until;
}

bool PeerHealth::NoteFault(const std::string& node, PeerFault fault, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  Peer& peer = Use(node, now);
  const auto index = static_cast<size_t>(fault);
  // What was under way together fails together: one fault.
  if (peer.faults[index] != 0 && now - peer.reported[index] < 1s) return false;
  const Penalty penalty = PenaltyOf(fault);
  const uint32_t doublings = std::min(peer.faults[index]++, 16U);
  const auto avoid = std::min(penalty.first * (1 << doublings), penalty.most);
  Clock::time_point& until = fault == PeerFault::kLied ? peer.disbelieved_until : peer.avoided_until;
  until = std::max(until, now + avoid);
  peer.reported[index] = now;
  return true;
}

bool PeerHealth::NoteWaitedInVain(const std::string& node, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  Peer& peer = Use(node, now);
  if (++peer.waits_in_vain < kWaitsInVain || now < peer.avoided_until) return false;
  peer.avoided_until = now + kAvoidStuck;
  return true;
}

void PeerHealth::NoteUnknownThere(const std::string& node, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  Peer& peer = Use(node, now);
  if (peer.unknown_there_since == Clock::time_point()) peer.unknown_there_since = now;
  if (now - peer.unknown_there_since <= kUnknownThere) return;
  peer.unknown_there_since = {};
  peer.avoided_until = std::max(peer.avoided_until, now + kAvoidStuck);
}

void PeerHealth::NoteBusy(const std::string& node, Clock::duration how_long, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  Peer& peer = Use(node, now);
  peer.avoided_until = std::max(peer.avoided_until, now + how_long);
}

void PeerHealth::NoteFirstByte(const std::string& node, Clock::duration first_byte, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  Peer& peer = Use(node, now);
  const double us = std::min<double>(Microseconds(first_byte), std::numeric_limits<uint32_t>::max());
  peer.first_byte_us[peer.samples++ % kSamples] = static_cast<uint32_t>(us);
  Blend(peer.latency_us, us);
}

void PeerHealth::NoteGood(const std::string& node, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  Peer& peer = Use(node, now);
  peer.faults[static_cast<size_t>(PeerFault::kUnreachable)] = 0;
  peer.waits_in_vain = 0;
  peer.unknown_there_since = {};
}

void PeerHealth::NoteOrigins(Clock::duration first_chunk, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  if (now - origins_seen_ > kOriginsKnown) origins_us_ = 0;
  Blend(origins_us_, Microseconds(first_chunk));
  origins_seen_ = now;
  origins_down_until_ = {};
}

void PeerHealth::NoteOriginsFailed(Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  origins_down_until_ = now + kOriginsKnown;
}

Clock::duration PeerHealth::LatencyOf(const std::string& node) const {
  const std::lock_guard lock(mutex_);
  const auto found = peers_.find(node);
  if (found == peers_.end()) return {};
  return std::chrono::microseconds(static_cast<int64_t>(found->second.latency_us));
}

Clock::duration PeerHealth::HedgeAfter(const std::string& node) const {
  const std::lock_guard lock(mutex_);
  const auto found = peers_.find(node);
  if (found == peers_.end() || found->second.samples < kLearned) return kHedgeUnknown;
  auto times = found->second.first_byte_us;
  const size_t count = std::min<size_t>(found->second.samples, kSamples);
  const auto percentile = times.begin() + static_cast<ptrdiff_t>(count * 95 / 100);
  std::nth_element(times.begin(), percentile, times.begin() + static_cast<ptrdiff_t>(count));
  return std::max<Clock::duration>(kHedgeLeast, std::chrono::microseconds(*percentile));
}

void PeerHealth::CountAsk() {
  const std::lock_guard lock(mutex_);
  ++asks_;
}

bool PeerHealth::TakeHedge() {
  const std::lock_guard lock(mutex_);
  if (hedges_ * kAsksPerHedge >= asks_) return false;
  ++hedges_;
  return true;
}

bool PeerHealth::OriginsDown(Clock::time_point now) const {
  const std::lock_guard lock(mutex_);
  return now < origins_down_until_;
}

bool PeerHealth::OriginsCongested(const std::string& parent, Clock::time_point now) const {
  const double parent_us = Microseconds(LatencyOf(parent));
  const std::lock_guard lock(mutex_);
  if (now < origins_down_until_) return true;
  if (now - origins_seen_ > kOriginsKnown || parent_us == 0) return false;
  return origins_us_ > kCongestedUs && origins_us_ > kCongestedTimes * parent_us;
}

}  // namespace banyan::fetch
