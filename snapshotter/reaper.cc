#include "snapshotter/reaper.h"

#include <sys/mount.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <utility>

#include <fmt/format.h>

#include "common/file_io.h"
#include "common/log.h"
#include "lazyfs/mount_table.h"
#include "snapshotter/tree_walk.h"

namespace banyan::snapshotter {

namespace {

constexpr std::chrono::milliseconds kUnmountTimeout{5000};

// Mount points in the directory, the last mounted first.
Result<std::vector<std::string>> MountsBelow(const std::string& directory) {
  BANYAN_ASSIGN(const std::string text, ReadFile("/proc/self/mountinfo"));
  std::vector<std::string> found;
  for (const lazyfs::MountEntry& entry : lazyfs::ParseMountInfo(text)) {
    if (entry.mount_point.starts_with(directory + "/")) found.insert(found.begin(), entry.mount_point);
  }
  return found;
}

Status UnmountBelow(const std::string& directory) {
  BANYAN_ASSIGN(const auto mounts, MountsBelow(directory));
  for (const std::string& mount : mounts) {
    const Status status = lazyfs::UnmountWithin(mount, std::chrono::milliseconds(0), kUnmountTimeout);
    if (!status && status.error().code != Code::kNotFound) return status;
  }
  return {};
}

bool Exists(const std::string& path) {
  struct stat status;
  return ::lstat(path.c_str(), &status) == 0;
}

}  // namespace

Reaper::Reaper(LazyImages& images, std::string trash) : images_(images), trash_(std::move(trash)) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(trash_, error)) queue_.push_back(entry.path().string());
  retired_ = queue_.size();
  thread_ = std::thread([this] { Run(); });
}

Reaper::~Reaper() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

void Reaper::Retire(std::string directory) {
  MutexLock lock(mutex_);
  queue_.push_back(std::move(directory));
  ++retired_;
  changed_.notify_all();
}

void Reaper::Drain() {
  MutexLock lock(mutex_);
  for (std::string& directory : stuck_) queue_.push_back(std::move(directory));
  retired_ += stuck_.size();
  stuck_.clear();
  changed_.notify_all();
  const uint64_t target = retired_;
  while (done_ < target && !stopping_) lock.Wait(changed_);
}

void Reaper::Run() {
  MutexLock lock(mutex_);
  while (true) {
    while (queue_.empty() && !stopping_) lock.Wait(changed_);
    if (stopping_) return;
    const std::string directory = std::move(queue_.front());
    queue_.pop_front();
    lock.Unlock();
    const Status status = Reap(directory);
    lock.Lock();
    if (!status && !stopping_) {
      spdlog::warn("{}: not deleted yet: {}", directory, status.error().message);
      stuck_.push_back(directory);
    }
    ++done_;
    changed_.notify_all();
  }
}

Status Reaper::Reap(const std::string& directory) {
  const std::string in_trash = fmt::format("{}/{}", trash_, std::filesystem::path(directory).filename().string());
  if (directory != in_trash && Exists(directory)) {
    BANYAN_TRY(images_.Unmount(directory + "/fs"));
    BANYAN_TRY(UnmountBelow(directory));
    if (::rename(directory.c_str(), in_trash.c_str()) != 0) return FailErrno("move to " + in_trash, errno);
  }
  BANYAN_TRY(UnmountBelow(in_trash));
  BANYAN_ASSIGN(const auto mounts, MountsBelow(in_trash));
  if (!mounts.empty()) return Fail(Code::kUnavailable, mounts.front() + " is still mounted");
  return RemoveTree(in_trash, stopping_);
}

}  // namespace banyan::snapshotter
