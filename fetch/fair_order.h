// Whose turn it is among those who share something by bytes: first who is furthest behind.
//
// Idea: each member has a count of the bytes it was given, and the lowest goes first. A newcomer starts at the lowest
// count of those who wait, so that nobody can save up turns by staying away; one who comes back keeps its count if that
// is higher, so that nobody gains by leaving either. Who has stayed away until the others caught up is forgotten. One
// who pauses because it is still busy with what it was given has not stayed away: its count stands. Pure.
#pragma once

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>

namespace banyan::fetch {

// Externally synchronised. Each call O(log n), amortised.
class FairOrder {
 public:
  // `key` waits for a turn from now on; it may already.
  void Enter(const std::string& key) {
    const auto [found, is_new] = members_.try_emplace(key);
    Member& member = found->second;
    if (member.state == State::kWaiting) return;
    if (!is_new) SetOf(member.state).erase({member.served, key});
    if (member.state == State::kAway) member.served = std::max(member.served, clock_);
    member.state = State::kWaiting;
    waiting_.emplace(member.served, key);
  }
  // It waits no longer, but is busy with what it was given. Nothing for one who is away.
  void Pause(const std::string& key) { Move(key, State::kBusy); }
  // It neither waits nor is busy; its count is kept for as long as it matters.
  void Leave(const std::string& key) {
    Move(key, State::kAway);
    ForgetTheOvertaken();
  }
  bool empty() const { return waiting_.empty(); }
  // Of those who wait; not when empty(). Valid until the next change.
  const std::string& first() const { return waiting_.begin()->second; }
  // By how much first() is ahead of the last of those who are busy; 0 when it is not. Not when empty().
  uint64_t lead() const {
    if (busy_.empty()) return 0;
    const uint64_t first = waiting_.begin()->first;
    return first - std::min(first, busy_.begin()->first);
  }
  // `key`, which waits, was given `bytes`.
  void Charge(const std::string& key, uint64_t bytes) {
    Member& member = members_.at(key);
    clock_ = std::max(clock_, waiting_.begin()->first);
    waiting_.erase({member.served, key});
    member.served += bytes;
    waiting_.emplace(member.served, key);
    ForgetTheOvertaken();
  }
  size_t known() const { return members_.size(); }

 private:
  enum class State { kAway, kBusy, kWaiting };
  struct Member {
    uint64_t served = 0;
    State state = State::kAway;
  };
  using ByCount = std::set<std::pair<uint64_t, std::string>>;

  ByCount& SetOf(State state) {
    if (state == State::kWaiting) return waiting_;
    return state == State::kBusy ? busy_ : away_;
  }

  void Move(const std::string& key, State to) {
    const auto found = members_.find(key);
    if (found == members_.end() || found->second.state == State::kAway) return;
    Member& member = found->second;
    SetOf(member.state).erase({member.served, key});
    member.state = to;
    SetOf(to).emplace(member.served, key);
  }

  void ForgetTheOvertaken() {
    while (!away_.empty() && away_.begin()->first <= clock_) {
      members_.erase(away_.begin()->second);
      away_.erase(away_.begin());
    }
  }

  uint64_t clock_ = 0;  // the lowest count among those who waited when last one was served
  std::unordered_map<std::string, Member> members_;
  ByCount waiting_;
  ByCount busy_;
  ByCount away_;
};

}  // namespace banyan::fetch
