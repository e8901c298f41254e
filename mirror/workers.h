// Threads for blocking calls: started when there is work, gone when there is none, never more than a bound, and a
// bounded queue before them, so that what hangs does not pile up.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>

namespace banyan::mirror {

// Internally synchronised.
class Workers {
 public:
  Workers(uint32_t max_threads, size_t max_queued);
  // Stop()s.
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  // False when the queue is full, or after Stop(): the task was not taken. Tasks must not throw.
  [[nodiscard]] bool Post(std::function<void()> task);
  // Takes no more, runs what is queued, and waits for it. Not from a task.
  void Stop();

 private:
  void Work();

  const uint32_t max_threads_;
  const size_t max_queued_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable ended_;
  std::deque<std::function<void()>> queue_;  // guarded by mutex_, as is all that follows
  uint32_t threads_ = 0;
  uint32_t idle_ = 0;
  bool stopping_ = false;
};

}  // namespace banyan::mirror
