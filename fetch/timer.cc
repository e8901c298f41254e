#include "fetch/timer.h"

namespace banyan::fetch {

ThreadTimer::ThreadTimer() : state_(std::make_shared<State>()), thread_([state = state_] { Run(*state); }) {}

ThreadTimer::~ThreadTimer() {
  {
    const MutexLock lock(state_->mutex);
    state_->stopping = true;
  }
  state_->wake.notify_one();
  if (thread_.get_id() == std::this_thread::get_id()) {
    thread_.detach();
  } else {
    thread_.join();
  }
}

Timer::Id ThreadTimer::At(Clock::time_point when, std::function<void()> task) {
  const MutexLock lock(state_->mutex);
  const Id id = ++state_->last_id;
  const auto it = state_->tasks.emplace(Key{when, id}, std::move(task)).first;
  state_->when.emplace(id, when);
  if (it == state_->tasks.begin()) state_->wake.notify_one();
  return id;
}

void ThreadTimer::Cancel(Id id) {
  std::function<void()> forgotten;  // what it holds is let go unlocked
  const MutexLock lock(state_->mutex);
  const auto when = state_->when.find(id);
  if (when == state_->when.end()) return;
  const auto task = state_->tasks.find(Key{when->second, id});
  forgotten = std::move(task->second);
  state_->tasks.erase(task);
  state_->when.erase(when);
}

void ThreadTimer::Run(State& state) {
  MutexLock lock(state.mutex);
  while (!state.stopping) {
    if (state.tasks.empty()) {
      lock.Wait(state.wake);
      continue;
    }
    const auto first = state.tasks.begin();
    if (const auto when = first->first.first; when > Clock::now()) {
      lock.WaitUntil(state.wake, when);
      continue;
    }
    std::function<void()> task = std::move(first->second);
    state.when.erase(first->first.second);
    state.tasks.erase(first);
    lock.Unlock();
    task();
    task = nullptr;
    lock.Lock();
  }
}

}  // namespace banyan::fetch
