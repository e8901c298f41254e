// Takes away the directories of removed snapshots: unmounts, moves to the trash, deletes. On one thread of its own,
// since unmounting may take seconds and deleting minutes, while containerd's collector holds its locks over Remove.
//
// Nothing is deleted below which the kernel knows a mount: a clone of a lower directory there is another snapshot's
// content. What cannot be unmounted stays, and is tried again by the next Drain() and after a restart.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <string>
#include <thread>
#include <vector>

#include "common/mutex.h"
#include "common/result.h"
#include "snapshotter/lazy_images.h"

namespace banyan::snapshotter {

// Internally synchronised.
class Reaper {
 public:
  // `trash` exists, on the file system of the directories; what it holds is deleted. `images` is borrowed.
  Reaper(LazyImages& images, std::string trash);
  // Stops in the midst of deleting.
  ~Reaper();

  // `directory` is a snapshot's: a chain may be mounted at its fs/, anything below it.
  void Retire(std::string directory);
  // Waits until all that was retired before the call is deleted or has failed to be.
  void Drain();

 private:
  void Run();
  Status Reap(const std::string& directory);

  LazyImages& images_;
  const std::string trash_;

  mutable Mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::string> queue_ BANYAN_GUARDED_BY(mutex_);
  std::vector<std::string> stuck_ BANYAN_GUARDED_BY(mutex_);
  uint64_t retired_ BANYAN_GUARDED_BY(mutex_) = 0;
  uint64_t done_ BANYAN_GUARDED_BY(mutex_) = 0;
  std::atomic<bool> stopping_ = false;  // set with mutex_ held
  std::thread thread_;
};

}  // namespace banyan::snapshotter
