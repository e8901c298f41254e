#include "fetch/priority_tasks.h"

#include <algorithm>
#include <utility>

namespace banyan::fetch {

void PriorityTasks::Post(Priority priority, std::function<void()> task) {
  {
    const MutexLock lock(state_->mutex);
    if (state_->closed) return;
    state_->queues[static_cast<size_t>(priority)].push_back(std::move(task));
    ++state_->busy;  // Close() waits for this caller too: the executor may end right behind it
  }
  executor_.Post([state = state_] { RunOne(*state); });
  EndBusy(*state_);
}

void PriorityTasks::EndBusy(State& state) {
  const MutexLock lock(state.mutex);
  if (--state.busy == 0) state.idle.notify_all();
}

void PriorityTasks::RunOne(State& state) {
  std::function<void()> task;
  {
    const MutexLock lock(state.mutex);
    const auto queue = std::ranges::find_if(state.queues, [](const auto& tasks) { return !tasks.empty(); });
    if (queue == state.queues.end()) return;
    task = std::move(queue->front());
    queue->pop_front();
    ++state.busy;
  }
  task();
  task = nullptr;  // what it holds is let go before Close() returns
  EndBusy(state);
}

void PriorityTasks::Close() {
  std::array<std::deque<std::function<void()>>, 3> forgotten;
  State& state = *state_;
  MutexLock lock(state.mutex);
  state.closed = true;
  std::swap(forgotten, state.queues);
  while (state.busy != 0) lock.Wait(state.idle);
}

}  // namespace banyan::fetch
