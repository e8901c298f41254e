// Whose turn it is among those who share something by bytes: first who is furthest behind.
//
// Idea: each member has a count of the bytes it was given, and the lowest goes first. A newcomer starts at the lowest
// count of those who wait, so that nobody can save up turns by staying away; one who comes back keeps its count if that
// is higher, so that nobody gains by leaving either. Who has stayed away until the others caught up is forgotten. One
// who pauses because it is still busy with what it was given has not stayed away: its count stands. And one who was
// behind when it left has `credit` when it comes back, lest a short gap between two asks undoes the count. Pure.
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
  FairOrder() = default;
  explicit FairOrder(uint64_t credit_bytes) : credit_(credit_bytes) {}

  // `key` waits for a turn from now on; it may already.
  void Enter(const std::string& key) {
    const auto [found, is_new] = members_.try_emplace(key, Member{clock_, State::kAway});
    Member& member = found->second;
    if (member.state == State::kWaiting) return;
    if (!is_new) SetOf(member.state).erase({member.served, key});
    if (member.state == State::kAway) member.served = std::max(member.served, forgotten());
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
  size_t waiting() const { return waiting_.size(); }
  // Of those who wait; not when empty(). Valid until the next change.
  const std::string& first() const { return waiting_.begin()->second; }
  // Of those who wait, from the one furthest behind on, the first that `is_good(key, lag, lead)`; null if there is
  // none. By how much it is behind the one furthest ahead and ahead of the one furthest behind, of all who wait or are
  // busy.
  template <typename IsGood>
  const std::string* Find(IsGood is_good) const {
    if (waiting_.empty()) return nullptr;
    uint64_t least = waiting_.begin()->first;
    uint64_t most = waiting_.rbegin()->first;
    if (!busy_.empty()) {
      least = std::min(least, busy_.begin()->first);
      most = std::max(most, busy_.rbegin()->first);
    }
    for (const auto& [served, key] : waiting_) {
      if (is_good(key, most - served, served - least)) return &key;
    }
    return nullptr;
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
    while (!away_.empty() && away_.begin()->first <= forgotten()) {
      members_.erase(away_.begin()->second);
      away_.erase(away_.begin());
    }
  }

  // Counts up to this one make no difference.
  uint64_t forgotten() const { return clock_ - std::min(clock_, credit_); }

  uint64_t credit_ = 0;
  uint64_t clock_ = 0;  // the lowest count among those who waited when last one was served
  std::unordered_map<std::string, Member> members_;
  ByCount waiting_;
  ByCount busy_;
  ByCount away_;
};

}  // namespace banyan::fetch
