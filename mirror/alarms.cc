#include "mirror/alarms.h"

#include <utility>

namespace banyan::mirror {

void Alarms::After(std::chrono::milliseconds delay, std::function<void()> ring) {
  const std::scoped_lock lock(mutex_);
  if (stopping_) return;
  const auto at = alarms_.emplace(Clock::now() + delay, std::move(ring));
  if (!thread_.joinable()) thread_ = std::thread([this] { Work(); });
  if (at == alarms_.begin()) wake_.notify_one();
}

void Alarms::Stop() {
  std::multimap<Clock::time_point, std::function<void()>> dropped;  // destroyed outside the lock
  std::thread thread;
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
    dropped.swap(alarms_);
    thread.swap(thread_);
    wake_.notify_one();
  }
  if (thread.joinable()) thread.join();
}

void Alarms::Work() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (alarms_.empty()) {
      wake_.wait(lock);
      continue;
    }
    const auto next = alarms_.begin();
    const Clock::time_point due = next->first;
    if (Clock::now() < due) {
      wake_.wait_until(lock, due);
      continue;
    }
    {
      const std::function<void()> ring = std::move(next->second);
      alarms_.erase(next);
      lock.unlock();
      ring();
    }
    lock.lock();
  }
}

}  // namespace banyan::mirror
