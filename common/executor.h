// Where work may run: the seam that keeps the pure folders free of threads.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace banyan {

// Internally synchronised.
class Executor {
 public:
  virtual ~Executor() = default;
  // Runs `task` some time, on some thread, possibly before Post() returns. Tasks must not throw.
  virtual void Post(std::function<void()> task) = 0;
  // How many tasks can make progress at once; at least 1.
  virtual size_t concurrency() const = 0;
};

// Runs each task inside Post(). For tests and single-threaded tools.
class InlineExecutor final : public Executor {
 public:
  void Post(std::function<void()> task) override { task(); }
  size_t concurrency() const override { return 1; }
};

// A fixed number of threads and one unbounded FIFO queue. The destructor runs what is queued, then joins.
class ThreadPool final : public Executor {
 public:
  // threads = 0: one a hardware thread.
  explicit ThreadPool(size_t threads = 0);
  ~ThreadPool() override;
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  void Post(std::function<void()> task) override;
  size_t concurrency() const override { return threads_.size(); }

 private:
  void Work();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;  // guarded by mutex_
  bool stopping_ = false;                    // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace banyan
