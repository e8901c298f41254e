// Calls at later times, on one thread: what turns "the upstream has not answered yet" into an answer.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

namespace banyan::mirror {

// Internally synchronised. Its thread begins with the first alarm.
class Alarms {
 public:
  Alarms() = default;
  ~Alarms() { Stop(); }
  Alarms(const Alarms&) = delete;
  Alarms& operator=(const Alarms&) = delete;

  // Calls `ring` once `delay` has passed. It must not block for long, nor throw. After Stop(): dropped.
  void After(std::chrono::milliseconds delay, std::function<void()> ring);
  // Drops what has not rung, and waits for what is ringing. Not from an alarm.
  void Stop();

 private:
  using Clock = std::chrono::steady_clock;
  void Work();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::multimap<Clock::time_point, std::function<void()>> alarms_;  // guarded by mutex_, as is all that follows
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace banyan::mirror
