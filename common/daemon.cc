#include "common/daemon.h"

#include <pthread.h>
#include <time.h>

#include <spdlog/spdlog.h>

namespace banyan {

DaemonSignals::DaemonSignals(Hangup hangup) {
  ::sigemptyset(&signals_);
  for (const int signal : {SIGTERM, SIGINT}) ::sigaddset(&signals_, signal);
  if (hangup == Hangup::kIsReload) ::sigaddset(&signals_, SIGHUP);
  ::pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
}

DaemonSignal DaemonSignals::Wait(std::chrono::seconds patience) const {
  const timespec timeout{patience.count(), 0};
  const int signal = ::sigtimedwait(&signals_, nullptr, &timeout);
  if (signal <= 0) return DaemonSignal::kNone;
  if (signal == SIGHUP) return DaemonSignal::kReload;
  spdlog::info("{}: ending", signal == SIGTERM ? "SIGTERM" : "SIGINT");
  return DaemonSignal::kEnd;
}

void DaemonSignals::WaitForEnd() const {
  while (Wait(std::chrono::hours(1)) != DaemonSignal::kEnd) {
  }
}

}  // namespace banyan
