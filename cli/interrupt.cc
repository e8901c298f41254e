#include "cli/interrupt.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdint>

namespace banyan::cli {
namespace {

sigset_t StopSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

Interrupts::Interrupts(std::chrono::milliseconds grace) : grace_(grace) {
  const sigset_t set = StopSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  signals_.reset(::signalfd(-1, &set, SFD_CLOEXEC));
  shutdown_.reset(::eventfd(0, EFD_CLOEXEC));
  thread_ = std::thread([this] { Watch(); });
}

Interrupts::~Interrupts() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(shutdown_.get(), &one, sizeof(one));
  thread_.join();
  const sigset_t set = StopSignals();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

int Interrupts::signal() const {
  std::lock_guard lock(mutex_);
  return signal_;
}

void Interrupts::Watch() {
  const int first = WaitForSignal(std::chrono::milliseconds(-1));
  if (first == 0) return;
  {
    std::lock_guard lock(mutex_);
    signal_ = first;
  }
  stop_.request_stop();
  const auto deadline = std::chrono::steady_clock::now() + grace_;
  const int second = WaitForSignal(grace_);
  if (second != 0 || std::chrono::steady_clock::now() >= deadline) EndByForce(first);
}

int Interrupts::WaitForSignal(std::chrono::milliseconds timeout) {
  pollfd fds[2] = {{signals_.get(), POLLIN, 0}, {shutdown_.get(), POLLIN, 0}};
  while (::poll(fds, 2, static_cast<int>(timeout.count())) < 0) {
  }
  if ((fds[0].revents & POLLIN) == 0) return 0;
  signalfd_siginfo info;
  if (::read(signals_.get(), &info, sizeof(info)) != sizeof(info)) return 0;
  return static_cast<int>(info.ssi_signo);
}

void Interrupts::EndByForce(int signal) {
  std::lock_guard lock(mutex_);
  for (auto& [id, cleanup] : cleanups_) cleanup();
  ::_exit(128 + signal);
}

Interrupts::Cleanup::Cleanup(Interrupts& interrupts, std::function<void()> cleanup) : interrupts_(interrupts) {
  std::lock_guard lock(interrupts_.mutex_);
  id_ = interrupts_.next_id_++;
  interrupts_.cleanups_.emplace(id_, std::move(cleanup));
}

Interrupts::Cleanup::~Cleanup() {
  std::lock_guard lock(interrupts_.mutex_);
  interrupts_.cleanups_.erase(id_);
}

}  // namespace banyan::cli
