#include "convert/spool.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>

#include "common/file_io.h"

namespace banyan::convert {
namespace {

constexpr const char* kLockName = ".lock";

// Whoever holds the lock of a directory lives; directories are made and buried under the lock of the spool's root.
void BuryTheDead(const std::string& root) {
  std::error_code error;
  for (const auto& item : std::filesystem::directory_iterator(root, error)) {
    if (!item.is_directory(error)) continue;
    auto lock = OpenFile(item.path().string() + "/" + kLockName, O_RDWR);
    if (lock && ::flock(lock->get(), LOCK_EX | LOCK_NB) != 0) continue;
    RemoveTree(item.path().string());
  }
}

}  // namespace

void RemoveTree(const std::string& path) {
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
}

Result<Spool> Spool::Open(const std::string& data_root) {
  const std::string root = data_root + "/spool";
  BANYAN_TRY(MakeDirectories(root, 0700));
  BANYAN_ASSIGN(const UniqueFd root_lock, OpenFile(root + "/" + kLockName, O_RDWR | O_CREAT, 0600));
  if (::flock(root_lock.get(), LOCK_EX) != 0) return FailErrno("lock " + root, errno);
  BuryTheDead(root);

  std::string directory = root + "/XXXXXX";
  if (::mkdtemp(directory.data()) == nullptr) return FailErrno("make a directory in " + root, errno);
  BANYAN_ASSIGN(UniqueFd lock, OpenFile(directory + "/" + kLockName, O_RDWR | O_CREAT, 0600));
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) return FailErrno("lock " + directory, errno);
  return Spool(std::move(directory), std::move(lock));
}

Spool::~Spool() {
  if (!directory_.empty()) RemoveTree(directory_);
}

}  // namespace banyan::convert
