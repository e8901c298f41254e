// Guards what callbacks use and their owner destroys: they come in while it is open, and the owner closes it and waits
// until those inside have left. So a callback needs no lock while it works, and the owner can take apart what it
// shares.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <utility>

namespace banyan::fetch {

// Internally synchronised.
class Door {
 public:
  // Inside for as long as it lives; false: the door was closed.
  class Pass {
   public:
    Pass() = default;  // not inside
    Pass(Pass&& other) noexcept : door_(std::exchange(other.door_, nullptr)) {}
    Pass& operator=(Pass&&) = delete;
    ~Pass() {
      if (door_ != nullptr) door_->Leave();
    }
    explicit operator bool() const { return door_ != nullptr; }

   private:
    friend class Door;
    explicit Pass(Door* door) : door_(door) {}
    Door* door_ = nullptr;
  };

  // Passes nest.
  [[nodiscard]] Pass Enter() {
    const std::lock_guard lock(mutex_);
    if (closed_) return Pass(nullptr);
    ++inside_;
    return Pass(this);
  }

  // Nobody gets in any more; blocks until all are out. Not from the inside.
  void Close() {
    std::unique_lock lock(mutex_);
    closed_ = true;
    left_.wait(lock, [this] { return inside_ == 0; });
  }

 private:
  void Leave() {
    const std::lock_guard lock(mutex_);
    if (--inside_ == 0) left_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable left_;
  size_t inside_ = 0;    // guarded by mutex_
  bool closed_ = false;  // guarded by mutex_
};

}  // namespace banyan::fetch
