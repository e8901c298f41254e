// std::mutex as clang's -Wthread-safety sees it: which lock guards what is written beside the member, and a forgotten
// lock does not compile (fuzz preset, which is clang's). With other compilers the annotations are nothing.
//
// A condition is waited for in a loop, not with a predicate: the analysis does not look into lambdas with the lock
// held.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define BANYAN_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define BANYAN_THREAD_ANNOTATION(x)
#endif
#define BANYAN_GUARDED_BY(mutex) BANYAN_THREAD_ANNOTATION(guarded_by(mutex))
#define BANYAN_REQUIRES(mutex) BANYAN_THREAD_ANNOTATION(requires_capability(mutex))
#define BANYAN_EXCLUDES(mutex) BANYAN_THREAD_ANNOTATION(locks_excluded(mutex))

namespace banyan {

class BANYAN_THREAD_ANNOTATION(capability("mutex")) Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

 private:
  friend class MutexLock;
  std::mutex mutex_;
};

// Holds a mutex for a scope; may let go of it and take it again in between.
class BANYAN_THREAD_ANNOTATION(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) BANYAN_THREAD_ANNOTATION(acquire_capability(mutex)) : lock_(mutex.mutex_) {}
  ~MutexLock() BANYAN_THREAD_ANNOTATION(release_capability()) {}
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

  void Unlock() BANYAN_THREAD_ANNOTATION(release_capability()) { lock_.unlock(); }
  void Lock() BANYAN_THREAD_ANNOTATION(acquire_capability()) { lock_.lock(); }

  // Wakes spuriously as well.
  void Wait(std::condition_variable& changed) { changed.wait(lock_); }
  template <typename Clock, typename Duration>
  void WaitUntil(std::condition_variable& changed, std::chrono::time_point<Clock, Duration> when) {
    changed.wait_until(lock_, when);
  }

 private:
  std::unique_lock<std::mutex> lock_;
};

}  // namespace banyan
