// A lock for each key, made when it is asked for: calls about one name take turns, others do not meet.
#pragma once

#include <condition_variable>
#include <set>
#include <string>
#include <utility>

#include "common/mutex.h"

namespace banyan::snapshotter {

// Internally synchronised. Outlives its guards.
class KeyLocks {
 public:
  class Guard {
   public:
    Guard(KeyLocks& locks, std::string key) : locks_(&locks), key_(std::move(key)) {}
    Guard(Guard&& other) noexcept : locks_(std::exchange(other.locks_, nullptr)), key_(std::move(other.key_)) {}
    Guard& operator=(Guard&&) = delete;
    ~Guard() {
      if (locks_ != nullptr) locks_->Release(key_);
    }

   private:
    KeyLocks* locks_;
    std::string key_;
  };

  // Waits until nobody holds the key. Not recursive; who takes two takes them in the order of keys.
  [[nodiscard]] Guard Acquire(const std::string& key) {
    MutexLock lock(mutex_);
    while (held_.contains(key)) lock.Wait(released_);
    held_.insert(key);
    return {*this, key};
  }

 private:
  void Release(const std::string& key) {
    MutexLock lock(mutex_);
    held_.erase(key);
    released_.notify_all();
  }

  Mutex mutex_;
  std::condition_variable released_;
  std::set<std::string> held_ BANYAN_GUARDED_BY(mutex_);
};

}  // namespace banyan::snapshotter
