// A LazyLayer over a local file, that can be slow, hang, fail, or answer from memory.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/unique_fd.h"
#include "fetch/lazy_layer.h"

namespace banyan::lazyfs::testing {

// Internally synchronised. Must not be destroyed on its own callback.
class FakeLayer final : public fetch::LazyLayer {
 public:
  struct Options {
    bool memory = false;                 // answer with memory views rather than file ranges
    std::chrono::microseconds delay{0};  // 0: inside Read(); else on another thread, reads overlapping
    bool hang = false;                   // answer nothing until Release() or CancelAll()
  };

  static Result<std::shared_ptr<FakeLayer>> OfFile(const std::string& path, Options options);
  ~FakeLayer() override;

  uint64_t size_bytes() const override { return size_bytes_; }
  fetch::ReadId Read(ByteRange range, fetch::OnRead done) override;
  void CancelAll() override;

  // From now on reads are answered, and those that hung as well.
  void Release();
  size_t outstanding() const;

 private:
  struct Pending {
    std::chrono::steady_clock::time_point due;
    ByteRange range;
    fetch::OnRead done;
  };

  FakeLayer(UniqueFd file, uint64_t size_bytes, Options options);
  void Answer(const ByteRange& range, const fetch::OnRead& done);
  void Run();

  const UniqueFd file_;
  const uint64_t size_bytes_;
  const Options options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Pending> pending_;  // guarded by mutex_; in order of arrival
  bool hanging_;                  // guarded by mutex_
  bool cancelled_ = false;        // guarded by mutex_
  bool stopping_ = false;         // guarded by mutex_
  std::thread thread_;
};

}  // namespace banyan::lazyfs::testing
