// A clock that stands still until a test moves it.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <utility>

#include "fetch/timer.h"

namespace banyan::fetch::testing {

// Internally synchronised; Advance() runs tasks on its caller's thread.
class FakeTimer final : public Timer {
 public:
  Clock::time_point Now() const override {
    const std::lock_guard lock(mutex_);
    return now_;
  }
  Id At(Clock::time_point when, std::function<void()> task) override {
    const std::lock_guard lock(mutex_);
    tasks_.emplace(std::pair(when, ++last_id_), std::move(task));
    return last_id_;
  }
  void Cancel(Id id) override {
    const std::lock_guard lock(mutex_);
    std::erase_if(tasks_, [id](const auto& entry) { return entry.first.second == id; });
  }

  // Passes through every task's time on the way, those included that tasks add.
  void Advance(Clock::duration step) {
    const auto end = Now() + step;
    while (auto task = TakeBefore(end)) task();
    const std::lock_guard lock(mutex_);
    now_ = end;
  }
  size_t waiting() const {
    const std::lock_guard lock(mutex_);
    return tasks_.size();
  }

 private:
  std::function<void()> TakeBefore(Clock::time_point end) {
    const std::lock_guard lock(mutex_);
    if (tasks_.empty() || tasks_.begin()->first.first > end) return nullptr;
    now_ = std::max(now_, tasks_.begin()->first.first);
    auto task = std::move(tasks_.begin()->second);
    tasks_.erase(tasks_.begin());
    return task;
  }

  mutable std::mutex mutex_;
  Clock::time_point now_{std::chrono::hours(1)};
  std::map<std::pair<Clock::time_point, Id>, std::function<void()>> tasks_;
  Id last_id_ = 0;
};

}  // namespace banyan::fetch::testing
