// Ends a command cleanly on SIGINT or SIGTERM.
//
// The signals are blocked and taken by a thread of their own, which asks the command to stop through a stop token. A
// command that is stuck (an upload into a dead connection) is not waited for: after a grace period, or at the second
// signal, the cleanups run and the process ends.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <stop_token>
#include <thread>

#include "common/unique_fd.h"

namespace banyan::cli {

// Internally synchronised. One at a time in a process; make it before any thread is started, since a thread that does
// not block the signals would take them.
class Interrupts {
 public:
  explicit Interrupts(std::chrono::milliseconds grace = std::chrono::milliseconds(2500));
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  // Asked to stop at the first signal.
  std::stop_token token() const { return stop_.get_token(); }
  // The first signal that came; 0: none.
  int signal() const;

  // Runs `cleanup` when the process is ended by force, while this registration lives. `cleanup` runs on another thread,
  // while the command may still be at work.
  class Cleanup {
   public:
    Cleanup(Interrupts& interrupts, std::function<void()> cleanup);
    ~Cleanup();
    Cleanup(const Cleanup&) = delete;
    Cleanup& operator=(const Cleanup&) = delete;

   private:
    Interrupts& interrupts_;
    int id_;
  };

 private:
  void Watch();
  // The signal that arrives before `timeout` (negative: for ever); 0: timeout or shutdown.
  int WaitForSignal(std::chrono::milliseconds timeout);
  [[noreturn]] void EndByForce(int signal);

  const std::chrono::milliseconds grace_;
  std::stop_source stop_;
  UniqueFd signals_;
  UniqueFd shutdown_;
  mutable std::mutex mutex_;
  int signal_ = 0;                                 // guarded by mutex_
  int next_id_ = 0;                                // guarded by mutex_
  std::map<int, std::function<void()>> cleanups_;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace banyan::cli
