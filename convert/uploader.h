// Uploads beside the work that makes what is uploaded: one thread, a short queue.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "common/result.h"

namespace banyan::convert {

// Internally synchronised. After the first error the remaining uploads are dropped.
class Uploader {
 public:
  using Upload = std::function<Status()>;

  explicit Uploader(size_t max_queued = 2);
  // Waits for the upload under way; drops the rest.
  ~Uploader();
  Uploader(const Uploader&) = delete;
  Uploader& operator=(const Uploader&) = delete;

  // Blocks while the queue is full, so that what waits for its upload stays bounded. Returns the first error so far.
  Status Add(Upload upload);
  // Waits until everything is uploaded; the first error.
  Status Finish();

 private:
  void Work();

  const size_t max_queued_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Upload> queue_;  // guarded by mutex_
  bool busy_ = false;         // guarded by mutex_
  bool stopping_ = false;     // guarded by mutex_
  Status status_;             // guarded by mutex_
  std::thread thread_;
};

}  // namespace banyan::convert
