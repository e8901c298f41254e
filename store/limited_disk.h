// A disk with room for so many bytes more. For tests.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "store/disk.h"

namespace banyan::store::testing {

class LimitedDisk final : public Disk {
 public:
  std::atomic<int64_t> room{INT64_MAX};  // bytes that may still be written

  Result<UniqueFd> OpenSparse(const std::string& path, uint64_t size_bytes, bool& created) override {
    return real_->OpenSparse(path, size_bytes, created);
  }
  Status Write(int fd, std::span<const std::byte> data, uint64_t offset, const std::string& path) override {
    BANYAN_TRY(Take(data.size()));
    return real_->Write(fd, data, offset, path);
  }
  Status Sync(int fd, const std::string& path) override { return real_->Sync(fd, path); }
  Status SyncDirectory(const std::string& path) override { return real_->SyncDirectory(path); }
  Status Punch(int fd, ByteRange range, const std::string& path) override { return real_->Punch(fd, range, path); }
  Status Remove(const std::string& path) override { return real_->Remove(path); }
  Status Rename(const std::string& from, const std::string& to) override { return real_->Rename(from, to); }
  Status WriteWhole(const std::string& path, std::span<const std::byte> data) override {
    BANYAN_TRY(Take(data.size()));
    return real_->WriteWhole(path, data);
  }

 private:
  Status Take(size_t bytes) {
    if (room < static_cast<int64_t>(bytes)) return Fail(Code::kResourceExhausted, "the disk is full");
    room -= static_cast<int64_t>(bytes);
    return {};
  }
  const std::shared_ptr<Disk> real_ = RealDisk();
};

}  // namespace banyan::store::testing
