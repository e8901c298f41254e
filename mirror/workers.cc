#include "mirror/workers.h"

#include <thread>
#include <utility>

namespace banyan::mirror {

namespace {

constexpr std::chrono::seconds kIdle{5};

}  // namespace

Workers::Workers(uint32_t max_threads, size_t max_queued)
    : max_threads_(max_threads > 0 ? max_threads : 1), max_queued_(max_queued) {}

Workers::~Workers() { Stop(); }

void Workers::Stop() {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  wake_.notify_all();
  ended_.wait(lock, [this] { return threads_ == 0; });
}

bool Workers::Post(std::function<void()> task) {
  const std::scoped_lock lock(mutex_);
  if (stopping_) return false;
  if (queue_.size() >= max_queued_ + idle_) return false;
  queue_.push_back(std::move(task));
  if (queue_.size() <= idle_) {
    wake_.notify_one();
  } else if (threads_ < max_threads_) {
    ++threads_;
    std::thread([this] { Work(); }).detach();  // the destructor waits for it
  }
  return true;
}

void Workers::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    if (queue_.empty()) {
      ++idle_;
      const bool woken = wake_.wait_for(lock, kIdle, [this] { return stopping_ || !queue_.empty(); });
      --idle_;
      if (!woken || queue_.empty()) break;
    }
    const std::function<void()> task = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    task();
    lock.lock();
  }
  --threads_;
  // Under the lock: once it is let go, there may be no Workers any more.
  ended_.notify_all();
}

}  // namespace banyan::mirror
