// A layer for peers that does as it is told: chunks are here, or come when the test says so.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "common/unique_fd.h"
#include "fetch/relay_layer.h"
#include "fetch/testing/test_layer.h"

namespace banyan::peer_agent::testing {

// Internally synchronised.
class FakeRelayLayer final : public fetch::RelayLayer {
 public:
  explicit FakeRelayLayer(const fetch::testing::TestLayer& layer)
      : layer_(layer), file_(std::make_shared<const UniqueFd>(::memfd_create("blob", MFD_CLOEXEC))) {
    Restore();
  }

  const image_format::Device& device() const override { return *layer_.device; }
  fetch::ChunkState StateOf(ChunkIndex chunk) const override {
    const std::lock_guard lock(mutex_);
    if (!absent_.contains(chunk)) return fetch::ChunkState::kHere;
    for (const auto& [read, waiting] : reads_) {
      if (waiting.chunk == chunk) return fetch::ChunkState::kComing;
    }
    return fetch::ChunkState::kAbsent;
  }
  fetch::ReadId ReadCompressed(ChunkIndex chunk, fetch::Priority priority, fetch::OnCompressed done) override {
    {
      const std::lock_guard lock(mutex_);
      asked_.push_back(chunk);
      priorities_.push_back(priority);
      if (absent_.contains(chunk)) {
        reads_.emplace(++last_, Waiting{chunk, std::move(done)});
        return last_;
      }
    }
    done(View(chunk));
    return 0;
  }
  void Forget(fetch::ReadId read) override {
    const std::lock_guard lock(mutex_);
    forgotten_ += reads_.erase(read);
  }

  void SetAbsent(ChunkRange chunks) {
    const std::lock_guard lock(mutex_);
    for (ChunkIndex chunk = chunks.begin; chunk < chunks.end; ++chunk) absent_.insert(chunk);
  }
  // The chunk has come, or cannot be had.
  void Arrive(ChunkIndex chunk) {
    for (auto& done : Take(chunk)) done(View(chunk));
  }
  void Fail(ChunkIndex chunk, const Error& error) {
    for (auto& done : Take(chunk)) done(banyan::Fail(error));
  }
  // From now on views are memory.
  void UseMemory() {
    const std::lock_guard lock(mutex_);
    in_memory_ = true;
  }
  void Rot(ChunkIndex chunk) {
    const uint64_t offset = layer_.device->chunks[chunk].compressed_offset;
    char byte = 0;
    [[maybe_unused]] ssize_t count = ::pread(file_->get(), &byte, 1, static_cast<off_t>(offset));
    byte = static_cast<char>(byte ^ 1);
    count = ::pwrite(file_->get(), &byte, 1, static_cast<off_t>(offset));
  }
  void Restore() {
    [[maybe_unused]] const ssize_t count = ::pwrite(file_->get(), layer_.blob.data(), layer_.blob.size(), 0);
  }

  size_t waiting() const {
    const std::lock_guard lock(mutex_);
    return reads_.size();
  }
  size_t forgotten() const {
    const std::lock_guard lock(mutex_);
    return forgotten_;
  }
  std::vector<fetch::Priority> priorities() const {
    const std::lock_guard lock(mutex_);
    return priorities_;
  }

 private:
  struct Waiting {
    ChunkIndex chunk = 0;
    fetch::OnCompressed done;
  };

  fetch::CompressedView View(ChunkIndex chunk) const {
    const image_format::Chunk& entry = layer_.device->chunks[chunk];
    fetch::CompressedView view;
    view.length = entry.compressed_bytes;
    const std::lock_guard lock(mutex_);
    if (in_memory_) {
      view.memory = std::make_shared<const std::vector<std::byte>>(layer_.Compressed(chunk));
      return view;
    }
    view.fd = file_->get();
    view.offset = entry.compressed_offset;
    view.lease = store::ChunkLease(std::const_pointer_cast<UniqueFd>(file_));
    return view;
  }
  std::vector<fetch::OnCompressed> Take(ChunkIndex chunk) {
    const std::lock_guard lock(mutex_);
    absent_.erase(chunk);
    std::vector<fetch::OnCompressed> taken;
    for (auto each = reads_.begin(); each != reads_.end();) {
      if (each->second.chunk == chunk) {
        taken.push_back(std::move(each->second.done));
        each = reads_.erase(each);
      } else {
        ++each;
      }
    }
    return taken;
  }

  const fetch::testing::TestLayer layer_;
  const std::shared_ptr<const UniqueFd> file_;  // shared with leases
  mutable std::mutex mutex_;
  bool in_memory_ = false;  // guarded by mutex_, as is all below
  std::set<ChunkIndex> absent_;
  std::map<fetch::ReadId, Waiting> reads_;
  fetch::ReadId last_ = 0;
  size_t forgotten_ = 0;
  std::vector<ChunkIndex> asked_;
  std::vector<fetch::Priority> priorities_;
};

}  // namespace banyan::peer_agent::testing
