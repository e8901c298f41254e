// The clock and the alarm of the fetch path, passed in so that tests turn five minutes into a function call.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <utility>

#include "common/mutex.h"
#include "fetch/chunk_source.h"

namespace banyan::fetch {

// Internally synchronised.
class Timer {
 public:
  using Id = uint64_t;

  virtual ~Timer() = default;
  virtual Clock::time_point Now() const = 0;
  // Runs `task` once, at or soon after `when`, on a thread of the timer's own; never inside At(). Tasks must not block.
  virtual Id At(Clock::time_point when, std::function<void()> task) = 0;
  // Forgets a task that has not begun; does not wait for one that has. Unknown ids are ignored.
  virtual void Cancel(Id id) = 0;
};

// The real one: one thread, asleep until the earliest task. The destructor forgets what is left and joins (unless it
// runs on that thread itself, from a task's last reference).
class ThreadTimer final : public Timer {
 public:
  ThreadTimer();
  ~ThreadTimer() override;
  ThreadTimer(const ThreadTimer&) = delete;
  ThreadTimer& operator=(const ThreadTimer&) = delete;

  Clock::time_point Now() const override { return Clock::now(); }
  Id At(Clock::time_point when, std::function<void()> task) override;
  void Cancel(Id id) override;

 private:
  using Key = std::pair<Clock::time_point, Id>;
  struct State {
    Mutex mutex;
    std::condition_variable wake;
    std::map<Key, std::function<void()>> tasks BANYAN_GUARDED_BY(mutex);
    std::map<Id, Clock::time_point> when BANYAN_GUARDED_BY(mutex);
    Id last_id BANYAN_GUARDED_BY(mutex) = 0;
    bool stopping BANYAN_GUARDED_BY(mutex) = false;
  };
  static void Run(State& state);

  std::shared_ptr<State> state_;  // shared with the thread
  std::thread thread_;
};

}  // namespace banyan::fetch
