// Signals of a daemon: they are waited for, not caught, so that what they start runs on an ordinary thread.
#pragma once

#include <signal.h>

#include <chrono>

namespace banyan {

enum class DaemonSignal {
  kNone,    // none came in time
  kEnd,     // SIGTERM or SIGINT
  kReload,  // SIGHUP, for those who take it
};

// Immutable. One in a process.
class DaemonSignals {
 public:
  enum class Hangup { kEndsProcess, kIsReload };

  // Blocks the signals in this thread, and ignores SIGPIPE. To be made before any thread is: threads inherit the mask,
  // and a thread without it would be ended by what Wait is to see.
  explicit DaemonSignals(Hangup hangup = Hangup::kEndsProcess);

  // The next signal; kEnd is logged. Blocks for `patience` at most.
  DaemonSignal Wait(std::chrono::seconds patience) const;
  // Until kEnd.
  void WaitForEnd() const;

 private:
  sigset_t signals_;
};

}  // namespace banyan
