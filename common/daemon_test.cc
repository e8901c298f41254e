#include "common/daemon.h"

#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include <gtest/gtest.h>

namespace banyan {
namespace {

using std::chrono::seconds;

// The wait status of a process of its own that does `work`, since signals belong to a process.
int StatusOf(const std::function<bool()>& work) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(work() ? 0 : 1);
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return status;
}

TEST(DaemonSignalsTest, WaitsForWhatEndsADaemon) {
  for (const int signal : {SIGTERM, SIGINT}) {
    EXPECT_EQ(StatusOf([signal] {
                const DaemonSignals signals;
                ::kill(::getpid(), signal);
                ::kill(::getpid(), SIGPIPE);
                return signals.Wait(seconds(30)) == DaemonSignal::kEnd &&
                       signals.Wait(seconds(0)) == DaemonSignal::kNone;
              }),
              0)
        << signal;
  }
}

TEST(DaemonSignalsTest, ASignalBeforeTheWaitIsNotLost) {
  EXPECT_EQ(StatusOf([] {
              const DaemonSignals signals(DaemonSignals::Hangup::kIsReload);
              ::kill(::getpid(), SIGHUP);
              if (signals.Wait(seconds(30)) != DaemonSignal::kReload) return false;
              ::kill(::getpid(), SIGHUP);
              ::kill(::getpid(), SIGTERM);
              signals.WaitForEnd();
              return true;
            }),
            0);
}

TEST(DaemonSignalsTest, AHangupEndsThoseWhoDoNotTakeIt) {
  const int status = StatusOf([] {
    const DaemonSignals signals;
    ::kill(::getpid(), SIGHUP);
    return signals.Wait(seconds(30)) == DaemonSignal::kNone;
  });
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGHUP) << status;
}

}  // namespace
}  // namespace banyan
