// Whose turn it is among those who share something by bytes: first who is furthest behind.
//
// Idea: each member has a count of the bytes it was given, and the lowest goes first. A newcomer starts at the lowest
// count of those who wait, so that nobody can save up turns by staying away; one who comes back keeps its count if that
// is higher, so that nobody gains by leaving either. Who has stayed away until the others caught up is forgotten. Pure.
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
    if (member.waiting) return;
    if (!is_new) idle_.erase({member.served, key});
    member.served = std::max(member.served, clock_);
    member.waiting = true;
    waiting_.emplace(member.served, key);
  }
  // It no longer waits; its count is kept for as long as it matters.
  void Leave(const std::string& key) {
    const auto found = members_.find(key);
    if (found == members_.end() || !found->second.waiting) return;
    found->second.waiting = false;
    waiting_.erase({found->second.served, key});
    idle_.emplace(found->second.served, key);
    ForgetTheOvertaken();
  }
  bool empty() const { return waiting_.empty(); }
  // Of those who wait; not when empty(). Valid until the next change.
  const std::string& first() const { return waiting_.begin()->second; }
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
  struct Member {
    uint64_t served = 0;
    bool waiting = false;
  };

  void ForgetTheOvertaken() {
    while (!idle_.empty() && idle_.begin()->first <= clock_) {
      members_.erase(idle_.begin()->second);
      idle_.erase(idle_.begin());
    }
  }

  uint64_t clock_ = 0;  // the lowest count among those who waited when last one was served
  std::unordered_map<std::string, Member> members_;
  std::set<std::pair<uint64_t, std::string>> waiting_;
  std::set<std::pair<uint64_t, std::string>> idle_;
};

}  // namespace banyan::fetch
