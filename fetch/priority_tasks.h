// The scheduler's work on an executor that it shares: what demand waits for is done first, whatever was posted before.
//
// Each Post() puts one turn into the executor's queue; a turn takes the most urgent task there is when it comes.
#pragma once

#include <array>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>

#include "common/executor.h"
#include "common/mutex.h"
#include "fetch/chunk_source.h"

namespace banyan::fetch {

// Internally synchronised. The executor must outlive what was posted.
class PriorityTasks {
 public:
  explicit PriorityTasks(Executor& executor) : executor_(executor), state_(std::make_shared<State>()) {}

  // After Close(): does nothing.
  void Post(Priority priority, std::function<void()> task);
  // Forgets what has not begun and waits for what has. Not to be called from a task.
  void Close();

 private:
  struct State {
    Mutex mutex;
    std::condition_variable idle;
    std::array<std::deque<std::function<void()>>, 3> queues BANYAN_GUARDED_BY(mutex);
    size_t busy BANYAN_GUARDED_BY(mutex) = 0;  // calls of Post() and tasks under way
    bool closed BANYAN_GUARDED_BY(mutex) = false;
  };
  static void RunOne(State& state);
  static void EndBusy(State& state);

  Executor& executor_;
  std::shared_ptr<State> state_;  // shared with the turns that are still in the executor's queue
};

}  // namespace banyan::fetch
