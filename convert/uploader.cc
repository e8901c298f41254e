#include "convert/uploader.h"

#include <utility>

namespace banyan::convert {

Uploader::Uploader(size_t max_queued) : max_queued_(max_queued), thread_([this] { Work(); }) {}

Uploader::~Uploader() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    queue_.clear();
  }
  changed_.notify_all();
  thread_.join();
}

Status Uploader::Add(Upload upload) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return queue_.size() < max_queued_ || !status_; });
  if (!status_) return status_;
  queue_.push_back(std::move(upload));
  changed_.notify_all();
  return {};
}

Status Uploader::Finish() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return (queue_.empty() && !busy_) || !status_; });
  return status_;
}

void Uploader::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    const Upload upload = std::move(queue_.front());
    queue_.pop_front();
    busy_ = true;
    lock.unlock();
    Status status = upload();
    lock.lock();
    busy_ = false;
    if (!status && status_) {
      status_ = std::move(status);
      queue_.clear();
    }
    changed_.notify_all();
  }
}

}  // namespace banyan::convert
