// How many bytes the store holds, against how many it may hold. What counts is chunks and small blobs, by their own
// sizes.
#pragma once

#include <cstdint>
#include <mutex>

namespace banyan::store {

// The two files in which a layer's chunks lie.
enum class Form : uint8_t { kBlocks, kCompressed };

// Internally synchronised.
class Budget {
 public:
  explicit Budget(uint64_t limit_bytes) : limit_(limit_bytes) {}

  // False, and nothing taken, if it would go beyond the limit.
  bool TryTake(Form form, uint64_t bytes) {
    const std::scoped_lock lock(mutex_);
    if (bytes > limit_ || used() > limit_ - bytes) return false;
    Of(form) += bytes;
    return true;
  }
  // What is here already when the store opens; a smaller budget than before is met by the next eviction.
  void Force(Form form, uint64_t bytes) {
    const std::scoped_lock lock(mutex_);
    Of(form) += bytes;
  }
  void Give(Form form, uint64_t bytes) {
    const std::scoped_lock lock(mutex_);
    Of(form) -= bytes;
  }
  // How much must go before `bytes` can be taken.
  uint64_t Lacking(uint64_t bytes) const {
    const std::scoped_lock lock(mutex_);
    return used() + bytes > limit_ ? used() + bytes - limit_ : 0;
  }

  uint64_t limit() const { return limit_; }
  uint64_t Used(Form form) const {
    const std::scoped_lock lock(mutex_);
    return form == Form::kBlocks ? blocks_ : compressed_;
  }

 private:
  uint64_t& Of(Form form) { return form == Form::kBlocks ? blocks_ : compressed_; }
  uint64_t used() const { return blocks_ + compressed_; }

  const uint64_t limit_;
  mutable std::mutex mutex_;
  uint64_t blocks_ = 0;      // guarded by mutex_
  uint64_t compressed_ = 0;  // guarded by mutex_
};

}  // namespace banyan::store
